"""Byte-level BPE: any text to tokens and back, exactly.

One special token, `END`, begins and ends documents and pads. Text can never
make it: the characters '<|endoftext|>' in a document or a query are encoded
like any others, so that data cannot forge the border of a document. That is a
property of tokenizers from `train` and `load`, not of the file.

A pretrained model's tokenizer has borders of its own, `load_pretrained`: they
are what its post-processor puts around a text, so that they are in the
tokenizer.json that `save` writes. `borders` knows both kinds. Text is encoded
without them, and documents cannot forge its special tokens either; a prompt
can: see `encode_prompt`. Its normaliser may change text, and some put a space
before a text: `encode_after` takes it away.
"""

import json
import os
import pathlib
import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import tokenizers
from absl import logging
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

END = '<|endoftext|>'
_ENDS = (END, '<|end_of_text|>')  # of documents, whatever ends a chat's turn
NUM_BYTES = 256
_SURROGATE = re.compile('[\ud800-\udfff]')
_BEFORE = '\n'  # begins no longer token where a space is put before texts


class Borders(NamedTuple):
  """The tokens that begin and end a document's row."""

  begin: int
  end: int


def train(texts: Iterable[str], vocab_size: int) -> tokenizers.Tokenizer:
  """A tokenizer of at most `vocab_size` tokens; the same texts, the same one.

  Token 0 is `END` and 1 to 256 are the bytes. A pair of tokens must occur twice
  to be merged, so that a small corpus makes a smaller vocabulary.
  """
  if vocab_size <= NUM_BYTES:
    raise ValueError(
      f'vocab_size={vocab_size}, expected at least {NUM_BYTES + 1}: every byte '
      f'and {END} are tokens; ask for more'
    )
  tokenizer = tokenizers.Tokenizer(models.BPE())
  tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  tokenizer.decoder = decoders.ByteLevel()
  trainer = trainers.BpeTrainer(
    vocab_size=vocab_size,
    min_frequency=2,
    special_tokens=[END],
    initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    show_progress=False,  # it prints blank lines where there is no terminal
  )
  tokenizer.train_from_iterator(texts, trainer)
  if tokenizer.get_vocab_size() < vocab_size:
    logging.warning(
      'the corpus yields %d tokens, %d were asked for',
      tokenizer.get_vocab_size(),
      vocab_size,
    )
  return _faithful(tokenizer)


def save(tokenizer: tokenizers.Tokenizer, path: str | os.PathLike[str]) -> None:
  """Writes tokenizer.json, whole or not at all."""
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  unfinished = path.with_name(f'{path.name}.tmp')
  unfinished.write_text(tokenizer.to_str(pretty=True), encoding='utf-8')
  os.replace(unfinished, path)


def load(path: str | os.PathLike[str]) -> tokenizers.Tokenizer:
  """The tokenizer in a tokenizer.json that has `borders`."""
  if not pathlib.Path(path).is_file():
    raise ValueError(f'no tokenizer at {path}: train one and save it there')
  return _bordered(_read(path), path)


def load_pretrained(folder: str | os.PathLike[str]) -> tokenizers.Tokenizer:
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
  tokenizer = _read(path)
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
  return _bordered(tokenizer, path)


def borders(tokenizer: tokenizers.Tokenizer) -> Borders:
  """(`END`, `END`), or what a pretrained tokenizer's rows have around a text.

  Raises:
    ValueError: it has neither.
  """
  if len(own := _own_borders(tokenizer)) == 2:
    return Borders(*own)
  end = tokenizer.token_to_id(END)
  if own or end is None:
    raise ValueError(
      f'the tokenizer has no special token {END!r}, which begins and ends '
      f'documents, and puts {len(own)} tokens around a text, expected 2; add '
      'it, train another or read a checkpoint with `load_pretrained`'
    )
  return Borders(end, end)


def encode(
  tokenizer: tokenizers.Tokenizer, texts: Sequence[str]
) -> list[list[int]]:
  """The tokens of each text, without borders."""
  for text in texts:
    if not text.isascii() and _SURROGATE.search(text):
      raise ValueError(
        f'{text[:60]!r} has a lone surrogate, expected Unicode: remove it'
      )
  encodings = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
  return [encoding.ids for encoding in encodings]


def encode_prompt(
  tokenizer: tokenizers.Tokenizer, texts: Sequence[str]
) -> list[list[int]]:
  """As `encode`; of a pretrained tokenizer special tokens can be written.

  Who asks a chat model, or its template for him, writes '<|im_start|>' and
  means the token.
  """
  tokenizer.encode_special_tokens = not _own_borders(tokenizer)
  try:
    return encode(tokenizer, texts)
  finally:
    tokenizer.encode_special_tokens = True


def encode_after(
  tokenizer: tokenizers.Tokenizer, texts: Sequence[str]
) -> list[list[int]]:
  """As `encode`, of texts that follow another: no space is put before them."""
  alone, before, both = encode(tokenizer, ['a', _BEFORE, f'{_BEFORE}a'])
  if both == [*before, *alone]:
    return encode(tokenizer, texts)
  rows = encode(tokenizer, [_BEFORE + text for text in texts])
  for text, row in zip(texts, rows, strict=True):
    if row[: len(before)] != before:
      raise ValueError(
        f'the tokenizer puts a space before {text[:60]!r} and merges it with a '
        'newline: give the query no prompt, or another completion'
      )
  return [row[len(before) :] for row in rows]


def decode(tokenizer: tokenizers.Tokenizer, tokens: Iterable[int]) -> str:
  """The text of the tokens, special ones written out."""
  return tokenizer.decode(
    [int(token) for token in tokens], skip_special_tokens=False
  )


def pieces(tokenizer: tokenizers.Tokenizer, tokens: Iterable[int]) -> list[str]:
  """What to show for each token, as in tables of scores by token.

  Joined they are the text, except that a character whose bytes are split
  between tokens is shown as one U+FFFD or more, and that a space which the
  tokenizer put before the text is shown.
  """
  end = borders(tokenizer).end  # alone, a token could lose its space
  start = len(decode(tokenizer, [end]))
  return [decode(tokenizer, [end, token])[start:] for token in tokens]


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


def _read(path: str | os.PathLike[str]) -> tokenizers.Tokenizer:
  try:
    tokenizer = tokenizers.Tokenizer.from_file(os.fspath(path))
  except Exception as error:  # the library raises bare Exceptions
    raise ValueError(
      f'{path} is not a tokenizer.json: {error}; train and save it again'
    ) from error
  return _faithful(tokenizer)


def _bordered(tokenizer, path) -> tokenizers.Tokenizer:
  """The tokenizer, if it has borders that no text makes."""
  try:
    found = borders(tokenizer)
  except ValueError as error:
    raise ValueError(f'{path}: {error}') from error
  for token in found:
    if not _is_special(tokenizer, token):
      text = tokenizer.id_to_token(token)
      raise ValueError(
        f'the tokenizer in {path} has no special token {text!r}, which begins '
        'or ends documents: text makes it; add it as one or train another'
      )
  return tokenizer


def _is_special(tokenizer, token: int | None) -> bool:
  """Whether no text makes the token."""
  added = tokenizer.get_added_tokens_decoder().get(token)
  return (
    added is not None and token not in encode(tokenizer, [added.content])[0]
  )


def _own_borders(tokenizer) -> list[int]:
  """What the post-processor puts around a text; [] for one of `train`."""
  encoding = tokenizer.encode('')
  added = zip(encoding.ids, encoding.special_tokens_mask, strict=True)
  return [token for token, is_special in added if is_special]


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
    if _is_special(tokenizer, tokenizer.token_to_id(token)):
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
      f'than {size}, the vocab_size of config.json: they are of two models'
    )


def _faithful(tokenizer: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
  tokenizer.encode_special_tokens = True  # as text; the file does not keep it
  tokenizer.no_truncation()
  tokenizer.no_padding()
  return tokenizer
