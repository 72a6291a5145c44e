"""Measures of experiments.layerwise: arrays in, numbers out.

Letters: R rungs, K queries, C sequences of a query, L blocks.
"""

from collections.abc import Sequence

import numpy as np
from ml_collections import ConfigDict
from scipy import stats

from experiments import depth, layerwise_tops

WHOLE = 'whole'  # the order of the whole score, beside those of thirds


def profile(tops: layerwise_tops.Tops) -> np.ndarray:
  """Mean score by block of each query's sequences, [K, L], nats."""
  return np.array([scores_CxL.mean(0) for scores_CxL in tops.scores])


def centres(tops: layerwise_tops.Tops) -> np.ndarray:
  """Mean centre of mass of each query's sequences, [K], see depth.centre."""
  return np.array(
    [depth.centre(scores_CxL).mean() for scores_CxL in tops.scores]
  )


def unevenness(profiles: Sequence[np.ndarray], rows: np.ndarray) -> float:
  """Largest block / mean block, of these queries, in the most uneven rung.

  Args:
    profiles: of each rung, [K, L].
    rows: numbers of queries, with repeats in a bootstrap.
  """
  means = [x_KxL[rows.astype(int)].mean(0) for x_KxL in profiles]
  return max(float(mean_L.max() / mean_L.mean()) for mean_L in means)


def in_thirds(
  tops: Sequence[layerwise_tops.Tops], num: int
) -> dict[str, np.ndarray]:
  """{third: [K]}: overlap of query and sequences if a third gave the order.

  The mean Jaccard overlap of the first `num` of the same sequences in the order
  of the third's sum, then over the rungs of three blocks or more; WHOLE is the
  order of the whole score. Empty if there is no such rung.
  """
  found = {}
  for one in tops:
    num_blocks = one.scores[0].shape[1]
    parts = depth.thirds(num_blocks)
    whole = {WHOLE: np.arange(num_blocks)} if parts else {}
    for name, blocks in {**parts, **whole}.items():
      overlap_K = [
        overlap_C[_order(scores_CxL[:, blocks])[:num]].mean()
        for scores_CxL, overlap_C in zip(one.scores, one.overlaps, strict=True)
      ]
      found.setdefault(name, []).append(overlap_K)
  return {name: np.mean(x_RxK, axis=0) for name, x_RxK in found.items()}


def separation(
  centre_K: np.ndarray, classes: Sequence[str], section: ConfigDict
) -> dict | None:
  """Mean centre of section.upper's classes less that of section.middle's.

  The difference with its 95 % interval, and p of as large a one if queries
  were given to the two sides at random. None if no classes are named.

  Raises:
    ValueError: a class that is named has no queries, or a side less than two.
  """
  sides = tuple(section.upper), tuple(section.middle)
  if not any(sides):
    return None
  if unknown := {*sides[0], *sides[1]} - {*classes}:
    raise ValueError(
      f'config.layerwise.upper and .middle name {sorted(unknown)}: expected '
      f'classes of the queries, which are {sorted({*classes})}; name some of '
      'these, or make both () to leave E12 out'
    )
  upper_K, middle_K = (
    centre_K[[name in side for name in classes]] for side in sides
  )
  if min(len(upper_K), len(middle_K)) < 2:
    raise ValueError(
      f'{len(upper_K)} queries of {sides[0]} and {len(middle_K)} of {sides[1]}:'
      ' expected two or more of each; score more queries'
    )
  test = stats.permutation_test(
    (upper_K, middle_K), _gap, alternative='greater',
    n_resamples=section.num_permutations, rng=section.seed,
  )  # fmt: skip
  interval = stats.bootstrap(
    (upper_K, middle_K), _gap, n_resamples=2000, method='percentile', rng=0
  ).confidence_interval
  return {
    'difference': [float(test.statistic), *map(float, interval)],
    'p': float(test.pvalue),
    'queries': [len(upper_K), len(middle_K)],
  }


def _gap(x, y, axis=-1):
  return x.mean(axis) - y.mean(axis)


def _order(scores_CxL: np.ndarray) -> np.ndarray:
  return np.argsort(-scores_CxL.sum(1), kind='stable')
