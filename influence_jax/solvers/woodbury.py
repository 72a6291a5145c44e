"""The exact solution by the rows that G is made of: for few sequences.

With rows R [J, P], G = R^T R, and the damping D, Woodbury's identity gives
(G + D)^-1 = D^-1 - D^-1 R^T (1 + R D^-1 R^T)^-1 R D^-1: a system of size J, V
rows a position of the data, where `dense` has one of P. R is in memory.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import scipy

from influence_jax import layer_arrays, solvers, types


class Inverse(NamedTuple):
  """(G + damping)^-1, to be applied."""

  root: dict[str, types.Factors]  # R of `ggn.root`
  over: dict[str, jax.Array]  # 1 / damping, {path: [*stack]}
  upper: jax.Array  # [J, J], Cholesky's factor of 1 + R D^-1 R^T


def make() -> solvers.Solver:
  def solver(problem):
    @jax.jit
    def answer(data, b_K):
      inverse = factorise(problem.root(data), data['damping'])
      return jax.vmap(apply, (None, 0))(inverse, b_K)

    def solve(b_K):
      x_K = answer(problem.data, b_K)
      # A row is one pass back from one sequence, and all b_K share it
      products = problem.num_sequences
      while True:
        yield solvers.Iterate(x_K, products)

    return solve

  return solver


def factorise(
  root: dict[str, types.Factors], damping: dict[str, jax.Array]
) -> Inverse:
  """Of R, by `ggn.root`, and a damping above 0."""
  over = {path: 1 / x for path, x in damping.items()}
  inner_JxJ = sum(_gram(one, over[path]) for path, one in root.items())
  inner_JxJ += jnp.eye(len(inner_JxJ))
  return Inverse(root, over, scipy.linalg.cholesky(inner_JxJ))


def apply(inverse: Inverse, x: solvers.Vector) -> solvers.Vector:
  """(G + damping)^-1 x of one vector."""
  root = inverse.root
  x = layer_arrays.times(inverse.over, x)
  seen_J = sum(_times(one, x[path]) for path, one in root.items())
  weight_J = scipy.linalg.cho_solve((inverse.upper, False), seen_J)
  back = {path: _back(one, weight_J) for path, one in root.items()}
  return layer_arrays.add(x, layer_arrays.times(inverse.over, back), -1.0)


def _gram(one, over):
  """A layer's share of R D^-1 R^T [J, J]; of `over`, 1 / D, [*stack]."""
  if 'g' in one:
    g = one['g']
    axes = tuple(range(1, g.ndim))
    return jnp.tensordot(over[None, ..., None, None] * g, g, (axes, axes))
  ds_JxO = one['ds'].reshape(-1, one['ds'].shape[-1])
  a_NxN, num = one['a'] @ one['a'].T * over, one['ds'].shape[1]
  ds_NxYxNxY = (ds_JxO @ ds_JxO.T).reshape((len(a_NxN), num) * 2)
  return (ds_NxYxNxY * a_NxN[:, None, :, None]).reshape((len(ds_JxO),) * 2)


def _times(one, x_IxO):
  """R x [J]."""
  if 'g' in one:
    return jnp.tensordot(one['g'], x_IxO, x_IxO.ndim)
  return jnp.einsum('nyo,no->ny', one['ds'], one['a'] @ x_IxO).ravel()


def _back(one, weight_J):
  """R^T w [*stack, I, O]."""
  if 'g' in one:
    return jnp.tensordot(weight_J, one['g'], 1)
  weight_NxY = weight_J.reshape(one['ds'].shape[:2])
  return one['a'].T @ jnp.einsum('ny,nyo->no', weight_NxY, one['ds'])
