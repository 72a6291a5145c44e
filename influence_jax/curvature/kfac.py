"""K-FAC: G = T A (x) S, positions taken as independent (Eq. 16, Sec. 3.1).

A[I, I] and S[O, O] are means over positions of a a^T and ds ds^T. A sequence's
gradient is a sum over its T positions, so the eigenvalues carry the mean number
of positions a sequence: the paper's Eq. 16 is for one position a datum. T is of
the layer: a convolution sees more positions of an image than its loss has.
"""

import jax.numpy as jnp

from influence_jax import linalg, types


def make(eigh: str = 'float64') -> types.Curvature:
  """`eigh`: 'float64' on the host, 'float32' on the device."""
  return types.Curvature(
    stages=(covariance_stage(eigh),),
    eigenvalues=eigenvalues,
    rotate=rotate,
    unrotate=unrotate,
    rotate_tokens=rotate_tokens,
    unrotate_sides=unrotate_sides,
  )


def covariance_stage(eigh: str) -> types.Stage:
  """Leaves Q_A, Q_S (eigenvectors in columns), L_A, L_S (eigenvalues, as found)

  and the mean number of positions a sequence, T_mean ().
  """
  linalg.check_precision(eigh)

  def finish(factors, sums, counts):
    positions = sums['positions']
    A_IxI, S_OxO = (linalg.mirror(sums[k] / positions) for k in 'AS')
    L_A, Q_A = linalg.psd_eigh(A_IxI, eigh)
    L_S, Q_S = linalg.psd_eigh(S_OxO, eigh)
    T_mean = (positions / counts.sequences).astype(L_A.dtype)
    found = {'L_A': L_A, 'Q_A': Q_A, 'L_S': L_S, 'Q_S': Q_S, 'T_mean': T_mean}
    return {**factors, **found}

  return types.Stage('covariance', _init, _tap, finish)


def rotate(factors, g_IxO):
  return factors['Q_A'].T @ g_IxO @ factors['Q_S']


def unrotate(factors, g_IxO):
  return factors['Q_A'] @ g_IxO @ factors['Q_S'].T


def rotate_tokens(factors, a_BxTxI, ds_BxTxO):
  return linalg.rotate_tokens(
    a_BxTxI,
    ds_BxTxO,
    lambda x: x @ factors['Q_A'],
    lambda x: x @ factors['Q_S'],
  )


def unrotate_sides(factors, x_RxI, y_RxO):
  return x_RxI @ factors['Q_A'].T, y_RxO @ factors['Q_S'].T


def eigenvalues(factors):
  L_A, L_S = jnp.maximum(factors['L_A'], 0), jnp.maximum(factors['L_S'], 0)
  return factors['T_mean'] * L_A[:, None] * L_S[None, :]


def _init(layer):
  return {
    'A': jnp.zeros((layer.num_in, layer.num_in)),
    'S': jnp.zeros((layer.num_out, layer.num_out)),
    'positions': jnp.zeros(()),
  }


def _tap(a_BxTxI, ds_BxTxO, mask_BxT, factors):
  del factors
  mask_BxTx1 = mask_BxT[..., None]
  return {
    'A': linalg.upper_gram(a_BxTxI * mask_BxTx1),
    'S': linalg.upper_gram(ds_BxTxO * mask_BxTx1),
    'positions': mask_BxT.sum(),
  }
