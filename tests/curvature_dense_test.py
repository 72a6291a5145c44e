"""Factors and IHVPs against dense matrices made of per-sequence gradients.

The ladder: exact moments of the data's own targets; the true Fisher matrix, all
labels enumerated; networks where an approximation is exact; theorems.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import testing
from absl.testing import absltest, parameterized

from influence_jax import (
  attribution,
  curvature,
  influence,
  losses,
  models,
  types,
)

_WAYS = {
  'plain': {},
  'remat': {'remat': True},
  'scan': {'scan': True},
  'scan_and_remat': {'scan': True, 'remat': True},
}
_STEPS = testing.steps_made_once()


def setUpModule():
  jax.config.update('jax_enable_x64', True)
  jax.config.update('jax_disable_most_optimizations', True)  # compiles sooner
  _STEPS.start()


def tearDownModule():
  _STEPS.stop()
  jax.config.update('jax_disable_most_optimizations', False)
  jax.config.update('jax_enable_x64', False)


def _merged(*stages):
  """One stage that does what several do, so as to compile once."""

  def init(layer):
    return {k: x for stage in stages for k, x in stage.init(layer).items()}

  def tap(*args):
    return {k: x for stage in stages for k, x in stage.tap(*args).items()}

  def finish(factors, sums, counts):
    for stage in stages:
      factors = stage.finish(factors, sums, counts)
    return factors

  return types.Stage('merged', init, tap, finish)


@functools.cache
def _all_factors():
  """A curvature whose factors are those of all approximations."""
  ekfac, diagonal = curvature.make('ekfac'), curvature.make('diagonal')
  covariance, eigenvalue = ekfac.stages
  return ekfac._replace(
    stages=(_merged(covariance, *diagonal.stages), eigenvalue)
  )


def _by_name(state, model):
  """{unrolled layer: {factor: array}}."""
  slices = attribution.by_layer(state.factors, model.layers)
  return testing.unrolled_names(slices)


# The transformer and its data


@functools.cache
def _transformer(**ways):
  # Lambda's tap rotates each side where it is smaller. With 8 positions:
  # fc_in (7 x 10) the inputs' tokens, fc_out (11 x 6) the outputs', lm_head
  # (6 x 7, no bias) neither; the small network below has both.
  return testing.transformer(pattern=r'/mlp/|lm_head', **ways)


def _sequences():
  """Ends padded, a prompt whose loss does not count, and a blank row."""
  batch = testing.batch(num_rows=8)
  batch.mask[1, :2] = 0
  batch.mask[6] = 0
  return batch


def _in_two(batch):
  return [testing.rows(batch, slice(i, i + 4)) for i in (0, 4)]


@functools.cache
def _fitted(way):
  model, params = _transformer(**_WAYS[way])
  state = testing.fitted(_all_factors(), model, params, _in_two(_sequences()))
  return _by_name(state, model)


@functools.cache
def _oracle():
  """{layer: {A, S, g_NxIxO}} of the sequences; N counts no blank row."""
  model, params = _transformer()
  return _oracle_of(model, params, _sequences())


def _oracle_of(model, params, batch):
  arrays = testing.explicit_arrays(model, params, batch)
  gradients = testing.loop_gradients(model, params, batch)
  counts = batch.mask > 0
  found = {}
  for layer, (a_BxTxI, ds_BxTxO) in arrays.items():
    a_JxI, ds_JxO = a_BxTxI[counts], ds_BxTxO[counts]  # J positions
    found[layer] = {
      'A': a_JxI.T @ a_JxI / len(a_JxI),
      'S': ds_JxO.T @ ds_JxO / len(ds_JxO),
      'T_mean': len(a_JxI) / counts.any(1).sum(),
      'g': gradients[layer][counts.any(1)],
    }
  return found


def _projected(g_NxIxO, factors):
  """Q_A^T g Q_S of every sequence, by numpy, in the library's basis."""
  Q_A, Q_S = np.asarray(factors['Q_A']), np.asarray(factors['Q_S'])
  return np.einsum('ia,nio,os->nas', Q_A, g_NxIxO, Q_S)


def _vec(g_NxIxO):
  return g_NxIxO.reshape(len(g_NxIxO), -1)  # index order (I, O), as kron(A, S)


def _block(g_NxIxO):
  """The exact block of G: mean of vec(g) vec(g)^T."""
  return _vec(g_NxIxO).T @ _vec(g_NxIxO) / len(g_NxIxO)


def _kfac_block(factors):
  L_A, Q_A, L_S, Q_S = (
    np.asarray(factors[key]) for key in ('L_A', 'Q_A', 'L_S', 'Q_S')
  )
  A, S = Q_A * L_A @ Q_A.T, Q_S * L_S @ Q_S.T
  return float(factors['T_mean']) * np.kron(A, S)


def _ekfac_block(factors):
  Q = np.kron(factors['Q_A'], factors['Q_S'])
  return Q * np.asarray(factors['Lambda']).reshape(-1) @ Q.T


class FactorsTest(parameterized.TestCase):
  def _check(self, factors, wanted, rtol, layer):
    for L, Q, moment in (('L_A', 'Q_A', 'A'), ('L_S', 'Q_S', 'S')):
      L, Q = np.asarray(factors[L]), np.asarray(factors[Q])
      what = f'{layer}: {moment}'
      testing.assert_near(self, Q * L @ Q.T, wanted[moment], rtol, what)
      testing.assert_near(self, Q.T @ Q, np.eye(len(L)), rtol, what)
      testing.assert_near(self, L, np.sort(L), 0, what)
    testing.assert_near(self, factors['T_mean'], wanted['T_mean'], rtol, layer)
    D = (wanted['g'] ** 2).mean(0)
    testing.assert_near(self, factors['D'], D, rtol, f'{layer}: D')
    Lambda = (_projected(wanted['g'], factors) ** 2).mean(0)
    testing.assert_near(
      self, factors['Lambda'], Lambda, rtol, f'{layer}: Lambda'
    )

  @parameterized.parameters(*_WAYS)
  def test_they_are_the_moments_of_per_sequence_gradients(self, way):
    self.assertCountEqual(_fitted(way), _oracle())
    for layer, factors in _fitted(way).items():
      self._check(factors, _oracle()[layer], 1e-9, layer)

  def test_in_float32_they_are_so_to_single_precision(self):
    with jax.enable_x64(False):
      model, params = _transformer(dtype='float32')
      state = testing.fitted(
        _all_factors(), model, params, _in_two(_sequences())
      )
    exact, _ = _transformer()
    params = jax.tree.map(np.float64, params)
    oracle = _oracle_of(exact, params, _sequences())
    for layer, factors in _by_name(state, model).items():
      dtypes = {str(x.dtype) for x in factors.values()}
      self.assertEqual(dtypes, {'float32'})
      self._check(factors, oracle[layer], 1e-5, layer)

  @parameterized.parameters('float64', 'float32')
  def test_eigenvectors_of_the_host_and_of_the_device_give_the_same_block(
    self, eigh
  ):
    (stage,) = curvature.make('kfac', eigh=eigh).stages
    counts = types.Counts(jnp.asarray(3.0), jnp.asarray(12.0))
    for layer, x in _oracle().items():
      sums = {key: jnp.asarray(12 * x[key]) for key in 'AS'}
      sums['positions'] = counts.tokens
      wanted = 4 * np.kron(x['A'], x['S'])
      found = _kfac_block(stage.finish({}, sums, counts))
      testing.assert_near(self, found, wanted, what=layer)


def _dense(name, moments, factors):
  """(G, G + damping) [IO, IO] with damping of a tenth of G's mean eigenvalue.

  Made of the oracle's moments; of the library only EK-FAC's basis is used.
  """
  A, S, T = moments['A'], moments['S'], moments['T_mean']
  I, O = len(A), len(S)  # noqa: E741
  if name == 'identity':
    G = np.eye(I * O)
  elif name == 'diagonal':
    G = np.diag((moments['g'] ** 2).mean(0).reshape(-1))
  elif name == 'ekfac':
    Q = np.kron(factors['Q_A'], factors['Q_S'])
    Lambda = (_projected(moments['g'], factors) ** 2).mean(0)
    G = Q * Lambda.reshape(-1) @ Q.T
  else:
    G = np.kron(A, T * S)
  damping = 0.1 * np.trace(G) / (I * O)
  if name != 'kfac_tikhonov':
    return G, G + damping * np.eye(I * O)
  pi = np.sqrt(np.trace(A) / I / (np.trace(T * S) / O))
  A_damped = A + pi * np.sqrt(damping) * np.eye(I)
  S_damped = T * S + np.sqrt(damping) / pi * np.eye(O)
  return G, np.kron(A_damped, S_damped)


class SolveTest(parameterized.TestCase):
  @parameterized.parameters(
    'identity', 'diagonal', 'kfac', 'kfac_tikhonov', 'ekfac'
  )
  def test_its_ihvp_is_a_dense_solve(self, name):
    model, _ = _transformer()
    approximation = curvature.make(name)

    @jax.jit
    def solve(factors, g_KxIxO):
      damping = influence.damping_of(approximation, model.layers, factors)
      return influence.precondition(
        approximation, model.layers, factors, g_KxIxO, damping
      )

    gradients = {layer: x['g'] for layer, x in _oracle().items()}
    got = solve(_fitted('plain'), gradients)
    for layer, moments in _oracle().items():
      _, damped = _dense(name, moments, _fitted('plain')[layer])
      wanted = np.linalg.solve(damped, _vec(moments['g']).T).T
      testing.assert_near(self, _vec(np.asarray(got[layer])), wanted, 1e-9)


class TheoremTest(absltest.TestCase):
  def test_ekfac_is_nearer_the_exact_block_than_kfac_however_scaled(self):
    for layer, moments in _oracle().items():
      factors = _fitted('plain')[layer]
      exact = _block(moments['g'])
      kfac, ekfac = _kfac_block(factors), _ekfac_block(factors)
      best = (exact * kfac).sum() / (kfac * kfac).sum()
      error = np.linalg.norm(exact - ekfac)
      self.assertLess(error, np.linalg.norm(exact - kfac), layer)
      self.assertLess(error, np.linalg.norm(exact - best * kfac), layer)

  def test_ekfac_is_the_projection_of_the_exact_block_on_its_basis(self):
    """No other eigenvalues are nearer: the rest is at right angles."""
    for layer, moments in _oracle().items():
      exact = _block(moments['g'])
      ekfac = _ekfac_block(_fitted('plain')[layer])
      inner = ((exact - ekfac) * ekfac).sum() / (exact * ekfac).sum()
      self.assertLess(abs(inner), 1e-9, layer)

  def test_ekfac_and_the_diagonal_keep_the_trace(self):
    for layer, moments in _oracle().items():
      factors = _fitted('plain')[layer]
      trace = (moments['g'] ** 2).sum((1, 2)).mean()
      for key in ('Lambda', 'D'):
        testing.assert_near(self, factors[key].sum(), trace, 1e-9, layer)


class OneDatumTest(absltest.TestCase):
  def test_kfac_and_ekfac_are_the_rank_one_block(self):
    """One sequence of one position: the inputs and ds are independent."""
    model, params = _transformer()
    batch = _in_two(_sequences())[0]
    batch = batch._replace(mask=0 * batch.mask)
    batch.mask[2, 0] = 1
    state = testing.fitted(_all_factors(), model, params, [batch])
    one = testing.rows(batch, slice(2, 3))
    gradients = testing.loop_gradients(model, params, one)
    for layer, factors in _by_name(state, model).items():
      g_JxIxO = gradients[layer]
      self.assertEqual(factors['T_mean'], 1)
      for found in (_kfac_block(factors), _ekfac_block(factors)):
        testing.assert_near(self, found, _block(g_JxIxO), 1e-9, layer)


# The true Fisher matrix of a small network: 3 classes, 3 positions, 27 labels

_PER_GROUP, _NUM_GROUPS = 32, 512  # a group: a batch


def _two_sequences():
  """One of three positions and one of two."""
  batch = testing.deep_batch(num_rows=2, length=3)
  return batch._replace(mask=np.array([[1.0, 1, 1], [1, 1, 0]]))


@functools.cache
def _enumerated():
  """{layer: (g_NxYxIxO, ds_NxYxTxO)} and the probability [N, Y] of labels Y.

  Labels of a position are independent of each other, given the true inputs.
  """
  model, params = testing.deep()
  batch = _two_sequences()
  labels_YxT = np.stack(np.meshgrid(*[range(3)] * 3, indexing='ij'))
  labels_YxT = labels_YxT.reshape(3, -1).T

  def log_softmax(params, bumps, inputs_TxI):
    def bump(call, args, kwargs, context):
      y = call(*args, **kwargs)
      path = '/'.join(context.module.path)
      is_tapped = path in bumps and context.method_name == '__call__'
      return y + bumps[path][None] if is_tapped else y

    with nn.intercept_methods(bump):
      logits_TxV = model.apply_fn(params, inputs_TxI[None])[0]
    return logits_TxV - jnp.log(jnp.exp(logits_TxV).sum(1, keepdims=True))

  def loss(params, bumps, inputs_TxI, mask_T, labels_T):
    log_p_TxV = log_softmax(params, bumps, inputs_TxI)
    log_p_T = jnp.take_along_axis(log_p_TxV, labels_T[:, None], 1)[:, 0]
    # A masked position's label is any: probability 1/3 each.
    return -(mask_T * log_p_T).sum(), (
      mask_T * log_p_T - (1 - mask_T) * jnp.log(3)
    ).sum()

  @jax.jit
  def run(params, inputs_NxTxI, mask_NxT):
    bumps = {p: jnp.zeros((3, x.num_out)) for p, x in model.layers.items()}
    grad = jax.grad(loss, argnums=(0, 1), has_aux=True)
    over_labels = jax.vmap(grad, (None, None, None, None, 0))
    over_both = jax.vmap(over_labels, (None, None, 0, 0, None))
    return over_both(params, bumps, inputs_NxTxI, mask_NxT, labels_YxT)

  (grads, ds), log_p_NxY = run(params, batch.inputs, batch.mask)
  found = {}
  for path, layer in model.layers.items():
    keys = path.split('/')
    kernel_and_bias = functools.reduce(lambda x, key: x[key], keys, grads)
    g = np.asarray(kernel_and_bias['kernel'])
    if layer.has_bias:
      bias = np.asarray(kernel_and_bias['bias'])[:, :, None]
      g = np.concatenate([g, bias], axis=2)
    found[path] = g, np.asarray(ds[path])
  return found, np.exp(np.asarray(log_p_NxY))


@functools.cache
def _sampled():
  """({layer: factors}, {statistic: {layer: sums of each group of sequences}}).

  All sequences are copies of the two, under ids of their own.
  """
  model, params = testing.deep()
  num_rows = _PER_GROUP
  copies = testing.rows(_two_sequences(), np.arange(num_rows) % 2)
  batches = [
    copies._replace(ids=np.arange(num_rows) + i * num_rows)
    for i in range(_NUM_GROUPS)
  ]
  saved = []
  state = testing.fitted(
    _all_factors(), model, params, batches, targets='model',
    save=saved.append, save_every=1,
  )  # fmt: skip
  sums = {}
  for stage, keys in enumerate([('A', 'S', 'D'), ('Lambda',)]):
    states = [x.sums for x in saved if x.stage == stage and x.cursor]
    for key in keys:
      sums[key] = {
        path: np.diff([x[path][key] for x in states], axis=0, prepend=0)
        for path in model.layers
      }
  return _by_name(state, model), jax.tree.map(lambda x: x[:, 0], sums)


def _statistics(layer):
  """{name: what a sequence with labels Y adds to its sum [N, Y, ...]}."""
  found, _ = _enumerated()
  g_NxYxIxO, ds_NxYxTxO = found[layer]
  factors, _ = _sampled()
  Q_A, Q_S = (np.asarray(factors[layer][key]) for key in ('Q_A', 'Q_S'))
  rotated = np.einsum('ia,nyio,os->nyas', Q_A, g_NxYxIxO, Q_S)
  return {
    'S': np.einsum('nyto,nytp->nyop', ds_NxYxTxO, ds_NxYxTxO),
    'D': g_NxYxIxO**2,
    'Lambda': rotated**2,
  }


def _expectation(x_NxY___, p_NxY):
  """Mean over the sequences N of the expectation over labels Y."""
  return np.einsum('ny,ny...->n...', p_NxY, x_NxY___).mean(0)


class FisherTest(parameterized.TestCase):
  def test_the_probabilities_of_all_labels_sum_to_one(self):
    _, p_NxY = _enumerated()
    testing.assert_near(self, p_NxY.sum(1), [1, 1])

  def test_the_fits_A_is_exact(self):
    model, params = testing.deep()
    oracle = _oracle_of(model, params, _two_sequences())
    for layer, factors in _sampled()[0].items():
      L, Q = np.asarray(factors['L_A']), np.asarray(factors['Q_A'])
      testing.assert_near(self, Q * L @ Q.T, oracle[layer]['A'], what=layer)

  @parameterized.parameters('S', 'D', 'Lambda')
  def test_a_fit_on_sampled_targets_is_within_its_sampling_error(self, key):
    """Bernstein's bound, over all entries: false once in a million keys."""
    _, p_NxY = _enumerated()
    n = _PER_GROUP * _NUM_GROUPS
    for layer, factors in _sampled()[0].items():
      if key == 'S':  # a mean over positions, 2.5 a sequence
        L, Q = np.asarray(factors['L_S']), np.asarray(factors['Q_S'])
        found = 2.5 * Q * L @ Q.T
      else:
        found = np.asarray(factors[key])
      x_NxY___ = _statistics(layer)[key]
      mean = _expectation(x_NxY___, p_NxY)
      centred = x_NxY___ - np.einsum('ny,ny...->n...', p_NxY, x_NxY___)[:, None]
      variance = _expectation(centred**2, p_NxY)
      log = np.log(2 * 12 * mean.size / 1e-6)
      bound = np.sqrt(2 * variance * log / n)
      bound += 2 * np.abs(centred).max((0, 1)) * log / (3 * n)
      bound += 1e-12 * mean.max()  # rounding, where nothing varies
      self.assertTrue((np.abs(found - mean) <= bound).all(), layer)
      # The bound tells the Fisher from the empirical Fisher matrix.
      labels_NxT = _two_sequences().targets
      own = (labels_NxT * [9, 3, 1]).sum(1)
      empirical = x_NxY___[[0, 1], own].mean(0)
      self.assertGreater((np.abs(empirical - mean) / bound).max(), 3, layer)

  @parameterized.parameters('S', 'D', 'Lambda')
  def test_its_error_is_that_of_independent_draws_and_falls_by_the_root(
    self, key
  ):
    """n = 32 against 16 n, 512 and 32 groups of them.

    A group's squared error has the expectation variance / n, exactly; if all
    entries moved as one its relative deviation would be sqrt(2), and a mean
    over the groups is 1 +- .06 and 1 +- .25. Bounds: 6 deviations of the first;
    for the second [.38, 2.56], where the ratio of the roots is 6.5 and 2.5.
    """
    _, p_NxY = _enumerated()
    _, sums = _sampled()
    relative = {1: 0, 16: 0}
    for layer, sums_Gx___ in sums[key].items():
      x_NxY___ = _statistics(layer)[key]
      mean_N___ = np.einsum('ny,ny...->n...', p_NxY, x_NxY___)
      variance = _expectation((x_NxY___ - mean_N___[:, None]) ** 2, p_NxY).sum()
      for size in relative:
        n = size * _PER_GROUP
        means = sums_Gx___.reshape(-1, size, *sums_Gx___.shape[1:]).sum(1) / n
        error = ((means - mean_N___.mean(0)) ** 2).sum((1, 2)).mean()
        relative[size] += error / (variance / _PER_GROUP) / len(sums[key])
    self.assertBetween(relative[1], 1 - 6 * 0.0625, 1 + 6 * 0.0625)
    self.assertBetween(np.sqrt(relative[1] / relative[16]), 2.5, 6.5)


# A deep linear network with squared error: K-FAC is exact


@functools.cache
def _linear():
  """Positive weights and inputs, where relu is the identity."""
  net = models.make(
    'mlp', widths=(3, 2), num_outputs=2, activation='relu', dtype='float64'
  )
  inputs_NxI = np.abs(np.random.default_rng(0).normal(size=(5, 3)))
  model, params = testing.model_of(net, inputs_NxI, losses.squared_error)
  params = jax.tree.map(jnp.abs, params)
  return model, params, inputs_NxI


@functools.cache
def _closed_form():
  """({layer: (A, S)}, outputs_NxO): G is A (x) S with S = J^T J."""
  _, params, h_NxI = _linear()
  moments, kernels = {}, []
  for name, layer in params.items():
    kernel, bias = np.asarray(layer['kernel']), np.asarray(layer['bias'])
    a_NxI = np.concatenate([h_NxI, np.ones((len(h_NxI), 1))], 1)
    moments[name] = a_NxI.T @ a_NxI / len(a_NxI)
    h_NxI = h_NxI @ kernel + bias
    kernels.append(kernel)
  for i, name in enumerate(moments):
    J = functools.reduce(np.matmul, kernels[i + 1 :], np.eye(len(kernels[i].T)))
    moments[name] = moments[name], J @ J.T
  return moments, h_NxI


class DeepLinearTest(absltest.TestCase):
  def test_kfac_and_ekfac_are_the_exact_block(self):
    """Residuals +-sqrt(2) e_k at every input: E[r r^T] = I whatever the input,

    as it is for sampled targets, but with no sampling error.
    """
    model, params, inputs_NxI = _linear()
    moments, outputs_NxO = _closed_form()
    residuals_4xO = np.sqrt(2) * np.concatenate([np.eye(2), -np.eye(2)])
    targets_NxO = (outputs_NxO[:, None] + residuals_4xO).reshape(-1, 2)
    batch = types.Batch(
      np.repeat(inputs_NxI, 4, 0), targets_NxO, np.ones(20), np.arange(20)
    )
    state = testing.fitted(_all_factors(), model, params, [batch])
    gradients = testing.loop_gradients(model, params, batch)
    rng = np.random.default_rng(1)
    for layer, factors in state.factors.items():
      exact = np.kron(*moments[layer])
      testing.assert_near(self, _block(gradients[layer]), exact, what=layer)
      self._check_is(factors, exact, layer)
      g_IxO = rng.normal(size=np.shape(factors['Lambda']))
      damping = 0.1 * np.trace(exact) / len(exact)
      damped = exact + damping * np.eye(len(exact))
      wanted = np.linalg.solve(damped, g_IxO.reshape(-1))
      for name in ('kfac', 'ekfac'):
        got = influence.precondition(
          curvature.make(name), {layer: model.layers[layer]},
          {layer: factors}, {layer: g_IxO[None]}, {layer: damping},
        )  # fmt: skip
        testing.assert_near(self, got[layer].reshape(-1), wanted, what=layer)

  def _check_is(self, factors, exact, layer):
    testing.assert_near(self, _kfac_block(factors), exact, what=layer)
    testing.assert_near(self, _ekfac_block(factors), exact, what=layer)

  def test_on_sampled_targets_kfac_converges_to_the_exact_block(self):
    """S is then Wishart: its entries' variance is (S_oo S_pp + S_op^2) / n."""
    model, params, inputs_NxI = _linear()
    moments, _ = _closed_form()
    targets = np.zeros((320, 2))
    copies = types.Batch(
      np.tile(inputs_NxI, (64, 1)), targets, np.ones(320), np.arange(320)
    )
    batches = [copies._replace(ids=copies.ids + 320 * i) for i in range(64)]
    errors = []
    for num_batches in (4, 64):
      state = testing.fitted(
        curvature.make('kfac'), model, params, batches[:num_batches],
        targets='model',
      )  # fmt: skip
      for layer, factors in state.factors.items():
        A, S = moments[layer]
        variance = np.outer(np.diag(S), np.diag(S)) + S**2
        deviation = np.sqrt(variance / (320 * num_batches))
        bound = np.kron(np.abs(A), 5 * deviation)
        error = np.abs(_kfac_block(factors) - np.kron(A, S))
        self.assertTrue((error <= bound).all(), layer)
        errors.append(error.max())
    self.assertLess(max(errors[3:]), max(errors[:3]))


if __name__ == '__main__':
  absltest.main()
