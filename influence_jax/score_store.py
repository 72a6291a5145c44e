"""Scores of K queries x N sequences on disk: Zarr v3, a chunk written once.

A chunk holds all queries' scores of a range of sequences and its own checksum.
What is not there reads as NaN, what is damaged as an error, so the store itself
says what is left to do after a crash: `missing` chunks are scored again.
Memory is bounded by one chunk, whatever N.
"""

import os
import pathlib

import numpy as np
import tensorstore


class ScoreStore:
  """A [K, N] float32 array; columns are written in ascending order."""

  def __init__(self, array: tensorstore.TensorStore):
    """Use `create` or `open`."""
    self._array = array
    self._chunk = array.chunk_layout.write_chunk.shape[1]
    self._pending = {}  # {chunk number: (scores_KxC, columns still missing)}

  def missing(self) -> np.ndarray:
    """Which chunks are not written whole and undamaged, ascending."""
    return np.array(
      [n for n in range(self._num_chunks()) if not self._is_whole(n)], int
    )

  def columns(self, number: int) -> range:
    """The sequences of a chunk."""
    start = number * self._chunk
    return range(start, min(start + self._chunk, self._array.shape[1]))

  def put(
    self,
    start: int,
    scores_KxC: np.ndarray,
    share: tuple[int, int] = (0, 1),
  ) -> None:
    """Takes the columns from `start` on; a chunk that is full is written.

    Args:
      share: (i, n): of all chunks those with the numbers i, i + n, ... alone;
        another process writes the others.

    Raises:
      ValueError: a score is not finite.
    """
    if not np.isfinite(scores_KxC).all():
      k, c = np.argwhere(~np.isfinite(scores_KxC))[0]
      raise ValueError(
        f'the score of query {k} and sequence {start + c} is '
        f'{scores_KxC[k, c]}, expected a finite number: look at its loss, or '
        'raise the damping'
      )
    num_queries, num_sequences = self._array.shape
    stop = start + scores_KxC.shape[1]
    if (
      len(scores_KxC) != num_queries or not 0 <= start <= stop <= num_sequences
    ):
      raise ValueError(
        f'scores of shape {scores_KxC.shape} from sequence {start} on do not '
        f'fit in {num_queries} queries x {num_sequences} sequences'
      )
    for number in range(start // self._chunk, -(-stop // self._chunk)):
      if number % share[1] != share[0]:
        continue
      at = self.columns(number)
      low, high = max(start, at.start), min(stop, at.stop)
      shape = len(scores_KxC), len(at)
      buffer, left = self._pending.pop(number, (np.empty(shape), len(at)))
      part = scores_KxC[:, low - start : high - start]
      buffer[:, low - at.start : high - at.start] = part
      if left == high - low:
        self._array[:, at.start : at.stop].write(
          buffer.astype(np.float32)
        ).result()
      else:
        self._pending[number] = buffer, left - (high - low)

  def read(self) -> np.ndarray:
    """All scores [K, N].

    Raises:
      ValueError: some are missing or damaged.
    """
    if len(missing := self.missing()):
      raise ValueError(
        f'{len(missing)} of {self._num_chunks()} chunks of scores are missing '
        f'or damaged, the first of sequences {self.columns(missing[0])}: run '
        'the scoring again with the same --workdir, it goes on from there'
      )
    return self._array.read().result()

  def row(self, k: int) -> np.ndarray:
    """The scores of query k, [N].

    Raises:
      ValueError: some are missing or damaged.
    """
    scores_N = self._array[k].read().result()
    if len(missing := np.flatnonzero(np.isnan(scores_N))):
      raise ValueError(
        f'the score of sequence {missing[0]} and {len(missing) - 1} others are '
        'missing: run the scoring again with the same --workdir, it goes on '
        'from there'
      )
    return scores_N

  def _num_chunks(self) -> int:
    return -(-self._array.shape[1] // self._chunk)

  def _is_whole(self, number: int) -> bool:
    at = self.columns(number)
    try:
      scores = self._array[:, at.start : at.stop].read().result()
    except ValueError:  # its checksum does not match
      return False
    return bool(np.isfinite(scores).all())


def create(
  path: str | os.PathLike, num_queries: int, num_sequences: int, chunk: int
) -> ScoreStore:
  """The store at `path`, made if there is none; `chunk` sequences a chunk.

  Raises:
    ValueError: what is there has another shape or chunk, or is damaged.
  """
  metadata = _metadata(num_queries, num_sequences, chunk)
  spec = {**_spec(path), 'metadata': metadata}
  try:
    return ScoreStore(tensorstore.open(spec, open=True, create=True).result())
  except ValueError as error:
    raise ValueError(
      f'the scores in {path} are not of {num_queries} queries x '
      f'{num_sequences} sequences in chunks of {chunk}: '
      f'{str(error).split(" [")[0]}; remove them or choose another --workdir'
    ) from error


def open(path: str | os.PathLike) -> ScoreStore:
  """The store at `path`; ValueError if there is none or it is damaged."""
  try:
    return ScoreStore(tensorstore.open(_spec(path), open=True).result())
  except ValueError as error:
    raise ValueError(
      f'no scores in {path}: {str(error).split(" [")[0]}; score first'
    ) from error


def _spec(path) -> dict:
  return {
    'driver': 'zarr3',
    'kvstore': {'driver': 'file', 'path': str(pathlib.Path(path).absolute())},
    'recheck_cached_data': True,
  }


def _metadata(num_queries, num_sequences, chunk) -> dict:
  return {
    'shape': [num_queries, num_sequences],
    'data_type': 'float32',
    'fill_value': 'NaN',
    'dimension_names': ['query', 'sequence'],
    'chunk_grid': {
      'name': 'regular',
      'configuration': {'chunk_shape': [num_queries, chunk]},
    },
    'codecs': [
      {'name': 'bytes', 'configuration': {'endian': 'little'}},
      {'name': 'crc32c'},
    ],
  }
