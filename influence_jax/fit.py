"""Runs a curvature's stages over batches; can be stopped after any batch.

Sums are additive over sequences, batches and devices. Each device adds up its
own rows of the batches (leading axis P of counts and sums, split over mesh axis
`data`); they meet once, when the stage is finished.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tqdm
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from influence_jax import gradients, plain, taps, types

TARGETS = ('model', 'data')


class FitState(NamedTuple):
  """All that a fit needs to go on: its whole checkpoint."""

  stage: int  # index of the stage that runs; number of stages when done
  cursor: int  # batches of this stage that are in the sums
  counts: types.Counts  # [P] each
  sums: dict[str, types.Stats]  # [P, *stack, ...] each
  factors: dict[str, types.Factors]  # [*stack, ...] each, of finished stages


def start(
  curvature: types.Curvature, layers: dict, num_shards: int = 1
) -> FitState:
  return _enter_stage(curvature, layers, 0, {p: {} for p in layers}, num_shards)


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
    params: nested dict, replicated over the mesh.
    get_batch: cursor in [0, num_batches) -> Batch, its rows a multiple of the
      mesh's `data` axis.
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
  num_shards = mesh.shape['data']
  state = state or start(curvature, model.layers, num_shards)
  state = _with_shards(state, num_shards)
  for index in range(state.stage, len(curvature.stages)):
    stage = curvature.stages[index]
    step = make_step(model, stage, mesh, targets)
    bar = tqdm.tqdm(
      range(state.cursor, num_batches),
      desc=f'fit {stage.name}',
      initial=state.cursor,
      total=num_batches,
      disable=quiet,
      mininterval=1.0,
    )
    run = functools.partial(step, params, state.factors)
    state = _run_stage(
      run, state, get_batch, jax.random.fold_in(rng, index), mesh, bar, save,
      save_every,
    )  # fmt: skip
    factors = finish_stage(stage, model.layers, state)
    state = _enter_stage(
      curvature, model.layers, index + 1, factors, num_shards
    )
    save(state)
  return state


def make_step(
  model: types.Model, stage: types.Stage, mesh: Mesh, targets: str
) -> Callable:
  """Jitted (params, factors, rng, batch, counts, sums) ->

  (counts, sums, {'loss' or path: [P, *stack] are loss or sums finite}, [P] loss
  of the batch in nats). Donates counts and sums.
  """

  dense, others = plain.split(model.layers)

  def add_batch(params, factors, rng, batch, counts, sums):
    def loss_fn(params):
      outputs = model.apply_fn(params, batch.inputs)
      drawn = batch.targets
      if targets == 'model':
        fixed = jax.lax.stop_gradient(outputs)
        drawn = model.loss.sample(rng, fixed, batch.ids)
      loss_B = model.loss.per_sequence(outputs, drawn, batch.mask)
      return loss_B.sum(), (loss_B.sum(), drawn)

    slots = {path: sums[path] for path in dense}
    addend, (loss, drawn) = taps.layer_stats(
      loss_fn, params, dense, stage.tap, slots, factors, batch.mask
    )
    sums = sums | jax.tree.map(jnp.add, slots, addend)
    if mine := {path: sums[path] for path in others if sums[path]}:
      batch = batch._replace(targets=drawn)
      sums |= gradients.plain_sums(model, params, batch, plain.squares, mine)
    finite = {
      path: _all_finite(sums[path], len(layer.stack))
      for path, layer in model.layers.items()
      if sums[path]
    }
    finite['loss'] = jnp.isfinite(loss)
    counts = jax.tree.map(jnp.add, counts, count(batch.mask))
    return counts, sums, finite, loss

  def on_shard(params, factors, rng, batch, counts, sums):
    own = functools.partial(jax.tree.map, lambda x: x[0])
    result = add_batch(params, factors, rng, batch, own(counts), own(sums))
    return jax.tree.map(lambda x: x[None], result)

  whole, split = PartitionSpec(), PartitionSpec('data')
  return jax.jit(
    jax.shard_map(
      on_shard,
      mesh=mesh,
      in_specs=(whole, whole, whole, split, split, split),
      out_specs=split,
      check_vma=False,
    ),
    donate_argnums=(4, 5),
  )


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

  Raises:
    ValueError: no sequence was counted, or a layer's sums are not finite.
  """
  # On the host: each operation on a device would be a program to compile.
  state = jax.device_get(state)
  counts, sums = jax.tree.map(lambda x: x.sum(0), (state.counts, state.sums))
  if not counts.sequences:
    raise ValueError('no sequence to fit on: every row is masked')

  def finish_slice(path, at):
    cut = functools.partial(jax.tree.map, lambda x: x[at])
    try:
      if not all(np.isfinite(x).all() for x in cut(sums[path]).values()):
        raise ValueError('sums are not finite')
      return stage.finish(cut(state.factors[path]), cut(sums[path]), counts)
    except ValueError as e:
      place = f'layer {path}{list(at) or ""}, {stage.name}'
      raise ValueError(f'{place}: {e}') from e

  factors = {}
  for path, layer in layers.items():
    slices = [finish_slice(path, at) for at in np.ndindex(*layer.stack)]
    factors[path] = jax.tree.map(
      lambda *x, stack=layer.stack: np.reshape(x, (*stack, *x[0].shape)),
      *slices,
    )
  return jax.device_put(factors)


def _run_stage(step, state, get_batch, rng, mesh, bar, save, save_every):
  split = NamedSharding(mesh, PartitionSpec('data'))
  counts, sums = jax.device_put(  # a copy: the step donates what it is given
    (state.counts, state.sums), split, may_alias=False
  )
  waiting = None  # the batch under way while the next one is dispatched
  for cursor in bar:
    batch = get_batch(cursor)
    counts, sums, finite, loss = step(
      rng, jax.device_put(batch, split), counts, sums
    )
    _check_finite(waiting, bar)
    waiting = (cursor, batch, finite, loss)
    if (cursor + 1) % save_every == 0:
      _check_finite(waiting, bar)
      save(
        state._replace(
          cursor=cursor + 1,
          counts=jax.device_get(counts),
          sums=jax.device_get(sums),
        )
      )
  _check_finite(waiting, bar)
  return state._replace(
    counts=jax.device_get(counts), sums=jax.device_get(sums)
  )


def _check_finite(waiting, bar):
  if waiting is None:
    return
  cursor, batch, finite, loss = waiting
  bad = [path for path, x in finite.items() if not np.asarray(x).all()]
  if bad:
    raise ValueError(
      f'non-finite {"loss" if "loss" in bad else "statistics"} at batch '
      f'{cursor} (sequences {np.asarray(batch.ids).tolist()}), layers '
      f'{[path for path in bad if path != "loss"]}; nothing after the last '
      'save is kept: check the parameters, or compute in a wider dtype'
    )
  mask = np.asarray(batch.mask)
  nats = float(np.asarray(loss).sum()) / max(float(mask.sum()), 1.0)
  bar.set_postfix_str(f'{nats:.3f} nats a position', refresh=False)


def _enter_stage(curvature, layers, index, factors, num_shards) -> FitState:
  done = index == len(curvature.stages)
  shapes = {} if done else jax.eval_shape(
    lambda: taps.zeros(layers, curvature.stages[index].init)
  )  # fmt: skip
  sums = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
  counts = types.Counts(*[np.zeros((), jnp.result_type(float))] * 2)
  return _with_shards(
    FitState(
      index, 0, *jax.tree.map(lambda x: x[None], (counts, sums)), factors
    ),
    num_shards,
  )


def _with_shards(state: FitState, num_shards: int) -> FitState:
  """The same sums laid out for `num_shards` devices; untouched if they are."""

  def lay_out(x):
    if len(x) == num_shards:
      return x
    rest = jnp.zeros((num_shards - 1, *x.shape[1:]), x.dtype)
    return jnp.concatenate([x.sum(0, keepdims=True), rest])

  counts, sums = jax.tree.map(lay_out, (state.counts, state.sums))
  return state._replace(counts=types.Counts(*counts), sums=sums)


def _all_finite(stats: types.Stats, num_stack: int) -> jax.Array:
  def one(x):
    return jnp.isfinite(x).all(axis=tuple(range(num_stack, x.ndim)))

  return functools.reduce(jnp.logical_and, map(one, jax.tree.leaves(stats)))
