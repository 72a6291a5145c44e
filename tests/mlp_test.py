import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from influence_jax import models


class MlpTest(parameterized.TestCase):
  @parameterized.parameters(
    ('tanh', np.tanh), ('relu', lambda x: np.maximum(x, 0))
  )
  def test_it_is_dense_layers_with_activations_between(self, name, function):
    with jax.enable_x64(True):
      model = models.make(
        'mlp', widths=(5, 4), num_outputs=2, activation=name, dtype='float64'
      )
      x = jax.random.normal(jax.random.key(0), (7, 3), jnp.float64)
      params = model.init(jax.random.key(1), x)['params']
      params = jax.tree.map(lambda p: p + 0.1, params)
      got = model.apply({'params': params}, x)
      params = jax.tree.map(np.asarray, params)
    self.assertEqual(list(params), ['dense_0', 'dense_1', 'dense_2'])
    h = np.asarray(x)
    for i in range(3):
      layer = params[f'dense_{i}']
      h = h @ layer['kernel'] + layer['bias']
      h = function(h) if i < 2 else h
    self.assertEqual(got.dtype, np.float64)
    np.testing.assert_allclose(got, h, rtol=1e-12)

  def test_images_are_flattened_row_by_row(self):
    model = models.make('mlp', widths=(4,), num_outputs=2)
    x = np.random.default_rng(0).normal(size=(5, 3, 2, 2)).astype(np.float32)
    params = model.init(jax.random.key(0), x)
    flat = np.stack([image.ravel() for image in x])
    np.testing.assert_array_equal(
      model.apply(params, x), model.apply(params, flat)
    )

  def test_bfloat16_keeps_float32_parameters(self):
    model = models.make('mlp', widths=[4], num_outputs=2, dtype='bfloat16')
    params = model.init(jax.random.key(0), jnp.ones((1, 3)))
    self.assertEqual(
      {x.dtype for x in jax.tree.leaves(params)}, {jnp.dtype('float32')}
    )
    self.assertEqual(model.apply(params, jnp.ones((1, 3))).dtype, jnp.bfloat16)

  def test_an_unknown_activation_is_refused(self):
    with self.assertRaisesRegex(
      ValueError, "'gelu'; there are .'tanh', 'relu'"
    ):
      models.make('mlp', widths=(4,), num_outputs=1, activation='gelu')


if __name__ == '__main__':
  absltest.main()
