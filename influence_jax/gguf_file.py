"""GGUF, llama.cpp's file of a model: configuration, tensors, tokenizer.

One file has all three. `pretrained.load` reads the first two through `headers`;
`tokenizer` makes the third. Quantised tensors are dequantised to float32 as
they are read, one at a time. Nothing in the file is run, and what is not known
here is refused, as `families.config` does.
"""

import functools
import os
import pathlib
from typing import Any

import gguf
import numpy as np
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, processors

from influence_jax.data import tokenizer as tokenizer_lib
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
_SPECIAL, _OWN = 3, 4  # in token_type: control tokens, and a user's own
_DAMAGE = (ValueError, KeyError, IndexError, OverflowError, RecursionError)
_HEADER = ('general.architecture', 'tokenizer.ggml.', *ARCHITECTURES)


def headers(
  path: str | os.PathLike,
) -> tuple[str, dict[str, Any], dict[str, tensors.Tensor]]:
  """The layout in `tensors.TABLES`, a config.json, and {name: tensor}.

  Raises:
    ValueError: there is no such file; it is damaged or cut short; of another
      architecture; its metadata lacks a key or has one that nothing here
      implements.
  """
  path = pathlib.Path(path)
  reader, fields = _open(path)
  architecture = fields.get('general.architecture')
  if architecture not in ARCHITECTURES:
    raise ValueError(
      f'the architecture of {path} is {architecture!r}; there are '
      f'{list(ARCHITECTURES)}'
    )
  found = {}
  for tensor in reader.tensors:
    shape = tuple(tensor.shape[::-1].tolist())
    dtype, read = tensor.tensor_type.name, functools.partial(_read, tensor)
    found[tensor.name] = tensors.Tensor(path, shape, dtype, read)
  try:
    config_json = _llama(fields, found)
  except ValueError as error:
    raise ValueError(f'{path}: {error}') from error
  return f'gguf/{architecture}', config_json, found


def tokenizer(path: str | os.PathLike) -> tokenizers.Tokenizer:
  """The file's byte-level BPE, with `tokenizer.borders`.

  A row ends with '<|endoftext|>' or '<|end_of_text|>' if it is special there,
  else with the eos token. It begins with the bos token if the file asks for
  one, else with the token that ends it. A byte that is no token (SmolLM2 lacks
  some of control characters) is left out of a text.

  Raises:
    ValueError: no such file, or damaged; another kind of tokenizer; tokens
      twice or without a kind, or not as many as the embedding has; merges of
      tokens that are not there; no special token ends a row.
  """
  path = pathlib.Path(path)
  _, fields = _open(path)
  try:
    made = _byte_level(fields)
    begin, end = _borders(made, fields)
    made.post_processor = processors.TemplateProcessing(
      single=[begin, '$A', end],
      special_tokens=[(x, made.token_to_id(x)) for x in {begin, end}],
    )
  except ValueError as error:
    raise ValueError(f'the tokenizer in {path}: {error}') from error
  return tokenizer_lib.bordered(made, path)


class _Reader(gguf.GGUFReader):
  """Reads nothing behind the end: gguf takes what is there, or loops."""

  def _get(self, offset, dtype, count=1, override_order=None):
    end = int(offset) + np.dtype(dtype).itemsize * int(count)
    if end > len(self.data):
      raise ValueError(f'{end} bytes are expected, {len(self.data)} are there')
    return super()._get(offset, dtype, count, override_order)


def _open(path: pathlib.Path) -> tuple[gguf.GGUFReader, dict[str, Any]]:
  if not path.is_file():
    raise ValueError(f'there is no file {path}')
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
  return reader, fields


def _read(tensor: gguf.ReaderTensor) -> np.ndarray:
  if tensor.data.dtype.kind == 'f':
    return np.array(tensor.data)  # of the file's own memory
  return gguf.dequantize(tensor.data, tensor.tensor_type)


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
    'vocab_size': _vocab_size(fields),
    'head_dim': head_dim,
    'num_key_value_heads': take('attention.head_count_kv', num_heads),
    'rms_norm_eps': take('attention.layer_norm_rms_epsilon', kind=float),
    'rope_theta': take('rope.freq_base', 1e4, float),
    'tie_word_embeddings': 'output.weight' not in found,
  }
  if left := {key: value for key, value in left.items() if value}:
    raise ValueError(f'llama has {left}, which nothing here implements')
  return config


def _vocab_size(fields: dict) -> int:
  texts = fields.get('tokenizer.ggml.tokens')
  num_tokens = len(texts) if isinstance(texts, list) else 0
  size = fields.get('llama.vocab_size', num_tokens)
  if type(size) is not int or size < 1 or num_tokens not in (0, size):
    raise ValueError(
      f'llama.vocab_size is {size!r} and there are {num_tokens} tokens; '
      'expected as many'
    )
  return size


def _byte_level(fields: dict) -> tokenizers.Tokenizer:
  kind = tuple(fields.get(f'tokenizer.ggml.{key}') for key in ('model', 'pre'))
  if kind not in list(_PRE_TOKENIZERS):  # which hashes nothing
    raise ValueError(
      f'it is {kind}; there are {list(_PRE_TOKENIZERS)}: take tokenizer.json '
      "of the model's own folder"
    )
  texts, merges = _list(fields, 'tokens', str), _list(fields, 'merges', str)
  kinds = _list(fields, 'token_type', int)
  vocab = {text: token for token, text in enumerate(texts)}
  if not len(vocab) == len(texts) == len(kinds) == _vocab_size(fields):
    raise ValueError(
      f'there are {len(texts)} tokens, {len(vocab)} different ones, and kinds '
      f'of {len(kinds)}; expected as many'
    )
  try:
    pairs = [tuple(merge.split(' ')) for merge in merges]
    made = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=pairs))
  except Exception as error:  # the library raises bare Exceptions
    raise ValueError(f'its merges are damaged: {error}') from error
  made.pre_tokenizer = _PRE_TOKENIZERS[kind]
  made.decoder = decoders.ByteLevel()
  for text, number in zip(texts, kinds, strict=True):
    token = tokenizers.AddedToken(text, normalized=False)
    if number == _SPECIAL:
      made.add_special_tokens([token])
    elif number == _OWN:
      made.add_tokens([token])
  made.encode_special_tokens = True  # as text
  return made


def _list(fields: dict, key: str, kind: type) -> list:
  found = fields.get(f'tokenizer.ggml.{key}')
  if not isinstance(found, list) or {type(x) for x in found} != {kind}:
    raise ValueError(f'tokenizer.ggml.{key} is no list of {kind.__name__}')
  return found


def _borders(made: tokenizers.Tokenizer, fields: dict) -> tuple[str, str]:
  def named(key):
    token = fields.get(f'tokenizer.ggml.{key}_token_id')
    if type(token) is not int or made.id_to_token(token) is None:
      raise ValueError(f'{key}_token_id is {token!r}, which is no token')
    return made.id_to_token(token)

  ends = [
    text
    for text in (tokenizer_lib.END, '<|end_of_text|>')
    if tokenizer_lib.is_special(made, made.token_to_id(text))
  ]
  end = ends[0] if ends else named('eos')
  begins = fields.get('tokenizer.ggml.add_bos_token', False)
  return (named('bos') if begins else end), end


_BYTE_LEVEL = pre_tokenizers.ByteLevel(add_prefix_space=False)
_PRE_TOKENIZERS = {  # by tokenizer.ggml.model and tokenizer.ggml.pre
  ('gpt2', 'gpt-2'): _BYTE_LEVEL,
  ('gpt2', 'smollm'): pre_tokenizers.Sequence(
    [pre_tokenizers.Digits(individual_digits=True), _BYTE_LEVEL]
  ),
}
