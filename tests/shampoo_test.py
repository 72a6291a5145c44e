"""Shampoo's basis and its eigenvalues against per-sequence gradients."""

import functools
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import testing
from absl.testing import absltest, parameterized

from influence_jax import (
  attribution,
  curvature,
  influence,
  linalg,
  planner,
  types,
)

# By T = 3 positions the first goes by tokens, the second by gradients.
_LAYERS = {
  'by_tokens': types.Layer('by_tokens', 9, 8, True),
  'by_gradients': types.Layer('by_gradients', 4, 3, False),
  'stack': types.Layer('stack', 7, 6, False, (2,)),
}


def setUpModule():
  jax.config.update('jax_enable_x64', True)
  jax.config.update('jax_disable_most_optimizations', True)  # compiles sooner


def tearDownModule():
  jax.config.update('jax_disable_most_optimizations', False)
  jax.config.update('jax_enable_x64', False)


def _batches():
  """Of 5 positions, by gradients, and of 2, by tokens; noise as padding,

  a prompt whose loss does not count, and a blank row.
  """
  long, short = testing.deep_batch(6, 5), testing.deep_batch(6, 2, seed=1)
  long.mask[1, :1] = 0
  long.mask[4] = 0
  return [long, short._replace(ids=short.ids + 6)]


@functools.cache
def _fitted():
  model, params = testing.deep(scan=True)
  state = testing.fitted(
    curvature.make('shampoo'), model, params, _batches()
  )  # of the data's own targets: the oracle's
  return model, state.factors


@functools.cache
def _gradients():
  """{unrolled layer: g_NxIxO} of the sequences that are not blank."""
  model, params = testing.deep()
  found = [testing.loop_gradients(model, params, x) for x in _batches()]
  counts = np.concatenate([x.mask.any(1) for x in _batches()])
  assert counts.sum() == 11
  return {
    layer: np.concatenate([x[layer] for x in found])[counts]
    for layer in model.layers
  }


def _by_name(values, layers):
  return testing.unrolled_names(attribution.by_layer(values, layers))


def _moments(g_NxIxO):
  """Means of g g^T and g^T g by loops."""
  A_IxI = sum(g @ g.T for g in g_NxIxO) / len(g_NxIxO)
  return A_IxI, sum(g.T @ g for g in g_NxIxO) / len(g_NxIxO)


def _dense(g_NxIxO):
  """(Q Lambda Q^T [IO, IO], Lambda) of numpy's own eigenvectors.

  Their signs are free, and do not matter.
  """
  Q_A, Q_S = (np.linalg.eigh(x)[1] for x in _moments(g_NxIxO))
  Lambda_IxO = np.zeros(g_NxIxO.shape[1:])
  for g_IxO in g_NxIxO:
    for i, o in np.ndindex(*Lambda_IxO.shape):
      Lambda_IxO[i, o] += (Q_A[:, i] @ g_IxO @ Q_S[:, o]) ** 2 / len(g_NxIxO)
  Q = np.kron(Q_A, Q_S)
  return Q * Lambda_IxO.reshape(-1) @ Q.T, Lambda_IxO


def _block(factors):
  Q = np.kron(factors['Q_A'], factors['Q_S'])
  return Q * np.asarray(factors['Lambda']).reshape(-1) @ Q.T


def _exact(g_NxIxO):
  g_NxIO = g_NxIxO.reshape(len(g_NxIxO), -1)
  return g_NxIO.T @ g_NxIO / len(g_NxIO)


class _FactorsTest(parameterized.TestCase):
  def _assert_diagonalises(self, Q, matrix, what):
    Q = np.asarray(Q)
    testing.assert_near(self, Q.T @ Q, np.eye(len(Q)), what=what)
    L = np.diag(Q.T @ matrix @ Q)
    testing.assert_near(self, Q * L @ Q.T, matrix, what=what)
    self.assertTrue((np.diff(L) > -1e-9 * L[-1]).all(), what)


class FitTest(_FactorsTest):
  def test_its_bases_diagonalise_the_mean_products_of_gradients(self):
    model, factors = _fitted()
    found = _by_name(factors, model.layers)
    self.assertCountEqual(found, _gradients())
    for layer, g_NxIxO in _gradients().items():
      for key, moment in zip(('Q_A', 'Q_S'), _moments(g_NxIxO), strict=True):
        self._assert_diagonalises(found[layer][key], moment, f'{layer} {key}')

  def test_its_eigenvalues_are_a_loop_over_sequences(self):
    model, factors = _fitted()
    found = _by_name(factors, model.layers)
    for layer, g_NxIxO in _gradients().items():
      _, Lambda_IxO = _dense(g_NxIxO)
      testing.assert_near(self, found[layer]['Lambda'], Lambda_IxO, what=layer)

  def test_its_ihvp_is_a_dense_solve(self):
    model, factors = _fitted()
    made = curvature.make('shampoo')
    damping = influence.damping_of(made, model.layers, factors)
    rng = np.random.default_rng(2)
    v_KxIxO = {
      path: rng.normal(size=(*x.stack, 3, x.num_in, x.num_out))
      for path, x in model.layers.items()
    }
    solved = influence.precondition(
      made, model.layers, factors, v_KxIxO, damping
    )
    found = _by_name(
      {path: (solved[path], v_KxIxO[path]) for path in solved}, model.layers
    )
    for layer, (got_KxIxO, v) in found.items():
      G, Lambda_IxO = _dense(_gradients()[layer])
      damped = G + 0.1 * Lambda_IxO.mean() * np.eye(len(G))
      wanted = np.linalg.solve(damped, v.reshape(3, -1).T).T.reshape(v.shape)
      testing.assert_near(self, got_KxIxO, wanted, what=layer)


class TapTest(_FactorsTest):
  def setUp(self):
    super().setUp()
    arrays, mask_BxT = testing.random_arrays(_LAYERS)
    rng = np.random.default_rng(3)
    self.arrays = {  # the inputs of a sequence and its ds correlate
      path: (
        a,
        ds + mask_BxT[..., None] * rng.normal(size=ds[..., :1, :].shape),
      )
      for path, (a, ds) in arrays.items()
    }
    self.mask_BxT = mask_BxT

  def _factors(self, name='shampoo'):
    made = curvature.make(name)
    return testing.factors_of(made, _LAYERS, self.arrays, self.mask_BxT)

  def _check(self, factors):
    for path, layer in _LAYERS.items():
      for at in np.ndindex(*layer.stack):
        a, ds = (x[at] for x in self.arrays[path])
        g_BxIxO = np.stack([x.T @ y for x, y in zip(a, ds, strict=True)])
        one = {key: x[at] for key, x in factors[path].items()}
        for key, moment in zip(('Q_A', 'Q_S'), _moments(g_BxIxO), strict=True):
          self._assert_diagonalises(one[key], moment, f'{path}{at} {key}')
        testing.assert_near(self, _block(one), _dense(g_BxIxO)[0], what=path)

  def test_either_order_gives_the_basis_of_the_gradients(self):
    self._check(self._factors())

  def test_they_do_where_sums_are_of_one_triangle(self):
    with mock.patch.object(linalg, '_COLUMNS', 1), jax.disable_jit():
      self._check(self._factors())

  def test_at_one_position_it_is_kfac_weighed_by_the_other_side(self):
    """g = a ds^T, so g g^T = |ds|^2 a a^T: K-FAC's of a |ds| and ds |a|."""
    self.arrays = {
      path: (a[..., :1, :], ds[..., :1, :])
      for path, (a, ds) in self.arrays.items()
    }
    self.mask_BxT = self.mask_BxT[:, :1]
    found = self._factors()

    def norm(x):
      return np.linalg.norm(x, axis=-1, keepdims=True)

    self.arrays = {
      path: (a * norm(ds), ds * norm(a))
      for path, (a, ds) in self.arrays.items()
    }
    kfac = self._factors('kfac')
    for path, layer in _LAYERS.items():
      for at in np.ndindex(*layer.stack):
        for side in 'AS':
          L, Q = (kfac[path][f'{x}_{side}'][at] for x in 'LQ')
          Q_found = found[path][f'Q_{side}'][at]
          self._assert_diagonalises(Q_found, Q * L @ Q.T, f'{path}{at} {side}')


class TheoremTest(absltest.TestCase):
  def test_it_is_exact_where_sequences_are_products_of_orthogonal_sides(self):
    """g_n = s_n u_n v_n^T; what else is in a, one position cancels of another.

    K-FAC sees both: EK-FAC's basis is another one, and not exact.
    """
    rng = np.random.default_rng(4)
    u_IxI, v_IxI = (np.linalg.qr(rng.normal(size=(5, 5)))[0] for _ in range(2))
    scales_I = np.array([1, 1.5, 2, 2.5, 3])
    which_B = np.repeat(np.arange(5), 3)
    w_BxI = rng.normal(size=(15, 5))
    a_BxTxI = np.stack([u_IxI[:, which_B].T + w_BxI, -w_BxI], 1)
    side_BxO = (scales_I * v_IxI)[:, which_B].T
    ds_BxTxO = np.stack([side_BxO, side_BxO], 1)
    layers = {'dense': types.Layer('dense', 5, 5, False)}
    exact = _exact(np.einsum('bti,bto->bio', a_BxTxI, ds_BxTxO))
    found = {}
    for name in ('shampoo', 'ekfac'):
      found[name] = _block(
        testing.factors_of(
          curvature.make(name), layers, {'dense': (a_BxTxI, ds_BxTxO)},
          np.ones((15, 2)),
        )['dense']
      )  # fmt: skip
    testing.assert_near(self, found['shampoo'], exact)
    error = np.linalg.norm(found['ekfac'] - exact) / np.linalg.norm(exact)
    self.assertGreater(error, 0.1)


_SIDES = [(64, 64), (64, 257), (257, 64), (1024, 1024), (513, 2048)]


class CostTest(parameterized.TestCase):
  @parameterized.product(
    sides=_SIDES, length=(1, 16, 32, 48, 64, 128, 256, 512, 1024, 4096)
  )
  def test_its_taps_are_at_most_twice_those_of_ekfac(self, sides, length):
    """In operations; the model's own passes, the same in both, not counted."""
    B, T, (I, O) = 2, length, sides  # noqa: E741
    arrays = jnp.zeros((B, T, I)), jnp.zeros((B, T, O)), jnp.zeros((B, T))
    basis = {'Q_A': jnp.eye(I), 'Q_S': jnp.eye(O)}
    first, second = (
      planner.flop(stage.tap, *arrays, basis)
      for stage in curvature.make('shampoo').stages
    )
    ekfac = sum(
      planner.flop(stage.tap, *arrays, basis)
      for stage in curvature.make('ekfac').stages
    )
    self.assertLessEqual(first + second, 2 * ekfac)
    by_tokens = 4 * T**2 * (I + O) + 2 * T * (I**2 + O**2)
    by_gradients = 2 * I * O * (T + I + O)
    self.assertLessEqual(first, B * min(by_tokens, by_gradients))

  @parameterized.parameters(2, 40)
  def test_it_holds_less_than_half_the_gradients_of_a_batch(self, length):
    B, I, O = 64, 32, 48  # noqa: E741
    arrays = (jnp.zeros((B, length, n)) for n in (I, O))
    tap = curvature.make('shampoo').stages[0].tap
    lowered = jax.jit(tap).lower(*arrays, jnp.ones((B, length)), {})
    held = lowered.compile().memory_analysis().temp_size_in_bytes
    self.assertLess(held, 8 * B * I * O / 2)


class MakeTest(absltest.TestCase):
  def test_its_eigenvectors_are_found_where_it_is_told(self):
    with mock.patch.object(linalg, 'psd_eigh', wraps=linalg.psd_eigh) as eigh:
      arrays, mask_BxT = testing.random_arrays(_LAYERS)
      made = curvature.make('shampoo', eigh='float32')
      testing.factors_of(made, _LAYERS, arrays, mask_BxT)
    self.assertEqual({call.args[1] for call in eigh.mock_calls}, {'float32'})
    with self.assertRaisesRegex(ValueError, "eigh must be .*'float16'"):
      curvature.make('shampoo', eigh='float16')


if __name__ == '__main__':
  absltest.main()
