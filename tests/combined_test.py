import jax
import numpy as np
import testing
from absl.testing import absltest

from influence_jax import combined, curvature, types


class CombinedTest(absltest.TestCase):
  def test_together_are_the_factors_of_each_alone(self):
    layers = {'in': types.Layer('in', 7, 6, True)}
    data = testing.random_arrays(layers, num_rows=8, length=5)
    made = {str(n): curvature.make('ekfac_blocks', blocks=n) for n in (1, 3)}
    joined = testing.factors_of(combined.together(made), layers, *data)
    for name, one in made.items():
      alone = testing.factors_of(one, layers, *data)['in']
      found = combined.own(joined['in'], name)
      self.assertEqual(found.keys(), alone.keys())
      jax.tree.map(np.testing.assert_array_equal, found, alone)

  def test_numbers_of_stages_that_differ_are_refused(self):
    made = {name: curvature.make(name) for name in ('kfac', 'ekfac')}
    with self.assertRaisesRegex(ValueError, 'stages'):
      combined.together(made)


if __name__ == '__main__':
  absltest.main()
