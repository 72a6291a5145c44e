"""What each method says that the responses are, and what it costs to say it."""

import itertools
import time

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from ml_collections import ConfigDict

from experiments import validation_task
from influence_jax import (
  attribution,
  contraction,
  gradients,
  influence,
  layer_arrays,
  solvers,
  types,
)

Fits = dict[str, tuple[types.Curvature, dict[str, types.Factors]]]


def compute(
  config: ConfigDict,
  task: validation_task.Task,
  fits: Fits,
  damping: dict[str, jax.Array],
) -> list[dict]:
  """A record for each of validation.methods and, of a solver, each step in

  `at`: label, `scores` [K, M] (nats; times epsilon they predict responses),
  `products` of G_z with a vector for a query, `residual` (median over queries,
  None where G is not what is solved) and `seconds` for all queries, compiling
  and LiSSA's search for its scale not among them. A solver that diverges leaves
  a record with `diverged`, the reason, and no scores.
  """
  layers = task.model.layers
  g_KxIxO = jax.jit(
    lambda params, queries: gradients.layer_gradients(
      task.model, params, queries
    )
  )(task.params, task.queries)
  exact = solvers.problem(
    task.model, task.params, task.batches, damping, *fits['ekfac']
  )
  points = jax.tree.map(lambda x: x[:, 0], task.points)

  @jax.jit
  def score(params, solved, points):
    queries = contraction.whole(solved)
    found = contraction.pairwise(task.model, params, queries, points)
    return attribution.total(found, layers).T

  def record(label, x_Kx, products, seconds, **more):
    scores_KxM = score(task.params, layer_arrays.trail(layers, x_Kx), points)
    return {
      'label': label, 'scores': np.asarray(scores_KxM).tolist(),
      'products': products, 'seconds': seconds, **more,
    }  # fmt: skip

  b_Kx, found = layer_arrays.lead(layers, g_KxIxO), []
  for method in map(dict, config.validation.methods):
    label = method.pop('label')
    logging.info('estimates: %s', label)
    if name := method.pop('curvature', None):
      solve = _preconditioner(layers, *fits[name], damping, name == 'identity')
      x_Kx, seconds = _timed_once(solve, g_KxIxO)
      x_Kx = layer_arrays.lead(layers, x_Kx)
      found.append(record(label, x_Kx, 0, seconds, step=None, residual=None))
      continue
    at = method.pop('at')
    solve = solvers.make(method.pop('solver'), **method)(exact)
    try:
      for step, iterate, seconds in _timed(solve, b_Kx, at):
        residual_K = solvers.residual(exact, iterate.x, b_Kx)
        more = dict(step=step, residual=float(jnp.median(residual_K)))
        done = iterate.products, seconds
        found.append(record(label, iterate.x, *done, **more))
    except solvers.Diverged as error:
      found.append({'label': label, 'diverged': str(error)})
  return found


def _timed_once(solve, g_KxIxO):
  solve(g_KxIxO)  # compiles
  started = time.perf_counter()
  solved = jax.block_until_ready(solve(g_KxIxO))
  return solved, time.perf_counter() - started


def _timed(solve, b_Kx, at):
  """(step, iterate, seconds so far) at the steps asked for; other work than

  the solver's does not count. Its first steps are run once before, to compile.
  """
  warm = itertools.islice(solve(b_Kx), 2)
  jax.block_until_ready([*warm][-1].x)
  iterates, seconds = solve(b_Kx), 0.0
  for step in range(max(at) + 1):
    started = time.perf_counter()
    iterate = next(iterates)
    jax.block_until_ready(iterate.x)
    seconds += time.perf_counter() - started
    if step in at:
      yield step, iterate, seconds


def _preconditioner(layers, approximation, factors, damping, plain: bool):
  """(G + damping)^-1 of the approximation; of the identity just g."""
  if plain:
    damping = jax.tree.map(jnp.zeros_like, damping)

  @jax.jit
  def solve(factors, damping, g_KxIxO):
    return influence.precondition(
      approximation, layers, factors, g_KxIxO, damping
    )

  return lambda g_KxIxO: solve(factors, damping, g_KxIxO)
