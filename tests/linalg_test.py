import jax
import jax.numpy as jnp
import numpy as np
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
