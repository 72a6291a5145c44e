"""One stage of one side in a process of its own: seconds and memory.

    python -m benchmarks.ours --folder=CASE --stage=lambda --batch=32

Prints one line of JSON. The first pass over a single batch (compilation, pages
that are touched for the first time) is timed apart. `ours` and `rival` give
`prepare(folder, stage, query_batch) -> run`, where `run(batches, num)` goes
over the first `num` sequences (all if None) and returns a function that gives,
apart from what is timed, the array that is compared between the sides and what
later stages read, {name: array}.
"""

import json
import pathlib
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from absl import app, flags

from benchmarks import cases, machine

_FOLDER = flags.DEFINE_string('folder', None, 'the case', required=True)
_STAGE = flags.DEFINE_enum('stage', None, cases.STAGES, 'what', required=True)
_BATCH = flags.DEFINE_list(
  'batch', ['32'], 'sequences a batch; end_to_end: of its three passes'
)
_QUERY_BATCH = flags.DEFINE_integer(
  'query_batch', 32, 'queries whose gradients are taken at once'
)
_REPEATS = flags.DEFINE_integer('repeats', 1, 'timed runs')
_WARM_UP = flags.DEFINE_bool('warm_up', True, 'one batch before it is timed')
_TUNE = flags.DEFINE_list(
  'tune',
  [],
  'only finds the least of these batch sizes within 5 % of the best',
)
THREADS = 2  # of the machine that these figures come from


class Batches(NamedTuple):
  """Sequences a batch in each of the three passes over the data."""

  covariance: int
  eigenvalue: int  # Lambda
  score: int


def main(side: str, prepare: Callable) -> None:
  """Reads the flags, runs the stage, prints the line."""
  app.run(lambda _: _main(side, prepare))


def slices(num: int, batch: int) -> list[slice]:
  """The batches of `num` sequences; one shape for all."""
  if num % batch:
    raise ValueError(
      f'{num} sequences are no multiple of the batch size {batch}: '
      'choose another, no batch is padded here'
    )
  return [slice(i, i + batch) for i in range(0, num, batch)]


def keep(folder: pathlib.Path, side: str, name: str, arrays: dict) -> None:
  np.savez(folder / f'{side}_{name}.npz', **arrays)


def kept(folder: pathlib.Path, side: str, name: str) -> dict[str, np.ndarray]:
  """What an earlier stage left.

  Raises:
    ValueError: that stage has not been run.
  """
  path = folder / f'{side}_{name}.npz'
  if not path.exists():
    raise ValueError(f'{path} is not there: run the stage {name} first')
  with np.load(path, allow_pickle=False) as arrays:
    return dict(arrays)


def _main(side, prepare):
  folder = pathlib.Path(_FOLDER.value)
  run = prepare(folder, _STAGE.value, _QUERY_BATCH.value)
  line = {'side': side, 'stage': _STAGE.value, 'baseline_mb': machine.rss_mb()}
  if _TUNE.value:
    line |= _tune(run, [int(b) for b in _TUNE.value])
  else:
    sizes = [int(b) for b in _BATCH.value]
    line |= _time(run, Batches(*(sizes if len(sizes) == 3 else sizes * 3)))
    value, arrays = line.pop('result')()
    keep(folder, side, f'value_{_STAGE.value}', {'value': value})
    if arrays:
      keep(folder, side, _STAGE.value, arrays)
  print(json.dumps(line))


def _time(run, batches):
  first_s = again_s = 0.0
  if _WARM_UP.value:
    first_s, _ = _seconds(run, batches, max(batches))
    again_s, _ = _seconds(run, batches, max(batches))
  seconds = []
  for _ in range(_REPEATS.value):
    taken, result = _seconds(run, batches, None)
    seconds.append(taken)
  return {
    'batch': batches, 'seconds': seconds, 'compile_s': first_s - again_s,
    'peak_mb': machine.peak_mb(), 'result': result,
  }  # fmt: skip


def _tune(run, sizes):
  """Seconds of as many sequences as the largest batch, by batch size."""
  seconds = {}
  for size in sizes:
    batches = Batches(*[size] * 3)
    _seconds(run, batches, size)
    taken, _ = _seconds(run, batches, max(sizes))
    if taken < 2:
      taken = min(taken, _seconds(run, batches, max(sizes))[0])
    seconds[size] = taken
  good = 1.05 * min(seconds.values())  # as fast: then the one of less memory
  best = min(size for size, taken in seconds.items() if taken <= good)
  return {'best': best, 'seconds': seconds}


def _seconds(run, batches, num):
  start = time.perf_counter()
  result = run(batches, num)
  return time.perf_counter() - start, result
