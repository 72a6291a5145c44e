"""Tests of tails against scipy, closed forms and samples of known laws."""

import itertools

import numpy as np
from absl.testing import absltest, parameterized
from scipy import stats

from influence_jax import tails


def _pareto(alpha, num, seed=0, x_min=0.3):
  return x_min * (1 + np.random.default_rng(seed).pareto(alpha, num))


class FitTest(parameterized.TestCase):
  def test_alpha_is_hills_estimator_of_the_largest(self):
    scores = np.array([-5.0, 1.0, 8.0, 2.0, 4.0, 0.5, 0.1, 0.2, -1.0, 0.3])
    tail = tails.fit(scores, 0.3)
    np.testing.assert_array_equal(tail.scores, [8, 4, 2])
    self.assertEqual(tail.x_min, 1)
    np.testing.assert_allclose(tail.alpha, 3 / np.log(8 * 4 * 2))
    np.testing.assert_allclose(tail.error, tail.alpha / 3**0.5)
    self.assertEqual(tail.above, 0.3)

  @parameterized.parameters(1.5, 3.0)
  def test_the_exponent_of_a_sample_is_found(self, alpha):
    """6 standard errors: once in 10^9."""
    for share in (0.05, 0.5):
      tail = tails.fit(_pareto(alpha, 20_000), share)
      self.assertLess(abs(tail.alpha - alpha), 6 * tail.error)

  def test_the_unit_of_scores_moves_x_min_alone(self):
    scores = _pareto(2.0, 1000)
    one, other = tails.fit(scores, 0.1), tails.fit(7 * scores, 0.1)
    np.testing.assert_allclose(other.alpha, one.alpha)
    np.testing.assert_allclose(other.x_min, 7 * one.x_min)
    np.testing.assert_allclose(tails.ks(one, 50, 0), tails.ks(other, 50, 0))

  @parameterized.parameters(0.0, 0.15, 1.0)
  def test_a_tail_of_one_or_of_all_is_refused(self, share):
    with self.assertRaisesRegex(ValueError, 'expected at least 2'):
      tails.fit(np.arange(1.0, 11), share)

  def test_a_tail_that_reaches_negative_scores_is_refused(self):
    with self.assertRaisesRegex(ValueError, 'rank 6 is -1.*smaller share'):
      tails.fit([5, 4, 3, 2, 1, -1, -2, -3, -4, -5], 0.5)


class DistanceTest(absltest.TestCase):
  def test_it_is_that_of_scipy_from_the_fitted_law(self):
    for seed in range(10):  # the farthest is above or below
      tail = tails.fit(_pareto(2.5, 3000, seed), 0.05)
      law = stats.pareto(tail.alpha, scale=tail.x_min)
      wanted = stats.kstest(tail.scores, law.cdf).statistic
      got, _ = tails.ks(tail, 10, 0)
      np.testing.assert_allclose(got, wanted, 1e-9)

  def test_p_of_true_power_laws_is_uniform(self):
    """200 p-values: their Kolmogorov distance is above 0.138 once in 10^3."""
    found = [
      tails.ks(tails.fit(_pareto(2.0, 400, seed), 0.25), 400, 1)[1]
      for seed in range(200)
    ]
    self.assertLess(stats.kstest(found, 'uniform').statistic, 0.138)

  def test_an_exponential_tail_is_rejected(self):
    scores = 1 + np.random.default_rng(0).exponential(size=20_000)
    self.assertLess(tails.ks(tails.fit(scores, 0.5), 400, 0)[1], 0.01)


class RivalsTest(absltest.TestCase):
  def test_the_family_that_was_drawn_from_is_near_the_least_aic(self):
    """A family that contains it may fit better, by a few parameters' worth."""
    rng = np.random.default_rng(1)
    drawn = {
      'power law': _pareto(1.5, 20_000),
      'exponential': rng.exponential(size=20_000),
    }
    for name, scores in drawn.items():
      found = tails.rivals(tails.fit(scores, 0.5))
      best = min(x['aic'] for x in found.values())
      self.assertLess(found[name]['aic'] - best, 10, name)
      (other,) = drawn.keys() - {name}
      self.assertGreater(found[other]['aic'] - best, 100, name)

  def test_aic_counts_free_parameters_and_the_likelihood_of_the_tail(self):
    tail = tails.fit(_pareto(2.0, 2000), 0.1)
    found = tails.rivals(tail)
    num_free = {
      'power law': 1, 'exponential': 1, 'Rayleigh': 1, 'log-normal': 2,
      'Weibull': 2, 'exponentiated Weibull': 3, 'Gumbel': 2, 'GEV': 3,
    }  # fmt: skip
    self.assertEqual(found.keys(), num_free.keys())
    for name, num in num_free.items():
      one = found[name]
      self.assertAlmostEqual(one['aic'], 2 * num - 2 * one['log_likelihood'])
    x, alpha = tail.scores, tail.alpha
    wanted = np.log(alpha / x * (tail.x_min / x) ** alpha).sum()
    self.assertAlmostEqual(found['power law']['log_likelihood'], wanted, 6)
    mean = (x - tail.x_min).mean()
    wanted = (-np.log(mean) - (x - tail.x_min) / mean).sum()
    self.assertAlmostEqual(found['exponential']['log_likelihood'], wanted, 6)


class ScannedForTest(absltest.TestCase):
  def test_it_is_how_many_were_scanned_where_scores_are_seen(self):
    tail = tails.fit(_pareto(2.0, 100_000), 0.1)
    for rank in (100, 1000, 5000):
      needed = tails.scanned_for(tail, tail.scores[rank - 1], num=rank)
      self.assertLess(abs(np.log(needed / 100_000)), 6 / rank**0.5)

  def test_twice_the_score_needs_two_to_the_alpha_as_many(self):
    tail = tails.fit(_pareto(3.0, 1000), 0.1)
    one, two = (tails.scanned_for(tail, x * tail.x_min) for x in (2, 4))
    np.testing.assert_allclose(two / one, 2**tail.alpha)
    np.testing.assert_allclose(tails.scanned_for(tail, tail.x_min), 100)


class ScannedUntilTest(parameterized.TestCase):
  @parameterized.parameters(1, 2, 3)
  def test_it_is_the_mean_over_all_orders(self, num):
    scores = [0.5, 3.0, -1.0, 2.0, 2.0, 0.1]  # three reach 2
    waits = [
      [n for n, x in enumerate(order, start=1) if x >= 2][num - 1]
      for order in itertools.permutations(scores)
    ]
    got = tails.scanned_until(scores, 2, num)
    np.testing.assert_allclose(got, np.mean(waits), 1e-12)

  def test_too_few_are_never_enough(self):
    self.assertEqual(tails.scanned_until([1.0, 2.0, 3.0], 2.0, 3), np.inf)
    self.assertEqual(tails.scanned_until(np.ones(9), 1.0), np.inf)
    self.assertEqual(tails.scanned_until(np.ones(10), 1.0), 10)


if __name__ == '__main__':
  absltest.main()
