"""What the library's own stages will cost: `planner`'s figures for real steps.

Shapes of factors and queries come from the curvature's own functions, so that a
new approximation is planned without a line of code here.
"""

import functools
import math
from collections.abc import Callable
from typing import Any
from unittest import mock

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from influence_jax import (
  contraction,
  fit_step,
  gradients,
  influence,
  linalg,
  lowrank,
  plain,
  planner,
  scan,
  sharding,
  taps,
  training,
  types,
)

_EIGH = 6 * 8  # bytes / n^2 on the host: float64 copies, vectors, workspace
_KEPT = 3  # checkpoints on disk while one is written


def factors_of(
  curvature: types.Curvature, layers: dict, num_stages: int | None = None
) -> tuple[dict[str, types.Factors], list[int]]:
  """Factors after the first stages (None: all), as shapes, and n of every

  [n, n] eigendecomposition on the way.
  """
  factors, sizes = {path: {} for path in layers}, []

  def finish(stage, path, layer):
    def psd_eigh(matrix_IxI, precision='float64'):
      del precision
      sizes.extend([len(matrix_IxI)] * math.prod(layer.stack))
      return matrix_IxI[0], matrix_IxI

    number = jax.ShapeDtypeStruct((), jnp.result_type(float))
    counts = types.Counts(number, number)
    sums = jax.eval_shape(lambda: stage.init(layer))
    # The real one runs LAPACK on the host, which shapes cannot
    with mock.patch.object(linalg, 'psd_eigh', psd_eigh):
      return jax.eval_shape(  # anew: a trace of before would run no eigh
        lambda *args: stage.finish(*args), factors[path], sums, counts
      )

  for stage in curvature.stages[:num_stages]:
    factors = {path: finish(stage, path, x) for path, x in layers.items()}
  return _stacked(layers, factors), sizes


def queries_of(
  layers: dict, num_queries: int, rank: int | None
) -> contraction.Queries:
  """Shapes of K queries; whole if rank is None."""

  def one(layer):
    K, I, O = num_queries, layer.num_in, layer.num_out  # noqa: E741
    if rank is None:
      return {'P': jnp.zeros((I, O, K))}
    R = min(rank, I, O)
    return {'U': jnp.zeros((K, I, R)), 'V': jnp.zeros((K, R, O))}

  found = jax.eval_shape(lambda: {p: one(x) for p, x in layers.items()})
  return _stacked(layers, found)


def train_cost(
  net: nn.Module,
  config: training.TrainConfig,
  over: planner.Passes,
  *,
  mesh: Mesh,
  place: Callable | None = None,
) -> planner.Cost:
  """Of `training.train`.

  Args:
    over: the batches of all epochs.
    place: shapes -> the same, which say where they lie; None: whole.
  """
  place = place or functools.partial(sharding.replicate, mesh)
  schedule = training.make_schedule(config, sum(over.shapes.values()))
  optimizer = training.make_optimizer(config, schedule)
  rng = jax.random.key(config.seed)
  state = place(
    jax.eval_shape(functools.partial(training.start, net, optimizer, rng))
  )

  def placed(new):
    return jax.lax.with_sharding_constraint(
      new, jax.tree.map(lambda x: x.sharding, state)
    )

  step = training.make_step(net, optimizer, schedule, placed)
  args = [('parameters', state), ('batch', None)]
  cost = planner.step_cost('train', step, args, over, mesh)
  cost.device['parameters'] = planner.nbytes(state.params)
  saved = planner.nbytes(state)
  cost.device['optimizer'] = saved - cost.device['parameters']
  return cost._replace(host=saved, disk=_KEPT * saved)


def fit_costs(
  curvature: types.Curvature,
  over: planner.Passes,
  *,
  mesh: Mesh,
  targets: str = 'model',
) -> list[planner.Cost]:
  """Of `fit.fit`: its stages, each with the eigendecompositions after it."""
  costs, num_done = [], 0
  for index in range(len(curvature.stages)):
    cost = fit_step_cost(curvature, index, over, mesh=mesh, targets=targets)
    _, factors, _, _, _, sums = cost.step_args
    after, sizes = factors_of(curvature, over.model.layers, index + 1)
    sums, kept = planner.nbytes(sums), planner.nbytes(after)
    saved = sums + planner.nbytes(factors)
    costs.append(cost._replace(host=saved, disk=_KEPT * saved))
    if new := sizes[num_done:]:
      costs.append(_eigh_cost(new, over, sums, kept))
    num_done = len(sizes)
  return costs


def fit_step_cost(
  curvature: types.Curvature,
  index: int,
  over: planner.Passes,
  *,
  mesh: Mesh,
  targets: str = 'model',
) -> planner.Cost:
  """Of the batches of stage `index` alone; no array is made on the way."""
  layers, stage = over.model.layers, curvature.stages[index]
  factors, _ = factors_of(curvature, layers, index)
  factors = sharding.put(factors, sharding.of_layers(mesh, layers, factors))
  shards = mesh.shape['data']
  sums = jax.tree.map(
    lambda x: x.update(shape=(shards, *x.shape)),
    jax.eval_shape(lambda: taps.zeros(layers, stage.init)),
  )
  number = jax.ShapeDtypeStruct((shards,), jnp.result_type(float))
  counts = types.Counts(number, number)
  counts, sums = sharding.put(
    (counts, sums), fit_step.shardings(mesh, layers, counts, sums)
  )
  args = [
    ('parameters', over.params), ('factors', factors),
    ('batch', jax.eval_shape(lambda: jax.random.key(0))), ('batch', None),
    ('sums', counts), ('sums', sums),
  ]  # fmt: skip
  step = fit_step.make(over.model, stage, mesh, targets)
  return planner.step_cost(stage.name, step, args, over, mesh)


def solve_cost(
  curvature: types.Curvature,
  over: planner.Passes,
  rank: int | None,
  queries: contraction.Queries,
  **truncation: Any,
) -> planner.Cost:
  """Of the queries: gradients, (G + damping)^-1 and, with a rank, an SVD.

  Args:
    over: the queries' batches, once for each answer.
    queries: all that are held at the end; their parts stand beside them.
    truncation: for `lowrank.truncate`.
  """
  model, layers = over.model, over.model.layers
  factors, _ = factors_of(curvature, layers)

  @jax.jit
  def solve(params, factors, batch):
    g_KxIxO = gradients.layer_gradients(model, params, batch)
    damping = influence.damping_of(curvature, layers, factors)
    solved = influence.precondition(
      curvature, layers, factors, g_KxIxO, damping, rotated=rank is not None
    )
    if rank is None:
      return contraction.whole(solved)
    return lowrank.truncate(
      curvature, layers, factors, solved, rank, **truncation
    )

  args = [('parameters', over.params), ('factors', factors), ('batch', None)]
  cost = planner.step_cost('solve', solve, args, over)
  cost.device['queries'] = 2 * planner.nbytes(queries)
  return cost


def scan_cost(
  over: planner.Passes, queries: contraction.Queries, *, mesh: Mesh
) -> planner.Cost:
  """Of the pass over the candidates, without what is kept of its scores."""
  queries = jax.eval_shape(functools.partial(scan.filled, mesh), queries)
  queries = sharding.put(queries, scan.shardings(mesh, queries))
  args = [('parameters', over.params), ('queries', queries), ('batch', None)]
  step = scan.make_step(over.model, mesh)
  return planner.step_cost('scan', step, args, over, mesh)


def refine_cost(
  over: planner.Passes, queries: contraction.Queries
) -> planner.Cost:
  """Of scoring again one whole query at a time, by layer and position.

  Args:
    over: the batches of all queries together.
    queries: that are held beside it.
  """

  _, others = plain.split(over.model.layers)

  @jax.jit
  def details(params, query, batch):
    by_path = contraction.tokenwise_by_layer(over.model, params, query, batch)
    found = {path: (x.sum(-1), x.sum(-2)) for path, x in by_path.items()}
    rest = over.model._replace(layers=others)
    return found, contraction.pairwise(rest, params, query, batch)

  one = queries_of(over.model.layers, 1, None)
  args = [('parameters', over.params), ('queries', one), ('batch', None)]
  cost = planner.step_cost('refine', details, args, over)
  cost.device['queries'] += planner.nbytes(queries)
  return cost


def _eigh_cost(sizes, over, sums, kept) -> planner.Cost:
  # The sums it began with, those that ran, and these added up over devices
  params = planner.nbytes(over.params)
  return planner.Cost(
    'eigendecomposition',
    {'eigh': float(planner.EIGH * sum(n**3 for n in sizes))},
    {'parameters': params, 'sums': 3 * sums, 'factors': kept},
    host=_EIGH * max(sizes) ** 2 + kept,
    disk=_KEPT * kept,
  )


def _stacked(layers, found):
  return {
    path: jax.tree.map(
      lambda x, stack=layer.stack: x.update(shape=(*stack, *x.shape)),
      found[path],
    )
    for path, layer in layers.items()
  }
