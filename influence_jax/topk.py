"""The running summary of a scan: memory is queries x k, whatever the corpus.

A query keeps its k largest and k smallest scores, sums over all its scores and
a histogram of their sizes. Tops and counts do not depend on how the scores are
cut into batches nor on their order; float sums are in the order of arrival.

The second axis is the sign: [:, 0] is of the scores, [:, 1] of their negatives,
so the k smallest scores are the k largest there.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

# Edges of |score|: of zero, of what is below 1e-12, ten bins a decade, of 1e12
# and above. They have six digits: no library's rounding of a power moves them.
_DECADES = [float(f'{10 ** (n / 10):.6g}') for n in range(-120, 121)]
EDGES = np.array([0, np.finfo(np.float64).tiny, *_DECADES, np.inf])
NUM_BINS = len(EDGES) - 1

# A cell is all float64 that begin with the same 15 bits. They differ by less
# than a factor of 1.125, so there is one edge at most in it.
_CELL_BITS = 64 - 15
_cells = np.arange(1 << 14) << _CELL_BITS  # of the sign +
_BIN_OF_CELL = np.searchsorted(EDGES[1:-1], _cells.view(np.float64), 'right')


class Summary(NamedTuple):
  """Of K queries; an unfilled place has id -1 and, whatever the sign, -inf."""

  ids: np.ndarray  # [K, 2, k] int64, best first, ties to the smaller id
  scores: np.ndarray  # [K, 2, k] float64, times the sign
  num: np.ndarray  # () int64, scores a query
  total: np.ndarray  # [K] float64, their sum
  squares: np.ndarray  # [K] float64, the sum of their squares
  mass: np.ndarray  # [K, 2] float64, the sum of those of a sign, times the sign
  counts: np.ndarray  # [K, 2, NUM_BINS] int64, by EDGES; zeros are in [:, 0, 0]


def start(num_queries: int, k: int) -> Summary:
  """The summary of no scores; ValueError without queries or places."""
  if num_queries < 1 or k < 1:
    raise ValueError(
      f'expected at least one query and k >= 1, got {num_queries} and k={k}'
    )
  return Summary(
    ids=np.full((num_queries, 2, k), -1),
    scores=np.full((num_queries, 2, k), -np.inf),
    num=np.array(0),
    total=np.zeros(num_queries),
    squares=np.zeros(num_queries),
    mass=np.zeros((num_queries, 2)),
    counts=np.zeros((num_queries, 2, NUM_BINS), np.int64),
  )


def update(state: Summary, ids_B: ArrayLike, scores_KxB: ArrayLike) -> Summary:
  """With B more scores a query. `state` stays as it is; they may share arrays.

  A sequence comes once, in one call; that is not checked.

  Raises:
    ValueError: shapes do not fit, an id is negative or a score not finite.
  """
  ids_B = np.asarray(ids_B, np.int64)
  scores_KxB = np.ascontiguousarray(scores_KxB, np.float64)
  _check(len(state.ids), ids_B, scores_KxB)
  signed_Kx2xB = np.stack([scores_KxB, -scores_KxB], 1)
  return Summary(
    *_best(state, ids_B, signed_Kx2xB),
    num=state.num + len(ids_B),
    total=state.total + scores_KxB.sum(1),
    squares=state.squares + np.square(scores_KxB).sum(1),
    mass=state.mass + np.maximum(signed_Kx2xB, 0).sum(2),
    counts=state.counts + _counts(scores_KxB),
  )


def merge(a: Summary, b: Summary) -> Summary:
  """Of both, with no sequence in common; a and b commute, to the last bit."""
  if a.ids.shape != b.ids.shape:
    raise ValueError(
      'only summaries of the same queries and k can be merged: these have ids '
      f'of shapes {a.ids.shape} and {b.ids.shape}'
    )
  sums = [x + y for x, y in zip(a[2:], b[2:], strict=True)]
  return Summary(*_best(a, b.ids, b.scores), *sums)


def top(state: Summary) -> tuple[np.ndarray, np.ndarray]:
  """(ids, scores) [K, k] of the largest, best first; unfilled: -1 and -inf."""
  return state.ids[:, 0], state.scores[:, 0]


def bottom(state: Summary) -> tuple[np.ndarray, np.ndarray]:
  """(ids, scores) [K, k] of the smallest, those first; unfilled: -1 and inf."""
  return state.ids[:, 1], -state.scores[:, 1]


def _best(state: Summary, ids, scores_Kx2xC) -> tuple[np.ndarray, np.ndarray]:
  """The state's (ids, scores) with candidates, whose ids are [C] or [K, 2, C].

  Few pass the last place; only the rows R (query, sign) of those are sorted.
  """
  last, last_id = state.scores[..., -1:], state.ids[..., -1:]
  passes = scores_Kx2xC >= last
  passes &= (scores_Kx2xC > last) | (ids < last_id)
  new = np.flatnonzero(passes)
  if not len(new):
    return state.ids, state.scores
  k = state.ids.shape[2]
  old_ids, old_scores = state.ids.reshape(-1, k), state.scores.reshape(-1, k)
  new_rows = new // passes.shape[2]
  rows = np.flatnonzero(np.bincount(new_rows))
  all_rows = np.concatenate([np.repeat(rows, k), new_rows])
  all_ids = np.append(old_ids[rows], ids.reshape(-1)[new % ids.size])
  all_scores = np.append(old_scores[rows], scores_Kx2xC.reshape(-1)[new])
  order = np.lexsort((all_ids, -all_scores, all_rows))
  starts_R = np.flatnonzero(np.diff(all_rows[order], prepend=-1))
  kept_Rxk = order[starts_R[:, None] + np.arange(k)]
  best_ids, best_scores = old_ids.copy(), old_scores.copy()
  best_ids[rows], best_scores[rows] = all_ids[kept_Rxk], all_scores[kept_Rxk]
  return best_ids.reshape(-1, 2, k), best_scores.reshape(-1, 2, k)


def _counts(scores_KxB: np.ndarray) -> np.ndarray:
  """[K, 2, NUM_BINS]: np.histogram of each sign, with no search for the bin."""
  size_KxB = np.abs(scores_KxB)
  bin_KxB = _BIN_OF_CELL.take(size_KxB.view(np.int64) >> _CELL_BITS)
  bin_KxB += size_KxB >= EDGES.take(bin_KxB + 1)
  row_KxB = 2 * np.arange(len(size_KxB))[:, None] + (scores_KxB < 0)
  flat, shape = row_KxB * NUM_BINS + bin_KxB, (len(size_KxB), 2, NUM_BINS)
  return np.bincount(flat.reshape(-1), minlength=np.prod(shape)).reshape(shape)


def _check(num_queries: int, ids_B: np.ndarray, scores_KxB: np.ndarray) -> None:
  if ids_B.ndim != 1 or scores_KxB.shape != (num_queries, len(ids_B)):
    raise ValueError(
      f'{num_queries} queries and ids of shape {ids_B.shape} do not fit scores '
      f'of shape {scores_KxB.shape}'
    )
  if (ids_B < 0).any():
    raise ValueError(f'id {ids_B.min()} is negative: leave padding rows out')
  if not np.isfinite(scores_KxB).all():
    k, b = np.argwhere(~np.isfinite(scores_KxB))[0]
    raise ValueError(
      f'the score of query {k} and sequence {ids_B[b]} is {scores_KxB[k, b]}, '
      'expected a finite number: look at its loss, or raise the damping'
    )
