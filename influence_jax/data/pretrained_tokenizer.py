"""Tokenizers of pretrained models: tokenizer.json and what stands beside it.

Which token ends a text and which begins one is said by several files of a
checkpoint, or by none. `load` finds out, and the tokenizer knows it from then
on (`tokenizer.borders`), after `tokenizer.save` too.
"""

import json
import os
import pathlib
from typing import Any

import tokenizers
from tokenizers import processors

from influence_jax.data import tokenizer as tokenizer_lib

# Of documents, whatever ends a chat's turn
_ENDS = (tokenizer_lib.END, '<|end_of_text|>')


def load(folder: str | os.PathLike[str]) -> tokenizers.Tokenizer:
  """The tokenizer of a checkpoint's folder, `borders` in its post-processor.

  A row ends with the token that ended documents: '<|endoftext|>' or
  '<|end_of_text|>' if it is special there, for an instruction-tuned model's
  eos_token may end turns; else the eos_token of tokenizer_config.json or
  special_tokens_map.json, or the eos_token_id of config.json. It begins with
  the bos_token if add_bos_token of tokenizer_config.json says so or, where that
  says nothing, with what the file's post-processor puts first; if nothing, with
  the token that ends it.

  Raises:
    ValueError: there is no tokenizer.json, no such token, or a token that
      config.json's vocab_size does not reach.
  """
  folder = pathlib.Path(folder)
  path = folder / 'tokenizer.json'
  if not path.is_file():
    raise ValueError(
      f'no tokenizer.json in {folder}: save it there with the fast tokenizer '
      'of transformers, which reads a tokenizer.model too'
    )
  tokenizer = tokenizer_lib.read(path)
  _check_size(tokenizer, folder)
  end = _end(tokenizer, folder)
  begin = _begin(tokenizer, folder) or end
  for token in (begin, end):
    if tokenizer.token_to_id(token) is None:
      raise ValueError(
        f'{token!r}, a special token by the files in {folder}, is not in '
        'tokenizer.json: they are not of one model'
      )
  tokenizer.post_processor = processors.TemplateProcessing(
    single=[begin, '$A', end],
    special_tokens=[(x, tokenizer.token_to_id(x)) for x in {begin, end}],
  )
  return tokenizer_lib.bordered(tokenizer, path)


def special_tokens(folder: str | os.PathLike[str]) -> dict[str, str]:
  """The texts 'bos_token' and 'eos_token' of a checkpoint, those it names."""
  found = {}
  for name in ('special_tokens_map.json', 'tokenizer_config.json'):
    fields = read_json(pathlib.Path(folder) / name)
    for key in ('bos_token', 'eos_token'):
      token = fields.get(key)
      text = token.get('content') if isinstance(token, dict) else token
      if isinstance(text, str):
        found[key] = text
  return found


def read_json(path: pathlib.Path) -> dict[str, Any]:
  """The object in a file of a checkpoint; empty if there is no file."""
  if not path.is_file():
    return {}
  try:
    fields = json.loads(path.read_text(encoding='utf-8'))
  except ValueError as error:
    raise ValueError(f'{path} is no JSON: {error}; fetch it again') from error
  if not isinstance(fields, dict):
    raise ValueError(f'{path} holds no object: fetch it again')
  return fields


def _begin(tokenizer, folder) -> str | None:
  adds = read_json(folder / 'tokenizer_config.json').get('add_bos_token')
  if isinstance(adds, bool):
    return special_tokens(folder).get('bos_token') if adds else None
  encoding = tokenizer.encode('a')
  first = encoding.special_tokens_mask.index(0)
  if first > 1:
    raise ValueError(
      f'the tokenizer in {folder} begins texts with {encoding.tokens[:first]}, '
      'expected one token: set add_bos_token in tokenizer_config.json'
    )
  return encoding.tokens[0] if first else None


def _end(tokenizer, folder) -> str:
  for token in _ENDS:
    if tokenizer_lib.is_special(tokenizer, tokenizer.token_to_id(token)):
      return token
  if token := special_tokens(folder).get('eos_token'):
    return token
  number = read_json(folder / 'config.json').get('eos_token_id')
  number = number[0] if isinstance(number, list) and number else number
  token = tokenizer.id_to_token(number) if isinstance(number, int) else None
  if token is None:
    raise ValueError(
      f'no token that ends a text in {folder}: expected eos_token in '
      'tokenizer_config.json, or eos_token_id, one of the vocabulary, in '
      'config.json'
    )
  return token


def _check_size(tokenizer, folder) -> None:
  fields = read_json(folder / 'config.json')
  size = {**fields, **fields.get('text_config', {})}.get('vocab_size')
  token, last = max(tokenizer.get_vocab().items(), key=lambda item: item[1])
  if size is not None and last >= size:
    raise ValueError(
      f'{token!r} in {folder}/tokenizer.json is token {last}, expected less '
      f'than {size}, the vocab_size of config.json: they are of two models, '
      'take both files from one'
    )
