"""How fast this machine goes: seconds of what `planner` counted.

A step that is cheap is run, so that what is no matrix product is in its rate;
one that is not is taken to go at half of the machine's matmul peak.
"""

import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from influence_jax import planner

_UNTIMED = 0.5  # share of the matmul peak of a step that is too large to time
_PROBE_SECONDS = 0.5  # what is too large, at the peak
_ENOUGH_SECONDS = 1.0  # of calls of one step


def calibrate(costs: list[planner.Cost]) -> dict[str, float]:
  """Operations a second: 'matmul' at its best, 'eigh' in float64 on the host,

  and each stage's whose step is small enough to be run here and now.
  """
  x = jnp.ones((1024, 1024))
  product = jax.jit(jnp.matmul)
  wide = np.random.default_rng(0).normal(size=(512, 512))
  peak = 2 * 1024**3 / min(_times(lambda: product(x, x), 5))
  eigh = np.median(_times(lambda: np.linalg.eigh(wide + wide.T), 2))
  rates = {'matmul': peak, 'eigh': planner.EIGH * 512**3 / eigh}
  for cost in costs:
    if 0 < cost.step_flop < _PROBE_SECONDS * peak:
      rates[cost.stage] = cost.step_flop / np.median(_step_times(cost))
  return {kind: float(rate) for kind, rate in rates.items()}


def predict(cost: planner.Cost, rates: dict[str, float]) -> planner.Cost:
  """With its seconds, compilations included."""
  rate = rates.get(cost.stage, _UNTIMED * rates['matmul'])
  seconds = sum(
    x / (rates['eigh'] if kind == 'eigh' else rate)
    for kind, x in cost.flop.items()
  )
  return cost._replace(seconds=seconds + cost.compile_seconds)


def _step_times(cost: planner.Cost) -> list[float]:
  rng = np.random.default_rng(0)

  def fill(x):
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
      return jax.random.key(0)
    if not jnp.issubdtype(x.dtype, jnp.floating):
      return np.zeros(x.shape, x.dtype)
    return abs(rng.standard_normal(x.shape, np.float32) / 64).astype(x.dtype)

  def args():  # anew, since sums are donated
    return jax.block_until_ready(
      jax.device_put(
        jax.tree.map(fill, cost.step_args), cost.step.input_shardings[0]
      )
    )

  return _times(cost.step, 8, args)


def _times(fn: Callable, num: int, args: Callable = tuple) -> list[float]:
  """Seconds of up to `num` calls, two at least and no more when they add up."""
  taken = []
  while len(taken) < 3 or (len(taken) <= num and sum(taken) < _ENOUGH_SECONDS):
    given = args()
    start = time.perf_counter()
    jax.block_until_ready(fn(*given))
    taken.append(time.perf_counter() - start)
  return taken[1:]  # the first one compiles, or touches new pages
