import itertools
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import testing
from absl.testing import absltest, parameterized

from influence_jax import linalg


def setUpModule():
  jax.config.update('jax_enable_x64', True)


def tearDownModule():
  jax.config.update('jax_enable_x64', False)


def _covariance(dtype):
  """Of rank 5 in 7 dimensions, eigenvalues from 1e-3 to 10."""
  rng = np.random.default_rng(0)
  Q, _ = np.linalg.qr(rng.normal(size=(7, 7)))
  L = np.array([0, 0, 1e-3, 0.1, 0.1, 2, 10])
  return L, ((Q * L) @ Q.T).astype(dtype)


class PsdEighTest(parameterized.TestCase):
  @parameterized.product(
    precision=linalg.PRECISIONS, dtype=('float64', 'float32')
  )
  def test_it_takes_a_matrix_apart(self, precision, dtype):
    wanted, matrix = _covariance(dtype)
    L, Q = linalg.psd_eigh(jnp.asarray(matrix), precision)
    self.assertEqual((L.dtype, Q.dtype), (dtype, dtype))
    L, Q = np.asarray(L, np.float64), np.asarray(Q, np.float64)
    atol = 1e-12 if dtype == 'float64' else 1e-5
    np.testing.assert_allclose((Q * L) @ Q.T, matrix, atol=10 * atol)
    np.testing.assert_allclose(Q.T @ Q, np.eye(7), atol=atol)
    np.testing.assert_allclose(L, wanted, atol=10 * atol)
    self.assertTrue((np.diff(L) >= 0).all())

  def test_float64_is_as_good_as_the_dtype_allows(self):
    """The eigenvalues of a float32 matrix are off by less than its rounding."""
    matrix = _covariance('float32')[1]
    L, _ = linalg.psd_eigh(jnp.asarray(matrix), 'float64')
    wanted = np.linalg.eigvalsh(matrix.astype(np.float64))
    np.testing.assert_array_equal(L, wanted.astype(np.float32))

  @parameterized.parameters(*linalg.PRECISIONS)
  def test_what_is_not_symmetric_is_rounding_and_left_out(self, precision):
    _, matrix = _covariance('float64')
    skew = np.tri(7, k=-1) - np.tri(7, k=-1).T
    L, Q = linalg.psd_eigh(jnp.asarray(matrix + skew), precision)
    L, Q = np.asarray(L), np.asarray(Q)
    np.testing.assert_allclose((Q * L) @ Q.T, matrix, atol=1e-11)

  @parameterized.parameters(*linalg.PRECISIONS)
  def test_negative_eigenvalues_are_returned_as_found(self, precision):
    matrix = jnp.diag(jnp.array([3.0, -1e-6]))
    L, _ = linalg.psd_eigh(matrix, precision)
    np.testing.assert_allclose(L, [-1e-6, 3], rtol=1e-9)

  @parameterized.product(
    precision=linalg.PRECISIONS, bad=(np.nan, np.inf, -np.inf)
  )
  def test_an_entry_that_is_not_finite_is_refused(self, precision, bad):
    _, matrix = _covariance('float64')
    matrix[4, 2] = bad
    with self.assertRaisesRegex(ValueError, 'non-finite'):
      linalg.psd_eigh(jnp.asarray(matrix), precision)

  def test_an_unknown_precision_is_refused(self):
    with self.assertRaisesRegex(ValueError, "'float64', 'float32'.*'bfloat16'"):
      linalg.psd_eigh(jnp.eye(2), 'bfloat16')


class UpperGramTest(parameterized.TestCase):
  def check(self, width):
    x_BxTxI = np.random.default_rng(0).normal(size=(2, 3, width))
    got = jax.jit(lambda x: linalg.upper_gram(x))(x_BxTxI)
    wanted = sum(np.outer(x, x) for x in x_BxTxI.reshape(-1, width))
    testing.assert_near(self, np.triu(got), np.triu(wanted), 1e-12)
    testing.assert_near(self, linalg.mirror(got), wanted, 1e-12)

  @parameterized.parameters(3, 256, 257, 511, 512, 513, 1025)
  def test_its_triangle_is_the_sum_of_outer_products(self, width):
    self.check(width)

  @parameterized.product(columns=(1, 2, 3), width=(1, 2, 3, 4, 5, 7))
  def test_it_is_so_however_wide_the_blocks_are(self, columns, width):
    with mock.patch.object(linalg, '_COLUMNS', columns):
      self.check(width)

  @parameterized.parameters(
    # blocks of columns and of their products
    (255, 1), (511, 1), (512, 3), (1024, 10), (1300, 15),
  )  # fmt: skip
  def test_half_of_the_products_are_left_out(self, width, wanted):
    x = jax.ShapeDtypeStruct((2, 3, width), float)
    jaxpr = str(jax.make_jaxpr(linalg.upper_gram)(x))
    self.assertEqual(jaxpr.count('dot_general['), wanted)


class MirrorTest(absltest.TestCase):
  def test_what_is_below_the_diagonal_is_not_read(self):
    matrix = _covariance('float64')[1]
    below = np.tri(7, k=-1) > 0
    for noise in (0, 1e30, np.nan):
      got = linalg.mirror(jnp.asarray(np.where(below, noise, matrix)))
      np.testing.assert_array_equal(got, np.triu(matrix) + np.triu(matrix, 1).T)
    self.assertEqual(got.dtype, 'float64')


class RotateTokensTest(parameterized.TestCase):
  @parameterized.parameters(
    # T = 5: which tokens are fewer than what they would be rotated as.
    (7, 6, True, True),
    (5, 6, True, False),
    (6, 3, False, True),
    (4, 4, False, False),
    (5, 5, False, False),
    (6, 6, True, True),
  )
  def test_tokens_or_the_gradient_are_rotated(
    self, num_in, num_out, tokens_in, tokens_out
  ):
    rng = np.random.default_rng(2)
    a, ds = rng.normal(size=(3, 5, num_in)), rng.normal(size=(3, 5, num_out))
    Q_A, Q_S = (rng.normal(size=(n, n)) for n in (num_in, num_out))
    got_a, got_ds, rest = linalg.rotate_tokens(
      jnp.asarray(a), jnp.asarray(ds), lambda x: x @ Q_A, lambda x: x @ Q_S
    )
    rotated_a = np.einsum('bti,ij->btj', a, Q_A)
    rotated_ds = np.einsum('bto,op->btp', ds, Q_S)
    testing.assert_near(self, got_a, rotated_a if tokens_in else a, 1e-12)
    testing.assert_near(self, got_ds, rotated_ds if tokens_out else ds, 1e-12)
    for b in range(3):
      g = sum(np.outer(a[b, t], ds[b, t]) for t in range(5))
      formed = sum(np.outer(got_a[b, t], got_ds[b, t]) for t in range(5))
      wanted = Q_A.T @ g @ Q_S
      testing.assert_near(self, rest(jnp.asarray(formed)), wanted, 1e-12)

  def test_it_takes_no_more_operations_than_either(self):
    """All of the tokens, or all of the gradient."""
    for T, I, O in itertools.product((1, 4, 9), (3, 4, 8), (3, 4, 8)):  # noqa: E741
      cost = []

      def product(x, cost=cost):
        cost.append(x.size * x.shape[-1])
        return x

      *_, rest = linalg.rotate_tokens(
        jnp.zeros((1, T, I)), jnp.zeros((1, T, O)), product, product
      )
      rest(jnp.zeros((I, O)))
      self.assertLen(cost, 2)
      tokens, gradient = T * (I**2 + O**2), I * O * (I + O)
      self.assertLessEqual(sum(cost), min(tokens, gradient))


class SumOfSquaresTest(parameterized.TestCase):
  @parameterized.parameters(False, True)
  def test_squares_are_of_each_sequences_rotated_sum(self, rotated):
    rng = np.random.default_rng(1)
    a, ds = rng.normal(size=(4, 3, 5)), rng.normal(size=(4, 3, 2))
    Q_A, Q_S = rng.normal(size=(5, 5)), rng.normal(size=(2, 2))
    if not rotated:
      Q_A, Q_S = np.eye(5), np.eye(2)
    wanted = np.zeros((5, 2))
    for b in range(4):
      g = sum(np.outer(a[b, t], ds[b, t]) for t in range(3))
      wanted += (Q_A.T @ g @ Q_S) ** 2
    how = [lambda g: Q_A.T @ g @ Q_S] if rotated else []
    got = jax.jit(lambda a, ds: linalg.sum_of_squares(a, ds, *how))(a, ds)
    np.testing.assert_allclose(got, wanted, rtol=1e-12)

  def test_no_gradient_of_the_batch_is_formed(self):
    shapes = [jax.ShapeDtypeStruct((16, 3, n), float) for n in (5, 2)]
    lowered = jax.jit(linalg.sum_of_squares).lower(*shapes).as_text()
    self.assertIn('tensor<5x2xf64>', lowered)
    self.assertNotIn('16x5x2', lowered)


if __name__ == '__main__':
  absltest.main()
