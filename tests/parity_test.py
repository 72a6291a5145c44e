"""Scores and factors against an independent implementation's, in float64.

The case lies beside the checkout, in ../shared/parity/small, where the project
is developed and in CI; elsewhere these tests are skipped.
"""

import pathlib

import jax
import numpy as np
from absl.testing import absltest, parameterized

from experiments import parity

CASE = pathlib.Path(__file__).parents[2] / 'shared' / 'parity' / 'small'
STRATEGIES = ['ekfac', 'kfac', 'diagonal', 'identity']
FLOAT32_KEYS = ('ekfac.pairwise_tokens',)  # so the reference keeps them


@absltest.skipUnless(CASE.exists(), f'no parity case in {CASE}')
class ParityTest(parameterized.TestCase):
  def tearDown(self):
    super().tearDown()
    jax.config.update('jax_enable_x64', False)

  @parameterized.parameters(
    ('mlp', 'float64', False, 1e-10, STRATEGIES, 36),
    ('all', 'float32', True, 1e-5, ['ekfac', 'identity'], 8),
  )
  def test_all_quantities_agree(self, scope, dtype, scan, bound, names, num):
    jax.config.update('jax_enable_x64', dtype == 'float64')
    got = parity.compute(CASE, scope, names, dtype, scan=scan)
    with np.load(CASE / f'reference_{scope}.npz', allow_pickle=False) as file:
      rows = parity.compare(got, dict(file))
    self.assertLen(rows, num)
    for name, _, _, error in rows:
      with self.subTest(name):
        self.assertLess(error, 1e-5 if name in FLOAT32_KEYS else bound)

  def test_a_reference_of_another_shape_is_refused(self):
    with self.assertRaisesRegex(ValueError, 'another case or scope'):
      parity.compare({'x': np.ones(3)}, {'x': np.ones(4)})

  def test_compare_tells_scale_and_order_apart(self):
    reference = {'x': np.arange(5.0)}
    ((_, pearson, spearman, error),) = parity.compare(
      {'x': 2 * np.arange(5.0)}, reference
    )
    self.assertAlmostEqual(pearson, 1)
    self.assertAlmostEqual(spearman, 1)
    self.assertEqual(error, 1)
    ((_, _, spearman, _),) = parity.compare(
      {'x': np.array([0.0, 1, 2, 4, 3])}, reference
    )
    self.assertLess(spearman, 1)


if __name__ == '__main__':
  absltest.main()
