"""How the scores of a query are spread, in the few numbers that a page draws.

Bins are made here, so that a page's size does not depend on the corpus.
"""

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from influence_jax import tails
from influence_jax.report import curves

TOP = (0.0001, 0.001, 0.01, 0.1)  # fractions of all sequences
QUANTILES = (0.01, 0.25, 0.5, 0.75, 0.99)
_NUM_POINTS = 40  # of a curve
_NUM_BINS = 12  # of lengths


def describe(
  scores_N: ArrayLike, lengths_N: ArrayLike, share: float = 0.02
) -> dict:
  """Tail, concentration and dependence on length of one query's scores.

  Args:
    scores_N: of all sequences, nats.
    lengths_N: their tokens.
    share: of the scores, in the tail that a power law is fitted to.

  Returns:
    num, num_positive  of scores
    ccdf       [[x, share of the positive scores >= x]], x falling, nats
    tail       of `tails.fit`: alpha, error, x_min, and its `line`, two points
               like those of ccdf; or only `none`, why there is no fit
    held       [[fraction of all sequences, share of the positive influence that
               the top ones hold, share that Gaussian noise would hold]]
    by_length  [[first length, last length, num, *QUANTILES of the scores]]
    rank_correlation  Spearman's, of |score| and length; None if all are alike
  """
  scores_N = np.asarray(scores_N, np.float64)
  lengths_N = np.asarray(lengths_N)
  x, above = curves.ccdf(scores_N)
  kept = np.geomspace(1, max(len(x), 1), _NUM_POINTS).round().astype(int) - 1
  return {
    'num': len(scores_N),
    'num_positive': len(x),
    'ccdf': np.stack([x, above], 1)[np.unique(kept)].tolist() if len(x) else [],
    'tail': _tail(scores_N, share, len(x)),
    'held': _held(scores_N),
    'by_length': _by_length(scores_N, lengths_N),
    'rank_correlation': rank_correlation(abs(scores_N), lengths_N),
  }


def rank_correlation(x_N: ArrayLike, y_N: ArrayLike) -> float | None:
  """Spearman's; None where there is none, as all of one are alike."""
  if len(x_N) < 2 or not np.ptp(x_N) or not np.ptp(y_N):
    return None
  return float(stats.spearmanr(x_N, y_N).statistic)


def _tail(scores_N: np.ndarray, share: float, num_positive: int) -> dict:
  try:
    tail = tails.fit(scores_N, share)
  except ValueError as error:
    return {'none': str(error)}
  start = len(tail.scores) / num_positive  # of the positive scores, as in ccdf
  ends = np.array([tail.x_min, tail.scores[0]])
  line = np.stack([ends, start * (ends / tail.x_min) ** -tail.alpha], 1)
  return {
    'alpha': tail.alpha,
    'error': tail.error,
    'x_min': tail.x_min,
    'share': tail.above,
    'line': line.tolist(),
  }


def _held(scores_N: np.ndarray) -> list[list[float]]:
  if not (scores_N > 0).any():
    return []
  top = np.array([x for x in TOP if x * len(scores_N) >= 1])
  shares = np.interp(top, *curves.held(scores_N))
  return np.stack([top, shares, curves.gaussian_held(top)], 1).tolist()


def _by_length(scores_N: np.ndarray, lengths_N: np.ndarray) -> list[list]:
  first, last = int(lengths_N.min()), int(lengths_N.max())
  edges = np.unique(np.linspace(first, last + 1, _NUM_BINS + 1).round())
  rows = []
  for low, high in zip(edges[:-1], edges[1:], strict=True):
    inside = scores_N[(lengths_N >= low) & (lengths_N < high)]
    if len(inside):
      quantiles = np.quantile(inside, QUANTILES).tolist()
      rows.append([int(low), int(high) - 1, len(inside), *quantiles])
  return rows
