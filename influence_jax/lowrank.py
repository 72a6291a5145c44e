"""Low-rank preconditioned query gradients (Sec. 3.2.2): r (I + O), not I O."""

import jax
import jax.numpy as jnp

from influence_jax import gradients, types


def truncate(
  preconditioned: dict[str, jax.Array], rank: int
) -> dict[str, types.Factors]:
  """{path: {'U': [*stack, K, I, R], 'V': [*stack, K, R, O]}}, U V nearest to P.

  By exact singular value decomposition; R = min(rank, I, O).
  """

  def one(P_KxIxO):
    U, s, V = jnp.linalg.svd(P_KxIxO, full_matrices=False)
    return {'U': (U * s[..., None, :])[..., :rank], 'V': V[..., :rank, :]}

  return {path: one(x) for path, x in preconditioned.items()}


def pairwise(
  model: types.Model,
  params: types.PyTree,
  truncated: dict[str, types.Factors],
  batch: types.Batch,
) -> dict[str, jax.Array]:
  """Scores by layer as in `influence.pairwise`, no gradient being formed."""
  num_rows = len(batch.inputs)

  def init(layer):
    num_queries = truncated[layer.path]['U'].shape[-3]
    return {'scores': jnp.zeros((num_rows, num_queries))}

  stats = gradients.batch_stats(model, params, batch, _rule, init, truncated)
  return {path: x['scores'] for path, x in stats.items()}


def _rule(a_BxTxI, ds_BxTxO, mask_BxT, factors):
  del mask_BxT

  def one(query):
    into_BxTxR = jnp.einsum('bti,ir->btr', a_BxTxI, query['U'])
    out_BxTxR = jnp.einsum('bto,ro->btr', ds_BxTxO, query['V'])
    return jnp.einsum('btr,btr->b', into_BxTxR, out_BxTxR)

  return {'scores': jax.lax.map(one, factors).T}
