"""Blockwise EK-FAC against dense matrices made by numpy."""

import functools
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import testing
from absl.testing import absltest, parameterized

from influence_jax import curvature, influence, linalg, types

# With T = 5 the sides that the Lambda tap rotates as tokens are: both, inputs,
# outputs, neither. 7 and 5 columns do not divide, 3 are fewer than 4 blocks.
_LAYERS = {
  'both': types.Layer('both', 7, 6, True),
  'inputs': types.Layer('inputs', 5, 6, False),
  'outputs': types.Layer('outputs', 6, 3, True),
  'neither': types.Layer('neither', 4, 4, False),
  'stack': types.Layer('stack', 7, 6, False, (2,)),
}
_SIZES = {  # as np.array_split cuts
  (7, 2): [4, 3], (7, 3): [3, 2, 2], (7, 4): [2, 2, 2, 1],
  (6, 2): [3, 3], (6, 3): [2, 2, 2], (6, 4): [2, 2, 1, 1],
  (5, 2): [3, 2], (5, 3): [2, 2, 1], (5, 4): [2, 1, 1, 1],
  (4, 2): [2, 2], (4, 3): [2, 1, 1], (4, 4): [1, 1, 1, 1],
  (3, 2): [2, 1], (3, 3): [1, 1, 1], (3, 4): [1, 1, 1],
}  # fmt: skip


def setUpModule():
  jax.config.update('jax_enable_x64', True)
  jax.config.update('jax_disable_most_optimizations', True)  # compiles sooner


def tearDownModule():
  jax.config.update('jax_disable_most_optimizations', False)
  jax.config.update('jax_enable_x64', False)


@functools.cache
def _data():
  return testing.random_arrays(_LAYERS, num_rows=8, length=5)


@functools.cache
def _factors(name, **hparams):
  made = curvature.make(name, **hparams)
  return made, testing.factors_of(made, _LAYERS, *_data())


def _slices():
  """(layer's name, its index in the stack or ()) of all of them."""
  return [(x, at) for x in _LAYERS for at in np.ndindex(*_LAYERS[x].stack)]


def _oracle(name, at):
  """(A, S, g_NxIxO) by numpy; the last is of rows that count."""
  arrays, mask_NxT = _data()
  a_NxTxI, ds_NxTxO = (x[at] for x in arrays[name])
  a_JxI, ds_JxO = a_NxTxI[mask_NxT > 0], ds_NxTxO[mask_NxT > 0]
  g_NxIxO = np.stack(
    [a.T @ ds for a, ds in zip(a_NxTxI, ds_NxTxO, strict=True)]
  )
  return a_JxI.T @ a_JxI / len(a_JxI), ds_JxO.T @ ds_JxO / len(ds_JxO), g_NxIxO


def _on_blocks(matrix_IxI, blocks):
  """The matrix with zeros off its diagonal blocks."""
  sizes = _SIZES[len(matrix_IxI), blocks]
  number = np.repeat(np.arange(len(sizes)), sizes)
  return np.where(number[:, None] == number, matrix_IxI, 0)


def _dense_basis(factors, side, at):
  """(block-diagonal Q, L) from the flat dict."""
  num = sum(key.startswith(f'Q_{side}_') for key in factors)
  parts = [np.asarray(factors[f'Q_{side}_{n}'])[at] for n in range(num)]
  ends = np.cumsum([0, *map(len, parts)])
  Q = np.zeros((ends[-1], ends[-1]))
  for start, part in zip(ends, parts, strict=False):
    Q[start : start + len(part), start : start + len(part)] = part
  L = [np.asarray(factors[f'L_{side}_{n}'])[at] for n in range(num)]
  return Q, np.concatenate(L)


class FactorsTest(parameterized.TestCase):
  @parameterized.parameters(2, 3, 4)
  def test_they_are_the_blocks_of_the_covariances(self, blocks):
    _, factors = _factors('ekfac_blocks', blocks=blocks)
    for name, at in _slices():
      for side, moment in zip('AS', _oracle(name, at), strict=False):
        Q, L = _dense_basis(factors[name], side, at)
        wanted = _on_blocks(moment, blocks)
        testing.assert_near(self, Q * L @ Q.T, wanted, what=name)
        testing.assert_near(self, Q.T @ Q, np.eye(len(Q)), what=name)
        sizes = [
          len(x) if not at else x.shape[1]
          for key, x in factors[name].items() if f'L_{side}_' in key
        ]  # fmt: skip
        self.assertCountEqual(sizes, _SIZES[len(moment), blocks])

  def test_they_are_so_where_sums_are_of_one_triangle(self):
    made = curvature.make('ekfac_blocks', blocks=2)
    with mock.patch.object(linalg, '_COLUMNS', 1):
      factors = testing.factors_of(made, _LAYERS, *_data())
    for name, at in _slices():
      for side, moment in zip('AS', _oracle(name, at), strict=False):
        Q, L = _dense_basis(factors[name], side, at)
        testing.assert_near(self, Q * L @ Q.T, _on_blocks(moment, 2), what=name)

  @parameterized.parameters(2, 3, 4)
  def test_lambda_is_the_mean_square_gradient_in_their_basis(self, blocks):
    _, factors = _factors('ekfac_blocks', blocks=blocks)
    for name, at in _slices():
      Q_A, _ = _dense_basis(factors[name], 'A', at)
      Q_S, _ = _dense_basis(factors[name], 'S', at)
      g_NxIxO = _oracle(name, at)[2]
      wanted = np.mean([(Q_A.T @ g @ Q_S) ** 2 for g in g_NxIxO], 0)
      Lambda = np.asarray(factors[name]['Lambda'])[at]
      testing.assert_near(self, Lambda, wanted, what=name)

  def test_in_float32_they_are_so_to_single_precision(self):
    made, exact = _factors('ekfac_blocks', blocks=3)
    arrays, mask = jax.tree.map(np.float32, _data())
    with jax.enable_x64(False):
      found = testing.factors_of(made, _LAYERS, arrays, mask)
    for name, at in _slices():
      for side in 'AS':
        Q, L = _dense_basis(found[name], side, at)
        wanted_Q, wanted_L = _dense_basis(exact[name], side, at)
        wanted = wanted_Q * wanted_L @ wanted_Q.T
        testing.assert_near(self, Q * L @ Q.T, wanted, 1e-5, name)
      self.assertEqual(
        {str(x.dtype) for x in found[name].values()}, {'float32'}
      )


class OperatorTest(parameterized.TestCase):
  def _solved(self, made, factors):
    """({name: IHVPs of g}, damping)."""
    g = {
      name: np.stack(
        [_oracle(name, at)[2] for at in np.ndindex(*layer.stack)]
      ).reshape(*layer.stack, 8, layer.num_in, layer.num_out)
      for name, layer in _LAYERS.items()
    }
    damping = influence.damping_of(made, _LAYERS, factors)
    return influence.precondition(made, _LAYERS, factors, g, damping), damping

  @parameterized.parameters(2, 3, 4)
  def test_its_ihvp_is_a_dense_solve(self, blocks):
    made, factors = _factors('ekfac_blocks', blocks=blocks)
    solved, damping = self._solved(made, factors)
    for name, at in _slices():
      g_NxIxO = _oracle(name, at)[2]
      Q_A, _ = _dense_basis(factors[name], 'A', at)
      Q_S, _ = _dense_basis(factors[name], 'S', at)
      Q = np.kron(Q_A, Q_S)
      vec_NxJ = g_NxIxO.reshape(len(g_NxIxO), -1)
      G = Q * ((vec_NxJ @ Q) ** 2).mean(0) @ Q.T
      d = 0.1 * np.trace(G) / len(G)
      testing.assert_near(self, damping[name][at], d, what=name)
      # Q has a Kronecker block for every pair: nothing of W is left out.
      self.assertEqual(np.linalg.matrix_rank(Q), len(G))
      wanted = np.linalg.solve(G + d * np.eye(len(G)), vec_NxJ.T).T
      got = np.asarray(solved[name])[at].reshape(vec_NxJ.shape)
      testing.assert_near(self, got, wanted, what=name)
      self.assertGreater(np.linalg.eigvalsh(G + d * np.eye(len(G)))[0], 0)
      self.assertTrue(((got * vec_NxJ).sum(1) > 0).all(), name)

  @parameterized.parameters('float64', 'float32')
  def test_one_block_is_ekfac(self, eigh):
    one = self._solved(*_factors('ekfac_blocks', blocks=1, eigh=eigh))
    plain = self._solved(*_factors('ekfac', eigh=eigh))
    for got, wanted in zip(one, plain, strict=True):
      for name in _LAYERS:
        testing.assert_near(self, got[name], wanted[name], what=name)

  def test_more_blocks_are_another_operator(self):
    one, _ = self._solved(*_factors('ekfac_blocks', blocks=1))
    two, _ = self._solved(*_factors('ekfac_blocks', blocks=2))
    for name in _LAYERS:
      change = np.abs(two[name] - one[name]).max() / np.abs(one[name]).max()
      self.assertGreater(change, 1e-3, name)

  def test_a_block_a_column_is_the_diagonal(self):
    """Rotation by +-1 and permutation of nothing: Q is the identity."""
    made, factors = _factors('ekfac_blocks', blocks=100)
    solved, _ = self._solved(made, factors)
    wanted, _ = self._solved(*_factors('diagonal'))
    for name in _LAYERS:
      testing.assert_near(self, solved[name], wanted[name], what=name)

  def test_lambda_keeps_the_trace_of_G(self):
    for blocks in (1, 2, 3, 4):
      _, factors = _factors('ekfac_blocks', blocks=blocks)
      for name, at in _slices():
        trace = (_oracle(name, at)[2] ** 2).sum((1, 2)).mean()
        Lambda = np.asarray(factors[name]['Lambda'])[at]
        testing.assert_near(self, Lambda.sum(), trace, what=name)


class MemoryTest(parameterized.TestCase):
  @parameterized.parameters(1, 2, 4, 8, 16)
  def test_bytes_of_covariances_fall_as_one_over_blocks(self, blocks):
    def num_numbers(num_in, num_out):
      layer = types.Layer('x', num_in, num_out, True)
      stage = curvature.make('ekfac_blocks', blocks=blocks).stages[0]
      sums = stage.init(layer).values()
      return sum(x.size for x in sums if x.ndim)  # beside the count

    self.assertEqual(num_numbers(256, 64), (256**2 + 64**2) // blocks)
    rest = num_numbers(257, 64) - num_numbers(256, 64)
    self.assertEqual(rest, 2 * (256 // blocks) + 1)  # one block is wider by one

  @parameterized.parameters(4, 32)
  def test_no_matrix_of_a_whole_side_is_built(self, length):
    """Sides of 23 and 19; in jaxprs of the taps and of the rotations."""
    layer = types.Layer('x', 23, 19, False)
    made = curvature.make('ekfac_blocks', blocks=3)
    arrays, mask = testing.random_arrays({'x': layer}, 2, length)
    (factors,) = testing.factors_of(made, {'x': layer}, arrays, mask).values()
    traced = [
      jax.make_jaxpr(stage.tap)(*arrays['x'], mask, factors)
      for stage in made.stages
    ]
    g_IxO = jnp.zeros((23, 19))
    for fn in (made.rotate, made.unrotate):
      traced.append(jax.make_jaxpr(fn)(factors, g_IxO))
    for jaxpr in traced:
      self.assertNotRegex(str(jaxpr), r'\b(23,23|19,19)\]')


class MakeTest(absltest.TestCase):
  def test_what_cannot_be_is_refused(self):
    with self.assertRaisesRegex(ValueError, 'blocks must be at least 1, got 0'):
      curvature.make('ekfac_blocks', blocks=0)
    with self.assertRaisesRegex(ValueError, "'float16'"):
      curvature.make('ekfac_blocks', eigh='float16')


if __name__ == '__main__':
  absltest.main()
