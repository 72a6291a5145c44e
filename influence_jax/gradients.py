"""Per-sequence gradients: by vmap for any parameter, by taps where dense."""

import re
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import traverse_util

from influence_jax import taps, types


def sequence_gradients(
  model: types.Model, params: types.PyTree, batch: types.Batch, pattern: str
) -> dict[str, jax.Array]:
  """Gradients of every sequence's loss, {path: [B, ...]}: the plain road.

  Covers any parameter, dense or not; `pattern` is searched in '/'-joined paths
  (kernels and biases have their own). Memory is B times the parameters chosen.

  Raises:
    ValueError: no parameter matches.
  """
  flat = traverse_util.flatten_dict(params, sep='/')
  chosen = {p: x for p, x in flat.items() if re.search(pattern, p)}
  if not chosen:
    raise ValueError(f'no parameter matches {pattern!r}; there are {[*flat]}')

  def loss_fn(chosen, *row):
    inputs, targets, mask = (x[None] for x in row)
    merged = traverse_util.unflatten_dict({**flat, **chosen}, sep='/')
    outputs = model.apply_fn(merged, inputs)
    return model.loss.per_sequence(outputs, targets, mask)[0]

  per_row = jax.vmap(jax.grad(loss_fn), in_axes=(None, 0, 0, 0))
  return per_row(chosen, batch.inputs, batch.targets, batch.mask)


def layer_gradients(
  model: types.Model, params: types.PyTree, batch: types.Batch
) -> dict[str, jax.Array]:
  """Gradients of every sequence's loss, {path: [*stack, B, I, O]}, by taps.

  Of a query's batch, whose mask is its completion, they are those of
  -f = -log p(completion | prompt); the sign of a score comes out right since a
  sequence's loss carries the same minus.
  """
  num_rows = len(batch.inputs)

  def init(layer):
    return {'g': jnp.zeros((num_rows, layer.num_in, layer.num_out))}

  stats = batch_stats(model, params, batch, _gradient_rule, init, {})
  return {path: x['g'] for path, x in stats.items()}


def batch_stats(
  model: types.Model,
  params: types.PyTree,
  batch: types.Batch,
  rule: Callable,
  init: Callable,
  factors: dict[str, types.Factors],
) -> dict[str, types.Stats]:
  """What `rule` makes of a batch's own loss; `init` gives the slots' shapes."""

  def loss_fn(params):
    outputs = model.apply_fn(params, batch.inputs)
    loss_B = model.loss.per_sequence(outputs, batch.targets, batch.mask)
    return loss_B.sum(), None

  slots = taps.zeros(model.layers, init)
  return taps.layer_stats(
    loss_fn, params, model.layers, rule, slots, factors, batch.mask
  )[0]


def _gradient_rule(a_BxTxI, ds_BxTxO, mask_BxT, factors):
  del mask_BxT, factors  # ds is zero where no loss depends on a position
  return {'g': jnp.einsum('bti,bto->bio', a_BxTxI, ds_BxTxO)}
