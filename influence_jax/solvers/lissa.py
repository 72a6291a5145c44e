"""LiSSA: a truncated Neumann series with G of a batch a step (Eq. 10).

r <- b + r - scale (G_s + damping) r, x = scale r (Agarwal et al. 2017; Koh and
Liang 2017). It converges if scale (G_s + damping) <= 1 for every batch; after J
steps directions below 1 / (scale J) are as good as damped by that much.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from influence_jax import layer_arrays, solvers


def make(scale: float | None = None, seed: int = 0) -> solvers.Solver:
  """LiSSA.

  Args:
    scale: of a step; None takes 1 / the largest eigenvalue of any batch's
      G + damping, found by power iteration, whose products are not counted:
      everyone else finds it by trial.
    seed: of the order of the batches, drawn anew each time they are through.
  """

  def solver(problem):
    size = _scale(problem) if scale is None else scale

    @jax.jit
    @functools.partial(jax.vmap, in_axes=(None, 0, 0, None))
    def step(data, b, r, s):
      pushed = solvers.damped(problem.sampled, data, r, s)
      r = layer_arrays.add(layer_arrays.add(b, r), pushed, -size)
      return r, size * layer_arrays.norm(r)

    def solve(b_K):
      return solvers.by_batches(
        problem, b_K, b_K, step,
        lambda r_K: jax.tree.map(lambda x: size * x, r_K), seed, 'LiSSA',
        scale=size,
      )  # fmt: skip

    return solve

  return solver


def _scale(problem: solvers.Problem, power_steps: int = 20) -> float:
  """1 / the largest eigenvalue of any batch's G + damping."""

  @jax.jit
  def largest(data, x, s):
    def step(x, _):
      pushed = solvers.damped(problem.sampled, data, x, s)
      norm = layer_arrays.norm(pushed)
      return jax.tree.map(lambda y: y / norm, pushed), norm

    return jax.lax.scan(step, x, length=power_steps)[1][-1]

  rng = np.random.default_rng(0)
  x = {
    path: rng.normal(size=zero.shape).astype(zero.dtype)
    for path, zero in layer_arrays.zeros(problem.layers).items()
  }
  norm = layer_arrays.norm(x)
  x = jax.tree.map(lambda y: y / norm, x)
  found = [largest(problem.data, x, s) for s in range(problem.num_batches)]
  return 1 / float(jnp.stack(found).max())
