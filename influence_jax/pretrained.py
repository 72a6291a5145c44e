"""Pretrained decoders from a folder in Hugging Face's layout, or from GGUF.

    config, params = pretrained.load(path, dtype='bfloat16')
    logits = decoder.Decoder(config).apply({'params': params}, tokens)

Headers of all files (`checkpoint`) are checked against the decoder before a
tensor is read. Then tensor by tensor is read, cast and put, so that the host
holds one at a time (the experts of a block together) and the devices what they
keep. A stack (scan) is made of zeros once and filled in place.
"""

import dataclasses
import functools
import math
import os
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from influence_jax import checkpoint, gguf_file, types
from influence_jax.models import decoder, families, tensors

_DTYPES = ('F16', 'BF16', 'F32', 'F64', *gguf_file.QUANTIZED)
_NAMED = 9  # things that are wrong, in a message


def load(
  path: str | os.PathLike,
  *,
  dtype: str = 'float32',
  scan: bool = False,
  put: Callable[[str, np.ndarray], jax.Array] = lambda _, x: jax.device_put(x),
) -> tuple[decoder.DecoderConfig, types.PyTree]:
  """The decoder's config and parameters.

  Args:
    path: a folder with config.json and safetensors, or a .gguf file.
    dtype: of the computation and of the parameters. For parameters wider than
      the computation load them wide and replace `dtype` in the config.
    scan: one stack of blocks, its axis L first.
    put: places an array, given its '/'-joined path, on devices.

  Raises:
    ValueError: the family is unknown or config.json asks for what it has not;
      there are no safetensors; a file is damaged, or missing, or not of the
      folder; tensors are missing, too many, or of another shape or kind.
  """
  opened = checkpoint.open(path)
  config = families.config(opened.config_json, dtype=dtype, scan=scan)
  found = opened.headers()
  sources = _sources(opened.layout, config, found, path)
  return config, _params(config, sources, found, put)


def _sources(
  layout: str,
  config: decoder.DecoderConfig,
  found: dict[str, tensors.Tensor],
  path: str | os.PathLike,
) -> dict[str, tensors.Source]:
  """Where each of our arrays is; raises unless that is the whole checkpoint."""
  layout = tensors.layout(layout, found)
  table = tensors.TABLES[layout]
  bare = not any(name.startswith(table.prefix) for name in found)
  shapes = _shapes(config)
  sources = tensors.sources(layout, config, shapes, bare)
  expected = {
    name: source.shape for source in sources.values() for name in source.names
  }
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
    (embedding,) = sources['tok_emb/embedding'].names
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
  put: Callable[[str, np.ndarray], jax.Array],
) -> types.PyTree:
  flat: dict[str, Any] = {}
  # The largest first: what is read and put at once is small once much is held.
  for path in sorted(sources, key=lambda path: -_size(sources[path])):
    source = sources[path]
    x = source.read(*(found[name].read() for name in source.names))
    x = x.astype(config.dtype, copy=False)
    block = re.fullmatch(r'blocks_(\d+)/(.*)', path)
    if not (config.scan and block):
      flat[path] = put(path, x)
      continue
    stack = f'blocks/{block[2]}'
    if stack not in flat:
      shape = (config.num_layers, *x.shape)
      zeros = np.broadcast_to(np.zeros((), x.dtype), shape)
      flat[stack] = put(stack, zeros)
    flat[stack] = _fill(flat[stack], x, int(block[1]))
  return traverse_util.unflatten_dict(flat, sep='/')


def _size(source: tensors.Source) -> int:
  return len(source.names) * math.prod(source.shape)


@functools.partial(jax.jit, donate_argnums=0)  # in place, sharded as it was
def _fill(stack, x, i):
  return jax.lax.dynamic_update_index_in_dim(stack, x, i, 0)
