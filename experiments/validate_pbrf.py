"""Do estimates agree with the proximal Bregman response? Fig. 6.

  python -m experiments.validate_pbrf --config=configs/pbrf_concrete.py \
    --workdir=runs/validation/pbrf_concrete

Trains the net once a seed (experiments.train_net), then for each damping solves
for the response of every point (influence_jax.pbrf) and asks each method for
its scores; the same damping is in the response and in every estimate. The
number is Pearson's and Spearman's correlation over the points, one a query: the
mean over queries and seeds, 95 % by the bootstrap over them. Points whose
response did not converge (ratio above CONVERGED) are counted and left out; a
damping at which fewer than three did has no correlations, and no claims.

The claims are of validation.claimed, a damping fixed beforehand:

  E1  the exact solution, whatever method is labelled so, against the response
  E2  EK-FAC less gradient dot product
  E3  EK-FAC less LiSSA at its last step

What each method costs is experiments.wall_clock's question. Writes
WORKDIR/seed0/... (net, responses, estimates), WORKDIR/result.json and
damping.png. The same command again goes on where it stopped. Sections read:
those of train_net (of a language model: of train), validation.
"""

import functools
import os
import pathlib

import jax
import numpy as np
import rich
from absl import logging
from ml_collections import ConfigDict
from scipy import stats

from experiments import (
  agreement,
  claims,
  common,
  estimates,
  parts,
  responses,
  validate_pbrf_figure,
  validation_task,
)
from influence_jax import ggn, influence, store
from influence_jax.report import figures, terminal

CONVERGED = 1e-3
_FEWEST = 3  # points for a correlation
_KEPT = 'label', 'step', 'products', 'residual'
EXACT, EKFAC, DOT, LISSA = 'exact', 'EK-FAC', 'gradient dot product', 'LiSSA'


def run(config: ConfigDict, workdir: str | os.PathLike) -> dict:
  workdir, section = pathlib.Path(workdir), config.validation
  rows, tasks = [], []
  with jax.enable_x64(section.dtype == 'float64'):
    for seed in section.seeds:
      found, described = _of_seed(config, workdir / f'seed{seed}', seed)
      rows += found
      tasks.append(described)
  result = {
    **common.provenance('experiments.validate_pbrf', config),
    'task': section.task,
    'seeds': tasks,
    'rows': summarise(rows, 'damping', 'label', 'step'),
    'claims': _claims(section, rows, tasks),
  }
  store.write_json(workdir / 'result.json', result)
  if not rows:
    raise ValueError(
      f'at no damping {_FEWEST} responses converged ({workdir}/result.json has '
      'their ratios): raise validation.response.max_steps or the dampings'
    )
  figures.save(validate_pbrf_figure.damping(result), workdir / 'damping.png')
  rich.print(_table(result))
  rich.print(claims.render(result['claims']))
  return result


def correlations(
  scores_KxM: np.ndarray, truth_KxM: np.ndarray, converged_M: np.ndarray
) -> dict[str, list[float]]:
  """Of each query over the points that converged."""
  pairs = list(
    zip(scores_KxM[:, converged_M], truth_KxM[:, converged_M], strict=True)
  )
  return {
    'pearson': [float(stats.pearsonr(*pair).statistic) for pair in pairs],
    'spearman': [float(stats.spearmanr(*pair).statistic) for pair in pairs],
  }


def summarise(rows: list[dict], *names: str) -> list[dict]:
  """Over seeds and queries, of rows that have the same under these names."""
  groups = {}
  for row in rows:
    groups.setdefault(tuple(row[x] for x in names), []).append(row)
  return [
    {
      **dict(zip(names, shared, strict=True)),
      **{
        key: agreement.interval([x for row in group for x in row[key]])
        for key in ('pearson', 'spearman', 'with_exact')
        if key in group[0]
      },
      **{
        key: _median([row[key] for row in group])
        for key in ('products', 'seconds', 'residual')
        if key in group[0]
      },
    }
    for shared, group in groups.items()
  ]


def _of_seed(config, workdir, seed) -> tuple[list[dict], dict]:
  """A row for each damping, method and step; and what they are of."""
  own, section = config.copy_and_resolve_references(), config.validation
  own.train.seed = seed
  task = validation_task.train_and_load(own, workdir)
  names = {dict(x)['curvature'] for x in section.methods if 'curvature' in x}
  fits = {x: validation_task.fitted(task, x, seed) for x in names | {'ekfac'}}
  origin = {'config': _origin(own), 'params': store.fingerprint(task.params)}
  rows, points = [], []
  for kind, value in section.dampings:
    damping = influence.damping_of(
      fits['ekfac'][0], task.model.layers, fits['ekfac'][1],
      **{'relative': None, kind: value},
    )  # fmt: skip
    name = f'{kind} {value:g}'
    folder = workdir / name.replace(' ', '_')
    folder.mkdir(exist_ok=True)
    truth = responses.compute(own, task, fits['ekfac'], damping, folder, origin)
    found = parts.part(
      folder / 'estimates.json', origin,
      functools.partial(_estimates, own, task, fits, damping),
    )  # fmt: skip
    converged_M = truth['ratio'] <= CONVERGED
    if converged_M.sum() >= _FEWEST:
      rows += _rows(name, truth['response'], converged_M, found['estimates'])
    else:
      logging.warning(
        'damping %s, seed %d: %d of %d responses converged, too few to say '
        'anything; raise validation.response.max_steps or the damping',
        name, seed, converged_M.sum(), len(converged_M),
      )  # fmt: skip
    points.append(
      {
        'damping': name,
        'num_points': len(converged_M),
        'num_converged': int(converged_M.sum()),
        'ratio': {
          'median': float(np.median(truth['ratio'])),
          'max': float(truth['ratio'].max()),
        },
        'diverged': [x for x in found['estimates'] if 'diverged' in x],
      }
    )
  size = sum(x.size for x in jax.tree.leaves(task.params))
  return rows, {
    'seed': seed, 'num_train': int(ggn.count(task.batches)),
    'parameters': int(size), 'points': points,
  }  # fmt: skip


def _estimates(own, task, fits, damping) -> dict:
  return {'estimates': estimates.compute(own, task, fits, damping)}


def _origin(own: ConfigDict) -> dict:
  """What responses and estimates hang on, the dampings' list apart."""
  section = own.validation.to_dict()
  for name in ('dampings', 'seeds', 'claimed', 'bounds', 'task'):
    del section[name]
  sections = {name: own[name].to_dict() for name in ('data', 'model', 'train')}
  return {**sections, 'validation': section}


def _rows(name, response_KxM, converged_M, found) -> list[dict]:
  found = [x for x in found if 'scores' in x]
  exact_KxM = np.array([x for x in found if x['label'] == EXACT][-1]['scores'])
  return [
    {
      'damping': name,
      **{key: x[key] for key in _KEPT},
      **correlations(np.array(x['scores']), response_KxM, converged_M),
      'with_exact': correlations(
        np.array(x['scores']), exact_KxM, np.ones_like(converged_M)
      )['pearson'],
    }
    for x in found
  ]


def _median(values: list[float | None]) -> float | None:
  return None if None in values else float(np.median(values))


def _claims(section, rows, tasks) -> list[dict]:
  kind, value = section.claimed
  name = f'{kind} {value:g}'
  last = {}  # of each method, all seeds' and queries' correlations
  for row in rows:
    if row['damping'] == name:
      last.setdefault(row['label'], {}).setdefault(row['step'], []).append(row)
  if not last:
    return []

  def of(label):
    group = last[label][max(last[label], key=lambda step: step or 0)]
    return np.array([x for row in group for x in row['pearson']])

  def claim(number, figure, statement, values, threshold, paper):
    return {
      **claims.claim(
        f'{number} {section.task}', figure, f'{statement}, damping {name}',
        values, threshold, paper=paper,
      ),
      'seeds': [task['seed'] for task in tasks],
    }  # fmt: skip

  interval, bounds, exact = agreement.interval, section.bounds, of(EXACT)
  made = [
    claim(
      'E1', '-', 'exact solution against the response, Pearson',
      interval(exact), ('>=', bounds.exact), 'taken for granted',
    ),
    claim(
      'E2', '6', 'EK-FAC less gradient dot product, Pearson',
      interval(of(EKFAC) - of(DOT)), ('>=', 0.15), 'above on every task',
    ),
  ]  # fmt: skip
  if LISSA in last:
    apart = interval(of(EKFAC) - of(LISSA))
    made.append(
      claim(
        'E3', '6', 'EK-FAC less LiSSA, Pearson', apart, ('>=', -0.25),
        'competitive',
      )
    )  # fmt: skip
  return made


def _table(result):
  view = terminal.table(
    f'{result["task"]}: correlation with the response (95 %)',
    'damping', 'method', 'step', 'Pearson', 'Spearman', 'with exact',
    'products', num_labels=2, wrap=True,
  )  # fmt: skip
  for row in result['rows']:
    view.add_row(
      row['damping'], row['label'],
      '-' if row['step'] is None else str(row['step']),
      *(
        agreement.shown(row[key], '.3f')
        for key in ('pearson', 'spearman', 'with_exact')
      ),
      f'{row["products"]:,.0f}',
    )  # fmt: skip
  return view


if __name__ == '__main__':
  common.main(run)
