"""Where in the network and in the text influence comes from (Sec. 3.3)."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

from influence_jax import gradients, types


def by_layer(
  values: dict[str, types.PyTree], layers: dict[str, types.Layer]
) -> dict[str, types.PyTree]:
  """{name: [...]} of {path: [*stack, ...]}, block after block.

  A slice of a stack is named like 'blocks/mlp/fc_in[0]'. Scores by layer add up
  to the total (Eq. 30).
  """
  return {
    name: jax.tree.map(lambda x, at=at: x[at], values[path])
    for name, path, at in slices(layers)
  }


def layer_names(layers: dict[str, types.Layer]) -> list[str]:
  """The keys of `by_layer`."""
  return [name for name, _, _ in slices(layers)]


def total(scores: dict[str, jax.Array], layers: dict) -> jax.Array:
  """Sum over layers and stacks of {path: [*stack, ...]}."""
  return sum(
    scores[path].sum(tuple(range(len(layer.stack))))
    for path, layer in layers.items()
  )


def tokenwise(
  model: types.Model,
  params: types.PyTree,
  preconditioned: dict[str, jax.Array],
  batch: types.Batch,
) -> jax.Array:
  """Scores by position [B, T, K] (Eq. 31); the sum over T is the score.

  Position t holds what passes through the layers at t: the token read there is
  input t, the token it helps to predict is target t, one to the right.
  """

  def init(layer):
    num_queries = preconditioned[layer.path].shape[-3]
    return {'scores': jnp.zeros((*batch.mask.shape, num_queries))}

  factors = {path: {'P': x} for path, x in preconditioned.items()}
  stats = gradients.batch_stats(
    model, params, batch, _tokenwise_rule, init, factors
  )
  return total({p: x['scores'] for p, x in stats.items()}, model.layers)


def _tokenwise_rule(a_BxTxI, ds_BxTxO, mask_BxT, factors):
  del mask_BxT

  def one(P_IxO):
    return jnp.einsum('bto,bto->bt', a_BxTxI @ P_IxO, ds_BxTxO)

  scores_KxBxT = jax.lax.map(one, factors['P'])
  return {'scores': jnp.moveaxis(scores_KxBxT, 0, -1)}


def slices(layers) -> list[tuple[str, str, tuple[int, ...]]]:
  """(name, path, index in the stack); layers of one stack turn by turn."""
  runs = itertools.groupby(layers.values(), key=lambda layer: layer.stack)
  return [
    (layer.path + ''.join(f'[{i}]' for i in at), layer.path, at)
    for stack, run in [(stack, [*run]) for stack, run in runs]
    for at in np.ndindex(*stack)
    for layer in run
  ]
