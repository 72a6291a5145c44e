"""ASTRA: stochastic iterations preconditioned by a curvature approximation.

From that approximation's own solution, x <- x - rate (Ghat + damping)^-1
((G_s + damping) x - b), G_s of one batch a step (Wang et al. 2025, arXiv
2507.14740), with optax's momentum. Departure: their rate is a constant .01;
here it may decay to 0 as 1 / (1 + step / decay), which ends the noise of the
batches.
"""

import functools

import jax
import optax

from influence_jax import layer_arrays, solvers


def make(
  rate: float = 0.01,
  momentum: float = 0.0,
  decay: float | None = None,
  seed: int = 0,
) -> solvers.Solver:
  """ASTRA.

  Args:
    decay: steps after which the rate is halved; None never lowers it.
    seed: of the order of the batches, drawn anew each time they are through.
  """

  def schedule(step):
    return rate if decay is None else rate / (1 + step / decay)

  optimizer = optax.sgd(schedule, momentum)

  def solver(problem):
    @jax.jit
    @functools.partial(jax.vmap, in_axes=(None, 0))
    def start(data, b):
      x = problem.precondition(data, b)
      return x, optimizer.init(x)

    @jax.jit
    @functools.partial(jax.vmap, in_axes=(None, 0, 0, None))
    def step(data, b, state, s):
      x, inner = state
      pushed = solvers.damped(problem.sampled, data, x, s)
      slope = problem.precondition(data, layer_arrays.add(pushed, b, -1.0))
      updates, inner = optimizer.update(slope, inner)
      x = optax.apply_updates(x, updates)
      return (x, inner), layer_arrays.norm(x)

    def solve(b_K):
      yield from solvers.by_batches(
        problem, b_K, start(problem.data, b_K), step, lambda state: state[0],
        seed, 'ASTRA', rate=rate, momentum=momentum,
      )  # fmt: skip

    return solve

  return solver
