"""Byte-level BPE: any text to tokens and back, exactly.

One special token, `END`, begins and ends documents and pads. Text can never
make it: the characters '<|endoftext|>' in a document or a query are encoded
like any others, so that data cannot forge the border of a document. That is a
property of tokenizers from `train` and `load`, not of the file.

A pretrained model's tokenizer (`pretrained_tokenizer`) has borders of its own:
they are what its post-processor puts around a text, so that they are in the
tokenizer.json that `save` writes. `borders` knows both kinds. Text is encoded
without them, and documents cannot forge its special tokens either; a prompt
can: see `encode_prompt`. Its normaliser may change text, and some put a space
before a text: `encode_after` takes it away.
"""

import os
import pathlib
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import tokenizers
from absl import logging
from tokenizers import decoders, models, pre_tokenizers, trainers

END = '<|endoftext|>'
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
  return bordered(read(path), path)


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
      'it, train another or read a checkpoint with `pretrained_tokenizer`'
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


def read(path: str | os.PathLike[str]) -> tokenizers.Tokenizer:
  """A tokenizer.json, whatever borders it has."""
  try:
    tokenizer = tokenizers.Tokenizer.from_file(os.fspath(path))
  except Exception as error:  # the library raises bare Exceptions
    raise ValueError(
      f'{path} is not a tokenizer.json: {error}; train and save it again'
    ) from error
  return _faithful(tokenizer)


def bordered(
  tokenizer: tokenizers.Tokenizer, path: str | os.PathLike[str]
) -> tokenizers.Tokenizer:
  """The tokenizer, if it has borders that no text makes."""
  try:
    found = borders(tokenizer)
  except ValueError as error:
    raise ValueError(f'{path}: {error}') from error
  for token in found:
    if not is_special(tokenizer, token):
      text = tokenizer.id_to_token(token)
      raise ValueError(
        f'the tokenizer in {path} has no special token {text!r}, which begins '
        'or ends documents: text makes it; add it as one or train another'
      )
  return tokenizer


def is_special(tokenizer: tokenizers.Tokenizer, token: int | None) -> bool:
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


def _faithful(tokenizer: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
  tokenizer.encode_special_tokens = True  # as text; the file does not keep it
  tokenizer.no_truncation()
  tokenizer.no_padding()
  return tokenizer
