"""GGUF, llama.cpp's file of a model: configuration and tensors.

`gguf_tokenizer` makes the tokenizer and the chat template of its metadata.
Quantised tensors are dequantised to float32 as they are read, one at a time.
Nothing in the file is run, and what is not known here is refused, as
`families.config` does.
"""

import functools
import math
import os
import pathlib
from typing import Any

import gguf
import numpy as np

from influence_jax.models import tensors

QUANTIZED = (  # kinds of tensors that gguf dequantises
  *('Q4_0', 'Q4_1', 'Q5_0', 'Q5_1', 'Q8_0'),
  *('Q2_K', 'Q3_K', 'Q4_K', 'Q5_K', 'Q6_K'),
  *('IQ4_NL', 'IQ4_XS'),
)
ARCHITECTURES = ('llama',)
_SIZES = {  # in config.json: after the architecture's name
  'hidden_size': 'embedding_length',
  'intermediate_size': 'feed_forward_length',
  'num_attention_heads': 'attention.head_count',
  'num_hidden_layers': 'block_count',
  'max_position_embeddings': 'context_length',
}
_DAMAGE = (ValueError, KeyError, IndexError, OverflowError, RecursionError)
_HEADER = (
  *('general.architecture', 'tokenizer.ggml.', 'tokenizer.chat_template'),
  *ARCHITECTURES,
)


def headers(
  path: str | os.PathLike,
) -> tuple[str, dict[str, Any], dict[str, tensors.Tensor]]:
  """The layout in `tensors.TABLES`, a config.json, and {name: tensor}.

  Raises:
    ValueError: there is no such file; it is damaged or cut short; of another
      architecture; its metadata lacks a key or has one that nothing here
      implements.
  """
  fields, found = _open(path)
  architecture = fields.get('general.architecture')
  if architecture not in ARCHITECTURES:
    raise ValueError(
      f'the architecture of {path} is {architecture!r}; there are '
      f'{list(ARCHITECTURES)}'
    )
  try:
    config_json = _llama(fields, found)
  except ValueError as error:
    raise ValueError(f'{path}: {error}') from error
  return f'gguf/{architecture}', config_json, found


def metadata(path: str | os.PathLike) -> dict[str, Any]:
  """What the file says of model, tokenizer and chat template, by its keys.

  Raises:
    ValueError: there is no such file; it is damaged or cut short.
  """
  return dict(_open(path)[0])


def vocab_size(fields: dict[str, Any]) -> int:
  """Of `metadata`; ValueError unless there are as many tokens, or none."""
  texts = fields.get('tokenizer.ggml.tokens')
  num_tokens = len(texts) if isinstance(texts, list) else 0
  size = fields.get('llama.vocab_size', num_tokens)
  if type(size) is not int or size < 1 or num_tokens not in (0, size):
    raise ValueError(
      f'llama.vocab_size is {size!r} and there are {num_tokens} tokens; '
      'expected as many'
    )
  return size


class _Reader(gguf.GGUFReader):
  """Reads nothing behind the end: gguf takes what is there, or loops."""

  def _get(self, offset, dtype, count=1, override_order=None):
    end = int(offset) + np.dtype(dtype).itemsize * int(count)
    if end > len(self.data):
      raise ValueError(f'{end} bytes are expected, {len(self.data)} are there')
    return super()._get(offset, dtype, count, override_order)


def _open(
  path: str | os.PathLike,
) -> tuple[dict[str, Any], dict[str, tensors.Tensor]]:
  """Metadata and tensors; not to be changed in place."""
  path = pathlib.Path(path)
  if not path.is_file():
    raise ValueError(f'there is no file {path}')
  stat = path.stat()
  return _parsed(path, stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(maxsize=1)  # of a real vocabulary it takes seconds
def _parsed(path, size, changed):
  del size, changed  # another file has others
  try:
    reader = _Reader(path)
    if reader.byte_order != 'I':
      raise ValueError('it is of a machine of the other byte order')
    fields = {
      name: field.contents()
      for name, field in reader.fields.items()
      if name.startswith(_HEADER)
    }
  except _DAMAGE as error:
    raise ValueError(
      f'{path} is no GGUF file, or is damaged or cut short: {error}; download '
      'it again'
    ) from error
  found = {}
  for tensor in reader.tensors:
    shape = tuple(tensor.shape[::-1].tolist())
    place = tensor.data_offset, tensor.data.dtype, tensor.data.shape
    read = functools.partial(_read, path, *place, tensor.tensor_type)
    dtype = tensor.tensor_type.name
    found[tensor.name] = tensors.Tensor(path, shape, dtype, read)
  return fields, found


def _read(path, offset, dtype, shape, kind) -> np.ndarray:
  # Not of the reader's map: what is mapped counts as memory till it is closed.
  data = np.fromfile(path, dtype, math.prod(shape), offset=offset)
  data = data.reshape(shape)
  return data if dtype.kind == 'f' else gguf.dequantize(data, kind)


def _llama(fields: dict, found: dict[str, tensors.Tensor]) -> dict[str, Any]:
  """config.json of what is in the file."""
  left = {
    key.removeprefix('llama.'): value
    for key, value in fields.items()
    if key.startswith('llama.')
  }

  def take(key, default=None, kind=int):
    value = left.pop(key, default)
    if type(value) is not kind or not value > 0:
      raise ValueError(
        f'llama.{key} is {value!r}, expected a positive {kind.__name__}'
      )
    return value

  config = {theirs: take(key) for theirs, key in _SIZES.items()}
  num_heads, num_layers = (
    config[key] for key in ('num_attention_heads', 'num_hidden_layers')
  )
  if num_layers > len(found):
    raise ValueError(
      f'llama.block_count is {num_layers}, yet there are {len(found)} tensors'
    )
  head_dim = take('attention.key_length', config['hidden_size'] // num_heads)
  for key in ('attention.value_length', 'rope.dimension_count'):
    if (value := take(key, head_dim)) != head_dim:
      raise ValueError(
        f'llama.{key} is {value}; only {head_dim}, the width of a head, is '
        'implemented'
      )
  left.pop('vocab_size', None)
  config |= {
    'model_type': 'llama',
    'vocab_size': vocab_size(fields),
    'head_dim': head_dim,
    'num_key_value_heads': take('attention.head_count_kv', num_heads),
    'rms_norm_eps': take('attention.layer_norm_rms_epsilon', kind=float),
    'rope_theta': take('rope.freq_base', 1e4, float),
    'tie_word_embeddings': 'output.weight' not in found,
  }
  if left := {key: value for key, value in left.items() if value}:
    raise ValueError(f'llama has {left}, which nothing here implements')
  return config
