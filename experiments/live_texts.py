"""The texts of all sequences of a workdir as a table that can be searched.

WORKDIR/texts.parquet, made once from sequences/, tokenizer.json and the
documents of the config's corpus: a row is a sequence, with document, chunk,
title, topic and text.
"""

import pathlib
from collections.abc import Callable, Iterator

import pyarrow
import pyarrow.parquet
import tokenizers
import tqdm

from influence_jax.data import sequences as sequences_lib

_BLOCK = 4096  # sequences of a row group, and in memory at once
_NUMBERS = ('sequence', 'document', 'chunk')
_TEXTS = ('title', 'topic', 'text')


def is_of(path: pathlib.Path, sequences: sequences_lib.Sequences) -> bool:
  """Whether the table is there and of these sequences."""
  if not path.exists():
    return False
  metadata = pyarrow.parquet.read_schema(path).metadata or {}
  return metadata.get(b'data') == sequences.fingerprint.encode()


def write(
  path: pathlib.Path,
  sequences: sequences_lib.Sequences,
  tokenizer: tokenizers.Tokenizer,
  document: Callable[[int], dict],
) -> None:
  """Writes the table, whole or not at all; a block in memory at a time."""
  schema = pyarrow.schema(
    [
      *((name, pyarrow.int64()) for name in _NUMBERS),
      *((name, pyarrow.string()) for name in _TEXTS),
    ],
    metadata={'data': sequences.fingerprint},
  )
  unfinished = path.with_name(f'tmp_{path.name}')
  with pyarrow.parquet.ParquetWriter(
    unfinished, schema, compression='zstd'
  ) as writer:
    for block in _blocks(sequences, tokenizer, document):
      writer.write_table(pyarrow.table(block, schema))
  unfinished.replace(path)


def _blocks(sequences, tokenizer, document) -> Iterator[dict[str, list]]:
  starts = range(0, len(sequences), _BLOCK)
  for start in tqdm.tqdm(starts, 'texts', unit=' blocks', disable=None):
    numbers = range(start, min(start + _BLOCK, len(sequences)))
    records = sequences.records[numbers.start : numbers.stop]
    documents = [document(int(n)) for n in records['document']]
    yield {
      'sequence': [*numbers],
      'document': records['document'],
      'chunk': records['chunk'].astype('int64'),
      'title': [x.get('title', '') for x in documents],
      'topic': [x.get('topic', '') for x in documents],
      'text': tokenizer.decode_batch(
        [sequences.text_tokens(n).tolist() for n in numbers],
        skip_special_tokens=False,
      ),
    }
