import jax
import numpy as np
import testing
from absl.testing import absltest, parameterized

from influence_jax import curvature as curvatures
from influence_jax import health, types


def setUpModule():
  jax.config.update('jax_enable_x64', True)


def tearDownModule():
  jax.config.update('jax_enable_x64', False)


_LAYERS = {'dense': types.Layer('dense', 2, 3, False)}
_STACK = {'stack': types.Layer('stack', 2, 2, False, (2,))}


def _of(name, factors, damping, layers=_LAYERS):
  damping = {path: np.asarray(x) for path, x in damping.items()}
  return health.health(curvatures.make(name), layers, factors, damping)


class HealthTest(parameterized.TestCase):
  def test_numbers_of_a_spectrum_by_hand(self):
    D = np.array([[1.0, 2, 3], [4, 0, 0]])
    found = _of('diagonal', {'dense': {'D': D}}, {'dense': 0.5})
    wanted = {
      'layer': 'dense',
      'mean': 10 / 6,
      'max': 4.0,
      'damping': 0.5,
      'condition': 4.5 / 0.5,
      'effective_rank': 100 / 30,
    }
    self.assertEqual([x.keys() for x in found], [wanted.keys()])
    self.assertEqual(found[0].pop('layer'), wanted.pop('layer'))
    np.testing.assert_allclose([*found[0].values()], [*wanted.values()])

  def test_a_singular_matrix_without_damping_is_hopeless(self):
    factors = {'dense': {'D': np.array([[1.0, 0, 2]] * 2)}}
    found = _of('diagonal', factors, {'dense': 0.0})
    self.assertEqual(found[0]['condition'], np.inf)

  def test_a_slice_of_a_stack_is_a_layer_of_its_own(self):
    factors = {'stack': {'D': np.array([[[1.0, 1], [1, 1]], [[2, 4], [6, 8]]])}}
    found = _of('diagonal', factors, {'stack': np.array([0.1, 2.0])}, _STACK)
    got = [(x['layer'], x['mean'], x['damping'], x['condition']) for x in found]
    self.assertEqual(
      got, [('stack[0]', 1.0, 0.1, 1.0), ('stack[1]', 5.0, 2.0, 10 / 4)]
    )
    np.testing.assert_allclose(
      [x['effective_rank'] for x in found], [4, 400 / 120]
    )

  def test_negative_eigenvalues_of_the_factors_are_counted_and_clipped(self):
    factors = {
      'L_A': np.array([-1e-9, 2.0]),
      'L_S': np.array([-1e-8, -1e-12, 5.0]),
      'T_mean': np.array(3.0),
    }
    found = _of('kfac', {'dense': factors}, {'dense': 1.0})[0]
    self.assertEqual(found['clipped'], 3)
    self.assertEqual((found['max'], found['condition']), (30.0, 31.0))
    self.assertNotIn('kfac_gap', found)

  def test_the_gap_to_kfac_is_relative_to_lambda(self):
    factors = {
      'L_A': np.array([1.0, 2]),
      'L_S': np.array([0.0, 1, 3]),
      'T_mean': np.array(2.0),
      'Lambda': np.array([[1.0, 2, 6], [0, 4, 10]]),
    }
    found = _of('ekfac', {'dense': factors}, {'dense': 0.0})[0]
    # K-FAC's are [[0, 2, 6], [0, 4, 12]]
    wanted = np.sqrt(1 + 4) / np.sqrt(1 + 4 + 36 + 16 + 100)
    np.testing.assert_allclose(found['kfac_gap'], wanted)
    self.assertEqual(found['clipped'], 0)

  def test_there_is_no_gap_where_positions_are_independent(self):
    layers, arrays, mask = testing.independent_positions()
    curvature = curvatures.make('ekfac')
    factors = testing.factors_of(curvature, layers, arrays, mask)
    found = _of('ekfac', factors, {'dense': 0.1}, layers)[0]
    self.assertLess(found['kfac_gap'], 1e-12)
    a, ds = arrays['dense']
    g = np.einsum('bti,bto->bio', a, ds)
    np.testing.assert_allclose(found['mean'], (g**2).mean())  # the trace of G

  @parameterized.parameters(*curvatures.names())
  def test_records_are_plain_numbers_for(self, name):
    layers = testing.deep(scan=True)[0].layers
    curvature = curvatures.make(name)
    factors = testing.factors_of(
      curvature, layers, *testing.random_arrays(layers)
    )
    damping = {path: np.full(x.stack, 0.1) for path, x in layers.items()}
    found = health.health(curvature, layers, factors, damping)
    names = ['first', 'blocks/mix[0]', 'blocks/mix[1]', 'last']
    self.assertEqual([x.pop('layer') for x in found], names)
    for record in found:
      self.assertContainsSubset(
        {'mean', 'max', 'damping', 'condition', 'effective_rank'}, record
      )
      self.assertLessEqual({type(x) for x in record.values()}, {int, float})


if __name__ == '__main__':
  absltest.main()
