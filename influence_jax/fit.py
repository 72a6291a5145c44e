"""Runs a curvature's stages over batches; can be stopped after any batch.

Sums are additive over sequences, batches and devices. Each shard of the mesh's
axis `data` adds up its own rows of the batches (leading axis P of counts and
sums); they meet when a state is saved and when the stage is finished, not
before. Parameters, sums and factors lie on the mesh as `sharding` says.

In many processes a state is of all of them, but `get_batch` needs to read the
rows of its own process alone; the eigendecompositions are shared out.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tqdm
from jax.sharding import Mesh, PartitionSpec

from influence_jax import gradients, plain, processes, sharding, taps, types

TARGETS = ('model', 'data')


class FitState(NamedTuple):
  """All that a fit needs to go on: its whole checkpoint."""

  stage: int  # index of the stage that runs; number of stages when done
  cursor: int  # batches of this stage that are in the sums
  counts: types.Counts  # [P] each; [1] when saved
  sums: dict[str, types.Stats]  # [P, *stack, ...] each; P = 1 when saved
  factors: dict[str, types.Factors]  # [*stack, ...] each, of finished stages


def start(
  curvature: types.Curvature, layers: dict, num_shards: int = 1
) -> FitState:
  """Before the first batch: zeros."""
  return _zeros(curvature, layers, 0, {p: {} for p in layers}, num_shards)


def fit(
  curvature: types.Curvature,
  model: types.Model,
  params: types.PyTree,
  num_batches: int,
  get_batch: Callable[[int], types.Batch],
  rng: jax.Array,
  *,
  mesh: Mesh,
  targets: str = 'model',
  state: FitState | None = None,
  save: Callable[[FitState], Any] = lambda state: None,
  save_every: int = 100,
  quiet: bool = False,
) -> FitState:
  """The state with all factors fitted; goes on from `state` if there is one.

  Args:
    params: nested dict of arrays, where they lie.
    get_batch: cursor in [0, num_batches) -> Batch.
    rng: key of the pseudo-targets; folded with the stage and a sequence's id,
      so that neither batching nor a restart changes a draw.
    targets: 'model' draws targets from the model (the Fisher matrix), 'data'
      takes the data's own (the empirical Fisher).
    save: called after every `save_every` batches and at the end of each stage.

  Raises:
    ValueError: no batches; a loss or statistic is not finite (names layer and
      batch; nothing is saved after it); another set of targets.
  """
  if targets not in TARGETS:
    raise ValueError(f'targets must be one of {TARGETS}, got {targets!r}')
  if num_batches < 1:
    raise ValueError('there are no batches to fit on: expected at least one')
  layers = model.layers
  state = state or start(curvature, layers)
  for index in range(state.stage, len(curvature.stages)):
    stage = curvature.stages[index]
    step = make_step(model, stage, mesh, targets)
    factors = sharding.put(
      state.factors, sharding.of_layers(mesh, layers, state.factors)
    )
    bar = tqdm.tqdm(
      range(state.cursor, num_batches),
      desc=f'fit {stage.name}',
      initial=state.cursor,
      total=num_batches,
      disable=quiet or not processes.is_first(),
      mininterval=1.0,
    )
    run = functools.partial(
      step, params, factors, jax.random.fold_in(rng, index)
    )
    state = _run_stage(
      run, state, get_batch, mesh, layers, bar, save, save_every
    )
    factors = finish_stage(stage, layers, state)
    state = _zeros(curvature, layers, index + 1, factors)
    save(state)
  return state


def make_step(
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

  def add_plain(params, batch, sums):
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

  @functools.partial(jax.jit, donate_argnums=(4, 5))
  def step(params, factors, rng, batch, counts, sums):
    added, (loss_B, drawn) = add_dense(params, factors, rng, batch, sums)
    sums = sums | added
    if mine := {path: sums[path] for path in others if sums[path]}:
      sums |= add_plain(params, drawn, mine)
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


def finish_stage(
  stage: types.Stage, layers: dict, state: FitState
) -> dict[str, types.Factors]:
  """Factors after `stage`; one slice of a stack at a time.

  Layers are shared out over the processes by the cost of their decompositions.

  Raises:
    ValueError: no sequence was counted, or a layer's sums are not finite.
  """
  # On the host: each operation on a device would be a program to compile.
  counts = jax.tree.map(lambda x: x.sum(0), processes.fetch(state.counts))
  if not counts.sequences:
    raise ValueError('no sequence to fit on: every row is masked')

  def finish_slice(path, factors, sums, at):
    cut = functools.partial(jax.tree.map, lambda x: x[at])
    try:
      if not all(np.isfinite(x).all() for x in cut(sums).values()):
        raise ValueError('sums are not finite')
      return stage.finish(cut(factors), cut(sums), counts)
    except ValueError as e:
      place = f'layer {path}{list(at) or ""}, {stage.name}'
      raise ValueError(f'{place}: {e}') from e

  def finish(path, given):
    factors, sums = given
    slices = [
      finish_slice(path, factors, sums, at)
      for at in np.ndindex(*layers[path].stack)
    ]
    return jax.tree.map(
      lambda *x: np.reshape(x, (*layers[path].stack, *x[0].shape)), *slices
    )

  def collect(path):
    factors, sums = processes.fetch((state.factors[path], state.sums[path]))
    return factors, jax.tree.map(lambda x: x.sum(0), sums)

  costs = {
    path: float(np.prod(x.stack)) * (x.num_in**3 + x.num_out**3)
    for path, x in layers.items()
  }
  return processes.shared_out(costs, collect, finish)


def _run_stage(step, state, get_batch, mesh, layers, bar, save, save_every):
  spread, add_up = _between(mesh, layers)
  counts, sums = state.counts, state.sums
  counts, sums = spread(
    *sharding.put((counts, sums), shardings(mesh, layers, counts, sums))
  )
  waiting = None  # the batch under way while the next one is dispatched
  for cursor in bar:
    batch = get_batch(cursor)
    placed = sharding.shard_batch(mesh, batch)
    counts, sums, seen = step(placed, counts, sums)
    _check_finite(waiting, bar)
    waiting = cursor, batch.ids, seen
    if (cursor + 1) % save_every == 0:
      _check_finite(waiting, bar)
      counts, sums = add_up(counts, sums)
      save(state._replace(cursor=cursor + 1, counts=counts, sums=sums))
      counts, sums = spread(counts, sums)
  _check_finite(waiting, bar)
  counts, sums = add_up(counts, sums)
  return state._replace(counts=counts, sums=sums)


def _between(mesh, layers) -> tuple[Callable, Callable]:
  """Jitted (counts, sums) -> the same: to sums by shard, [P, ...], with zeros

  for all but the first; and to sums over shards, [1, ...]. What is sent between
  the shards in a fit is sent here.
  """

  def total(tree):
    return jax.tree.map(lambda x: x.sum(0, keepdims=True), tree)

  def lay_out(x):
    rest = [(0, mesh.shape['data'] - 1)] + [(0, 0)] * (x.ndim - 1)
    return jnp.pad(x, rest)

  def placed(tree):
    of = shardings(mesh, layers, *tree)
    return jax.lax.with_sharding_constraint(tree, of)

  return (
    jax.jit(lambda *tree: placed(jax.tree.map(lay_out, total(tree)))),
    jax.jit(lambda *tree: placed(total(tree))),
  )


def _check_finite(waiting, bar):
  if waiting is None:
    return
  cursor, ids_B, seen = waiting
  finite, nats = processes.fetch(seen)
  bad = [path for path, x in finite.items() if not x.all()]
  if bad:
    raise ValueError(
      f'non-finite {"loss" if "loss" in bad else "statistics"} at batch '
      f'{cursor} (sequences {np.asarray(ids_B).tolist()}), layers '
      f'{[path for path in bad if path != "loss"]}; nothing after the last '
      'save is kept: check the parameters, or compute in a wider dtype'
    )
  bar.set_postfix_str(f'{nats:.3f} nats a position', refresh=False)


def _move_shards(layers, stats, inwards: bool):
  """Axis P from before the stack to behind it, or back."""

  def move(num_stack, x):
    ends = (0, num_stack) if inwards else (num_stack, 0)
    return jnp.moveaxis(x, *ends)

  return {
    path: jax.tree.map(functools.partial(move, len(layer.stack)), stats[path])
    for path, layer in layers.items()
  }


def _zeros(curvature, layers, index, factors, num_shards=1) -> FitState:
  """The state in which stage `index` has seen nothing."""
  done = index == len(curvature.stages)
  shapes = {} if done else jax.eval_shape(
    lambda: taps.zeros(layers, curvature.stages[index].init)
  )  # fmt: skip
  sums = jax.tree.map(
    lambda x: np.zeros((num_shards, *x.shape), x.dtype), shapes
  )
  counts = types.Counts(*[np.zeros(num_shards, jnp.result_type(float))] * 2)
  return FitState(index, 0, counts, sums, factors)


def _all_finite(stats: types.Stats, num_stack: int) -> jax.Array:
  """[*stack] of statistics [P, *stack, ...]."""

  def one(x):
    return jnp.isfinite(x).all(axis=(0, *range(1 + num_stack, x.ndim)))

  return functools.reduce(jnp.logical_and, map(one, jax.tree.leaves(stats)))
