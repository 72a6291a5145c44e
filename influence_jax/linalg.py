"""Matrix functions of one layer: eigendecomposition, rotation, squares."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

PRECISIONS = ('float64', 'float32')


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
    raise ValueError('a covariance has non-finite entries')
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
