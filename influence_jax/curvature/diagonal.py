"""G = diag(D), D the mean over sequences of the squared gradient."""

import jax.numpy as jnp

from influence_jax import linalg, types


def make() -> types.Curvature:
  return types.Curvature(
    stages=(types.Stage('diagonal', _init, _tap, _finish),),
    eigenvalues=lambda factors: factors['D'],
  )


def _init(layer):
  return {'D': jnp.zeros((layer.num_in, layer.num_out))}


def _tap(a_BxTxI, ds_BxTxO, mask_BxT, factors):
  del mask_BxT, factors  # ds is zero where no loss depends on a position
  return {'D': linalg.sum_of_squares(a_BxTxI, ds_BxTxO)}


def _finish(factors, sums, counts):
  return {**factors, 'D': sums['D'] / counts.sequences}
