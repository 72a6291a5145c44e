"""What a run will cost, from shapes alone, before it allocates anything.

* Operations (multiplications plus additions of matrix products) are counted in
  the jaxpr of the real steps, loops times their length: XLA's own analysis
  counts a loop once. Elementwise functions and small SVDs are not in them, but
  in the rate at which a step goes through them.
* Bytes on the device are XLA's for the real step, compiled for the largest
  batch: exact, where a formula would guess at what is fused. The run finds that
  compilation in the cache.
* Seconds are operations / rate, of `calibration`.

Arrays stand for themselves as jax.ShapeDtypeStruct. Bytes are of one device.
The steps of this library are in `costs`.
"""

import math
import os
import pathlib
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from influence_jax import gradients, sharding, types

EIGH = 9  # operations of an eigendecomposition / n^3, as LAPACK's are counted


class Passes(NamedTuple):
  """A model's passes over batches of [B, T] tokens."""

  model: types.Model
  params: types.PyTree
  shapes: dict[tuple[int, int], float]  # {(B, T): number of batches}
  flop: dict[tuple[int, int], float]  # of one batch, forward and backward


class Cost(NamedTuple):
  """Of one stage of a run."""

  stage: str
  flop: dict[str, float]  # 'pass' of the model, 'layers' beside it, 'eigh'
  device: dict[str, int]  # bytes at the peak, by kind
  host: int = 0  # bytes beside those
  disk: int = 0  # bytes at the most
  seconds: float | None = None  # None before `calibration.predict`
  step: Any = None  # compiled for the largest batch
  step_args: tuple = ()  # shapes
  step_flop: float = 0.0
  compile_seconds: float = 0.0  # for batches of all shapes
  num_programs: int = 0  # of as many shapes
  program: int = 0  # bytes of one on the host, by which this process grew


def nbytes(tree: types.PyTree) -> int:
  """Of arrays or their shapes, of one device if they say where they lie."""

  def shape(x):
    placed = getattr(x, 'sharding', None)
    return placed.shard_shape(x.shape) if placed else x.shape

  return sum(
    math.prod(shape(x)) * x.dtype.itemsize for x in jax.tree.leaves(tree)
  )


def flop(fn: Callable, *args: Any) -> float:
  """Operations of the matrix products in fn(*args), which may be shapes.

  A `while` is counted once: how often it runs is not in its shapes.
  """
  return _count(jax.make_jaxpr(fn)(*args).jaxpr)


def batch_of(shape: tuple[int, int]) -> types.Batch:
  """A batch of tokens [B, T], its shapes."""
  tokens = jax.ShapeDtypeStruct(shape, np.int32)
  mask = jax.ShapeDtypeStruct(shape, np.float32)
  return types.Batch(tokens, tokens, mask, tokens.update(shape=shape[:1]))


def passes(
  model: types.Model, params: types.PyTree, shapes: dict[tuple, float]
) -> Passes:
  """With the operations of the model's pass alone, nothing done in layers."""

  def one(params, batch):
    return gradients.batch_stats(
      model, params, batch, lambda *_: {'none': jnp.zeros(())},
      lambda _: {'none': jnp.zeros(())}, {},
    )  # fmt: skip

  each = {shape: flop(one, params, batch_of(shape)) for shape in shapes}
  return Passes(model, params, shapes, each)


def step_cost(
  stage: str,
  fn: Callable,
  args: list[tuple[str, Any]],
  over: Passes,
  mesh: Mesh | None = None,
) -> Cost:
  """Of a step over all batches, compiled for the largest.

  Args:
    fn: jitted.
    args: (kind of bytes, shapes) in the order of fn's arguments; the shapes of
      the batch are None.
    mesh: over which the rows of the batch are split.
  """

  def at(shape):
    batch = batch_of(shape)
    if mesh is not None:
      batch = sharding.put(batch, sharding.of_batch(mesh, batch))
    return tuple(batch if x is None else x for _, x in args)

  total = {shape: flop(fn, *at(shape)) for shape in over.shapes}
  passed = sum(n * over.flop[shape] for shape, n in over.shapes.items())
  whole = sum(n * total[shape] for shape, n in over.shapes.items())
  largest = max(over.shapes, key=lambda shape: (math.prod(shape), shape[1]))
  start, before = time.perf_counter(), resident()
  step = fn.lower(*at(largest)).compile()
  seconds = (time.perf_counter() - start) * len(over.shapes)
  program = max(resident() - before, 0)
  device = dict.fromkeys([kind for kind, _ in args], 0)
  for (kind, _), tree in zip(args, at(largest), strict=True):
    device[kind] += nbytes(tree)
  found = step.memory_analysis()
  device['temporary'] = (
    found.temp_size_in_bytes
    + found.output_size_in_bytes
    - found.alias_size_in_bytes
  )
  return Cost(
    stage, {'pass': passed, 'layers': whole - passed}, device, step=step,
    step_args=at(largest), step_flop=total[largest], compile_seconds=seconds,
    num_programs=len(over.shapes), program=program,
  )  # fmt: skip


def peak(costs: list[Cost], baseline: int) -> int:
  """Bytes of the process, device and all, that has `baseline` of them now.

  The stages come one after another; their programs stay. What the first of them
  grew by is mostly the compiler's own, so the smallest counts.
  """
  programs = [cost for cost in costs if cost.num_programs]
  one = min((cost.program for cost in programs), default=0)
  stages = [sum(cost.device.values()) + cost.host for cost in costs]
  return baseline + one * sum(x.num_programs for x in programs) + max(stages)


def resident() -> int:
  """Bytes of this process that are in memory."""
  pages = int(pathlib.Path('/proc/self/statm').read_text().split()[1])
  return pages * os.sysconf('SC_PAGE_SIZE')


def _count(jaxpr) -> float:
  total = 0.0
  for eqn in jaxpr.eqns:
    name, params = eqn.primitive.name, eqn.params
    if name == 'dot_general':
      (contracted, _), _ = params['dimension_numbers']
      depth = math.prod(eqn.invars[0].aval.shape[n] for n in contracted)
      total += 2.0 * depth * math.prod(eqn.outvars[0].aval.shape)
    inner = [
      _count(getattr(x, 'jaxpr', x))
      for x in jax.tree.leaves(tuple(params.values()), is_leaf=_is_jaxpr)
      if _is_jaxpr(x)
    ]
    if name == 'scan':
      total += params['length'] * sum(inner)
    elif name == 'shard_map':
      sizes = [
        params['mesh'].shape[axis] for axis in params['newly_manual_axes']
      ]
      total += math.prod(sizes) * sum(inner)
    else:
      total += max(inner, default=0.0) if name == 'cond' else sum(inner)
  return total


def _is_jaxpr(x) -> bool:
  return hasattr(x, 'eqns') or hasattr(getattr(x, 'jaxpr', None), 'eqns')
