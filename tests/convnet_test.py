"""The network against convolutions of XLA; factors and scores against loops.

The oracles know of no patches and no taps: `_reference` convolves.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import testing
from absl.testing import absltest, parameterized

from influence_jax import contraction, curvature, gradients, models, types
from influence_jax.models import convnet

_POSITIONS = {'conv_0': 48, 'conv_1': 12, 'head': 1}  # of images 8 x 6
_SEEN = {'conv_0': (8, 6), 'conv_1': (4, 3)}


def setUpModule():
  jax.config.update('jax_enable_x64', True)
  jax.config.update('jax_disable_most_optimizations', True)  # compiles sooner


def tearDownModule():
  jax.config.update('jax_disable_most_optimizations', False)
  jax.config.update('jax_enable_x64', False)


@functools.cache
def _model():
  net = models.make('convnet', channels=(4, 3), num_outputs=3, dtype='float64')
  return testing.model_of(net, _batch().inputs)


def _batch(num_rows=6):
  """The fourth row is padding, full of noise."""
  rng = np.random.default_rng(0)
  mask = np.ones(num_rows)
  mask[3] = 0
  return types.Batch(
    inputs=rng.normal(size=(num_rows, 8, 6, 2)),
    targets=rng.integers(0, 3, num_rows).astype(np.int32),
    mask=mask,
    ids=np.arange(num_rows),
  )


def _reference(params, x_BxHxWxC, bumps):
  """(logits, {path: the image or row that a layer sees})."""
  h, seen = x_BxHxWxC, {}
  for path in ('conv_0', 'conv_1'):
    seen[path] = h
    kernel, bias = params[path]['kernel'], params[path]['bias']
    h = jax.lax.conv_general_dilated(
      h, kernel.reshape(3, 3, h.shape[-1], -1), (1, 1), 'SAME',
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    )  # fmt: skip
    h = jnp.maximum(h + bias[None, None, None] + bumps[path], 0)
    B, H, W, C = h.shape
    h = h[:, : H // 2 * 2, : W // 2 * 2]
    h = h.reshape(B, H // 2, 2, W // 2, 2, C).mean((2, 4))
  h = h.reshape(len(h), -1)
  seen['head'] = h
  head = params['head']
  return h @ head['kernel'] + head['bias'][None] + bumps['head'], seen


@functools.cache
def _oracle():
  """{path: A, S, g_NxIxO} of the rows that count, by loops over positions."""
  model, params = _model()
  batch = _batch()

  def loss_fn(params, bumps, row):
    logits, seen = _reference(params, row.inputs[None], bumps)
    logits_V = logits[0]
    log_p = logits_V - jnp.log(jnp.exp(logits_V).sum())
    return -log_p[row.targets], seen

  grad_fn = jax.jit(jax.grad(loss_fn, argnums=(0, 1), has_aux=True))
  found = {path: {'a': [], 'ds': [], 'g': []} for path in _POSITIONS}
  bumps = {
    path: jnp.zeros((1, *_SEEN.get(path, ()), layer.num_out))
    for path, layer in model.layers.items()
  }
  for n in np.flatnonzero(batch.mask):
    row = types.Batch(*(x[n] for x in batch))
    (grads, ds), seen = jax.device_get(grad_fn(params, bumps, row))
    for path, one in found.items():
      bias = grads[path]['bias'][None]
      one['g'].append(np.concatenate([grads[path]['kernel'], bias]))
      for at in np.ndindex(*ds[path].shape[1:-1]):
        one['ds'].append(ds[path][0][at])
        one['a'].append([*_patch(seen[path][0], at), 1.0])
  for one in found.values():
    a, ds = np.array(one['a']), np.array(one['ds'])
    one['A'] = sum(np.outer(x, x) for x in a) / len(a)
    one['S'] = sum(np.outer(x, x) for x in ds) / len(ds)
    one['g'] = np.array(one['g'])
  return found


def _patch(image, at):
  """What a 3 x 3 kernel sees at a place, (row, column, channel) by turns."""
  if not at:
    return image
  H, W, C = image.shape
  found = []
  for i in range(at[0] - 1, at[0] + 2):
    for j in range(at[1] - 1, at[1] + 2):
      inside = 0 <= i < H and 0 <= j < W
      found += image[i, j].tolist() if inside else [0.0] * C
  return found


@functools.cache
def _fitted(name, **hparams):
  made = curvature.make(name, **hparams)
  halves = [testing.rows(_batch(), slice(i, i + 3)) for i in (0, 3)]
  return testing.fitted(made, *_model(), halves).factors


def _dense(factors, end=''):
  """{A or S: Q L Q^T}."""
  found = {}
  for side in 'AS':
    L, Q = (np.asarray(factors[f'{x}_{side}{end}']) for x in 'LQ')
    found[side] = Q * L @ Q.T
  return found


class ConvNetTest(parameterized.TestCase):
  @parameterized.parameters(
    ((12, 12, 1), 'relu'), ((8, 8, 3), 'tanh'), ((7, 5, 2), 'relu')
  )
  def test_its_layers_are_flax_convolutions_of_the_same_kernels(
    self, shape, activation
  ):
    class Convolutions(nn.Module):
      @nn.compact
      def __call__(self, h):
        for i, width in enumerate((4, 5)):
          conv = nn.Conv(width, (3, 3), name=f'conv_{i}', param_dtype=float)
          h = getattr(nn, activation)(conv(h))
          h = nn.avg_pool(h, (2, 2), strides=(2, 2))
        dense = nn.Dense(10, name='head', param_dtype=float)
        return dense(h.reshape(len(h), -1))

    net = models.make(
      'convnet', channels=[4, 5], num_outputs=10, dtype='float64',
      activation=activation,
    )  # fmt: skip
    x = np.random.default_rng(0).normal(size=(2, *shape))
    params = net.init(jax.random.key(0), x)['params']
    params = jax.tree.map(lambda p: p + 0.1, params)
    theirs = jax.tree.map(lambda p: p, params)
    for path, num in (('conv_0', shape[-1]), ('conv_1', 4)):
      kernel = params[path]['kernel']
      self.assertEqual(kernel.shape[0], 9 * num)
      theirs[path]['kernel'] = kernel.reshape(3, 3, num, -1)
    got = net.apply({'params': params}, x)
    wanted = Convolutions().apply({'params': theirs}, x)
    self.assertEqual(got.dtype, np.float64)
    np.testing.assert_allclose(got, wanted, rtol=1e-12, atol=1e-12)

  def test_patches_are_what_surrounds_a_place(self):
    x = np.random.default_rng(0).normal(size=(2, 4, 3, 2))
    found = convnet.patches(x)
    self.assertEqual(found.shape, (2, 4, 3, 18))
    for b, i, j in np.ndindex(2, 4, 3):
      np.testing.assert_array_equal(found[b, i, j], _patch(x[b], (i, j)))

  def test_bfloat16_keeps_float32_parameters(self):
    net = models.make('convnet', channels=(4,), num_outputs=2, dtype='bfloat16')
    x = jnp.ones((1, 4, 4, 1))
    params = net.init(jax.random.key(0), x)
    dtypes = {x.dtype for x in jax.tree.leaves(params)}
    self.assertEqual(dtypes, {jnp.dtype('float32')})
    self.assertEqual(net.apply(params, x).dtype, jnp.bfloat16)


class CurvatureTest(parameterized.TestCase):
  def test_taps_find_every_layer(self):
    model, _ = _model()
    sizes = {path: layer[1:4] for path, layer in model.layers.items()}
    self.assertEqual(
      sizes,
      {'conv_0': (19, 4, True), 'conv_1': (37, 3, True), 'head': (7, 3, True)},
    )

  def test_covariances_are_means_over_the_positions_of_their_layer(self):
    for path, wanted in _oracle().items():
      factors = _fitted('ekfac')[path]
      for side, x in _dense(factors).items():
        testing.assert_near(self, x, wanted[side], what=f'{path} {side}')
      self.assertEqual(factors['T_mean'], _POSITIONS[path])

  def test_blocks_of_covariances_are_so_too(self):
    for path, wanted in _oracle().items():
      factors = _fitted('ekfac_blocks', blocks=1)[path]
      for side, x in _dense(factors, '_0').items():
        testing.assert_near(self, x, wanted[side], what=f'{path} {side}')

  def test_kfac_has_the_positions_of_its_layer(self):
    made = curvature.make('kfac')
    for path, one in _oracle().items():
      factors = _fitted('kfac')[path]
      Q = np.kron(factors['Q_A'], factors['Q_S'])
      G = Q * np.asarray(made.eigenvalues(factors)).reshape(-1) @ Q.T
      wanted = _POSITIONS[path] * np.kron(one['A'], one['S'])
      testing.assert_near(self, G, wanted, what=path)

  def test_lambda_is_the_mean_over_rows_of_squared_gradients(self):
    for path, one in _oracle().items():
      factors = _fitted('ekfac')[path]
      Q_A, Q_S = (np.asarray(factors[key]) for key in ('Q_A', 'Q_S'))
      wanted = np.mean([(Q_A.T @ g @ Q_S) ** 2 for g in one['g']], axis=0)
      testing.assert_near(self, factors['Lambda'], wanted, what=path)


class ScoresTest(parameterized.TestCase):
  def test_gradients_are_those_of_each_row_alone(self):
    batch = _batch()
    found = jax.jit(functools.partial(gradients.layer_gradients, _model()[0]))(
      _model()[1], batch
    )
    for path, one in _oracle().items():
      got = np.asarray(found[path])
      testing.assert_near(self, got[batch.mask > 0], one['g'], what=path)
      np.testing.assert_array_equal(got[3], 0)

  @parameterized.parameters('gradient', 'tokens', None)
  def test_scores_are_products_with_the_gradient_of_each_row(self, road):
    model, params = _model()
    rng = np.random.default_rng(1)
    queries = {
      path: {
        'U': rng.normal(size=(4, x.num_in, 2)),
        'V': rng.normal(size=(4, 2, x.num_out)),
      }
      for path, x in model.layers.items()
    }
    fn = functools.partial(contraction.pairwise, model, only=road)
    found = jax.jit(fn)(params, queries, _batch())
    for path, one in _oracle().items():
      P_KxIxO = queries[path]['U'] @ queries[path]['V']
      wanted = np.einsum('bio,kio->bk', one['g'], P_KxIxO)
      got = np.asarray(found[path])[_batch().mask > 0]
      testing.assert_near(self, got, wanted, what=path)


if __name__ == '__main__':
  absltest.main()
