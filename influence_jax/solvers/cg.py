"""Conjugate gradients, plain or preconditioned by a curvature approximation.

jax.scipy.sparse.linalg.cg solves one system to a tolerance and tells neither
its iterates nor their number: there is no curve of error against products in
it. K systems share each pass over the data here.
"""

import functools

import jax
import jax.numpy as jnp

from influence_jax import layer_arrays, solvers


def make(preconditioned: bool = True) -> solvers.Solver:
  """`preconditioned` starts at the approximation's own solution; else at 0."""

  def solver(problem):
    def inverse(data, r):
      return problem.precondition(data, r) if preconditioned else r

    @jax.jit
    @functools.partial(jax.vmap, in_axes=(None, 0))
    def start(data, b):
      x = (
        inverse(data, b) if preconditioned else jax.tree.map(jnp.zeros_like, b)
      )
      r = b
      if preconditioned:
        r = layer_arrays.add(b, solvers.damped(problem.product, data, x), -1.0)
      z = inverse(data, r)
      return x, r, z, z

    @jax.jit
    @functools.partial(jax.vmap, in_axes=(None, 0))
    def step(data, state):
      x, r, z, d = state
      Ad = solvers.damped(problem.product, data, d)
      fell = layer_arrays.dot(r, z)
      size = _divide(fell, layer_arrays.dot(d, Ad))
      x = layer_arrays.add(x, d, size)
      r = layer_arrays.add(r, Ad, -size)
      z = inverse(data, r)
      weight = _divide(layer_arrays.dot(r, z), fell)
      return x, r, z, layer_arrays.add(z, d, weight)

    def solve(b_K):
      state = start(problem.data, b_K)
      products = problem.num_sequences * preconditioned
      yield solvers.Iterate(state[0], products)
      while True:
        state = step(problem.data, state)
        products += problem.num_sequences
        yield solvers.Iterate(state[0], products)

    return solve

  return solver


def _divide(x, y):
  """0 where there is nothing left to go: r is 0 at the solution."""
  return jnp.where(y == 0, 0, x / jnp.where(y == 0, 1, y))
