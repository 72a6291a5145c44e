"""The tokenizer and the chat template in a GGUF's metadata."""

import os

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, processors

from influence_jax import gguf_file
from influence_jax.data import chat
from influence_jax.data import tokenizer as tokenizer_lib

_SPECIAL, _OWN = 3, 4  # in token_type: control tokens, and a user's own


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
  fields = gguf_file.metadata(path)
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


def template(path: str | os.PathLike) -> chat.Template:
  """The file's chat template; `chat.human_assistant` if it has none.

  Raises:
    ValueError: no such file, or damaged; its syntax is broken, or a token that
      it is told of is not there.
  """
  fields = gguf_file.metadata(path)
  source = fields.get('tokenizer.chat_template')
  if source is None:
    return chat.human_assistant
  try:
    special = {
      f'{key}_token': _named(fields, key)
      for key in ('bos', 'eos')
      if f'tokenizer.ggml.{key}_token_id' in fields
    }
  except ValueError as error:
    raise ValueError(f'the tokenizer in {path}: {error}') from error
  if not isinstance(source, str):
    raise ValueError(
      f'the chat template in {path} is {source!r:.60}, expected a string; '
      'download the file again'
    )
  return chat.compiled(source, special, path)


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
  if not len(vocab) == len(texts) == len(kinds) == gguf_file.vocab_size(fields):
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
  ends = [
    text
    for text in (tokenizer_lib.END, '<|end_of_text|>')
    if tokenizer_lib.is_special(made, made.token_to_id(text))
  ]
  end = ends[0] if ends else _named(fields, 'eos')
  begins = fields.get('tokenizer.ggml.add_bos_token', False)
  return (_named(fields, 'bos') if begins else end), end


def _named(fields: dict, key: str) -> str:
  """The text of the token bos or eos."""
  texts = _list(fields, 'tokens', str)
  token = fields.get(f'tokenizer.ggml.{key}_token_id')
  if type(token) is not int or not 0 <= token < len(texts):
    raise ValueError(f'{key}_token_id is {token!r}, which is no token')
  return texts[token]


_BYTE_LEVEL = pre_tokenizers.ByteLevel(add_prefix_space=False)
_PRE_TOKENIZERS = {  # by tokenizer.ggml.model and tokenizer.ggml.pre
  ('gpt2', 'gpt-2'): _BYTE_LEVEL,
  ('gpt2', 'smollm'): pre_tokenizers.Sequence(
    [pre_tokenizers.Digits(individual_digits=True), _BYTE_LEVEL]
  ),
}
