"""EK-FAC: K-FAC's eigenbasis with the eigenvalues corrected (Eqs. 18-20).

Lambda[I, O] is the mean over sequences of (Q_A^T g Q_S)^2, g the gradient of a
whole sequence: the diagonal of G in that basis, so no other diagonal is nearer
to G. (The paper's Eq. 20 leaves out the transpose that projects onto Q.)
"""

import jax.numpy as jnp

from influence_jax import linalg, types
from influence_jax.curvature import kfac


def make(eigh: str = 'float64') -> types.Curvature:
  """`eigh`: 'float64' on the host, 'float32' on the device."""
  return types.Curvature(
    stages=(
      kfac.covariance_stage(eigh),
      types.Stage('eigenvalue', _init, _tap, _finish),
    ),
    eigenvalues=lambda factors: factors['Lambda'],
    rotate=kfac.rotate,
    unrotate=kfac.unrotate,
  )


def _init(layer):
  return {'Lambda': jnp.zeros((layer.num_in, layer.num_out))}


def _tap(a_BxTxI, ds_BxTxO, mask_BxT, factors):
  """Each side is rotated where it is smaller: tokens or the formed gradient."""
  del mask_BxT  # ds is zero where no loss depends on a position
  num_positions = a_BxTxI.shape[1]
  Q_A, Q_S = factors['Q_A'], factors['Q_S']
  tokens_in = num_positions < ds_BxTxO.shape[-1]
  tokens_out = num_positions < a_BxTxI.shape[-1]
  if tokens_in:
    a_BxTxI = a_BxTxI @ Q_A
  if tokens_out:
    ds_BxTxO = ds_BxTxO @ Q_S

  def rotate_rest(g_IxO):
    g_IxO = g_IxO if tokens_in else Q_A.T @ g_IxO
    return g_IxO if tokens_out else g_IxO @ Q_S

  return {'Lambda': linalg.sum_of_squares(a_BxTxI, ds_BxTxO, rotate_rest)}


def _finish(factors, sums, counts):
  return {**factors, 'Lambda': sums['Lambda'] / counts.sequences}
