import jax
import jax.numpy as jnp
import numpy as np
import testing
from absl.testing import absltest, parameterized
from flax import traverse_util

from influence_jax import layer_arrays, types


def setUpModule():
  jax.config.update('jax_enable_x64', True)


def tearDownModule():
  jax.config.update('jax_enable_x64', False)


def _vector(layers, seed=0):
  rng = np.random.default_rng(seed)
  return {
    path: rng.normal(size=(*layer.stack, layer.num_in, layer.num_out))
    for path, layer in layers.items()
  }


def _flat(params):
  return traverse_util.flatten_dict(params, sep='/')


class ParamsTest(parameterized.TestCase):
  @parameterized.parameters(False, True)
  def test_a_bias_is_the_last_row_of_its_layer(self, scan):
    model, params = testing.deep(scan)
    vector = _vector(model.layers)
    laid = _flat(layer_arrays.to_params(params, model.layers, vector))
    self.assertCountEqual(laid, _flat(params))
    for path, layer in model.layers.items():
      for at in np.ndindex(*layer.stack):
        kernel = laid[f'{path}/kernel'][at]
        for o in range(layer.num_out):
          wanted = list(vector[path][at][:, o])
          if layer.has_bias:
            self.assertEqual(laid[f'{path}/bias'][at][o], wanted.pop())
          np.testing.assert_array_equal(kernel[:, o], wanted)

  def test_parameters_of_no_layer_do_not_move(self):
    model, params = testing.deep(scan=True)
    layers = {'last': model.layers['last']}
    vector = _vector(layers)
    moved = _flat(layer_arrays.moved(params, layers, vector))
    for name, x in _flat(params).items():
      step = vector['last'] if name == 'last/kernel' else 0 * np.asarray(x)
      np.testing.assert_allclose(moved[name], x + step, rtol=1e-15)

  def test_axes_of_a_kernel_come_back_and_its_dtype_stays(self):
    layers = {'qkv': types.Layer('qkv', 3, 4, has_bias=True)}
    kernel = jnp.zeros((2, 2, 2), jnp.bfloat16)
    params = {'qkv': {'kernel': kernel, 'bias': jnp.zeros((2, 2))}}
    vector = {'qkv': np.arange(12.0).reshape(3, 4)}
    laid = layer_arrays.to_params(params, layers, vector)['qkv']
    self.assertEqual(laid['kernel'].dtype, jnp.bfloat16)
    np.testing.assert_array_equal(
      laid['kernel'].astype(float), np.arange(8).reshape(2, 2, 2)
    )
    np.testing.assert_array_equal(laid['bias'], [[8, 9], [10, 11]])

  def test_an_array_of_many_vectors_is_refused(self):
    model, params = testing.deep(scan=True)
    many = _vector(model.layers)
    many['blocks/mix'] = np.stack([many['blocks/mix']] * 3, 1)
    with self.assertRaisesRegex(
      ValueError, r"'blocks/mix' .*\(2, 3, 5, 4\).*\(2, 5, 4\).*one of"
    ):
      layer_arrays.to_params(params, model.layers, many)


class SpaceTest(absltest.TestCase):
  def test_zeros_have_the_shapes_of_the_layers(self):
    layers = testing.deep(scan=True)[0].layers
    shapes = jax.tree.map(jnp.shape, layer_arrays.zeros(layers))
    self.assertEqual(
      shapes, {'first': (6, 4), 'blocks/mix': (2, 5, 4), 'last': (4, 3)}
    )
    for x in layer_arrays.zeros(layers).values():
      self.assertEqual(x.dtype, np.float64)
      self.assertFalse(x.any())

  def test_lead_puts_the_vectors_in_front_of_stacks_and_trail_back(self):
    layers = testing.deep(scan=True)[0].layers
    layers = layers | {'grid': types.Layer('grid', 2, 3, True, stack=(4, 5))}
    K_th = [_vector(layers, seed) for seed in range(3)]
    together = {
      path: np.stack([x[path] for x in K_th], len(layer.stack))
      for path, layer in layers.items()
    }
    self.assertEqual(together['grid'].shape, (4, 5, 3, 2, 3))
    led = layer_arrays.lead(layers, together)
    for k, x in enumerate(K_th):
      for path in layers:
        np.testing.assert_array_equal(led[path][k], x[path])
    for path, x in layer_arrays.trail(layers, led).items():
      np.testing.assert_array_equal(x, together[path])

  def test_dot_norm_and_add_are_those_of_the_raveled_vectors(self):
    layers = testing.deep(scan=True)[0].layers
    x, y = _vector(layers, 0), _vector(layers, 1)
    x_P, y_P = (np.concatenate([a.ravel() for a in v.values()]) for v in (x, y))
    self.assertAlmostEqual(layer_arrays.dot(x, y), x_P @ y_P, delta=1e-12)
    wanted = np.linalg.norm(x_P)
    self.assertAlmostEqual(layer_arrays.norm(x), wanted, delta=1e-12)
    for got, wanted in (
      (layer_arrays.add(x, y), x_P + y_P),
      (layer_arrays.add(x, y, -0.3), x_P - 0.3 * y_P),
    ):
      got_P = np.concatenate([np.ravel(got[path]) for path in layers])
      np.testing.assert_allclose(got_P, wanted, atol=1e-14)

  def test_times_is_by_each_layers_and_slices_own_number(self):
    layers = testing.deep(scan=True)[0].layers
    x = _vector(layers)
    damping = {
      'first': jnp.asarray(2.0), 'blocks/mix': jnp.array([3.0, 5.0]),
      'last': jnp.asarray(7.0),
    }  # fmt: skip
    got = layer_arrays.times(damping, x)
    np.testing.assert_array_equal(got['first'], 2 * x['first'])
    np.testing.assert_array_equal(got['last'], 7 * x['last'])
    for n, number in enumerate((3, 5)):
      wanted = number * x['blocks/mix'][n]
      np.testing.assert_array_equal(got['blocks/mix'][n], wanted)


if __name__ == '__main__':
  absltest.main()
