"""Numbers behind the figures: how influence is spread over data and layers.

Shares of influence are of the sum of POSITIVE scores, as in Fig. 9 of Grosse et
al. 2023. They note that this understates concentration where scores are noisy:
the positive half of the noise is in the denominator. `gaussian_held` is what
pure noise would give.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats


def ccdf(scores: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
  """Positive scores, largest first, and the share of them at least as large."""
  scores = np.asarray(scores, np.float64)
  x = np.sort(scores[scores > 0])[::-1]
  return x, np.arange(1, len(x) + 1) / max(len(x), 1)


def held(scores: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
  """Fractions of all N sequences, best first, and what they hold, [N + 1].

  The second is a share of the sum of positive scores: NaN where there is none.
  """
  positive = np.sort(np.maximum(np.asarray(scores, np.float64), 0))[::-1]
  sums = np.concatenate([[0.0], np.cumsum(positive)])
  total = sums[-1] if sums[-1] > 0 else np.nan
  return np.linspace(0, 1, len(sums)), sums / total


def gaussian_held(top: ArrayLike) -> np.ndarray:
  """E[x; x > z] / E[x; x > 0] = pdf(z) / pdf(0), with P(x > z) = top."""
  return stats.norm.pdf(stats.norm.isf(top)) / stats.norm.pdf(0)


def layer_shares(
  name: str, scores_CxL: ArrayLike, layer_names: Sequence[str]
) -> np.ndarray:
  """Each layer's share of the summed scores, [L]; NaN if the sum is not > 0.

  Args:
    name: of the query, for errors.
    scores_CxL: layer scores of the query's top sequences.
    layer_names: of the columns.
  """
  scores_CxL = np.asarray(scores_CxL, np.float64)
  if scores_CxL.ndim != 2 or scores_CxL.shape[1] != len(layer_names):
    raise ValueError(
      f'layer scores of query {name!r} have shape {scores_CxL.shape}, expected '
      f'(sequences, {len(layer_names)}); pass one name a layer'
    )
  if not np.isfinite(scores_CxL).all():
    raise ValueError(
      f'layer scores of query {name!r} must be finite, got '
      f'{np.sum(~np.isfinite(scores_CxL))} that are not; score it again'
    )
  sums_L = scores_CxL.sum(axis=0)
  total = sums_L.sum()
  return sums_L / (total if total > 0 else np.nan)
