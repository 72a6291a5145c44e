"""This library against kronfluence: paired times, memory, operations.

    python -m benchmarks.compare --cases=small,medium --repeats=3 \\
      --workdir=runs/benchmark --out=results/benchmark.json

Each measurement is a process of its own; the two sides take turns. Each side's
batch size is the smallest of a short list that is within 5 % of the fastest,
found once (workdir/batches.json).
`compile_s` is of the first round, whose cache of compiled programs is empty;
end_to_end_cold pays for it inside, end_to_end_warm finds the cache filled (the
rival has its warm-up apart in both). One row a case and stage; rows of the same
commit, if it has no changes, are not measured again. `pearson` is between the
values of the two sides, whose pseudo-labels differ: scores, or (before there
are scores) diagonals, eigenvalues, sorted Lambda.
"""

import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys

import numpy as np
from absl import app, flags, logging
from rich import box, console, table

from benchmarks import cases, figure, machine
from influence_jax.report import figures, files

_CASES = flags.DEFINE_list('cases', ['small', 'medium'], 'of cases.CASES')
_STAGES = flags.DEFINE_list('stages', [*cases.STAGES], 'which of them')
_REPEATS = flags.DEFINE_integer('repeats', 3, 'measurements of each side')
_WORKDIR = flags.DEFINE_string('workdir', 'runs/benchmark', 'cases, caches')
_OUT = flags.DEFINE_string('out', 'results/benchmark.json', 'the rows')
_LEAST_PEARSON = 0.97
_SIDES = ('ours', 'rival')
_PASSES = ('covariance', 'lambda', 'pairwise')  # of end_to_end


def measure(side: str, folder, stage: str, cache=None, **arguments) -> dict:
  """The JSON line of a process that runs one stage of one side."""
  command = [sys.executable, '-m', f'benchmarks.{side}', f'--stage={stage}']
  command += [f'--folder={folder}']
  command += [f'--{name}={value}' for name, value in arguments.items()]
  env = {'GLIBC_TUNABLES': 'glibc.malloc.hugetlb=1', **os.environ}
  if cache is not None:
    env |= {
      'JAX_COMPILATION_CACHE_DIR': str(cache),
      'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
      'JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES': '-1',
    }
  done = subprocess.run(command, env=env, capture_output=True, text=True)
  if done.returncode:
    raise RuntimeError(f'{" ".join(command)} failed:\n{done.stderr[-4000:]}')
  return json.loads(done.stdout.splitlines()[-1])


def batch_sizes(case, folder, stage, known: dict, path) -> dict[str, str]:
  """{side: its fastest batch sizes, as a flag}; remembered in `path`."""
  if stage == 'eigendecomposition':
    return dict.fromkeys(_SIDES, '32')  # sees no batch
  if stage == 'end_to_end':
    parts = [batch_sizes(case, folder, p, known, path) for p in _PASSES]
    return {side: ','.join(part[side] for part in parts) for side in _SIDES}
  for side in _SIDES:
    key = f'{case.name}/{stage}/{side}'
    if key not in known:
      tune = ','.join(map(str, case.batches))
      known[key] = measure(side, folder, stage, tune=tune)
      files.write(path, json.dumps(known, indent=2).encode())
  return {
    side: str(known[f'{case.name}/{stage}/{side}']['best']) for side in _SIDES
  }


def rounds(folder, stage: str, sizes: dict) -> dict[str, list[dict]]:
  """{'ours', 'rival', for end_to_end 'cold': lines}, the sides in turn."""
  cache = folder / f'cache_{stage}'
  shutil.rmtree(cache, ignore_errors=True)
  lines = {'ours': [], 'rival': [], 'cold': []}
  for _ in range(_REPEATS.value):
    extra = {}
    if stage == 'end_to_end':
      extra = {'warm_up': False}
      shutil.rmtree(cache, ignore_errors=True)
      lines['cold'] += [
        measure('ours', folder, stage, cache, batch=sizes['ours'], **extra)
      ]
    lines['ours'] += [
      measure('ours', folder, stage, cache, batch=sizes['ours'], **extra)
    ]
    lines['rival'] += [measure('rival', folder, stage, batch=sizes['rival'])]
  return lines


def row(case, folder, stage: str, ours: list, rival: list, peak: float) -> dict:
  """One row of the table."""
  runs = {'ours': _seconds(ours), 'rival': _seconds(rival)}
  ours_s, rival_s = (statistics.median(runs[side]) for side in _SIDES)
  plain = stage.removesuffix('_cold').removesuffix('_warm')
  flop = cases.flop(case, plain)
  fraction = flop and flop / 1e9 / ours_s / peak
  rival_fraction = flop and flop / 1e9 / rival_s / peak
  return {
    'case': case.name, 'stage': stage, 'ours_s': ours_s, 'rival_s': rival_s,
    'ratio': rival_s / ours_s,
    'target': figure.TARGETS.get(case.name, {}).get(stage),
    'gflop': flop and flop / 1e9,
    'fraction_of_peak': fraction, 'rival_fraction_of_peak': rival_fraction,
    'compile_s': ours[0]['compile_s'] if plain == stage else None,
    'peak_mb': max(line['peak_mb'] for line in ours),
    'rival_peak_mb': max(line['peak_mb'] for line in rival),
    'baseline_mb': ours[0]['baseline_mb'],
    'rival_baseline_mb': rival[0]['baseline_mb'],
    'batch': ours[0]['batch'], 'rival_batch': rival[0]['batch'],
    'pearson': pearson(folder, plain), 'runs': runs, 'matmul_gflops': peak,
  }  # fmt: skip


def pearson(folder: pathlib.Path, stage: str) -> float:
  values = []
  for side in _SIDES:
    with np.load(folder / f'{side}_value_{stage}.npz') as arrays:
      values.append(arrays['value'].ravel())
  found = float(np.corrcoef(*values)[0, 1])
  if found < _LEAST_PEARSON:
    logging.warning('%s %s: Pearson %.4f', folder.name, stage, found)
  return found


def show(rows: list[dict]) -> None:
  names = {
    'case': 'case', 'stage': 'stage', 'ours_s': 'ours s', 'rival_s': 'rival s',
    'ratio': 'ratio', 'target': 'target', 'gflop': 'GFLOP',
    'fraction_of_peak': 'of peak', 'compile_s': 'compile s',
    'peak_mb': 'MB', 'rival_peak_mb': 'rival MB', 'baseline_mb': 'idle MB',
    'rival_baseline_mb': 'rival idle', 'pearson': 'Pearson',
  }  # fmt: skip
  out = table.Table(box=box.SIMPLE, header_style='dim', pad_edge=False)
  for name in names.values():
    out.add_column(name, justify='right', no_wrap=True)
  for each in rows:
    out.add_row(*[_cell(each[name]) for name in names])
  console.Console(width=170).print(out)


def main(_):
  workdir, out = pathlib.Path(_WORKDIR.value), pathlib.Path(_OUT.value)
  source = {'commit': machine.commit(), 'device': machine.device()}
  rows = json.loads(out.read_text()) if out.exists() else []
  path = workdir / 'batches.json'
  known = json.loads(path.read_text()) if path.exists() else {}
  peak = machine.matmul_gflops()
  for case in [cases.CASES[name] for name in _CASES.value]:
    folder = cases.write(case, workdir / case.name)
    for stage in _STAGES.value:
      if _is_done(rows, case.name, stage, source['commit']):
        continue
      sizes = batch_sizes(case, folder, stage, known, path)
      lines = rounds(folder, stage, sizes)
      parts = {stage: lines['ours']}
      if lines['cold']:
        parts = {f'{stage}_cold': lines['cold'], f'{stage}_warm': lines['ours']}
      for name, ours in parts.items():
        found = row(case, folder, name, ours, lines['rival'], peak) | source
        rows = [r for r in rows if _key(r) != _key(found)] + [found]
        show([found])
      files.write(out, json.dumps(rows, indent=1).encode())
  show([r for r in rows if r['case'] in _CASES.value])
  figures.save(figure.ratios(rows), out)


def _is_done(rows, case: str, stage: str, commit: str) -> bool:
  return not commit.endswith('-dirty') and any(
    r['case'] == case and r['stage'].startswith(f'{stage}_')
    or _key(r) == (case, stage)
    for r in rows if r['commit'] == commit
  )  # fmt: skip


def _key(row):
  return row['case'], row['stage']


def _seconds(lines):
  return [s for line in lines for s in line['seconds']]


def _cell(x):
  if isinstance(x, float):
    return f'{x:,.0f}' if x >= 100 else f'{x:.3f}'
  return '' if x is None else str(x)


if __name__ == '__main__':
  app.run(main)
