"""G by its largest eigenpairs, from a Krylov space that all queries share.

Lanczos's iteration (Arnoldi's, G being symmetric) with full orthogonalisation,
from a random start; then x is exact in the space of the found vectors and, as
if G were 0 elsewhere, b / damping beside it. Departure: Schioppa et al. 2022
drop what is beside it, which is `complete=False`. Unequal damping of the layers
is taken out first: the matrix is damping^-1/2 G damping^-1/2.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from influence_jax import layer_arrays, solvers


def make(
  size: int = 64, complete: bool = True, seed: int = 0
) -> solvers.Solver:
  """`size`: of the space at most; memory is that many models' parameters."""

  def solver(problem):
    layers = problem.layers
    start_P, unravel = ravel_pytree(layer_arrays.zeros(layers))
    root = {p: jnp.sqrt(x) for p, x in problem.data['damping'].items()}

    @jax.jit
    def extend(data, Q_JxP, T_JxJ, q_P, noise_P, j):
      """The space with q_P in it, and what comes next.

      That is noise where the space is closed under G: there may be more of G
      beside it, such as the other directions of an eigenvalue that comes twice.
      """
      scaled = _divide(unravel(q_P), root)
      away_P = ravel_pytree(_divide(problem.product(data, scaled), root))[0]
      Q_JxP = Q_JxP.at[j].set(q_P)
      inside_J = Q_JxP @ away_P
      T_JxJ = T_JxJ.at[j].set(inside_J).at[:, j].set(inside_J)
      away_P += jnp.finfo(away_P.dtype).eps * noise_P
      for _ in range(2):  # once would leave rounding errors in
        away_P -= Q_JxP.T @ (Q_JxP @ away_P)
      return Q_JxP, T_JxJ, away_P / jnp.linalg.norm(away_P)

    @jax.jit
    def answer(Q_JxP, T_JxJ, b_K):
      L_J, U_JxJ = jnp.linalg.eigh(T_JxJ)  # 0 for rows of Q not there yet
      basis_JxP = U_JxJ.T @ Q_JxP
      factor_J = 1 / (jnp.maximum(L_J, 0) + 1) - complete

      def one(b):
        b_P = ravel_pytree(_divide(b, root))[0]
        x_P = complete * b_P + basis_JxP.T @ (factor_J * (basis_JxP @ b_P))
        return _divide(unravel(x_P), root)

      return jax.vmap(one)(b_K)

    def solve(b_K):
      num = len(jax.tree.leaves(b_K)[0])
      rng = np.random.default_rng(seed)
      q_P = rng.normal(size=start_P.size)
      q_P = jnp.asarray(q_P / np.linalg.norm(q_P), start_P.dtype)
      Q_JxP = jnp.zeros((size, start_P.size), start_P.dtype)
      T_JxJ = jnp.zeros((size, size), start_P.dtype)
      for j in range(min(size, start_P.size)):
        noise_P = rng.normal(size=start_P.size).astype(start_P.dtype)
        Q_JxP, T_JxJ, q_P = extend(problem.data, Q_JxP, T_JxJ, q_P, noise_P, j)
        x_K = answer(Q_JxP, T_JxJ, b_K)
        products = (j + 1) * problem.num_sequences // num  # shared by all
        yield solvers.Iterate(x_K, products)
      while True:
        yield solvers.Iterate(x_K, products)

    return solve

  return solver


def _divide(x: solvers.Vector, root) -> solvers.Vector:
  return {path: x[path] / root[path][..., None, None] for path in x}
