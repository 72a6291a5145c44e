import functools

import jax
import jax.numpy as jnp
import numpy as np
import testing
from absl.testing import absltest, parameterized
from flax import traverse_util

from influence_jax import contraction, gradients, influence, losses, models
from influence_jax import curvature as curvatures


def setUpModule():
  jax.config.update('jax_enable_x64', True)


def tearDownModule():
  jax.config.update('jax_enable_x64', False)


def _queries():
  """Completions: what comes after the first position."""
  batch = testing.deep_batch(seed=1)
  mask = batch.mask.copy()
  mask[:, 0] = 0
  return batch._replace(mask=mask)


@functools.cache
def _runs():
  """(layer_gradients, pairwise), jitted, of `deep` as a scan."""
  model, params = testing.deep(scan=True)

  def pairwise(solved, batch):
    return contraction.pairwise(model, params, contraction.whole(solved), batch)

  return (
    jax.jit(lambda batch: gradients.layer_gradients(model, params, batch)),
    jax.jit(pairwise),
  )


@functools.cache
def _loops():
  """{name: g_NxIxO} of the queries and of the candidates."""
  model, params = testing.deep(scan=True)
  return (
    testing.loop_gradients(model, params, _queries()),
    testing.loop_gradients(model, params, testing.deep_batch()),
  )


@functools.cache
def _fitted(name):
  """(curvature, factors) of random arrays."""
  layers = testing.deep(scan=True)[0].layers
  curvature = curvatures.make(name)
  arrays, mask = testing.random_arrays(layers)
  return curvature, testing.factors_of(curvature, layers, arrays, mask)


@functools.cache
def _wide(length):
  """(batch, (model, params, {path: g_NxIxO})) of two unlike layers."""
  rng = np.random.default_rng(3)
  batch = testing.deep_batch(4, length)
  batch.mask[-1] = 0
  batch = batch._replace(inputs=rng.normal(size=(4, length, 3)))
  net = models.make('mlp', widths=(8,), num_outputs=3, dtype='float64')
  model, params = testing.model_of(net, batch.inputs)
  return batch, (model, params, testing.loop_gradients(model, params, batch))


def _damping():
  """Another one for every layer and slice."""
  layers = testing.deep(scan=True)[0].layers
  return {
    path: 0.1 + 0.5 * n + 0.2 * np.arange(np.prod(x.stack)).reshape(x.stack)
    for n, (path, x) in enumerate(layers.items())
  }


def _solve(name, batch):
  curvature, factors = _fitted(name)
  layers = testing.deep(scan=True)[0].layers
  solve = jax.jit(functools.partial(influence.precondition, curvature, layers))
  return solve(factors, _runs()[0](batch), _damping())


def _kronecker(a, ds, mask):
  """(A, S, positions a sequence), from their definitions."""
  kept = mask.astype(bool)
  A = np.mean([np.outer(x, x) for x in a[kept]], 0)
  S = np.mean([np.outer(x, x) for x in ds[kept]], 0)
  return A, S, kept.sum() / kept.any(1).sum()


def _dense_identity(factors, arrays, d):
  return np.eye(arrays[0].shape[-1] * arrays[1].shape[-1]) * (1 + d)


def _dense_diagonal(factors, arrays, d):
  a, ds, _ = arrays
  squares = [(x.T @ y) ** 2 for x, y in zip(a, ds, strict=True)]
  return np.diag(np.mean(squares, 0).ravel() + d)


def _dense_ekfac(factors, arrays, d):
  Q = np.kron(factors['Q_A'], factors['Q_S'])
  G = Q @ np.diag(factors['Lambda'].ravel()) @ Q.T
  return G + d * np.eye(len(G))


def _dense_ekfac_blocks(factors, arrays, d):
  sides = ([factors[f'Q_{side}_{n}'] for n in range(2)] for side in 'AS')
  Q = np.kron(*[_block_diagonal(*Qs) for Qs in sides])
  G = Q @ np.diag(factors['Lambda'].ravel()) @ Q.T
  return G + d * np.eye(len(G))


def _block_diagonal(first, second):
  zeros = np.zeros((len(first), len(second)))
  return np.block([[first, zeros], [zeros.T, second]])


def _dense_kfac(factors, arrays, d):
  A, S, num_positions = _kronecker(*arrays)
  G = num_positions * np.kron(A, S)
  return G + d * np.eye(len(G))


def _dense_kfac_tikhonov(factors, arrays, d):
  A, S, num_positions = _kronecker(*arrays)
  S = num_positions * S
  pi = np.sqrt((np.trace(A) / len(A)) / (np.trace(S) / len(S)))
  return np.kron(
    A + pi * np.sqrt(d) * np.eye(len(A)), S + np.sqrt(d) / pi * np.eye(len(S))
  )


_DENSE = {
  'diagonal': _dense_diagonal,
  'ekfac': _dense_ekfac,
  'ekfac_blocks': _dense_ekfac_blocks,
  'identity': _dense_identity,
  'kfac': _dense_kfac,
  'kfac_tikhonov': _dense_kfac_tikhonov,
}


class ScoresTest(parameterized.TestCase):
  @parameterized.parameters(*_DENSE)
  def test_scores_are_those_of_a_dense_solve(self, name):
    model, _ = testing.deep(scan=True)
    scores = _runs()[1](_solve(name, _queries()), testing.deep_batch())
    split = functools.partial(testing.split_stacks, model)
    scores, damping = split(scores), split(_damping())
    arrays, mask = testing.random_arrays(model.layers)
    a, ds = (split({p: x[n] for p, x in arrays.items()}) for n in range(2))
    factors = _fitted(name)[1]
    keys = next(iter(factors.values())).keys()
    factors = {k: split({p: x[k] for p, x in factors.items()}) for k in keys}
    g_q, g_z = _loops()
    for layer, got_BxK in scores.items():
      damped = _DENSE[name](
        {k: x[layer] for k, x in factors.items()},
        (a[layer], ds[layer], mask),
        damping[layer],
      )
      flat_q, flat_z = (g[layer].reshape(6, -1) for g in (g_q, g_z))
      wanted_BxK = flat_z @ np.linalg.solve(damped, flat_q.T)
      testing.assert_near(self, got_BxK, wanted_BxK, what=layer)

  @parameterized.parameters(*curvatures.names())
  def test_scores_of_a_set_with_itself_are_a_positive_gram_matrix(self, name):
    batch = testing.deep_batch()
    scores = _runs()[1](_solve(name, batch), batch)
    for path, x in scores.items():
      x = np.asarray(x)
      testing.assert_near(self, x, x.mT, 1e-12, path)
      self.assertGreater(np.linalg.eigvalsh(x).min(), -1e-12 * x.max())
      self.assertGreater(np.einsum('...bb->...b', x).min(), 0)

  @parameterized.parameters(*curvatures.names())
  def test_self_influence_is_the_diagonal_of_pairwise(self, name):
    model, params = testing.deep(scan=True)
    batch = testing.deep_batch()
    scores = _runs()[1](_solve(name, batch), batch)
    curvature, factors = _fitted(name)
    run = jax.jit(functools.partial(influence.self_influence, curvature, model))
    found = run(params, factors, _damping(), batch)
    self.assertEqual(found.keys(), scores.keys())
    for path, x in scores.items():
      diagonal = np.einsum('...bb->...b', x)
      testing.assert_near(self, found[path], diagonal, what=path)

  @parameterized.product(name=list(_DENSE), length=(2, 5, 10))
  def test_self_influence_is_that_of_a_dense_solve(self, name, length):
    """Layers of 4 x 8 and 9 x 3: with two positions tokens are rotated, with

    five the inputs of the first and the outputs of the second, then neither.
    """
    batch, (model, params, g) = _wide(length)
    arrays, mask = testing.random_arrays(model.layers, 12)
    curvature = curvatures.make(name)
    factors = testing.factors_of(curvature, model.layers, arrays, mask)
    damping = {path: 0.3 + n for n, path in enumerate(model.layers)}
    got = jax.jit(
      functools.partial(influence.self_influence, curvature, model)
    )(params, factors, damping, batch)
    self.assertCountEqual(got, g)
    for path, g_NxIxO in g.items():
      damped = _DENSE[name](factors[path], (*arrays[path], mask), damping[path])
      flat = g_NxIxO.reshape(len(g_NxIxO), -1)
      wanted = (flat.T * np.linalg.solve(damped, flat.T)).sum(0)
      testing.assert_near(self, got[path], wanted, what=path)
      self.assertGreater(wanted[:-1].min(), 0)
      self.assertEqual(got[path][-1], 0)  # a row of padding

  def test_self_influence_needs_no_rotation_of_tokens(self):
    batch, (model, params, _) = _wide(2)
    arrays, mask = testing.random_arrays(model.layers, 12)
    curvature = curvatures.make('ekfac')
    factors = testing.factors_of(curvature, model.layers, arrays, mask)
    damping = dict.fromkeys(model.layers, 0.3)
    late, early = (
      jax.jit(functools.partial(influence.self_influence, x, model))(
        params, factors, damping, batch
      )
      for x in (curvature._replace(rotate_tokens=None), curvature)
    )
    for path, x in early.items():
      testing.assert_near(self, late[path], x, what=path)

  def test_a_score_hangs_on_its_sequence_alone(self):
    solved, run = _solve('ekfac', _queries()), _runs()[1]
    batch = testing.deep_batch()
    mask = batch.mask.copy()
    mask[4:] = 0  # rows of padding
    few = testing.rows(batch._replace(mask=mask), [5, 3, 0])
    whole, part = run(solved, batch), run(solved, few)
    for path, x in whole.items():
      wanted = np.asarray(x)[..., [5, 3, 0], :]
      wanted[..., 0, :] = 0
      testing.assert_near(self, part[path], wanted, 1e-12, path)

  def test_twice_the_loss_of_a_completion_is_twice_the_score(self):
    model, params = testing.deep(scan=True)
    plain = losses.softmax_cross_entropy
    twice = model._replace(
      loss=plain._replace(per_sequence=lambda *x: 2 * plain.per_sequence(*x))
    )
    g = jax.jit(lambda batch: gradients.layer_gradients(twice, params, batch))
    curvature, factors = _fitted('ekfac')
    solved = jax.jit(
      functools.partial(influence.precondition, curvature, model.layers)
    )(factors, g(_queries()), _damping())
    once = _runs()[1](_solve('ekfac', _queries()), testing.deep_batch())
    doubled = _runs()[1](solved, testing.deep_batch())
    for path, x in once.items():
      testing.assert_near(self, doubled[path], 2 * np.asarray(x), 1e-12, path)

  def test_a_step_on_a_sequence_raises_a_completion_by_the_score(self):
    """In nats and per unit of step: sign, sums and scale of the definition."""
    model, params = testing.transformer()
    candidates, queries = testing.batch(), testing.batch(seed=2)
    queries.mask[:, :2] = 0  # the prompt
    tapped = [
      f'{path}/{x}' for path in model.layers for x in ('kernel', 'bias')
    ]

    def log_p(params, row):
      logits = model.apply_fn(params, row.inputs[None])[0]
      log_p_TxV = logits - jnp.log(jnp.exp(logits).sum(-1, keepdims=True))
      return (log_p_TxV * jnp.eye(7)[row.targets] * row.mask[:, None]).sum()

    @jax.jit
    def after_step(eps, z, q):
      grad = traverse_util.flatten_dict(jax.grad(log_p)(params, z), sep='/')
      flat = traverse_util.flatten_dict(params, sep='/')
      flat = {p: x + eps * grad[p] * (p in tapped) for p, x in flat.items()}
      return log_p(traverse_util.unflatten_dict(flat, sep='/'), q)

    g = jax.jit(lambda params, x: gradients.layer_gradients(model, params, x))
    score = jax.jit(functools.partial(contraction.pairwise, model))
    # The identity with no damping: the preconditioned gradient is the gradient.
    solved = contraction.whole(g(params, queries))
    scores = score(params, solved, candidates)
    scores_BxK = sum(np.asarray(x) for x in scores.values())
    eps, got = 1e-5, np.zeros((6, 6))
    for b, k in np.ndindex(6, 6):
      z, q = testing.rows(candidates, b), testing.rows(queries, k)
      change = after_step(eps, z, q) - after_step(-eps, z, q)
      got[b, k] = change / (2 * eps)
    self.assertGreater(got.max(), 0.1)
    self.assertLess(got.min(), -0.1)
    testing.assert_near(self, scores_BxK, got, 1e-6)

  @parameterized.parameters('kfac', 'ekfac')
  def test_it_solves_with_the_fisher_matrix_of_independent_positions(
    self, name
  ):
    layers, arrays, mask = testing.independent_positions()
    a, ds = arrays['dense']
    G = np.mean(
      [np.outer(g, g) for g in np.einsum('bti,bto->bio', a, ds).reshape(-1, 6)],
      0,
    )
    curvature = curvatures.make(name)
    factors = testing.factors_of(curvature, layers, arrays, mask)
    g_KxIxO = np.random.default_rng(0).normal(size=(2, 3, 2))
    got = jax.jit(functools.partial(influence.precondition, curvature, layers))(
      factors, {'dense': g_KxIxO}, {'dense': 0.3}
    )
    wanted = np.linalg.solve(G + 0.3 * np.eye(6), g_KxIxO.reshape(2, 6).T)
    testing.assert_near(self, got['dense'].reshape(2, 6), wanted.T)


class DampingTest(parameterized.TestCase):
  def damping(self, name, **how):
    curvature, factors = _fitted(name)
    layers = testing.deep(scan=True)[0].layers
    run = functools.partial(influence.damping_of, curvature, layers, **how)
    return layers, factors, jax.jit(run)(factors)

  @parameterized.parameters(({}, 0.1), ({'relative': 3.0}, 3.0))
  def test_relative_is_a_multiple_of_the_mean_eigenvalue(self, how, multiple):
    _, factors, damping = self.damping('ekfac', **how)
    for path, f in factors.items():
      wanted = multiple * f['Lambda'].mean((-2, -1))
      testing.assert_near(self, damping[path], wanted, what=path)
    _, factors, damping = self.damping('kfac', **how)
    for path, f in factors.items():
      means = [np.maximum(f[x], 0).mean(-1) for x in ('L_A', 'L_S')]
      wanted = multiple * f['T_mean'] * means[0] * means[1]
      testing.assert_near(self, damping[path], wanted, what=path)

  @parameterized.parameters(*curvatures.names())
  def test_absolute_is_the_same_for_all(self, name):
    layers, _, damping = self.damping(name, relative=None, absolute=0.25)
    for path, layer in layers.items():
      np.testing.assert_array_equal(damping[path], np.full(layer.stack, 0.25))

  def test_the_mean_eigenvalue_of_the_identity_is_one(self):
    layers, _, damping = self.damping('identity', relative=0.5)
    for path, layer in layers.items():
      np.testing.assert_array_equal(damping[path], np.full(layer.stack, 0.5))

  @parameterized.parameters(
    (0.1, 0.1, 'expected one of them, got relative=0.1 and absolute=0.1'),
    (None, None, 'expected one of them, got relative=None and absolute=None'),
    (-0.1, None, 'must not be negative, got -0.1'),
    (None, -2.0, 'must not be negative, got -2.0'),
  )
  def test_it_is_one_number_that_is_not_negative(
    self, relative, absolute, message
  ):
    with self.assertRaisesRegex(ValueError, message):
      influence.damping_of(
        curvatures.make('identity'), {}, {},
        relative=relative, absolute=absolute,
      )  # fmt: skip


if __name__ == '__main__':
  absltest.main()
