"""Is the tail of the scores a power law? Fits, their distance, their rivals.

After Sec. 5.2.1 and Table 1 of Grosse et al. 2023. The n largest scores of a
query are held against P(x >= t) = (t / x_min)^-alpha (Eq. 32), x_min being the
score of rank n + 1. alpha is the exponent of this CCDF, as in their Fig. 8; a
density falls as x^-(alpha + 1). So the mth moment is infinite where alpha <= m:
their text's "alpha < m + 1" is the rule for the density's exponent.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

# Families of distributions whose support begins at x_min, and two of the whole
# line; what is fixed in the fit, so that the rest are the free parameters.
_FAMILIES = {
  'power law': (stats.pareto, lambda x_min: {'floc': 0, 'fscale': x_min}),
  'exponential': (stats.expon, lambda x_min: {'floc': x_min}),
  'Rayleigh': (stats.rayleigh, lambda x_min: {'floc': x_min}),
  'log-normal': (stats.lognorm, lambda x_min: {'floc': x_min}),
  'Weibull': (stats.weibull_min, lambda x_min: {'floc': x_min}),
  'exponentiated Weibull': (stats.exponweib, lambda x_min: {'floc': x_min}),
  'Gumbel': (stats.gumbel_r, lambda x_min: {}),
  'GEV': (stats.genextreme, lambda x_min: {}),
}


class Tail(NamedTuple):
  """The largest scores of a query and the power law fitted to them."""

  scores: np.ndarray  # [n] float64, nats, largest first
  x_min: float  # nats
  alpha: float  # of the CCDF
  error: float  # standard error of alpha, alpha / sqrt(n)
  above: float  # share of all N scores that is in the tail


def fit(scores: ArrayLike, share: float) -> Tail:
  """The tail of the largest `share` of the scores: alpha by most likelihood.

  alpha = n / sum log(x_i / x_min), Hill's estimator.

  Raises:
    ValueError: fewer than two scores are in the tail, or x_min is not positive.
  """
  scores = np.sort(np.asarray(scores, np.float64).ravel())[::-1]
  n = int(share * len(scores))
  if not 2 <= n < len(scores):
    raise ValueError(
      f'a share of {share} of {len(scores)} scores is a tail of {n}: expected '
      'at least 2 and fewer than all; score more sequences or change the share'
    )
  x, x_min = scores[:n], float(scores[n])
  if x_min <= 0:
    raise ValueError(
      f'the score of rank {n + 1} is {x_min:.3g}, expected a positive one: a '
      'power law has no tail there; take a smaller share'
    )
  alpha = n / np.log(x / x_min).sum()
  return Tail(x, x_min, float(alpha), float(alpha / n**0.5), n / len(scores))


def ks(tail: Tail, num_draws: int, seed: int) -> tuple[float, float]:
  """(distance, p): the share of samples from the fit that are farther from

  their own fits than the tail is from its (Clauset et al. 2009): a power law is
  rejected at p <= 0.1. p is off by 1 / (2 sqrt(num_draws)) at most.
  """
  rng = np.random.default_rng(seed)
  drawn = rng.exponential(size=(num_draws, len(tail.scores)))
  # log(x / x_min) is exponential of mean 1 / alpha, and the distance does not
  # depend on alpha once each sample is divided by its own mean.
  found = _distance(np.log(tail.scores / tail.x_min)[None])[0]
  return float(found), float((_distance(drawn) >= found).mean())


def rivals(tail: Tail) -> dict[str, dict]:
  """{family: parameters, log_likelihood, AIC}, all by most likelihood.

  Families of the half-line begin at x_min; Gumbel and GEV have their place
  free. Where a fit does not converge, AIC is infinite.
  """
  found = {}
  for name, (family, fixed) in _FAMILIES.items():
    fixed = fixed(tail.x_min)
    with np.errstate(all='ignore'):
      parameters = family.fit(tail.scores, **fixed)
      likelihood = family.logpdf(tail.scores, *parameters).sum()
    likelihood = likelihood if np.isfinite(likelihood) else -np.inf
    num_free = len(parameters) - len(fixed)
    found[name] = {
      'parameters': [float(x) for x in parameters],
      'log_likelihood': float(likelihood),
      'aic': float(2 * num_free - 2 * likelihood),
    }
  return found


def scanned_for(tail: Tail, score: float, num: int = 10) -> float:
  """How many sequences must be scanned to expect `num` of at least `score`.

  n such that n P(x >= score) = num, P from the fit (Sec. 5.2.2); it is an
  extrapolation where the score is above the largest that was seen.
  """
  beyond = tail.above * (max(score, tail.x_min) / tail.x_min) ** -tail.alpha
  return num / beyond


def scanned_until(scores: ArrayLike, score: float, num: int = 10) -> float:
  """How many of the N scores are seen until `num` are at least `score`.

  The mean over all orders: h of them leave h + 1 gaps of (N - h) / (h + 1), so
  num (N + 1) / (h + 1); infinite where h < num.
  """
  scores = np.ravel(scores)
  hits = int((scores >= score).sum())
  return num * (len(scores) + 1) / (hits + 1) if hits >= num else float('inf')


def _distance(logs_DxN: np.ndarray) -> np.ndarray:
  """Kolmogorov and Smirnov's, of each row from the exponential of its mean."""
  logs_DxN = np.sort(logs_DxN, axis=1)
  fitted = -np.expm1(-logs_DxN / logs_DxN.mean(axis=1, keepdims=True))
  steps = np.arange(logs_DxN.shape[1] + 1) / logs_DxN.shape[1]
  return np.maximum(steps[1:] - fitted, fitted - steps[:-1]).max(axis=1)
