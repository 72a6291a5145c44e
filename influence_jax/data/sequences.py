"""Sequences, the unit of attribution: made from documents, kept on disk.

A row is [begin] + tokens + [end], the tokenizer's borders: END and END, or what
a pretrained model has seen around documents. A batch's inputs are row[:-1] and
its targets row[1:], T = len(row) - 1 of each. A longer document is cut into
chunks, each a row that begins so; only the last has the end. Chunks do not
overlap and every token of the text is a target exactly once. Where the rest
would be 0 or 1 tokens, the chunk before gives up some, so that the last has 2.

Sequences are numbered by (bucket, document, chunk), where the bucket is the
length that a row is padded to. A sequence's number is its id in a `Batch` and
its column in a matrix of scores, for ever.

On disk: tokens.npy, the rows end to end; records.npy, one `RECORD` a sequence;
sequences.json, written last: a directory without it is not finished. Building
holds 1,000 documents and 8 bytes a sequence in memory; opening, nothing.
"""

import bisect
import contextlib
import dataclasses
import hashlib
import itertools
import json
import os
import pathlib
import shutil
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import tokenizers
import tqdm
from absl import logging

from influence_jax.data import tokenizer as tokenizer_lib

TOKENS, RECORDS, INFO = 'tokens.npy', 'records.npy', 'sequences.json'
BLOCK = 1_000  # documents that are tokenized together
MIN_LEN = 3  # the shortest row that a document can be cut into
RECORD = np.dtype(
  [
    ('start', '<i8'),  # of the row in tokens
    ('document', '<i8'),  # its id
    ('first', '<i4'),  # which token of the document the row's text begins with
    ('size', '<i4'),  # of the row, borders counted: T + 1
    ('bucket', '<i4'),  # T of its batches
    ('chunk', '<i4'),  # of the document, from 0
  ]
)


@dataclasses.dataclass(frozen=True)
class Sequences:
  """N sequences, memory-mapped; `len` is N."""

  tokens: np.ndarray  # [sum of sizes] uint16 or uint32
  records: np.ndarray  # [N] RECORD
  info: dict[str, Any]  # what is in sequences.json

  def __len__(self) -> int:
    return len(self.records)

  @property
  def fingerprint(self) -> str:
    """sha256 of tokens and records, hexadecimal."""
    return self.info['fingerprint']

  @property
  def borders(self) -> list[int]:
    """The tokens that begin and end rows, and that no text has.

    Folders from before they were kept name none: then the first token, both
    borders of every tokenizer of `train`.
    """
    return self.info.get('borders', [int(self.tokens[0])])

  def row(self, n: int) -> np.ndarray:
    """The tokens of sequence n, [T + 1]."""
    record = self.records[n]
    return self.tokens[record['start'] : record['start'] + record['size']]

  def text_tokens(self, n: int) -> np.ndarray:
    """The row without its borders."""
    row = self.row(n)
    return row[~np.isin(row, self.borders)]


def build(
  documents: Iterable[dict[str, Any]],
  tokenizer: tokenizers.Tokenizer,
  max_len: int,
  directory: str | os.PathLike[str],
  *,
  buckets: Sequence[int] = (),
) -> Sequences:
  """The documents' sequences, written in place of what `directory` held.

  Args:
    documents: dicts of at least `id`, an int that increases, and `text`. One
      without text makes no sequence: `info['empty_documents']` counts them.
    tokenizer: from `data.tokenizer`; its `borders` begin and end rows.
    max_len: the largest T.
    directory: for the three files.
    buckets: lengths to pad to; `max_len` is one of them, named or not.
  """
  lengths = bucket_lengths(buckets, max_len)
  directory = pathlib.Path(directory)
  directory.mkdir(parents=True, exist_ok=True)
  for stale in [directory / INFO, *directory.glob('*.npy.*.tmp')]:
    stale.unlink(missing_ok=True)
  dtype = np.dtype('<u2' if tokenizer.get_vocab_size() <= 2**16 else '<u4')
  counts = _spool(documents, tokenizer, lengths, directory, dtype)
  _join(directory, TOKENS, lengths, dtype)
  _join(directory, RECORDS, lengths, RECORD)
  tokens, records = _map(directory, 'r+')
  records['start'] = np.cumsum(records['size'], dtype=np.int64)
  records['start'] -= records['size']
  info = {
    'fingerprint': _fingerprint(tokens, records),
    'tokenizer': hashlib.sha256(tokenizer.to_str().encode()).hexdigest(),
    'vocab_size': tokenizer.get_vocab_size(),
    'borders': tokenizer_lib.borders(tokenizer),
    'buckets': lengths,
    **counts,
  }
  logging.info('sequences in %s: %s', directory, info)
  unfinished = directory / f'{INFO}.tmp'
  unfinished.write_text(json.dumps(info, indent=2))
  os.replace(unfinished, directory / INFO)
  return open(directory, tokenizer.get_vocab_size())


def open(
  directory: str | os.PathLike[str], vocab_size: int | None = None
) -> Sequences:
  """What `build` left; reads all of it once to check it.

  Args:
    directory: that was built.
    vocab_size: of the model that will read the tokens, checked unless None.

  Raises:
    ValueError: it is unfinished, damaged or of another vocabulary.
  """
  directory = pathlib.Path(directory)
  if not (directory / INFO).is_file():
    raise ValueError(
      f'no finished sequences in {directory}: {INFO}, which is written last, '
      'is missing; build them (again)'
    )
  try:
    info = json.loads((directory / INFO).read_text())
    sequences = Sequences(*_map(directory, 'r'), info)
  except (EOFError, OSError, ValueError) as error:
    raise ValueError(
      f'sequences in {directory} are damaged: {error}; build them again'
    ) from error
  found = _fingerprint(sequences.tokens, sequences.records)
  if found != sequences.fingerprint:
    raise ValueError(
      f'sequences in {directory} have fingerprint {found}, expected '
      f'{sequences.fingerprint}: a file was changed; build them again'
    )
  if vocab_size is not None:
    check_vocabulary(sequences, vocab_size)
  return sequences


def check_vocabulary(sequences: Sequences, vocab_size: int) -> None:
  """ValueError if a token is not less than `vocab_size`."""
  where = int(np.argmax(sequences.tokens))
  if (token := int(sequences.tokens[where])) >= vocab_size:
    starts = sequences.records['start']
    raise ValueError(
      f'sequence {np.searchsorted(starts, where, side="right") - 1} has token '
      f'{token}, expected less than the vocabulary size {vocab_size}: use the '
      'tokenizer that the model was made for and build the sequences again'
    )


def bucket_lengths(buckets: Sequence[int], max_len: int) -> list[int]:
  """`buckets` and `max_len`, ascending, each once."""
  lengths = sorted({*buckets, max_len})
  if lengths[0] < MIN_LEN or lengths[-1] > max_len:
    raise ValueError(
      f'buckets {list(buckets)} with max_len={max_len}: expected lengths '
      f'from {MIN_LEN} to max_len'
    )
  return lengths


def _spool(documents, tokenizer, lengths, directory, dtype) -> dict[str, int]:
  """Appends each row and its record to the two files of its bucket."""
  begin, end = tokenizer_lib.borders(tokenizer)
  num = dict.fromkeys(
    ('documents', 'empty_documents', 'cut_documents', 'sequences', 'targets'), 0
  )
  with contextlib.ExitStack() as stack:
    files = {
      (name, length): stack.enter_context(
        _part(directory, name, length).open('wb')
      )
      for name in (TOKENS, RECORDS)
      for length in lengths
    }
    for document, tokens in _tokenize(documents, tokenizer):
      chunks = _chunks(len(tokens), lengths[-1])
      num['documents'] += 1
      num['empty_documents'] += not chunks
      num['cut_documents'] += len(chunks) > 1
      num['sequences'] += len(chunks)
      for chunk, (start, stop) in enumerate(chunks):
        row = [begin, *tokens[start:stop]] + [end] * (stop == len(tokens))
        bucket = lengths[bisect.bisect_left(lengths, len(row) - 1)]
        record = (0, document, start, len(row), bucket, chunk)
        files[TOKENS, bucket].write(np.array(row, dtype).tobytes())
        files[RECORDS, bucket].write(np.array(record, RECORD).tobytes())
        num['targets'] += len(row) - 1
  if not num['sequences']:
    raise ValueError(
      f'{num["documents"]} documents, {num["empty_documents"]} of them without '
      'text: expected some text to make sequences of'
    )
  return num


def _tokenize(documents, tokenizer) -> Iterator[tuple[int, list[int]]]:
  """Each document's id and tokens; ids must increase, so they are unique."""
  bar = tqdm.tqdm(documents, 'tokenizing', unit=' documents', disable=None)
  documents, last = iter(bar), -1
  while block := list(itertools.islice(documents, BLOCK)):
    texts = [document['text'] for document in block]
    for document, tokens in zip(
      block, tokenizer_lib.encode(tokenizer, texts), strict=True
    ):
      if document['id'] <= last:
        raise ValueError(
          f'document {document["id"]} comes after {last}, expected increasing '
          'ids from 0: sort the documents by id'
        )
      last = document['id']
      yield last, tokens


def _chunks(num_tokens: int, max_len: int) -> list[tuple[int, int]]:
  """(start, stop) of each chunk; all but the last have no end after them."""
  cuts = [0]
  while num_tokens - cuts[-1] > max_len - 1:
    cuts.append(min(cuts[-1] + max_len, num_tokens - 2))
  return list(itertools.pairwise([*cuts, num_tokens])) if num_tokens else []


def _part(directory: pathlib.Path, name: str, length: int) -> pathlib.Path:
  return directory / f'{name}.{length}.tmp'


def _join(directory, name, lengths, dtype) -> None:
  """Makes one .npy of the buckets' files, which it removes."""
  parts = [_part(directory, name, length) for length in lengths]
  num = sum(part.stat().st_size for part in parts) // dtype.itemsize
  descr = np.lib.format.dtype_to_descr(dtype)
  header = {'descr': descr, 'fortran_order': False, 'shape': (num,)}
  with (directory / name).open('wb') as out:
    np.lib.format.write_array_header_1_0(out, header)
    for part in parts:
      with part.open('rb') as file:
        shutil.copyfileobj(file, out)
      part.unlink()


def _map(directory, mode) -> list[np.ndarray]:
  return [
    np.load(directory / name, mmap_mode=mode) for name in (TOKENS, RECORDS)
  ]


def _fingerprint(tokens: np.ndarray, records: np.ndarray) -> str:
  digest = hashlib.sha256(f'{tokens.dtype.str} {records.dtype.descr}'.encode())
  digest.update(tokens.view(np.uint8))
  digest.update(records.view(np.uint8))
  return digest.hexdigest()
