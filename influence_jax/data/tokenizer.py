"""Byte-level BPE: any text to tokens and back, exactly.

One special token, `END`, begins and ends documents and pads. Text can never
make it: the characters '<|endoftext|>' in a document or a query are encoded
like any others, so that data cannot forge the border of a document. That is a
property of tokenizers from `train` and `load`, not of the file.
"""

import os
import pathlib
import re
from collections.abc import Iterable, Sequence

import tokenizers
from absl import logging
from tokenizers import decoders, models, pre_tokenizers, trainers

END = '<|endoftext|>'
NUM_BYTES = 256
_SURROGATE = re.compile('[\ud800-\udfff]')


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
  """The tokenizer in a tokenizer.json that has the token `END`."""
  if not pathlib.Path(path).is_file():
    raise ValueError(f'no tokenizer at {path}: train one and save it there')
  try:
    tokenizer = tokenizers.Tokenizer.from_file(os.fspath(path))
  except Exception as error:  # the library raises bare Exceptions
    raise ValueError(
      f'{path} is not a tokenizer.json: {error}; train and save it again'
    ) from error
  tokenizer = _faithful(tokenizer)
  end = tokenizer.token_to_id(END)
  if end is None or end in encode(tokenizer, [END])[0]:
    raise ValueError(
      f'the tokenizer in {path} has no special token {END!r}, which begins and '
      'ends documents; add it as one or train another'
    )
  return tokenizer


def encode(
  tokenizer: tokenizers.Tokenizer, texts: Sequence[str]
) -> list[list[int]]:
  """The tokens of each text, without `END`."""
  for text in texts:
    if not text.isascii() and _SURROGATE.search(text):
      raise ValueError(
        f'{text[:60]!r} has a lone surrogate, expected Unicode: remove it'
      )
  encodings = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
  return [encoding.ids for encoding in encodings]


def decode(tokenizer: tokenizers.Tokenizer, tokens: Iterable[int]) -> str:
  """The text of the tokens, `END` written out."""
  return tokenizer.decode(
    [int(token) for token in tokens], skip_special_tokens=False
  )


def pieces(tokenizer: tokenizers.Tokenizer, tokens: Iterable[int]) -> list[str]:
  """What to show for each token, as in tables of scores by token.

  Joined they are the text, except that a character whose bytes are split
  between tokens is shown as one U+FFFD or more.
  """
  return [decode(tokenizer, [token]) for token in tokens]


def _faithful(tokenizer: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
  tokenizer.encode_special_tokens = True  # as text; the file does not keep it
  tokenizer.no_truncation()
  tokenizer.no_padding()
  return tokenizer
