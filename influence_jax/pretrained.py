"""Pretrained decoders from a folder in Hugging Face's layout, or from GGUF.

    config, params = pretrained.load(path, dtype='bfloat16')
    logits = decoder.Decoder(config).apply({'params': params}, tokens)

A folder holds config.json and model.safetensors, or shards of it beside
model.safetensors.index.json; a .gguf is one file. Headers of all files are
checked against the decoder before a tensor is read. Then tensor by tensor is
read, cast and put, so that the host holds one at a time and the devices what
they keep. A stack (scan) is made of zeros once and filled in place.
"""

import dataclasses
import functools
import json
import os
import pathlib
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
from flax import traverse_util

from influence_jax import gguf_file, types
from influence_jax.models import decoder, families, tensors

_SINGLE, _INDEX = 'model.safetensors', 'model.safetensors.index.json'
_PICKLES = ('.bin', '.pt', '.pth', '.pkl', '.ckpt')
_DTYPES = ('F16', 'BF16', 'F32', 'F64', *gguf_file.QUANTIZED)
_NAMED = 9  # things that are wrong, in a message


def load(
  path: str | os.PathLike,
  *,
  dtype: str = 'float32',
  scan: bool = False,
  put: Callable[[np.ndarray], jax.Array] = jax.device_put,
) -> tuple[decoder.DecoderConfig, types.PyTree]:
  """The decoder's config and parameters.

  Args:
    path: a folder with config.json and safetensors, or a .gguf file.
    dtype: of the computation and of the parameters. For parameters wider than
      the computation load them wide and replace `dtype` in the config.
    scan: one stack of blocks, its axis L first.
    put: what places an array on devices, `jax.device_put` with a sharding say.

  Raises:
    ValueError: the family is unknown or config.json asks for what it has not;
      there are no safetensors; a file is damaged, or missing, or not of the
      folder; tensors are missing, too many, or of another shape or kind.
  """
  path = pathlib.Path(path)
  if path.suffix == '.gguf':
    layout, config_json, found = gguf_file.headers(path)
    config = families.config(config_json, dtype=dtype, scan=scan)
  else:
    config_json = _read_json(path / 'config.json')
    config = families.config(config_json, dtype=dtype, scan=scan)
    layout, found = config_json['model_type'], _headers(_files(path))
  sources = _sources(layout, config, found, path)
  return config, _params(config, sources, found, put)


def _read_json(path: pathlib.Path) -> dict:
  if not path.exists():
    raise ValueError(f'there is no {path}; expected a folder with it')
  try:
    found = json.loads(path.read_bytes())
  except ValueError as error:
    raise ValueError(f'{path} is damaged: {error}') from error
  if not isinstance(found, dict):
    raise ValueError(f'{path} is a {type(found).__name__}, expected an object')
  return found


def _files(folder: pathlib.Path) -> list[pathlib.Path]:
  """The safetensors of the folder: one, or those that its index names."""
  if (folder / _SINGLE).exists():
    return [folder / _SINGLE]
  if not (folder / _INDEX).exists():
    pickles = [p.name for p in folder.iterdir() if p.suffix in _PICKLES]
    why = (
      f'{sorted(pickles)} are pickles, which run code as they are read: '
      'convert them to safetensors where you trust them'
      if pickles
      else 'download or save the weights there'
    )
    raise ValueError(f'{folder} has no {_SINGLE} and no {_INDEX}; {why}')
  shards = _read_json(folder / _INDEX).get('weight_map')
  if not isinstance(shards, dict) or not shards:
    raise ValueError(f'{folder / _INDEX} has no weight_map of tensors to files')
  names = sorted({str(name) for name in shards.values()})
  if outside := [x for x in names if re.search(r'[/\\]', x) or x == '..']:
    raise ValueError(
      f'{folder / _INDEX} names {outside}; expected files of its folder'
    )
  if missing := [name for name in names if not (folder / name).is_file()]:
    raise ValueError(
      f'{folder} lacks {missing} of the {len(names)} files that {_INDEX} '
      'names; download the rest'
    )
  return [folder / name for name in names]


def _open(path: pathlib.Path) -> safetensors.safe_open:
  try:
    return safetensors.safe_open(path, 'np')
  except safetensors.SafetensorError as error:
    raise ValueError(
      f'{path} is damaged or cut short, {path.stat().st_size} bytes are there: '
      f'{error}; download it again'
    ) from error


def _headers(paths: list[pathlib.Path]) -> dict[str, tensors.Tensor]:
  found = {}
  for path in paths:
    with _open(path) as file:
      for name in file.keys():  # noqa: SIM118, no dict
        if name in found:
          raise ValueError(
            f'{name} is in {path} and in {found[name].path}; remove one of them'
          )
        part = file.get_slice(name)
        shape, dtype = tuple(part.get_shape()), part.get_dtype()
        read = functools.partial(_read, path, name)
        found[name] = tensors.Tensor(path, shape, dtype, read)
  return found


def _read(path: pathlib.Path, name: str) -> np.ndarray:
  # Opened for each tensor: what is mapped counts as memory till it is closed.
  with _open(path) as file:
    return file.get_tensor(name)


def _sources(
  layout: str,
  config: decoder.DecoderConfig,
  found: dict[str, tensors.Tensor],
  path: pathlib.Path,
) -> dict[str, tensors.Source]:
  """Where each of our arrays is; raises unless that is the whole checkpoint."""
  table = tensors.TABLES[layout]
  bare = not any(name.startswith(table.prefix) for name in found)
  shapes = _shapes(config)
  sources = tensors.sources(layout, config, shapes, bare)
  expected = {source.name: source.shape for source in sources.values()}
  wrong = [
    f'{name} {shape} is missing'
    for name, shape in expected.items()
    if name not in found
  ]
  head = tensors.tied_head(layout)
  copied = config.tied and head in found
  for name, tensor in found.items():
    if name in expected and tensor.shape != expected[name]:
      wrong.append(f'{name} is {tensor.shape}, not {expected[name]}')
    elif name in expected and tensor.dtype not in _DTYPES:
      wrong.append(f'{name} is {tensor.dtype}, not one of {_DTYPES}')
    elif name not in expected and not re.search(table.buffers, name):
      if not (copied and name == head):
        wrong.append(f'{name} {tensor.shape} is unknown')
  if not wrong and copied:
    embedding = sources['tok_emb/embedding'].name
    if not np.array_equal(found[head].read(), found[embedding].read()):
      wrong.append(f'{head} is not {embedding}, yet the head is tied to it')
  if wrong:
    more = f', and {len(wrong) - _NAMED} more' * (len(wrong) > _NAMED)
    raise ValueError(
      f'{path} does not hold the {layout} of its configuration: '
      f'{"; ".join(wrong[:_NAMED])}{more}'
    )
  return sources


def _shapes(config: decoder.DecoderConfig) -> dict[str, tuple[int, ...]]:
  """{path: shape} of the unrolled decoder's parameters."""
  net = decoder.Decoder(dataclasses.replace(config, scan=True))  # one trace
  tokens_1x1 = jax.ShapeDtypeStruct((1, 1), jnp.int32)
  tree = jax.eval_shape(net.init, jax.random.key(0), tokens_1x1)['params']
  shapes = {}
  for path, x in traverse_util.flatten_dict(tree, sep='/').items():
    if path.startswith('blocks/'):
      name = path.removeprefix('blocks/')
      for i in range(config.num_layers):
        shapes[f'blocks_{i}/{name}'] = x.shape[1:]
    else:
      shapes[path] = x.shape
  return shapes


def _params(
  config: decoder.DecoderConfig,
  sources: dict[str, tensors.Source],
  found: dict[str, tensors.Tensor],
  put: Callable[[np.ndarray], jax.Array],
) -> types.PyTree:
  flat: dict[str, Any] = {}
  for path, source in sources.items():
    x = source.read(found[source.name].read())
    x = x.astype(config.dtype, copy=False)
    block = re.fullmatch(r'blocks_(\d+)/(.*)', path)
    if not (config.scan and block):
      flat[path] = put(x)
      continue
    stack = f'blocks/{block[2]}'
    if stack not in flat:
      flat[stack] = put(np.zeros((config.num_layers, *x.shape), x.dtype))
    flat[stack] = _fill(flat[stack], x, int(block[1]))
  return traverse_util.unflatten_dict(flat, sep='/')


@functools.partial(jax.jit, donate_argnums=0)  # in place, sharded as it was
def _fill(stack, x, i):
  return jax.lax.dynamic_update_index_in_dim(stack, x, i, 0)
