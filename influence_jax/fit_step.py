"""One step of a fit: a batch's statistics, added to those of its shard.

A tap's rule runs on each shard of the mesh's axis `data` by itself, so that
counts and sums [P, ...] stay where they are; the model's own pass is jit's to
split.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from influence_jax import gradients, plain, sharding, taps, types


def make(
  model: types.Model, stage: types.Stage, mesh: Mesh, targets: str
) -> Callable:
  """Jitted (params, factors, rng, batch, counts, sums) ->

  (counts, sums, ({'loss' or path: [*stack] are loss or sums finite}, the loss
  in nats a position)). Donates counts and sums.
  """
  dense, others = plain.split(model.layers)
  rule = sharding.by_shard(mesh, stage.tap)

  def add_dense(params, factors, rng, batch, sums):
    def loss_fn(params):
      outputs = model.apply_fn(params, batch.inputs)
      drawn = batch.targets
      if targets == 'model':
        fixed = jax.lax.stop_gradient(outputs)
        drawn = model.loss.sample(rng, fixed, batch.ids)
      loss_B = model.loss.per_sequence(outputs, drawn, batch.mask)
      return loss_B.sum(), (loss_B, drawn)

    # nn.scan wants the stack in front of P
    slots = _move_shards(dense, {p: sums[p] for p in dense}, inwards=True)
    addend, (loss_B, drawn) = taps.layer_stats(
      loss_fn, params, dense, rule, slots, factors, batch.mask
    )
    addend = _move_shards(dense, addend, inwards=False)
    return jax.tree.map(jnp.add, {p: sums[p] for p in dense}, addend), (
      loss_B,
      batch._replace(targets=drawn),
    )

  @functools.partial(jax.jit, donate_argnums=(4, 5))
  def step(params, factors, rng, batch, counts, sums):
    added, (loss_B, drawn) = add_dense(params, factors, rng, batch, sums)
    sums = sums | added
    if mine := {path: sums[path] for path in others if sums[path]}:
      sums |= _add_plain(model, mesh, params, drawn, mine)
    finite = {
      path: _all_finite(sums[path], len(layer.stack))
      for path, layer in model.layers.items()
      if sums[path]
    }
    finite['loss'] = jnp.isfinite(loss_B).all()
    mask_PxB = batch.mask.reshape(mesh.shape['data'], -1, *batch.mask.shape[1:])
    counts = jax.tree.map(jnp.add, counts, jax.vmap(count)(mask_PxB))
    nats = loss_B.sum() / jnp.maximum(batch.mask.sum(), 1)
    # As they came: donated, and nothing is compiled again for the next batch
    counts, sums = jax.lax.with_sharding_constraint(
      (counts, sums), shardings(mesh, model.layers, counts, sums)
    )
    return counts, sums, sharding.whole(mesh, (finite, nats))

  return step


def _add_plain(model, mesh, params, batch, sums):
  """The sums [P, ...] of plain layers with a batch's, each shard by itself."""

  def on_shard(params, batch, sums):
    own = jax.tree.map(lambda x: x[0], sums)
    own = gradients.plain_sums(model, params, batch, plain.squares, own)
    return jax.tree.map(lambda x: x[None], own)

  whole, split = PartitionSpec(), PartitionSpec('data')
  return jax.shard_map(
    on_shard,
    mesh=mesh,
    in_specs=(whole, split, split),
    out_specs=split,
    check_vma=False,
  )(params, batch, sums)


def shardings(mesh: Mesh, layers: dict, counts, sums) -> tuple:
  """Where counts and sums [P, ...] lie, P over `data`."""
  by_shard = functools.partial(sharding.of_layers, mesh, by_shard=True)
  nothing = types.Layer('', 1, 1, False)  # a number is no matrix
  of_counts = by_shard({'': nothing}, {'': counts})['']
  return of_counts, by_shard(layers, sums)


def count(mask: jax.Array) -> types.Counts:
  """Sequences and positions of a mask [B] or [B, T] that are not padding."""
  mask_BxT = mask.reshape(mask.shape[0], -1)
  dtype = jnp.result_type(float)
  return types.Counts(
    sequences=mask_BxT.any(axis=1).sum().astype(dtype),
    tokens=mask_BxT.sum().astype(dtype),
  )


def _move_shards(layers, stats, inwards: bool):
  """Axis P from before the stack to behind it, or back."""

  def move(num_stack, x):
    ends = (0, num_stack) if inwards else (num_stack, 0)
    return jnp.moveaxis(x, *ends)

  return {
    path: jax.tree.map(functools.partial(move, len(layer.stack)), stats[path])
    for path, layer in layers.items()
  }


def _all_finite(stats: types.Stats, num_stack: int) -> jax.Array:
  """[*stack] of statistics [P, *stack, ...]."""

  def one(x):
    return jnp.isfinite(x).all(axis=(0, *range(1 + num_stack, x.ndim)))

  return functools.reduce(jnp.logical_and, map(one, jax.tree.leaves(stats)))
