"""Seconds of a scan against sequences, queries and positions; and its memory.

    python -m benchmarks.sweep --case=medium --out=results/sweep.json

A row a point: N sequences with Q queries of rank 32 at T positions, compiled
beforehand, the solving of the queries not included; `roads` says how layers
were contracted. Queries beyond the case's are copies: they cost the same.
`memory` has the peaks of processes that scan so many sequences of the case
`small` (copies again) and keep a summary of their scores; runs differ by a
tenth. Each part has its commit; --parts=memory leaves the times as they are.
"""

import json
import pathlib
import subprocess
import sys
import time

import numpy as np
from absl import app, flags

from benchmarks import cases, figure, machine
from benchmarks import ours_library as library
from influence_jax import contraction, cpu, scan, topk, types
from influence_jax.report import figures, files

_CASE = flags.DEFINE_string('case', 'medium', 'of cases.CASES')
_SWEEP_OUT = flags.DEFINE_string('sweep_out', 'results/sweep.json', 'the rows')
_SWEEP_DIR = flags.DEFINE_string('sweep_workdir', 'runs/sweep', 'cases')
_PARTS = flags.DEFINE_list('parts', ['times', 'memory'], 'what is measured')
_SCAN = flags.DEFINE_integer('scan', None, 'only scans so many, for its memory')
_NUM = (64, 128, 256, 512, 1024, 2048)
_QUERIES = (1, 8, 32, 128, 320, 512)
_LENGTHS = (32, 64, 128, 256, 512)
_MEMORY = (1_000, 10_000, 100_000)
_MEMORY_RUNS = 3
_BATCH = 64
_ROWS = 128  # sequences of the sweeps over queries and positions


def prepared(case: cases.Case, folder: pathlib.Path):
  """(setup, queries of rank 32) with factors of two batches: good for times."""
  setup = library.load(cases.write(case, folder))
  batches = [_rows(setup.train, 0, 32), _rows(setup.train, 32, 64)]
  factors = {path: {} for path in setup.model.layers}
  for index in (0, 1):
    state = library.make_pass(setup, index)(factors, batches)
    factors = library.finish(setup, index, state)
  solve = library.make_queries(setup, 'pairwise_rank32')
  return setup, solve(factors, [setup.queries])


def seconds(setup, queries, num: int, batch: int) -> float:
  """Of one scan of `num` sequences, compiled before."""
  step = scan.make_step(setup.model, setup.mesh)
  for many in (batch, num):
    start = time.perf_counter()
    some = batches(setup, many, batch)
    for _ in scan.scan(step, setup.params, queries, some, setup.mesh):
      pass
  return time.perf_counter() - start


def batches(setup, num: int, size: int):
  """Batches of the case's sequences over and over, numbered on."""
  have = len(setup.train.ids)
  for start in range(0, num, size):
    rows = np.arange(start, min(start + size, num))
    batch = types.Batch(*(x[np.resize(rows, size) % have] for x in setup.train))
    ids = np.full(size, -1)
    ids[: len(rows)] = rows
    yield batch._replace(ids=ids)


def points(case, workdir):
  setup, queries = prepared(case, workdir / case.name)
  for num in _NUM:
    yield _point('N', case, setup, queries, num, _BATCH)
  for num in _QUERIES:
    some = contraction.take(queries, np.arange(num) % case.num_queries)
    yield _point('Q', case, setup, some, _ROWS, _BATCH)
  for length in _LENGTHS:
    other = cases.dataclasses.replace(
      case, name=f'{case.name}_{length}', seq_len=length, num_train=_ROWS
    )
    setup, queries = prepared(other, workdir / other.name)
    size = max(1, _BATCH * case.seq_len // length)
    yield _point('T', other, setup, queries, _ROWS, min(size, _ROWS))


def _point(axis, case, setup, queries, num, batch):
  roads = scan.roads(setup.model.layers, queries, (batch, case.seq_len))
  return {
    'axis': axis, 'N': num, 'Q': contraction.num_queries(queries),
    'T': case.seq_len, 'batch': batch,
    'seconds': seconds(setup, queries, num, batch),
    'roads': sorted(set(roads.values())),
  }  # fmt: skip


def scan_many(workdir, num: int) -> dict:
  """Scans, keeps a summary, says how much memory that took."""
  setup, queries = prepared(cases.CASES['small'], workdir / 'small')
  summary = topk.start(contraction.num_queries(queries), 100)
  step = scan.make_step(setup.model, setup.mesh)
  for ids, scores in scan.scan(
    step, setup.params, queries, batches(setup, num, _BATCH), setup.mesh
  ):
    summary = topk.update(summary, ids, scores)
  return {'N': int(summary.num), 'peak_mb': machine.peak_mb()}


def _times(workdir):
  rows = []
  for row in points(cases.CASES[_CASE.value], workdir):
    print(row, flush=True)
    rows.append(row)
  on_n = [row for row in rows if row['axis'] == 'N']
  slope, intercept = np.polyfit(
    [row['N'] for row in on_n], [row['seconds'] for row in on_n], 1
  )
  fitted = {'seconds_a_sequence': slope, 'seconds_at_none': intercept}
  return {'case': _CASE.value, 'rows': rows, **fitted}


def _memory(workdir):
  del workdir  # each process has its own
  rows = []
  for num in _MEMORY:
    command = [sys.executable, '-m', 'benchmarks.sweep', f'--scan={num}']
    peaks = []
    for _ in range(_MEMORY_RUNS):
      done = subprocess.run(command, capture_output=True, text=True, check=True)
      peaks.append(json.loads(done.stdout.splitlines()[-1])['peak_mb'])
    rows.append({'N': num, 'peak_mb': peaks})
    print(rows[-1], flush=True)
  return {'rows': rows}


def main(_):
  cpu.tune()
  workdir, out = pathlib.Path(_SWEEP_DIR.value), pathlib.Path(_SWEEP_OUT.value)
  if _SCAN.value:
    print(json.dumps(scan_many(workdir, _SCAN.value)))
    return
  result = json.loads(out.read_text()) if out.exists() else {}
  source = {'commit': machine.commit(), 'device': machine.device()}
  for part in _PARTS.value:
    measure = {'times': _times, 'memory': _memory}[part]
    result[part] = {**source, **measure(workdir)}
    files.write(out, json.dumps(result, indent=1).encode())
  if 'times' in result:
    figures.save(figure.sweep(result['times']['rows']), out)


def _rows(batch, start, stop):
  return types.Batch(*(x[start:stop] for x in batch))


if __name__ == '__main__':
  app.run(main)
