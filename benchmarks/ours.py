"""The stages of a case with this library: the same work as `rival`.

    python -m benchmarks.ours --folder=CASE --stage=lambda --batch=32

A batch's result is fetched while the next one is computed. What is called of
the library is in `ours_library`.
"""

import functools
import pathlib
from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import measure
from benchmarks import ours_library as library
from influence_jax import cpu, types


def prepare(folder: pathlib.Path, stage: str, query_batch: int) -> Callable:
  cpu.tune()
  setup = library.load(folder)
  make = {
    'covariance': _covariance,
    'eigendecomposition': _eigendecomposition,
    'lambda': _lambda,
    'self_influence': _self_influence,
    'end_to_end': _end_to_end,
  }.get(stage, functools.partial(_pairwise, stage=stage))
  return make(setup, folder, query_batch)


def _covariance(setup, folder, query_batch):
  del folder, query_batch
  sums_of = library.make_pass(setup, 0)

  def run(batches, num):
    state = sums_of(_none(setup), _batches(setup, num, batches.covariance))
    return functools.partial(result, state)

  def result(state):
    sums, tokens = jax.device_get((state.sums, state.counts.tokens))
    pairs = [(x['A'], x['S']) for x in sums.values()]
    value = [np.diagonal(x[0]) / tokens for pair in pairs for x in pair]
    counts = {'counts': state.counts._asdict()}
    return np.concatenate(value), _flatten(sums) | _flatten(counts)

  return run


def _eigendecomposition(setup, folder, query_batch):
  del query_batch
  sums = _unflatten(measure.kept(folder, 'ours', 'covariance'))
  counts = sums.pop('counts')
  state = library.restore(setup, sums, counts)

  def run(batches, num):
    del batches, num
    factors = jax.device_get(library.finish(setup, 0, state))
    value = [x[key] for x in factors.values() for key in ('L_A', 'L_S')]
    return lambda: (np.concatenate(value), _flatten(factors))

  return run


def _lambda(setup, folder, query_batch):
  del query_batch
  factors = _kept(folder, 'eigendecomposition')
  sums_of = library.make_pass(setup, 1)

  def run(batches, num):
    state = sums_of(factors, _batches(setup, num, batches.eigenvalue))
    return functools.partial(result, library.finish(setup, 1, state))

  def result(factors):
    value = [np.sort(np.ravel(x['Lambda'])) for x in factors.values()]
    return np.concatenate(value)[::7], _flatten(factors)

  return run


def _pairwise(setup, folder, query_batch, stage):
  factors = _kept(folder, 'lambda')
  solve = library.make_queries(setup, stage)
  score = library.make_score(setup, stage)

  def run(batches, num):
    queries = solve(factors, _queries(setup, query_batch))
    scores = score(queries, _batches(setup, num, batches.score))
    whole = np.concatenate([*_fetched(scores)], axis=1)
    return lambda: (whole, {})

  return run


def _self_influence(setup, folder, query_batch):
  del query_batch
  factors, own = _kept(folder, 'lambda'), library.make_self(setup)

  def run(batches, num):
    scores = own(factors, _batches(setup, num, batches.score))
    whole = np.concatenate([*_fetched(scores)])
    return lambda: (whole, {})

  return run


def _end_to_end(setup, folder, query_batch):
  del folder
  passes = [library.make_pass(setup, index) for index in (0, 1)]
  solve = library.make_queries(setup, 'pairwise')
  score = library.make_score(setup, 'pairwise')

  def run(batches, num):
    factors = _none(setup)
    for index, sums_of in enumerate(passes):
      state = sums_of(factors, _batches(setup, num, batches[index]))
      factors = library.finish(setup, index, state)
    queries = solve(factors, _queries(setup, query_batch))
    scores = score(queries, _batches(setup, num, batches.score))
    whole = np.concatenate([*_fetched(scores)], axis=1)
    return lambda: (whole, {})

  return run


def _fetched(results: Iterable[jax.Array]) -> Iterable[np.ndarray]:
  """Each result on the host, fetched when the next has been dispatched."""
  waiting = None
  for result in results:
    if waiting is not None:
      yield np.asarray(waiting)
    waiting = result
  yield np.asarray(waiting)


def _batches(
  setup: library.Setup, num: int | None, batch: int
) -> list[types.Batch]:
  num = num or len(setup.train.ids)
  return _cut(setup.train, measure.slices(num, batch))


def _queries(setup: library.Setup, batch: int) -> list[types.Batch]:
  num = len(setup.queries.ids)
  return _cut(setup.queries, measure.slices(num, min(batch, num)))


def _cut(rows: types.Batch, slices: list[slice]) -> list[types.Batch]:
  return [types.Batch(*(x[at] for x in rows)) for at in slices]


def _none(setup: library.Setup) -> dict:
  return {path: {} for path in setup.model.layers}


def _flatten(factors: dict[str, dict]) -> dict[str, np.ndarray]:
  """{'path|name': array} of {path: {name: array}}."""
  return {
    f'{path}|{name}': np.asarray(array)
    for path, arrays in factors.items()
    for name, array in arrays.items()
  }


def _unflatten(arrays: dict[str, np.ndarray]) -> dict[str, dict]:
  factors = {}
  for key, array in arrays.items():
    path, name = key.split('|')
    factors.setdefault(path, {})[name] = jnp.asarray(array)
  return factors


def _kept(folder: pathlib.Path, stage: str) -> dict[str, dict]:
  return _unflatten(measure.kept(folder, 'ours', stage))


if __name__ == '__main__':
  measure.main('ours', prepare)
