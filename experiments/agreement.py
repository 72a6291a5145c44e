"""How well scores agree with exact ones; shares with their intervals."""

from collections.abc import Callable, Sequence

import numpy as np
from scipy import stats

_NUM_DRAWS = 2000  # of the bootstrap


def agreement(
  scores_KxN: np.ndarray, exact_KxN: np.ndarray, num_top: int
) -> dict[str, dict]:
  """Of each query over the sequences, against its exact scores: `summary` of

  Pearson's and Spearman's correlation and the overlap of the two top `num_top`.
  """
  pairs = list(zip(scores_KxN, exact_KxN, strict=True))
  return {
    'pearson': summary([stats.pearsonr(x, y).statistic for x, y in pairs]),
    'spearman': summary([stats.spearmanr(x, y).statistic for x, y in pairs]),
    'overlap': summary(refined(scores_KxN, exact_KxN, num_top, num_top)),
  }


def refined(
  scores_KxN: np.ndarray, exact_KxN: np.ndarray, rescored: int, num_top: int
) -> np.ndarray:
  """Share of the exact top `num_top` in that of a search in two stages, [K].

  The first `rescored` by `scores_KxN` are put in the order of exact scores.
  """
  first_KxM = _top(scores_KxN, rescored)
  again_KxM = np.take_along_axis(exact_KxN, first_KxM, axis=1)
  found_KxM = np.take_along_axis(first_KxM, _top(again_KxM, num_top), axis=1)
  true_KxM = _top(exact_KxN, num_top)
  return (found_KxM[:, :, None] == true_KxM[:, None]).any(1).mean(1)


def summary(x_K: Sequence[float]) -> dict:
  """Over the queries; ValueError if a value is not finite."""
  if not np.isfinite(x_K).all():
    raise ValueError(
      f'a query has scores that are not finite or all the same: {x_K}, '
      'expected finite correlations; look at factor_health.json'
    )
  return {
    'median': float(np.median(x_K)),
    'min': float(np.min(x_K)),
    'max': float(np.max(x_K)),
    'mean': float(np.mean(x_K)),
    'quartiles': np.quantile(x_K, (0.25, 0.75)).tolist(),
    'per_query': np.asarray(x_K, float).tolist(),
  }


def share(hits: Sequence[bool]) -> list[float]:
  """[share, low, high] of those that are true, Wilson's 95 % interval."""
  found = stats.binomtest(int(np.sum(hits)), len(hits))
  return [found.statistic, *found.proportion_ci(method='wilson')]


def interval(
  values: Sequence[float], statistic: Callable = np.mean, seed: int = 0
) -> list[float]:
  """[statistic, low, high], 95 % by the bootstrap's percentiles.

  The values are drawn again as they are: give one a query (or whatever is a
  random draw in the study), not one a sequence. A single value has no interval.
  """
  values = np.asarray(values, np.float64)
  if len(values) < 2:
    return [float(statistic(values))]
  found = stats.bootstrap(
    (values,), statistic, n_resamples=_NUM_DRAWS, method='percentile', rng=seed
  )
  return [float(statistic(values)), *map(float, found.confidence_interval)]


def shown(value: Sequence[float], form: str) -> str:
  """[value] as '0.93', [value, low, high] as '0.93 (0.90 to 0.95)'."""
  number, *ends = (format(x, form) for x in value)
  return f'{number} ({" to ".join(ends)})' if ends else number


def _top(scores_KxN, num):
  """Places of the largest, best first; the earlier one of a tie."""
  return np.argsort(-scores_KxN, axis=1, kind='stable')[:, :num]
