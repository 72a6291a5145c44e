"""Ways to (G + damping)^-1 b with the exact G, one a file, found by its name.

`make(**hparams) -> solver`; `solver(problem) -> solve` prepares what does not
hang on the right-hand sides, programs to be compiled among it; `solve(b_K)` is
an iterator of `Iterate`s, K right-hand sides at once, that goes on for as long
as it is asked: who asks decides when it is enough, and times it.

To add one, write `influence_jax/solvers/<name>.py`; a dotted name is imported
as it stands. The contract tests walk this package.
"""

import functools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from influence_jax import by_name, ggn, influence, layer_arrays, types

Vector = layer_arrays.Vector


class Problem(NamedTuple):
  """(G + damping) x = b, G the mean over all the sequences of `batches`.

  The functions are static, `data` holds every array they see.
  """

  product: Callable  # (data, x) -> G x
  sampled: Callable  # (data, x, s) -> G x by batch s alone; their mean is G x
  dense: Callable  # data -> G [P, P], in the order of a raveled vector
  root: Callable  # data -> R of G = R^T R, as `ggn.root`
  precondition: Callable  # (data, r) -> (an approximation of G + damping)^-1 r
  data: types.PyTree  # with `damping`, {path: [*stack]}
  layers: dict[str, types.Layer]
  num_batches: int
  num_sequences: int


class Iterate(NamedTuple):
  x: Vector  # [K, *stack, I, O]
  products: int  # G_z x of single sequences so far, for each right-hand side


Solver = Callable[[Problem], Callable[[Vector], Iterator[Iterate]]]


class Diverged(ValueError):
  """A solver left the region that any solution lies in."""


def problem(
  model: types.Model,
  params: types.PyTree,
  batches: types.Batch,
  damping: dict[str, jax.Array],
  curvature: types.Curvature,
  factors: dict[str, types.Factors],
) -> Problem:
  """The system of `batches` [S, B, ...], preconditioned by `curvature`."""

  def product(data, x):
    return ggn.mean_product(model, data['params'], data['batches'], x)

  def sampled(data, x, s):
    batch = jax.tree.map(lambda rows: rows[s], data['batches'])
    total = ggn.product(model, data['params'], batch, x)
    return jax.tree.map(lambda x: x * num_batches / num_sequences, total)

  def dense(data):
    return ggn.dense(model, data['params'], data['batches'])

  def root(data):
    return ggn.root(model, data['params'], data['batches'])

  def precondition(data, r):
    return influence.precondition_one(
      curvature, layers, data['factors'], r, data['damping']
    )

  layers, num_batches = model.layers, len(batches.mask)
  num_sequences = int(ggn.count(batches))
  data = {
    'params': params, 'batches': batches, 'damping': damping, 'factors': factors
  }  # fmt: skip
  return Problem(
    product, sampled, dense, root, precondition, data, layers, num_batches,
    num_sequences,
  )  # fmt: skip


def damped(product: Callable, data: types.PyTree, x: Vector, *where) -> Vector:
  """(G + damping) x; `product` is one of the problem's two."""
  near = layer_arrays.times(data['damping'], x)
  return layer_arrays.add(product(data, x, *where), near)


def limit(problem: Problem, b_K: Vector) -> jax.Array:
  """Norms [K] that are a thousand times what any solution's can be."""
  least = min(float(x.min()) for x in problem.data['damping'].values())
  norms_K = jax.vmap(layer_arrays.norm)(b_K)
  return 1e3 * norms_K / max(least, jnp.finfo(norms_K.dtype).tiny)


def by_batches(
  problem: Problem,
  b_K: Vector,
  start: types.PyTree,
  step: Callable,
  x_of: Callable[[types.PyTree], Vector],
  seed: int,
  name: str,
  **settings: float,
) -> Iterator[Iterate]:
  """Iterates of a solver that sees one batch a step, in an order drawn anew

  each time that all have been seen.

  Args:
    step: (data, b_K, state, s) -> the next state, norms [K] of its x.
    x_of: state -> x_K.
    name: for the message of `Diverged`.
    **settings: for the same, which says to lower the first of them.
  """
  known = ', '.join(f'{key} {x:g}' for key, x in settings.items())
  first = next(iter(settings))
  limit_K, rng = limit(problem, b_K), np.random.default_rng(seed)
  state, num_steps = start, 0
  batch_size = problem.num_sequences / problem.num_batches
  while True:
    for s in rng.permutation(problem.num_batches):
      yield Iterate(x_of(state), round(num_steps * batch_size))
      state, norm_K = step(problem.data, b_K, state, int(s))
      num_steps += 1
      if not (norm_K <= limit_K).all():
        raise Diverged(
          f'{name} diverged at step {num_steps}, {known}: norms '
          f'{np.asarray(norm_K).tolist()}, far beyond any solution; lower the '
          f'{first} or take larger batches'
        )


def residual(problem: Problem, x_K: Vector, b_K: Vector) -> jax.Array:
  """||(G + damping) x - b|| / ||b|| of each right-hand side [K]."""
  return _residual(problem.product, problem.data, x_K, b_K)


@functools.partial(jax.jit, static_argnums=0)  # once for all of a problem's x
@functools.partial(jax.vmap, in_axes=(None, None, 0, 0))
def _residual(product, data, x, b):
  away = layer_arrays.add(damped(product, data, x), b, -1.0)
  return layer_arrays.norm(away) / layer_arrays.norm(b)


def names() -> list[str]:
  """The solvers that this package has."""
  return by_name.names(__name__)


def make(name: str, **hparams) -> Solver:
  """The solver of module `name`.

  Raises:
    ValueError: there is no such solver, or it has no such parameter.
  """
  return by_name.make(__name__, 'solver', name, hparams)
