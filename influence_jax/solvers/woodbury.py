"""The exact solution by the rows that G is made of: for few sequences.

With rows R [J, P], G = R^T R, and the damping D, Woodbury's identity gives
(G + D)^-1 = D^-1 - D^-1 R^T (1 + R D^-1 R^T)^-1 R D^-1: a system of size J, V
rows a position of the data, where `dense` has one of P. R is in memory.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import scipy

from influence_jax import layer_arrays, solvers


class Inverse(NamedTuple):
  """(G + damping)^-1, to be applied."""

  rows: dict[str, jax.Array]  # {path: [J, *stack, I, O]}
  over: dict[str, jax.Array]  # 1 / damping, {path: [*stack]}
  upper: jax.Array  # [J, J], Cholesky's factor of 1 + R D^-1 R^T


def make() -> solvers.Solver:
  def solve(problem, b_K):
    @jax.jit
    def answer(data, b_K):
      inverse = factorise(problem.rows(data), data['damping'])
      return jax.vmap(apply, (None, 0))(inverse, b_K)

    x_K = answer(problem.data, b_K)
    # A row is one pass back from one sequence, and all b_K share it
    products = problem.num_sequences
    while True:
      yield solvers.Iterate(x_K, products)

  return solve


def factorise(
  rows: dict[str, jax.Array], damping: dict[str, jax.Array]
) -> Inverse:
  """Of the rows of `ggn.root_rows` and a damping above 0."""
  over = {path: 1 / x for path, x in damping.items()}
  inner_JxJ = jnp.eye(len(jax.tree.leaves(rows)[0]))
  scaled = jax.vmap(layer_arrays.times, (None, 0))(over, rows)
  for path, rows_JxP in rows.items():
    axes = tuple(range(1, rows_JxP.ndim))
    inner_JxJ += jnp.tensordot(scaled[path], rows_JxP, (axes, axes))
  return Inverse(rows, over, scipy.linalg.cholesky(inner_JxJ))


def apply(inverse: Inverse, x: solvers.Vector) -> solvers.Vector:
  """(G + damping)^-1 x of one vector."""
  rows = inverse.rows
  x = layer_arrays.times(inverse.over, x)
  seen_J = sum(
    jnp.tensordot(rows[path], x[path], x[path].ndim) for path in rows
  )
  weight_J = scipy.linalg.cho_solve((inverse.upper, False), seen_J)
  back = {path: jnp.tensordot(weight_J, rows[path], 1) for path in rows}
  return layer_arrays.add(x, layer_arrays.times(inverse.over, back), -1.0)
