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
from jax.sharding import Mesh

from influence_jax import fit_step, processes, sharding, taps, types

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
    step = fit_step.make(model, stage, mesh, targets)
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
    *sharding.put(
      (counts, sums), fit_step.shardings(mesh, layers, counts, sums)
    )
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
    of = fit_step.shardings(mesh, layers, *tree)
    return jax.lax.with_sharding_constraint(tree, of)

  return (
    jax.jit(lambda *tree: placed(jax.tree.map(lay_out, total(tree)))),
    jax.jit(lambda *tree: placed(total(tree))),
  )


def _check_finite(waiting, bar):
  if waiting is None:
    return
  cursor, ids_B, seen = waiting
  wrong, nats = processes.fetch(seen)
  bad = [path for path, num in wrong.items() if num]
  if bad:
    raise ValueError(
      f'non-finite {"loss" if "loss" in bad else "statistics"} at batch '
      f'{cursor} (sequences {np.asarray(ids_B).tolist()}), layers '
      f'{[path for path in bad if path != "loss"]}; nothing after the last '
      'save is kept: check the parameters, or compute in a wider dtype'
    )
  bar.set_postfix_str(f'{nats:.3f} nats a position', refresh=False)


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
