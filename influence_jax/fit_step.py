"""One step of a fit: a batch's statistics, added to those of its shard.

A tap's rule runs on each shard of the mesh's axis `data` by itself, so that
counts and sums [P, ...] stay where they are; the model's own pass is jit's to
split.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import flatten_util
from jax.sharding import Mesh, PartitionSpec

from influence_jax import gradients, plain, sharding, taps, types


def make(
  model: types.Model, stage: types.Stage, mesh: Mesh, targets: str
) -> Callable:
  """Jitted (params, factors, rng, batch, counts, sums) ->

  (counts, sums, ({'loss' or path: how many numbers of loss or sums are not
  finite}, the loss in nats a position)). Donates counts and sums.
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
    mask_PxB = batch.mask.reshape(mesh.shape['data'], -1, *batch.mask.shape[1:])
    counts = jax.tree.map(jnp.add, counts, jax.vmap(count)(mask_PxB))
    # As they came: donated, and nothing is compiled again for the next batch
    lie = shardings(mesh, model.layers, counts, sums)
    counts, sums = jax.lax.with_sharding_constraint((counts, sums), lie)
    return counts, sums, _watch(mesh, lie[1], sums, loss_B, batch.mask)

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


def _watch(mesh, lie, sums, loss_B, mask):
  """What `step` returns last; one collective, however many layers there are."""

  def on_device(sums, loss_B, mask):
    wrong = {path: _num_wrong(stats) for path, stats in sums.items() if stats}
    wrong['loss'] = _num_wrong(loss_B)
    seen = wrong, loss_B.sum(), mask.sum()
    flat, unravel = flatten_util.ravel_pytree(seen)
    return unravel(jax.lax.psum(flat, sharding.AXES))

  split, whole = PartitionSpec('data'), PartitionSpec()
  wrong, nats, positions = jax.shard_map(
    on_device,
    mesh=mesh,
    in_specs=(jax.tree.map(lambda x: x.spec, lie), split, split),
    out_specs=whole,
    check_vma=False,
  )(sums, loss_B, mask)
  return wrong, nats / jnp.maximum(positions, 1)


def _num_wrong(tree) -> jax.Array:
  counted = jax.tree.map(lambda x: (~jnp.isfinite(x)).sum(), tree)
  return jnp.stack(jax.tree.leaves(counted)).sum().astype(float)
