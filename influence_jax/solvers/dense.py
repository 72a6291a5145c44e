"""The whole of G, factorised: for models of some thousand parameters.

G [P, P] is in memory, and the rows that it is made of: V a position.
"""

import jax
import jax.numpy as jnp
from jax import scipy
from jax.flatten_util import ravel_pytree

from influence_jax import layer_arrays, solvers


def make() -> solvers.Solver:
  def solver(problem):
    @jax.jit
    def answer(data, b_K):
      upper_PxP = factorise(
        problem.dense(data), data['damping'], problem.layers
      )
      return jax.vmap(apply, (None, 0))(upper_PxP, b_K)

    def solve(b_K):
      x_K = answer(problem.data, b_K)
      # A column of G costs what a product does
      size = sum(x.size for x in layer_arrays.zeros(problem.layers).values())
      while True:
        yield solvers.Iterate(x_K, problem.num_sequences * size)

    return solve

  return solver


def factorise(G_PxP: jax.Array, damping, layers) -> jax.Array:
  """Cholesky's factor [P, P] of G + damping, {path: [*stack]}."""
  ones = jax.tree.map(jnp.ones_like, layer_arrays.zeros(layers))
  damping_P = ravel_pytree(layer_arrays.times(damping, ones))[0]
  return scipy.linalg.cholesky(G_PxP + jnp.diag(damping_P))


def apply(upper_PxP: jax.Array, x: solvers.Vector) -> solvers.Vector:
  """(G + damping)^-1 x of one vector."""
  x_P, unravel = ravel_pytree(x)
  return unravel(scipy.linalg.cho_solve((upper_PxP, False), x_P))
