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
    rotate_tokens=kfac.rotate_tokens,
    unrotate_sides=kfac.unrotate_sides,
  )


def _init(layer):
  return {'Lambda': jnp.zeros((layer.num_in, layer.num_out))}


def _tap(a_BxTxI, ds_BxTxO, mask_BxT, factors):
  del mask_BxT  # ds is zero where no loss depends on a position
  rotated = kfac.rotate_tokens(factors, a_BxTxI, ds_BxTxO)
  return {'Lambda': linalg.sum_of_squares(*rotated)}


def _finish(factors, sums, counts):
  return {**factors, 'Lambda': sums['Lambda'] / counts.sequences}
