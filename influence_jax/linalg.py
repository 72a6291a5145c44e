"""Matrix functions of one layer: products, eigendecomposition, rotation."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from influence_jax import sharding

PRECISIONS = ('float64', 'float32')
_COLUMNS = 256  # of a block of `upper_gram`: small ones are slow to multiply
_BLOCKS = 8  # at most: they save 44 % of the products, more would save 50 %


def upper_gram(x_BxTxI: jax.Array) -> jax.Array:
  """Sum over B and T of x x^T, [I, I]; only its upper triangle is right.

  XLA has no product of a matrix with itself that skips one half: blocks of
  columns do, 10 products instead of 16 for four blocks. Not where a device has
  the result's columns of its own: each block would be sent to where it lies.
  """
  x_NxI = x_BxTxI.reshape(-1, x_BxTxI.shape[-1])
  if sharding.splits_model():
    x_NxI = sharding.whole_over_model(x_NxI)  # reshape has forgotten it
    return x_NxI.T @ x_NxI
  num_blocks = min(_BLOCKS, max(1, x_NxI.shape[1] // _COLUMNS))
  blocks = jnp.array_split(x_NxI, num_blocks, axis=1)

  def block(m, n):
    x, y = blocks[m], blocks[n]
    return x.T @ y if m <= n else jnp.zeros((x.shape[1], y.shape[1]), x.dtype)

  return jnp.block(
    [[block(m, n) for n in range(num_blocks)] for m in range(num_blocks)]
  )


@jax.jit
def mirror(upper_IxI: jax.Array) -> jax.Array:
  """The symmetric matrix of an upper triangle; what is below is not read."""
  return jnp.triu(upper_IxI) + jnp.triu(upper_IxI, 1).T


def psd_eigh(
  matrix_IxI: jax.Array, precision: str = 'float64'
) -> tuple[jax.Array, jax.Array]:
  """Ascending eigenvalues [I], eigenvectors [I, I] in columns; dtype is kept.

  `precision` 'float64' runs LAPACK on the host, 'float32' runs on the device.
  Rounding can make eigenvalues slightly negative: they are returned as found.

  Raises:
    ValueError: an entry is not finite (LAPACK would return garbage in silence).
  """
  check_precision(precision)
  if not np.isfinite(matrix_IxI).all():
    raise ValueError(
      'a covariance has non-finite entries: a sum overflowed, or no position '
      'reached the layer, as happens to experts: fit on more sequences'
    )
  if precision == 'float32':
    return jnp.linalg.eigh(matrix_IxI, symmetrize_input=True)
  wide_IxI = np.asarray(matrix_IxI, np.float64)
  L_I, Q_IxI = np.linalg.eigh((wide_IxI + wide_IxI.T) / 2)
  return jnp.asarray(L_I, matrix_IxI.dtype), jnp.asarray(
    Q_IxI, matrix_IxI.dtype
  )


def check_precision(precision: str) -> None:
  """ValueError unless `psd_eigh` knows it: ask before a pass over the data."""
  if precision not in PRECISIONS:
    raise ValueError(f'eigh must be one of {PRECISIONS}, got {precision!r}')


def rotate_tokens(
  a_BxTxI: jax.Array,
  ds_BxTxO: jax.Array,
  rotate_in: Callable,
  rotate_out: Callable,
) -> tuple[jax.Array, jax.Array, Callable]:
  """(a, ds, rest): rest(sum_t a[t] ds[t]^T) is a sequence's rotated gradient.

  Each side is rotated where it is smaller: tokens here, or the formed gradient
  in `rest`. `rotate_in` maps [..., I] to the basis of the inputs.
  """
  num_positions = a_BxTxI.shape[1]
  tokens_in = num_positions < ds_BxTxO.shape[-1]
  tokens_out = num_positions < a_BxTxI.shape[-1]

  def rest(g_IxO):
    g_IxO = g_IxO if tokens_in else rotate_in(g_IxO.mT).mT
    return g_IxO if tokens_out else rotate_out(g_IxO)

  return (
    rotate_in(a_BxTxI) if tokens_in else a_BxTxI,
    rotate_out(ds_BxTxO) if tokens_out else ds_BxTxO,
    rest,
  )


def sum_of_squares(
  a_BxTxI: jax.Array, ds_BxTxO: jax.Array, rotate: Callable = lambda g: g
) -> jax.Array:
  """Sum over sequences of rotate(g)^2 with g_IxO = sum_t a[t] ds[t]^T.

  One sequence at a time: memory is one gradient, not the batch's.
  """

  def add(total_IxO, one):
    a_TxI, ds_TxO = one
    g_IxO = rotate(jnp.einsum('ti,to->io', a_TxI, ds_TxO))
    return total_IxO + g_IxO**2, None

  zero_IxO = jnp.zeros((a_BxTxI.shape[-1], ds_BxTxO.shape[-1]), a_BxTxI.dtype)
  return jax.lax.scan(add, zero_IxO, (a_BxTxI, ds_BxTxO))[0]
