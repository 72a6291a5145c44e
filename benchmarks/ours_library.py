"""All that the benchmarks call of this library, one section a stage.

Parameters and factors are arguments of what is jitted, never closed over.
"""

import pathlib
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from benchmarks import cases
from experiments import parity_case
from influence_jax import (
  attribution,
  contraction,
  curvature,
  fit,
  fit_step,
  gradients,
  influence,
  losses,
  lowrank,
  sharding,
  taps,
  types,
)
from influence_jax.models import transformer

_TAPPED = r'/mlp/'  # fc_in and fc_out of every block


class Setup(NamedTuple):
  """A case, loaded."""

  model: types.Model
  params: types.PyTree
  train: types.Batch  # all of them, on the host
  queries: types.Batch
  curvature: types.Curvature
  mesh: jax.sharding.Mesh


def load(folder: pathlib.Path) -> Setup:
  config, params = parity_case.load_parity(folder)
  net = transformer.Transformer(config)

  def apply_fn(params, inputs):
    return net.apply({'params': params}, inputs)

  train, queries = parity_case.load_batches(folder)
  found = taps.find_layers(apply_fn, params, train.inputs[:1], _TAPPED)
  model = types.Model(apply_fn, losses.softmax_cross_entropy, found.layers)
  mesh = sharding.make_mesh(data=1)
  params = jax.device_put(params)
  return Setup(model, params, train, queries, curvature.make('ekfac'), mesh)


def make_pass(setup: Setup, index: int) -> Callable:
  """(factors, batches) -> FitState: the sums of stage `index`."""
  stage = setup.curvature.stages[index]
  step = fit_step.make(setup.model, stage, setup.mesh, 'model')
  rest = setup.curvature._replace(stages=(stage,))
  rng = jax.random.fold_in(jax.random.key(0), index)
  split = jax.sharding.NamedSharding(
    setup.mesh, jax.sharding.PartitionSpec('data')
  )

  def run(factors, batches):
    state = fit.start(rest, setup.model.layers)
    counts, sums = jax.device_put(
      (state.counts, state.sums), split, may_alias=False
    )
    waiting = None
    for batch in batches:
      batch = jax.device_put(batch, split)
      result = step(setup.params, factors, rng, batch, counts, sums)
      counts, sums = result[:2]
      jax.device_get(waiting)  # what `fit` checks to be finite
      waiting = result[2:]
    sums = jax.block_until_ready(sums)
    return state._replace(counts=counts, sums=sums, factors=factors)

  return run


def restore(setup: Setup, sums: dict, counts: dict) -> fit.FitState:
  """The state at the end of stage 0 whose sums and counts were kept."""
  state = fit.start(setup.curvature, setup.model.layers)
  return state._replace(counts=types.Counts(**counts), sums=sums)


def finish(setup: Setup, index: int, state) -> dict:
  """Factors after stage `index`: the eigendecomposition, or Lambda."""
  stage = setup.curvature.stages[index]
  factors = fit.finish_stage(stage, setup.model.layers, state)
  return jax.block_until_ready(jax.device_put(factors))


def make_queries(setup: Setup, stage: str) -> Callable:
  """(factors, batches of queries) -> what is contracted with sequences."""
  layers = setup.model.layers
  low_rank = stage.endswith('_rank32')

  @jax.jit
  def solve(params, factors, damping, batch):
    g_KxIxO = gradients.layer_gradients(setup.model, params, batch)
    solved = influence.precondition(
      setup.curvature, layers, factors, g_KxIxO, damping, rotated=low_rank
    )
    if not low_rank:
      return contraction.whole(solved)
    return lowrank.truncate(
      setup.curvature, layers, factors, solved, cases.RANK
    )

  def run(factors, batches):
    damping = influence.damping_of(setup.curvature, layers, factors)
    parts = [solve(setup.params, factors, damping, b) for b in batches]
    axis = -3 if low_rank else -1  # of the queries
    if len(parts) == 1:
      return parts[0]
    return jax.tree.map(lambda *x: jnp.concatenate(x, axis), *parts)

  return run


def make_score(setup: Setup, stage: str) -> Callable:
  """(queries, batches) -> the scores of each batch."""
  model = setup.model

  @jax.jit
  def pairwise(params, queries, batch):
    scores = contraction.pairwise(model, params, queries, batch)
    return attribution.total(scores, model.layers).T

  @jax.jit
  def tokens(params, queries, batch):
    scores = contraction.tokenwise(model, params, queries, batch)
    return jnp.moveaxis(scores, -1, 0)

  score = tokens if stage == 'tokens_rank32' else pairwise

  def run(queries, batches):
    return (score(setup.params, queries, batch) for batch in batches)

  return run


def make_self(setup: Setup) -> Callable:
  """(factors, batches) -> the self-influences of each batch."""

  def own(params, factors, damping, batch):
    scores = influence.self_influence(
      setup.curvature, setup.model, params, factors, damping, batch
    )
    return attribution.total(scores, setup.model.layers)

  own = jax.jit(own)

  def run(factors, batches):
    damping = influence.damping_of(setup.curvature, setup.model.layers, factors)
    return (own(setup.params, factors, damping, batch) for batch in batches)

  return run
