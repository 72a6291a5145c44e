"""R in both of its forms, and the inverse made of it, by dense matrices."""

import exact_ggn
import jax
import numpy as np
import testing
from absl.testing import absltest, parameterized

from influence_jax import ggn, losses, models, taps, types
from influence_jax.solvers import woodbury


def setUpModule():
  jax.config.update('jax_enable_x64', True)


def tearDownModule():
  jax.config.update('jax_enable_x64', False)


def _case(name):
  """(model, params, batches): nets that see one position, many, or both."""
  if name != 'conv':
    return exact_ggn.case(name)
  net = models.make('convnet', channels=(2,), num_outputs=3, dtype='float64')
  like = jax.ShapeDtypeStruct((1, 4, 4, 1), float)
  model = testing.model_of(net, like, losses.softmax_cross_entropy)
  return *model, [_images(0), _images(1)]


def _images(seed):
  rng = np.random.default_rng(seed)
  mask = np.array([1.0, 1.0, seed])  # the last of the first batch is blank
  ids = np.arange(3, dtype=np.int32)
  return types.Batch(
    rng.normal(size=(3, 4, 4, 1)), rng.integers(0, 3, 3), mask, ids
  )


_FORMS = {
  'squared': {'dense_0': 'ads', 'dense_1': 'ads'},
  'scan': {'first': 'g', 'blocks/mix': 'g', 'last': 'g'},
  'conv': {'conv_0': 'g', 'head': 'ads'},
}


class WoodburyTest(parameterized.TestCase):
  @parameterized.parameters(*_FORMS)
  def test_the_inverse_is_that_of_the_dense_matrix(self, name):
    model, params, batches = _case(name)
    root = jax.jit(lambda *args: ggn.root(model, *args))(
      params, ggn.stack(batches)
    )
    self.assertEqual(
      {path: ''.join(sorted(x)) for path, x in root.items()}, _FORMS[name]
    )
    rng = np.random.default_rng(0)
    damping = {
      path: rng.uniform(0.1, 0.5, layer.stack)
      for path, layer in model.layers.items()
    }
    G_PxP = exact_ggn.matrix(model, params, exact_ggn.joined(batches))
    D_P = exact_ggn.diagonal(model.layers, damping)
    B_KxP = rng.normal(size=(2, len(G_PxP)))

    @jax.jit
    def solve(root, damping, b_K):
      inverse = woodbury.factorise(root, damping)
      return jax.vmap(woodbury.apply, (None, 0))(inverse, b_K)

    x_K = solve(root, damping, exact_ggn.vectors(model.layers, B_KxP))
    wanted = np.linalg.solve(G_PxP + np.diag(D_P), B_KxP.T).T
    testing.assert_near(self, exact_ggn.raveled(x_K), wanted)

  @parameterized.parameters(*_FORMS)
  def test_multiplied_out_the_root_is_the_dense_matrix(self, name):
    model, params, batches = _case(name)
    dense = jax.jit(lambda *args: ggn.dense(model, *args))
    wanted = exact_ggn.matrix(model, params, exact_ggn.joined(batches))
    testing.assert_near(self, dense(params, ggn.stack(batches)), wanted)

  def test_positions_are_those_that_a_layer_sees(self):
    for name, wanted in {
      'squared': {'dense_0': 1, 'dense_1': 1},
      'scan': {'first': 5, 'blocks/mix': 5, 'last': 5},
      'conv': {'conv_0': 16, 'head': 1},
    }.items():
      model, params, batches = _case(name)
      got = taps.positions(
        model.apply_fn, params, model.layers, batches[0].inputs
      )
      self.assertEqual(got, wanted)


if __name__ == '__main__':
  absltest.main()
