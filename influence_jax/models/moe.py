"""Mixture of experts (Shazeer et al. 2017, arXiv 1701.06538), as OLMoE has it.

Each position goes to k of E MLPs, its experts:

    p = softmax(x router);  y = sum_e w_e expert_e(x)

with w_e = p_e for the k largest p_e and 0 for the others; `norm_routed` divides
them by their sum. No position is dropped, and no loss asks for balance. Experts
are one module with a leading axis E of parameters (under scan L, E): taps find
`mlp/experts/gate`, `up` and `down`, each with that stack, and `mlp/router`, a
dense layer like others.

Every expert computes every position: exact and of static shape, at E / k times
the multiplications of the routed ones, and with all E experts' activations kept
for the backward pass.

An expert's layers see its routed positions alone. With r_e[t] 1 at those that
are routed to e and count, else 0, and N sequences in all, those included that
send e nothing, K-FAC has, sums over all positions,

    A_e = sum r_e a a^T / n_e,  S_e = sum r_e ds ds^T / n_e,  n_e = sum r_e

and T_mean = n_e / N, so that T_mean A_e (x) S_e is the mean over sequences that
it is of a dense layer. EK-FAC's Lambda is the mean over N too. Sums of a ds^T
need no mask: ds holds the factor w_e[t]. An expert that no position reaches has
no factors: fits refuse it.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


class Moe(nn.Module):
  """Takes the place of one `expert`: x_BxTxD -> [B, T, D]."""

  config: Any  # the decoder's
  dense: Callable  # (config, width, name, bias) -> module
  expert: type[nn.Module]  # of a config; (x_BxTxD, routed_BxT) -> [B, T, D]

  @nn.compact
  def __call__(self, x_BxTxD: jax.Array) -> jax.Array:
    c = self.config
    router = self.dense(c, c.num_experts, 'router', False)
    w_ExBxT, routed_ExBxT = route(router(x_BxTxD), c.num_routed, c.norm_routed)
    experts = nn.vmap(
      self.expert,
      in_axes=(None, 0),
      axis_size=c.num_experts,
      variable_axes={'params': 0},
      split_rngs={'params': True},
    )(c, name='experts')
    y_ExBxTxD = experts(x_BxTxD, routed_ExBxT)
    return jnp.einsum('ebt,ebtd->btd', w_ExBxT.astype(c.dtype), y_ExBxTxD)


def route(
  scores_BxTxE: jax.Array, num_routed: int, normalised: bool
) -> tuple[jax.Array, jax.Array]:
  """Weights [E, B, T], float32 or wider, and whether routed, [E, B, T] bool."""
  wide = jnp.promote_types(scores_BxTxE.dtype, jnp.float32)
  p_BxTxE = jax.nn.softmax(scores_BxTxE.astype(wide))
  _, top_BxTxk = jax.lax.top_k(p_BxTxE, num_routed)
  one_hot = jax.nn.one_hot(top_BxTxk, p_BxTxE.shape[-1], dtype=bool)
  routed_BxTxE = one_hot.any(-2)
  w_BxTxE = jnp.where(routed_BxTxE, p_BxTxE, 0)
  if normalised:
    w_BxTxE /= w_BxTxE.sum(-1, keepdims=True)
  return jnp.moveaxis(w_BxTxE, -1, 0), jnp.moveaxis(routed_BxTxE, -1, 0)
