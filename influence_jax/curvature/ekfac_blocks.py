"""EK-FAC with A and S made of diagonal blocks (App. A): bytes fall as 1/blocks.

The basis is blockwise, so that Kronecker blocks A_i (x) S_j, blocks^2 of them,
cover all of W (the paper counts `blocks`). Lambda[I, O] is EK-FAC's in that
basis. Factors are Q_A_0, L_A_0, Q_A_1, ...: M columns a block, one wider in the
first than in the last where they do not divide. One block is EK-FAC.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from influence_jax import linalg, types


def make(blocks: int = 2, eigh: str = 'float64') -> types.Curvature:
  """`blocks` a side, a column at least; `eigh`: where, as in `ekfac`."""
  if blocks < 1:
    raise ValueError(f'blocks must be at least 1, got {blocks}')
  linalg.check_precision(eigh)
  stages = (
    types.Stage(
      'covariance',
      functools.partial(_init_covariance, blocks),
      functools.partial(_tap_covariance, blocks),
      functools.partial(_finish_covariance, eigh),
    ),
    types.Stage('eigenvalue', _init, _tap, _finish),
  )
  return types.Curvature(
    stages,
    eigenvalues=lambda factors: factors['Lambda'],
    rotate=_rotate,
    unrotate=_unrotate,
    rotate_tokens=_rotate_tokens,
    unrotate_sides=_unrotate_sides,
  )


def _split(x_BxI: jax.Array, blocks: int) -> list[jax.Array]:
  return jnp.array_split(x_BxI, min(blocks, x_BxI.shape[-1]), axis=-1)


def _init_covariance(blocks, layer):
  return _tap_covariance(
    blocks, jnp.zeros((1, 1, layer.num_in)), jnp.zeros((1, 1, layer.num_out)),
    jnp.zeros((1, 1)), {},
  )  # fmt: skip


def _tap_covariance(blocks, a_BxTxI, ds_BxTxO, mask_BxT, factors):
  del factors
  found = {'positions': mask_BxT.sum()}
  for side, x in (('A', a_BxTxI), ('S', ds_BxTxO)):
    for n, x_BxTxM in enumerate(_split(x * mask_BxT[..., None], blocks)):
      found[f'{side}_{n}'] = linalg.upper_gram(x_BxTxM)
  return found


def _finish_covariance(eigh, factors, sums, counts):
  del counts
  found, positions = {}, sums['positions']
  for key in [key for key in sums if key != 'positions']:
    M_MxM = linalg.mirror(sums[key] / positions)
    L_M, Q_MxM = linalg.psd_eigh(M_MxM, eigh)
    found |= {f'L_{key}': L_M, f'Q_{key}': Q_MxM}
  return {**factors, **found}


def _init(layer):
  return {'Lambda': jnp.zeros((layer.num_in, layer.num_out))}


def _tap(a_BxTxI, ds_BxTxO, mask_BxT, factors):
  del mask_BxT  # ds is zero where no loss depends on a position
  rotated = _rotate_tokens(factors, a_BxTxI, ds_BxTxO)
  return {'Lambda': linalg.sum_of_squares(*rotated)}


def _finish(factors, sums, counts):
  return {**factors, 'Lambda': sums['Lambda'] / counts.sequences}


def _rotate(factors, g_IxO):
  Q_A, Q_S = _basis(factors, 'A'), _basis(factors, 'S')
  return _times(_times(g_IxO.mT, Q_A).mT, Q_S)


def _unrotate(factors, g_IxO):
  Q_A, Q_S = _transposed(factors)
  return _times(_times(g_IxO.mT, Q_A).mT, Q_S)


def _unrotate_sides(factors, x_RxI, y_RxO):
  Q_A, Q_S = _transposed(factors)
  return _times(x_RxI, Q_A), _times(y_RxO, Q_S)


def _rotate_tokens(factors, a_BxTxI, ds_BxTxO):
  Q_A, Q_S = _basis(factors, 'A'), _basis(factors, 'S')
  return linalg.rotate_tokens(
    a_BxTxI, ds_BxTxO, lambda x: _times(x, Q_A), lambda x: _times(x, Q_S)
  )


def _basis(factors: types.Factors, side: str) -> list[jax.Array]:
  num = sum(key.startswith(f'Q_{side}_') for key in factors)
  return [factors[f'Q_{side}_{n}'] for n in range(num)]


def _transposed(factors: types.Factors) -> list[list[jax.Array]]:
  return [[Q.T for Q in _basis(factors, side)] for side in 'AS']


def _times(x_BxI: jax.Array, blocks: list[jax.Array]) -> jax.Array:
  """x blockdiag(blocks), whatever the leading axes."""
  ends = np.cumsum([len(Q) for Q in blocks])[:-1]
  parts = zip(jnp.split(x_BxI, ends, axis=-1), blocks, strict=True)
  return jnp.concatenate([x_BxM @ Q for x_BxM, Q in parts], axis=-1)
