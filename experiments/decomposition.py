"""Where influence functions leave retraining: Bae et al. 2022, step by step.

  python -m experiments.decomposition --config=configs/decomposition_digits.py \
    --workdir=runs/validation/decomposition_digits

Each row is a change of a query's log-probability (nats) as a point is left out,
and each pair of neighbours differs in one thing (arXiv 2209.05364, Sec. 4):

  cold         trained again by SGD: the mean over seeds   } warm start
  warm start   minimum of J_z found from theta_s           } proximity
  proximity    ... + proximity / 2 ||theta - theta_s||^2   } non-convergence
  PBRF         losses are Bregman divergences              } linearisation
  exact        -1/N grad f^T (G + damping)^-1 grad log p   } a solver's error
  EK-FAC, ...  a solver's or an approximation's scores

J_z is the training objective without z (experiments.leave_one_out). Its weight
decay is a proximal term too once divergences take the place of losses: the
divergence of weight_decay / 2 ||theta||^2 is weight_decay / 2 ||v||^2. So of
the damping, which is all the PBRF's and the solution's, `proximity` is what
goes beyond weight decay; where they are equal, nothing is added. The first
three are measured against the same procedure with no point left out, so what
both share cancels: 'warm start' holds the way from theta_s to a minimum only as
far as it differs between the two.

The gap of x and y is ||x - y|| / sqrt((||x||^2 + ||y||^2) / 2) over all points
and queries: 0 if they are equal, sqrt(2) if they have nothing to do with each
other, at most 2. The halves of cold's seeds against each other are its noise.
No point is dropped; how far minima and responses converged is in the result.

For logistic regression trained to convergence, with damping the weight decay,
the first three gaps are 0 and linearisation's is of the order of the share
tr G (G + damping)^-1 / N, effective parameters over sequences.

  D1  the first three gaps' sum over linearisation's and LiSSA's: nets
  D2  Pearson of cold with exact: logistic regression
  D3  the largest of the four gaps between cold and exact: logistic regression

Writes WORKDIR/train, cold_seed*, warm_start, proximity, responses and
estimates, result.json and decomposition.png. The same command again goes on
where it stopped. Sections read: those of train_net, validation, leave_one_out,
decomposition.
"""

import itertools
import os
import pathlib

import jax
import numpy as np
import rich
from ml_collections import ConfigDict

from experiments import (
  agreement,
  claims,
  common,
  decomposition_figure,
  estimates,
  leave_one_out,
  parts,
  responses,
  validate_pbrf,
  validation_task,
)
from influence_jax import ggn, influence, store
from influence_jax.report import figures, terminal

CHAIN = ('cold', 'warm start', 'proximity', 'PBRF', 'exact')
GAPS = ('warm start', 'proximity', 'non-convergence', 'linearisation')
NOISE = 'cold, half its seeds'
_CLAIMED = 'LiSSA'  # whose error is Bae et al.'s last gap


def run(config: ConfigDict, workdir: str | os.PathLike) -> dict:
  workdir = pathlib.Path(workdir)
  _check(config)
  with jax.enable_x64(config.validation.dtype == 'float64'):
    task = validation_task.train_and_load(config, workdir)
    cold_SxKxM, changes, described = _changes(config, task, workdir)
  half = len(cold_SxKxM) // 2
  noise = pair(NOISE, cold_SxKxM[:half].mean(0), cold_SxKxM[half:].mean(0))
  rows = [
    pair(name, changes[x], changes[y])
    for name, (x, y) in zip(GAPS, itertools.pairwise(CHAIN), strict=True)
  ]
  solvers = [x for x in changes if x not in CHAIN]
  rows += [pair(x, changes['exact'], changes[x]) for x in solvers]
  ends = pair('cold to exact', changes['cold'], changes['exact'])
  result = {
    **common.provenance('experiments.decomposition', config),
    'task': config.validation.task,
    'rows': [noise, *rows, ends],
    'claims': _claims(config, rows, ends),
    **described,
  }
  store.write_json(workdir / 'result.json', result)
  found = decomposition_figure.gaps(result)
  figures.save(found, workdir / 'decomposition.png')
  rich.print(_table(result))
  rich.print(claims.render(result['claims']))
  return result


def gap(x_KxM: np.ndarray, y_KxM: np.ndarray) -> float:
  """||x - y|| / sqrt((||x||^2 + ||y||^2) / 2), as in the module docstring."""
  squares = (np.square(x_KxM).sum() + np.square(y_KxM).sum()) / 2
  return float(np.sqrt(np.square(x_KxM - y_KxM).sum() / squares))


def pair(name: str, x_KxM: np.ndarray, y_KxM: np.ndarray) -> dict:
  """How x and y agree: their gap, and correlations over points, the mean

  over queries with its interval.
  """
  everywhere_M = np.ones(x_KxM.shape[1], bool)
  found = validate_pbrf.correlations(x_KxM, y_KxM, everywhere_M)
  means = {key: agreement.interval(x_K) for key, x_K in found.items()}
  return {'name': name, 'gap': gap(x_KxM, y_KxM), **means}


def _check(config) -> None:
  damping, decay = config.decomposition.damping, config.train.weight_decay
  if damping < decay:
    raise ValueError(
      f'decomposition.damping is {damping}, expected at least '
      f'train.weight_decay, {decay}, which is a part of it'
    )
  if len(config.leave_one_out.seeds) < 2:
    raise ValueError(
      f'leave_one_out.seeds is {config.leave_one_out.seeds}, expected two or '
      'more: halves of them are compared'
    )


def _changes(config, task, workdir):
  """Cold by seed, {label: change [K, M]}, and how the work went."""
  number, seed = config.decomposition.damping, config.train.seed
  fit = validation_task.fitted(task, 'ekfac', seed)
  damping = influence.damping_of(
    fit[0], task.model.layers, fit[1], relative=None, absolute=number
  )
  origin = _origin(config, task)
  cold_SxKxM = leave_one_out.cold(config, task, workdir, origin)
  beyond = number - config.train.weight_decay
  minima = {
    'warm start': leave_one_out.minimum(
      config, task, 0.0, workdir / 'warm_start', origin
    ),
    'proximity': leave_one_out.minimum(
      config, task, beyond, workdir / 'proximity', origin
    ),
  }  # fmt: skip
  truth = responses.compute(
    config, task, fit, damping, workdir / 'responses', origin
  )
  found = parts.part(
    workdir / 'estimates.json', origin,
    lambda: {
      'estimates': estimates.compute(config, task, {'ekfac': fit}, damping)
    },
  )['estimates']  # fmt: skip
  epsilon = config.validation.response.epsilon_times_n
  epsilon /= int(ggn.count(task.batches))
  scores = {x['label']: np.array(x['scores']) for x in found if 'scores' in x}
  changes = {
    'cold': cold_SxKxM.mean(0),
    **{label: x['change'] for label, x in minima.items()},
    'PBRF': truth['response'],
    **{label: epsilon * x for label, x in scores.items()},
  }
  ratios = {
    **{label: x['ratio'] for label, x in minima.items()},
    'PBRF': truth['ratio'],
  }
  described = {
    'num_points': len(task.points.ids),
    'num_queries': len(task.queries.ids),
    'parameters': sum(x.size for x in jax.tree.leaves(task.params)),
    'ratio': {label: agreement.summary(x) for label, x in ratios.items()},
    'residual': {x['label']: x.get('residual') for x in found},
    'diverged': [x for x in found if 'diverged' in x],
  }
  return cold_SxKxM, changes, described


def _origin(config, task) -> dict:
  """What a part hangs on; more seeds leave the files of the others valid."""
  sections = 'data', 'model', 'train', 'validation', 'leave_one_out'
  named = {name: config[name].to_dict() for name in sections}
  del named['leave_one_out']['seeds']
  return {
    **named, 'loss': config.loss, 'damping': config.decomposition.damping,
    'params': store.fingerprint(task.params),
  }  # fmt: skip


def _claims(config, rows, ends) -> list[dict]:
  gaps = {row['name']: row['gap'] for row in rows}

  def claim(number, statement, value, threshold, paper, form):
    task = config.validation.task
    return {
      **claims.claim(
        f'{number} {task}', '-', statement, value, threshold, paper=paper,
        form=form,
      ),
      'seeds': [*config.leave_one_out.seeds],
    }  # fmt: skip

  if not config.model.widths:
    return [
      claim(
        'D2', 'cold retraining against the exact solution, Pearson',
        ends['pearson'], ('>=', 0.99), '-', '.4f',
      ),
      claim(
        'D3', 'largest gap between cold retraining and the exact solution',
        max(gaps[name] for name in GAPS), ('<', 0.01), '-', '.2%',
      ),
    ]  # fmt: skip
  if _CLAIMED not in gaps:
    return []  # it diverged, which the result has
  first, last = sum(gaps[x] for x in GAPS[:3]), gaps[GAPS[3]] + gaps[_CLAIMED]
  return [
    claim(
      'D1', f'first three gaps over those of linearisation and {_CLAIMED}',
      first / last, ('>', 1.0), 'the first three dominate', '.2f',
    )
  ]  # fmt: skip


def _table(result):
  view = terminal.table(
    f'{result["task"]}: from retraining to influence (95 %)',
    'step', 'gap', 'Pearson', 'Spearman', wrap=True,
  )  # fmt: skip
  for row in result['rows']:
    shown = (agreement.shown(row[x], '.3f') for x in ('pearson', 'spearman'))
    view.add_row(row['name'], f'{row["gap"]:.1%}', *shown)
  return view


if __name__ == '__main__':
  common.main(run)
