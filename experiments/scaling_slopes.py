"""From measures of top sequences to values by size, their slopes and ratios.

For experiments.scaling. S sizes, K queries, M top sequences of each. A measure
that a query lacks is NaN, everywhere.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from experiments import agreement, ladder


def of_queries(measures: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """{measure: [K, M]} -> [K], over M: the mean, of scores the median."""
  return {
    name: _statistic(name)(x_KxM, axis=1) for name, x_KxM in measures.items()
  }


def by_size(
  sizes: Sequence[str],
  rungs: Sequence[ladder.Rung],
  each: Sequence[Mapping[str, np.ndarray]],
) -> dict[str, np.ndarray]:
  """{measure: [K]} of each rung -> [S, K], the mean over a size's seeds."""
  pairs = list(zip(rungs, each, strict=True))

  def mean(name: str, size: str) -> np.ndarray:
    return np.mean([x[name] for rung, x in pairs if rung.size == size], axis=0)

  return {
    name: np.stack([mean(name, size) for size in sizes]) for name in each[0]
  }


def centre(name: str, x_K: np.ndarray) -> list[float] | None:
  """Over the queries that have a value: mean, of scores median; its interval.

  None if there are none.
  """
  known = x_K[~np.isnan(x_K)]
  return agreement.interval(known, _statistic(name)) if len(known) else None


def slopes(
  parameters: Sequence[int], values: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
  """{measure: [S, K]} -> [K]: least squares, a tenfold of parameters.

  Of scores it is their log10's. What is the same at all sizes has exactly 0.
  """
  x_S = np.log10(parameters)
  x_S -= x_S.mean()
  linear = {**values, 'score': np.log10(values['score'])}
  return {
    name: x_S @ (y_SxK - y_SxK[0]) / (x_S @ x_S)
    for name, y_SxK in linear.items()
  }


def summary(slope_K: np.ndarray) -> dict[str, list[float] | None]:
  """Over the queries that have a slope: its mean, and how many fall or rise."""
  known = slope_K[~np.isnan(slope_K)]
  if not len(known):
    return dict.fromkeys(('mean', 'falling', 'rising'))
  return {
    'mean': agreement.interval(known),
    'falling': agreement.share(known < 0),
    'rising': agreement.share(known > 0),
  }


def shared_seeds(
  sizes: Sequence[str], rungs: Sequence[ladder.Rung]
) -> list[int]:
  """Of the first and the last size; ValueError if there are none."""
  first, last = (
    {rung.seed for rung in rungs if rung.size == size}
    for size in (sizes[0], sizes[-1])
  )
  if not first & last:
    raise ValueError(
      f'{sizes[0]} has the seeds {sorted(first)} and {sizes[-1]} '
      f'{sorted(last)}, expected one in common: change config.ladder.seeds'
    )
  return sorted(first & last)


def ratios(
  sizes: Sequence[str],
  rungs: Sequence[ladder.Rung],
  each: Sequence[Mapping[str, np.ndarray]],
) -> np.ndarray:
  """Scores of the first over those of the last size, [K].

  The geometric mean over the seeds that both have.
  """
  scores = {
    (rung.size, rung.seed): x['score']
    for rung, x in zip(rungs, each, strict=True)
  }
  ratios_RxK = [
    scores[sizes[0], seed] / scores[sizes[-1], seed]
    for seed in shared_seeds(sizes, rungs)
  ]
  return np.exp(np.mean(np.log(ratios_RxK), axis=0))


def _statistic(name: str) -> Callable:
  return np.median if name == 'score' else np.mean  # scores have long tails
