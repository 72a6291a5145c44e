"""The exact solution of G's blocks on the diagonal, one a layer.

What is lost when layers are looked at one by one, as every curvature
approximation here does, and nothing else is. Each block (each slice of a stack)
is solved by preconditioned conjugate gradients, and a product with one block
costs as much as one with G.
"""

import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from influence_jax import layer_arrays, solvers, types
from influence_jax.solvers import cg


def make() -> solvers.Solver:
  def solver(problem):
    masks = [*_masks(problem.layers)]
    inner = [cg.make()(_restrict(problem, mask)) for mask in masks]

    def solve(b_K):
      runs = [
        one(jax.tree.map(lambda b, mask: b * mask[None], b_K, mask))
        for one, mask in zip(inner, masks, strict=True)
      ]
      for iterates in zip(*runs, strict=True):
        x_K = jax.tree.map(lambda *x: sum(x), *(one.x for one in iterates))
        yield solvers.Iterate(x_K, sum(one.products for one in iterates))

    return solve

  return solver


def _masks(layers: dict[str, types.Layer]) -> Iterator[layer_arrays.Vector]:
  """For each block {path: [*stack, 1, 1]}, 1 there and 0 elsewhere."""
  zero = {path: np.zeros((*x.stack, 1, 1)) for path, x in layers.items()}
  for path, layer in layers.items():
    for at in np.ndindex(*layer.stack):
      mask = jax.tree.map(np.copy, zero)
      mask[path][at] = 1
      yield mask


def _restrict(problem: solvers.Problem, mask) -> solvers.Problem:
  def masked(fn, data, x, *where):
    return jax.tree.map(jnp.multiply, fn(data, x, *where), mask)

  return problem._replace(
    product=functools.partial(masked, problem.product),
    sampled=functools.partial(masked, problem.sampled),
  )
