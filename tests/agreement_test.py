import numpy as np
from absl.testing import absltest
from scipy import stats

from experiments import agreement


class ShareTest(absltest.TestCase):
  def test_the_interval_is_wilsons(self):
    n, hits = 10, 3
    share, z = hits / n, stats.norm.ppf(0.975)
    middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    root = np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    half = z * root / (1 + z**2 / n)
    found = agreement.share([True] * hits + [False] * (n - hits))
    np.testing.assert_allclose(found, [share, middle - half, middle + half])


class ShownTest(absltest.TestCase):
  def test_an_interval_is_in_brackets_and_none_has_none(self):
    for value, form, wanted in (
      ([0.934, 0.9, 0.951], '.0%', '93% (90% to 95%)'),
      ((-1, -2, 0.5), '+.1f', '-1.0 (-2.0 to +0.5)'),
      ([1.5], '.2f', '1.50'),
    ):
      self.assertEqual(agreement.shown(value, form), wanted)


class IntervalTest(absltest.TestCase):
  def test_of_a_mean_it_is_as_wide_as_the_normal_one(self):
    x = np.random.default_rng(0).normal(3, 2, 400)
    mean, low, high = agreement.interval(x)
    self.assertEqual(mean, x.mean())
    half = stats.norm.ppf(0.975) * x.std() / 20
    # 2000 draws place a quantile of 2.5 % within a tenth of the half width
    np.testing.assert_allclose([mean - low, high - mean], half, rtol=0.15)

  def test_it_is_of_the_statistic_asked_for_and_the_same_again(self):
    x = np.r_[np.zeros(30), 1e6]
    self.assertEqual(agreement.interval(x, np.median), [0, 0, 0])
    self.assertEqual(agreement.interval(x), agreement.interval(x))

  def test_one_value_has_none(self):
    self.assertEqual(agreement.interval([2.0]), [2.0])


if __name__ == '__main__':
  absltest.main()
