"""Shampoo's eigenbasis, EK-FAC's eigenvalues: for positions that correlate.

Q_A, Q_S are the eigenvectors of the means over sequences of g g^T [I, I] and
g^T g [O, O], g the gradient of a whole sequence: L and R of Gupta et al. 2018
(Shampoo, arXiv 1802.09568, Algorithm 1). Lambda[I, O] is EK-FAC's, the mean of
(Q_A^T g Q_S)^2: only the basis differs. K-FAC's A and S take each position as a
datum, and do not see that those of a sequence add up or cancel; a sequence of
one position adds |ds|^2 a a^T here, a a^T there. Not in Grosse et al. 2023.
"""

import jax
import jax.numpy as jnp

from influence_jax import linalg, types
from influence_jax.curvature import ekfac


def make(eigh: str = 'float64') -> types.Curvature:
  """`eigh`: 'float64' on the host, 'float32' on the device."""
  base = ekfac.make(eigh)
  return base._replace(stages=(_basis_stage(eigh), *base.stages[1:]))


def _basis_stage(eigh: str) -> types.Stage:
  """Leaves Q_A, Q_S, eigenvectors in columns."""

  def finish(factors, sums, counts):
    means = (linalg.mirror(sums[k] / counts.sequences) for k in 'AS')
    Q_A, Q_S = (linalg.psd_eigh(mean, eigh)[1] for mean in means)
    return {**factors, 'Q_A': Q_A, 'Q_S': Q_S}

  return types.Stage('basis', _init, _tap, finish)


def _init(layer):
  return {
    'A': jnp.zeros((layer.num_in, layer.num_in)),
    'S': jnp.zeros((layer.num_out, layer.num_out)),
  }


def _tap(a_BxTxI, ds_BxTxO, mask_BxT, factors):
  """Sums of g g^T and g^T g in the order with the fewest operations."""
  del mask_BxT, factors  # ds is zero where no loss depends on a position
  (T, I), O = a_BxTxI.shape[1:], ds_BxTxO.shape[-1]  # noqa: E741
  by_tokens = 2 * T**2 * (I + O) + T * (I**2 + O**2)
  if by_tokens < I * O * (T + I + O):
    A_IxI, S_OxO = _by_tokens(a_BxTxI, ds_BxTxO), _by_tokens(ds_BxTxO, a_BxTxI)
    return {'A': A_IxI, 'S': S_OxO}
  return _by_gradients(a_BxTxI, ds_BxTxO)


def _by_tokens(a_BxTxI: jax.Array, ds_BxTxO: jax.Array) -> jax.Array:
  """Sum over B of g g^T = a^T (ds ds^T) a, [I, I]."""
  K_BxTxT = ds_BxTxO @ ds_BxTxO.mT
  return jnp.einsum('bti,btj->ij', a_BxTxI, K_BxTxT @ a_BxTxI)


def _by_gradients(a_BxTxI: jax.Array, ds_BxTxO: jax.Array) -> types.Stats:
  """One sequence at a time: memory is one gradient, not the batch's."""

  def add(sums, one):
    g_IxO = jnp.einsum('ti,to->io', *one)
    addend = {'A': linalg.upper_gram(g_IxO.mT), 'S': linalg.upper_gram(g_IxO)}
    return jax.tree.map(jnp.add, sums, addend), None

  zeros = {
    key: jnp.zeros((x.shape[-1],) * 2, x.dtype)
    for key, x in (('A', a_BxTxI), ('S', ds_BxTxO))
  }
  return jax.lax.scan(add, zeros, (a_BxTxI, ds_BxTxO))[0]
