"""Proximal Bregman responses of many points: chunks by vmap, each kept."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import tqdm
from ml_collections import ConfigDict

from experiments import parts, validation_task
from influence_jax import ggn, influence, pbrf, types
from influence_jax.solvers import dense, woodbury

PRECONDITIONERS = ('dense', 'woodbury', 'ekfac')


def compute(
  config: ConfigDict,
  task: validation_task.Task,
  fitted: tuple[types.Curvature, dict[str, types.Factors]],
  damping: dict[str, jax.Array],
  folder: pathlib.Path,
  origin: dict,
) -> dict[str, np.ndarray]:
  """Of every point: `response` [K, M], the change of a query's log-probability

  in nats, `ratio` [M] of the gradient's norms (1 at the start, 0 at the
  minimum) and `steps` [M]. Reads validation.response. A file of `folder` a
  chunk: a run that was stopped goes on with the next.

  Args:
    fitted: EK-FAC, the preconditioner where Woodbury's rows are too many.
  """
  section = config.validation.response
  solver = _Solver(section, task, fitted, damping)
  size, found = section.points_a_file, []
  starts = range(0, len(task.points.ids), size)
  for first in tqdm.tqdm(starts, desc=f'responses {folder.name}'):
    points = jax.tree.map(lambda x, i=first: x[i : i + size], task.points)
    path = folder / f'responses_{first:04d}.json'
    found.append(parts.part(path, origin, lambda p=points: solver(p)))
  return {
    'response': np.concatenate([np.array(x['response']) for x in found], 1),
    'ratio': np.concatenate([x['ratio'] for x in found]),
    'steps': np.concatenate([x['steps'] for x in found]),
    'seconds': sum(x['seconds'] for x in found),
  }


class _Solver:
  """Compiled once for all chunks."""

  def __init__(self, section, task, fitted, damping):
    if section.preconditioner not in PRECONDITIONERS:
      raise ValueError(
        f'validation.response.preconditioner is {section.preconditioner!r}, '
        f'expected one of {PRECONDITIONERS}'
      )
    self._section, self._task = section, task
    layers, (approximation, factors) = task.model.layers, fitted
    num = int(ggn.count(task.batches))
    arrays = {
      'params': task.params, 'batches': task.batches, 'damping': damping,
      'factors': factors, 'anchors': _anchors(task),
    }  # fmt: skip
    if section.preconditioner != 'ekfac':
      arrays['inverse'] = jax.jit(
        functools.partial(_factorise, task.model, section.preconditioner)
      )(arrays)
    exact = {'dense': dense.apply, 'woodbury': woodbury.apply}

    def problem(arrays):
      def precondition(x):
        if section.preconditioner in exact:
          return exact[section.preconditioner](arrays['inverse'], x)
        return influence.precondition_one(
          approximation, layers, arrays['factors'], x, arrays['damping']
        )

      return pbrf.Problem(
        task.model, *map(arrays.get, ('params', 'batches', 'anchors')),
        arrays['damping'], section.epsilon_times_n / num, precondition,
      )  # fmt: skip

    def start(arrays, points):
      return jax.vmap(lambda p: pbrf.start(problem(arrays), p))(points)

    def step(arrays, points, state):
      return jax.vmap(
        lambda p, s: pbrf.step(problem(arrays), p, s, section.tolerance)
      )(points, state)

    def respond(arrays, moved):
      return jax.vmap(
        lambda v: pbrf.response(task.model, arrays['params'], task.queries, v)
      )(moved)

    self._arrays = jax.tree.map(jnp.asarray, arrays)
    self._start, self._step, self._respond = map(
      jax.jit, (start, step, respond)
    )

  def __call__(self, points: types.Batch) -> dict:
    """Points take the places of those that are done: none waits for another."""
    num, size = len(points.ids), self._section.points_at_once
    waiting = list(range(num))
    places = np.array([waiting.pop(0) if waiting else 0 for _ in range(size)])
    open_ = np.arange(size) < num
    state = self._start(self._arrays, _rows(points, places))
    found = {}
    while open_.any():
      before = np.asarray(state.steps)
      state = self._step(self._arrays, _rows(points, places), state)
      steps, ratio = np.asarray(state.steps), np.asarray(state.ratio)
      done = open_ & (
        (ratio <= self._section.tolerance)
        | (steps == before)  # Q falls no further: its rounding errors are left
        | (steps >= self._section.max_steps)
      )
      if not done.any():
        continue
      response_MxK = np.asarray(self._respond(self._arrays, state.moved))
      for slot in np.flatnonzero(done):
        found[places[slot]] = response_MxK[slot], ratio[slot], steps[slot]
        if waiting:
          places[slot] = waiting.pop(0)
        else:
          open_[slot] = False
      fresh = self._start(self._arrays, _rows(points, places))
      state = _replace(state, fresh, done)
    response, ratio, steps = zip(*(found[m] for m in range(num)), strict=True)
    return {
      'response': np.array(response).T.tolist(),
      'ratio': np.array(ratio).tolist(),
      'steps': np.array(steps).tolist(),
    }


def _anchors(task):
  return jax.jit(lambda *x: pbrf.anchors(task.model, *x))(
    task.params, task.batches
  )


def _factorise(model, how: str, arrays):
  args = model, arrays['params'], arrays['batches']
  if how == 'dense':
    return dense.factorise(ggn.dense(*args), arrays['damping'], model.layers)
  return woodbury.factorise(ggn.root(*args), arrays['damping'])


def _rows(points: types.Batch, places: np.ndarray) -> types.Batch:
  return jax.tree.map(lambda x: np.asarray(x)[places], points)


@jax.jit
def _replace(state, fresh, at_M):
  """`fresh` where at_M, else `state`."""

  def choose(old, new):
    return jnp.where(at_M.reshape(-1, *(1,) * (old.ndim - 1)), new, old)

  return jax.tree.map(choose, state, fresh)
