import functools
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import testing
from absl.testing import absltest, parameterized

from influence_jax import contraction, lowrank, types
from influence_jax import curvature as curvatures

_WIDE = {'wide': types.Layer('wide', 40, 30, True)}
_EXACT = {'method': 'exact'}
_PLAIN = {'weighted': False, 'method': 'exact'}


def setUpModule():
  jax.config.update('jax_enable_x64', True)


def tearDownModule():
  jax.config.update('jax_enable_x64', False)


def _layers():
  return testing.deep(scan=True)[0].layers


@functools.cache
def _solved():
  """Preconditioned gradients of 6 queries; a stack is among the layers."""
  rng = np.random.default_rng(1)
  return {
    path: rng.normal(size=(*x.stack, 6, x.num_in, x.num_out))
    for path, x in _layers().items()
  }


@functools.cache
def _arrays():
  """({path: (a, ds)}, mask): more positions than a side has directions."""
  return testing.random_arrays(_layers(), num_rows=16)


@functools.cache
def _fitted(name):
  """(curvature, factors) of random arrays."""
  curvature = curvatures.make(name)
  return curvature, testing.factors_of(curvature, _layers(), *_arrays())


def _truncated(rank, name='identity', **how):
  curvature, factors = _fitted(name)
  return jax.device_get(_truncate(curvature, _layers(), factors, rank, **how))


def _truncate(curvature, layers, factors, rank, solved=None, **how):
  """Queries of rank R of `solved`, which are not in the eigenbasis."""

  def run(factors, solved):
    rotate = testing.rotated(curvature, layers, factors, solved)
    return lowrank.truncate(curvature, layers, factors, rotate, rank, **how)

  return jax.jit(run)(factors, _solved() if solved is None else solved)


def _differences(found, solved=None):
  """[(what, P, P - U V)], a query of a slice of a layer each."""
  solved = solved or _solved()
  result = []
  for path, x in found.items():
    P, UV = solved[path], x['U'] @ x['V']
    for at in np.ndindex(P.shape[:-2]):
      result.append(((path, at), P[at], P[at] - UV[at]))
  return result


def _roots(at, path):
  """A^1/2 and S^1/2 of a slice of a layer, from their definitions."""
  arrays, mask = _arrays()
  roots = []
  for x in arrays[path]:
    kept = x[at][mask > 0]
    L, Q = np.linalg.eigh(kept.T @ kept / len(kept))
    roots.append(Q * np.sqrt(L) @ Q.T)
  return roots


def _dense_ekfac(path, at):
  """EK-FAC's G of a slice of a layer."""
  f = {k: np.asarray(x)[at] for k, x in _fitted('ekfac')[1][path].items()}
  Q = np.kron(f['Q_A'], f['Q_S'])
  return Q * f['Lambda'].ravel() @ Q.T


def _decaying(power, num=1, shape=(40, 30)):
  """P [num, I, O] in general position with singular values 1 / j^power."""
  rng = np.random.default_rng(3)
  s = np.arange(1, min(shape) + 1.0) ** -power
  P = []
  for _ in range(num):
    U, V = (np.linalg.qr(rng.normal(size=(n, len(s))))[0] for n in shape)
    P.append(U * s @ V.T)
  return np.stack(P)


def _truncate_wide(P_KxIxO, rank, **how):
  """U V of queries of one layer, plainly."""
  run = functools.partial(
    lowrank.truncate, curvatures.make('identity'), _WIDE, {'wide': {}},
    rank=rank, weighted=False, **how,
  )  # fmt: skip
  found = jax.jit(run)({'wide': jnp.asarray(P_KxIxO)})['wide']
  return np.asarray(found['U'] @ found['V'])


class LowRankTest(parameterized.TestCase):
  def assert_is_the_least(self, error, weighted_P, rank, what):
    """Eckart and Young: the norm of the singular values left out."""
    left_out = np.linalg.svd(weighted_P, compute_uv=False)[rank:]
    # Relative to P: where nothing is left out the error is rounding.
    scale = np.linalg.norm(weighted_P)
    difference = abs(np.linalg.norm(error) - np.linalg.norm(left_out))
    self.assertLess(difference, 1e-9 * scale, what)

  @parameterized.parameters(1, 2, 3)
  def test_the_plain_truncation_error_is_the_least_there_is(self, rank):
    for name in ('identity', 'kfac'):
      for what, P, rest in _differences(_truncated(rank, name, **_PLAIN)):
        self.assert_is_the_least(rest, P, rank, what)

  @parameterized.product(rank=(1, 2, 3), name=('kfac', 'kfac_tikhonov'))
  def test_in_kfacs_metric_no_matrix_is_nearer(self, rank, name):
    """A^1/2 (P - U V) S^1/2, the floor of the weights away."""
    with mock.patch.object(lowrank, '_FLOOR', 0):
      found = _truncated(rank, name, **_EXACT)
    for (path, (*at, k)), P, rest in _differences(found):
      A, S = _roots(tuple(at), path)
      self.assert_is_the_least(A @ rest @ S, A @ P @ S, rank, (path, at, k))

  def test_the_floor_of_the_weights_hardly_matters(self):
    found = _truncated(2, 'kfac', **_EXACT)
    for (path, (*at, _)), P, rest in _differences(found):
      A, S = _roots(tuple(at), path)
      s = np.linalg.svd(A @ P @ S, compute_uv=False)
      error = np.linalg.norm(A @ rest @ S) / np.linalg.norm(s[2:])
      self.assertBetween(error, 1 - 1e-9, 1 + 1e-4, path)

  @parameterized.product(
    name=curvatures.names(), method=lowrank.METHODS, weighted=(False, True)
  )
  def test_the_full_rank_gives_back_p(self, name, method, weighted):
    found = _truncated(4, name, method=method, weighted=weighted)
    for what, P, rest in _differences(found):
      testing.assert_near(self, P - rest, P, what=what)

  @parameterized.parameters((2, (2, 2, 2)), (4, (4, 4, 3)), (99, (4, 4, 3)))
  def test_the_rank_is_at_most_that_of_the_layer(self, rank, wanted):
    for how in ({}, _EXACT, _PLAIN):
      found = _truncated(rank, 'ekfac', **how)
      for (path, P), R in zip(_solved().items(), wanted, strict=True):
        *stack, I, O = P.shape  # noqa: E741
        self.assertEqual(found[path]['U'].shape, (*stack, I, R))
        self.assertEqual(found[path]['V'].shape, (*stack, R, O))

  @parameterized.product(
    name=('kfac', 'ekfac_blocks'),
    method=lowrank.METHODS,
    weighted=(False, True),
  )
  def test_a_basis_of_unknown_sides_gives_the_same_queries(
    self, name, method, weighted
  ):
    curvature, factors = _fitted(name)
    assert curvature.unrotate_sides is not None
    how = {'method': method, 'weighted': weighted}
    slow = curvature._replace(unrotate_sides=None)
    found = _truncate(slow, _layers(), factors, 2, **how)
    for (what, P, rest), (_, _, wanted) in zip(
      _differences(found), _differences(_truncated(2, name, **how)), strict=True
    ):
      testing.assert_near(self, P - rest, P - wanted, what=what)

  @parameterized.parameters(*lowrank.METHODS)
  def test_a_metric_that_is_the_same_everywhere_changes_nothing(self, method):
    weighted, plain = (
      _truncated(2, weighted=x, method=method) for x in (True, False)
    )
    for (what, P, rest), (_, _, wanted) in zip(
      _differences(weighted), _differences(plain), strict=True
    ):
      testing.assert_near(self, P - rest, P - wanted, what=what)

  def test_directions_that_no_gradient_has_do_no_harm(self):
    """A row and a column of zeros in every gradient; one layer has none."""
    layers = {n: types.Layer(n, 6, 5, False) for n in ('some', 'none')}
    arrays, mask = testing.random_arrays(layers, num_rows=16)
    arrays['some'][0][..., 2] = 0
    arrays['some'][1][..., 3] = 0
    arrays['none'] = tuple(0 * x for x in arrays['none'])
    P = np.random.default_rng(4).normal(size=(3, 6, 5))
    for name in ('kfac', 'ekfac'):
      curvature = curvatures.make(name)
      factors = testing.factors_of(curvature, layers, arrays, mask)
      for rank in (2, 5):
        found = _truncate(
          curvature, layers, factors, rank, dict.fromkeys(layers, P)
        )
        for x in jax.tree.leaves(found):
          self.assertTrue(np.isfinite(x).all())
      UV = found['some']['U'] @ found['some']['V']
      testing.assert_near(self, UV, P)

  @parameterized.parameters(
    ({'rank': 0}, 'rank=0'),
    ({'rank': -3}, 'rank=-3'),
    ({'rank': 1, 'method': 'svd'}, "'randomised', 'exact'.*'svd'"),
  )
  def test_what_cannot_be_is_refused(self, how, message):
    with self.assertRaisesRegex(ValueError, message):
      lowrank.truncate(curvatures.make('identity'), {}, {}, {}, **how)


class RandomisedTest(parameterized.TestCase):
  def test_a_sketch_as_wide_as_the_matrix_is_exact(self):
    P = _decaying(0.5, num=2)
    wanted = _truncate_wide(P, 5, method='exact')
    for oversample in (25, 26, 100):
      got = _truncate_wide(P, 5, oversample=oversample)
      testing.assert_near(self, got, wanted)

  def test_a_sketch_as_wide_as_the_rank_of_the_matrix_is_exact(self):
    P = _decaying(0.5, num=2)
    U, s, V = np.linalg.svd(P)
    P = U[..., :6] * s[:, None, :6] @ V[:, :6]
    for rank, oversample in ((6, 0), (4, 2), (4, 9)):
      wanted = U[..., :rank] * s[:, None, :rank] @ V[:, :rank]
      got = _truncate_wide(P, rank, oversample=oversample)
      testing.assert_near(self, got, wanted)

  @parameterized.parameters(0.5, 1.0, 2.0)
  def test_the_error_is_within_a_hundredth_of_the_least(self, power):
    """Singular values 1 / j^power of 60 x 50, rank 4, sketches of 20."""
    for P in _decaying(power, num=3, shape=(60, 50)):
      left_out = np.arange(5, 51.0) ** -power
      least = np.linalg.norm(left_out)
      error = np.linalg.norm(P - _truncate_wide(P[None], 4)[0])
      self.assertBetween(error / least, 1 - 1e-9, 1.01)

  def test_power_iterations_and_a_wider_sketch_are_nearer(self):
    P = _decaying(0.5, num=8, shape=(60, 50))

    def error(**how):
      return np.linalg.norm(P - _truncate_wide(P, 4, **how))

    narrow = {'oversample': 1}
    by_iterations = [error(num_iterations=n, **narrow) for n in (0, 1, 4)]
    self.assertEqual(by_iterations, sorted(by_iterations, reverse=True))
    by_width = [error(num_iterations=0, oversample=n) for n in (0, 8, 40)]
    self.assertEqual(by_width, sorted(by_width, reverse=True))
    self.assertGreater(by_width[0] / by_width[-1], 1.05)
    self.assertGreater(by_iterations[0] / by_iterations[-1], 1.05)

  def test_the_same_sketch_is_drawn_always(self):
    P = _decaying(0.5)
    np.testing.assert_array_equal(
      _truncate_wide(P, 3, oversample=0), _truncate_wide(P, 3, oversample=0)
    )
    # Of many queries each is what it is alone.
    many = _truncate_wide(np.concatenate([2 * P, P]), 3, oversample=0)
    testing.assert_near(self, many[1], _truncate_wide(P, 3, oversample=0)[0])


class ScoresTest(parameterized.TestCase):
  def test_the_expected_error_is_smaller_in_the_metric(self):
    """E <P - U V, g>^2 = vec^T G vec where G is the second moment of g.

    A theorem for K-FAC, for every query; of EK-FAC's G, which is no product,
    the mean over queries.
    """
    plain = _differences(_truncated(2, 'kfac', **_PLAIN))
    for name in ('kfac', 'ekfac'):
      weighted = _differences(_truncated(2, name, **_EXACT))
      ratios = []
      for ((path, (*at, k)), _, rest), (_, _, plain_rest) in zip(
        weighted, plain, strict=True
      ):
        at = tuple(at)
        if name == 'kfac':
          root = np.kron(*_roots(at, path))
          G = root @ root
        else:
          G = _dense_ekfac(path, at)
        ours, theirs = (x.ravel() @ G @ x.ravel() for x in (rest, plain_rest))
        ratios.append(ours / theirs)
        if name == 'kfac':
          self.assertLessEqual(ours, theirs * (1 + 1e-4), (path, at, k))
      self.assertLess(np.exp(np.log(ratios).mean()), 0.95, name)

  def test_errors_of_scores_of_drawn_gradients_are_as_expected(self):
    """g = A^1/2 x S^1/2 with x normal: <P - U V, g> is normal, its variance

    the squared norm of the weighted residual. A mean of n squares of a normal
    is off by more than 6 sqrt(2 / n) of it less than once in 10^8.
    """
    path, at, n = 'blocks/mix', (1,), 20_000
    A, S = _roots(at, path)
    x_NxIxO = np.random.default_rng(5).normal(size=(n, len(A), len(S)))
    g_NxIxO = A @ x_NxIxO @ S
    means = {}
    for how in (_EXACT, _PLAIN):
      found = _truncated(2, 'kfac', **how)[path]
      rest = _solved()[path][at] - (found['U'] @ found['V'])[at]
      squares = np.einsum('nio,kio->nk', g_NxIxO, rest) ** 2
      expected = ((A @ rest @ S) ** 2).sum((1, 2))
      error = np.abs(squares.mean(0) / expected - 1).max()
      self.assertLess(error, 6 * np.sqrt(2 / n))
      means[len(how)] = squares.mean()
    self.assertLess(means[len(_EXACT)], 0.95 * means[len(_PLAIN)])

  @parameterized.parameters(*lowrank.METHODS)
  def test_scores_of_the_full_rank_are_the_scores(self, method):
    model, params = testing.deep(scan=True)
    run = jax.jit(functools.partial(contraction.pairwise, model))
    batch = testing.deep_batch()
    full = run(params, contraction.whole(_solved()), batch)
    got = run(params, _truncated(99, 'ekfac', method=method), batch)
    self.assertEqual(got.keys(), full.keys())
    for path, x in full.items():
      testing.assert_near(self, got[path], x, what=path)

  def test_scores_of_rank_two_are_those_of_the_truncated_matrix(self):
    model, params = testing.deep(scan=True)
    g = testing.loop_gradients(model, params, testing.deep_batch())
    nearest = {}
    for path, P in _solved().items():
      U, s, V = np.linalg.svd(P, full_matrices=False)
      nearest[path] = (U[..., :2] * s[..., None, :2]) @ V[..., :2, :]
    nearest = testing.split_stacks(model, nearest)
    run = jax.jit(functools.partial(contraction.pairwise, model))
    scores = run(params, _truncated(2, **_PLAIN), testing.deep_batch())
    found = testing.split_stacks(model, scores)
    for name, P_KxIxO in nearest.items():
      wanted = np.einsum('bio,kio->bk', g[name], P_KxIxO)
      testing.assert_near(self, found[name], wanted, what=name)


if __name__ == '__main__':
  absltest.main()
