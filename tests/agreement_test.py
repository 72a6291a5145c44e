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


if __name__ == '__main__':
  absltest.main()
