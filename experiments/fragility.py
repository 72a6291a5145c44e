"""Are influence functions fragile in deep nets, or is it their target?

  python -m experiments.fragility --config=configs/fragility_digits.py \
    --workdir=runs/validation/fragility_digits

Basu et al. 2021 (arXiv 2006.14651): with depth, scores stop to agree with
leave-one-out retraining. A cell for each depth (hidden layers), width and
weight decay trains a net and asks how EK-FAC's and the exact solution's scores
agree, over points, with three targets:

  cold   retraining without the point, from scratch, the mean over seeds
  warm   the same SGD from theta_s, for leave_one_out.warm_epochs more
  PBRF   the proximal Bregman response, which is what they approximate; points
         whose response did not converge are counted and left out of it

The damping, of scores and of the response, is the cell's weight decay, or
fragility.least_damping if that is more. Depth 0, logistic regression, has no
width. The claims are of the exact solution at fragility.decay, Spearman, of
each depth the best width against that target:

  F1  depth 0 against cold
  F2  the fall from the least depth with a hidden layer to the largest, cold
  F3  what is left of that fall with PBRF, less half of F2's

Writes WORKDIR/depth2_width32_decay0.001/... a cell (net, retraining, responses,
cell.json), result.json and fragility.png. The same command again goes on where
it stopped. Sections read: those of train_net, validation, leave_one_out,
fragility; model.widths and train.weight_decay are the cell's.
"""

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
  estimates,
  fragility_figure,
  leave_one_out,
  parts,
  responses,
  validate_pbrf,
  validation_task,
)
from influence_jax import ggn, influence, store
from influence_jax.report import figures, terminal

_EXACT = 'exact'


def run(config: ConfigDict, workdir: str | os.PathLike) -> dict:
  workdir, grid = pathlib.Path(workdir), config.fragility
  _check(config)
  cells = []
  with jax.enable_x64(config.validation.dtype == 'float64'):
    for decay in grid.decays:
      for depth in grid.depths:
        for width in grid.widths if depth else (0,):
          cells.append(_cell(config, depth, width, decay, workdir))
  result = {
    **common.provenance('experiments.fragility', config),
    'cells': cells,
    'claims': _claims(config, cells),
  }
  store.write_json(workdir / 'result.json', result)
  figures.save(fragility_figure.by_depth(result), workdir / 'fragility.png')
  rich.print(_table(cells))
  rich.print(claims.render(result['claims']))
  return result


def best(
  cells: list[dict], depth: int, decay: float, label: str, target: str
) -> list[float]:
  """Spearman [mean, low, high] over queries, of the width where it is best."""
  found = [
    cell['agreement'][label][target]['spearman']
    for cell in cells
    if (cell['depth'], cell['decay']) == (depth, decay)
  ]
  return max(found, key=lambda interval: interval[0])


def _check(config) -> None:
  grid = config.fragility
  hidden = [depth for depth in grid.depths if depth]
  if 0 not in grid.depths or len(hidden) < 2 or grid.decay not in grid.decays:
    raise ValueError(
      f'fragility.depths is {grid.depths}, expected 0 and two more, and decay '
      f'is {grid.decay}, expected one of decays, {grid.decays}: claims are of '
      'those'
    )


def _cell(config, depth, width, decay, workdir) -> dict:
  own = config.copy_and_resolve_references()
  own.model.widths = (width,) * depth
  own.train.weight_decay = float(decay)
  name = f'depth{depth}_width{width}_decay{decay:g}'
  sections = 'data', 'model', 'train', 'validation', 'leave_one_out'
  damping = max(decay, own.fragility.least_damping)
  origin = {
    **{section: own[section].to_dict() for section in sections},
    'loss': own.loss, 'damping': damping,
    'dense_up_to': own.fragility.dense_up_to,
  }  # fmt: skip
  found = parts.part(
    workdir / name / 'cell.json', origin,
    lambda: _measured(own, damping, workdir / name, origin),
  )  # fmt: skip
  kept = 'parameters', 'num_converged', 'ratio', 'train', 'agreement', 'noise'
  return {
    'depth': depth, 'width': width, 'decay': decay, 'damping': damping,
    **{key: found[key] for key in kept}, 'seconds': found['seconds'],
  }  # fmt: skip


def _measured(own, number, folder, origin) -> dict:
  """What cell.json holds."""
  task = validation_task.train_and_load(own, folder)
  parameters = sum(x.size for x in jax.tree.leaves(task.params))
  is_small = parameters <= own.fragility.dense_up_to
  how = 'dense' if is_small else 'woodbury'
  own.validation.response.preconditioner = how
  own.validation.methods = tuple(
    {**method, 'solver': how} if method['label'] == _EXACT else method
    for method in map(dict, own.validation.methods)
  )
  fit = validation_task.fitted(task, 'ekfac', own.train.seed)
  damping = influence.damping_of(
    fit[0], task.model.layers, fit[1], relative=None, absolute=number
  )
  origin = {**origin, 'params': store.fingerprint(task.params)}
  cold_SxKxM = leave_one_out.cold(own, task, folder, origin)
  epochs = own.leave_one_out.warm_epochs
  warm_KxM = leave_one_out.warm(own, task, epochs, folder, origin)
  truth = responses.compute(
    own, task, fit, damping, folder / 'responses', origin
  )
  converged_M = truth['ratio'] <= validate_pbrf.CONVERGED
  everywhere_M = np.ones_like(converged_M)
  targets = {
    'cold': (cold_SxKxM.mean(0), everywhere_M),
    'warm': (warm_KxM, everywhere_M),
    'PBRF': (truth['response'], converged_M),
  }
  epsilon = own.validation.response.epsilon_times_n
  epsilon /= int(ggn.count(task.batches))
  found = estimates.compute(own, task, {'ekfac': fit}, damping)
  half = len(cold_SxKxM) // 2
  return {
    'parameters': parameters,
    'num_converged': int(converged_M.sum()),
    'ratio': agreement.summary(truth['ratio']),
    'train': store.latest(folder / 'train').meta['metrics'],
    'noise': None if not half else _agreement(
      cold_SxKxM[:half].mean(0), cold_SxKxM[half:].mean(0), everywhere_M
    ),
    'agreement': {
      x['label']: {
        target: _agreement(epsilon * np.array(x['scores']), *one)
        for target, one in targets.items()
      }
      for x in found
    },
  }  # fmt: skip


def _agreement(scores_KxM, truth_KxM, kept_M) -> dict:
  """Correlations over points: mean over queries with interval; quartiles."""
  found = validate_pbrf.correlations(scores_KxM, truth_KxM, kept_M)
  return {
    **{key: agreement.interval(x_K) for key, x_K in found.items()},
    'quartiles': np.quantile(found['spearman'], (0.25, 0.75)).tolist(),
  }


def _claims(config, cells) -> list[dict]:
  grid = config.fragility
  hidden = [depth for depth in grid.depths if depth]
  shallow, deep = min(hidden), max(hidden)

  def of(depth, target):
    return best(cells, depth, grid.decay, _EXACT, target)

  def fall(target):
    return of(shallow, target)[0] - of(deep, target)[0]

  def claim(number, statement, value, threshold, paper):
    statement = f'{statement}, weight decay {grid.decay:g}'
    return {
      **claims.claim(
        f'{number} {config.validation.task}', '-', statement, value,
        threshold, paper=paper,
      ),
      'seeds': [*config.leave_one_out.seeds],
    }  # fmt: skip

  falls = f'fall of Spearman from depth {shallow} to {deep}'
  return [
    claim(
      'F1', 'exact solution against cold retraining at depth 0, Spearman',
      of(0, 'cold'), ('>=', 0.95), 'accurate for shallow nets',
    ),
    claim(
      'F2', f'{falls}, against cold retraining', fall('cold'), ('>=', 0.2),
      'often wrong for deep nets',
    ),
    claim(
      'F3', f'{falls}, against PBRF, less half of that against cold',
      fall('PBRF') - fall('cold') / 2, ('<=', 0.0), '-',
    ),
  ]  # fmt: skip


def _table(cells):
  targets = [*cells[0]['agreement'][_EXACT]]
  view = terminal.table(
    'Spearman over points, mean over queries (95 %)',
    'depth', 'width', 'decay', 'scores', *targets, num_labels=4, wrap=True,
  )  # fmt: skip
  for cell in cells:
    for label, found in cell['agreement'].items():
      view.add_row(
        f'{cell["depth"]}', f'{cell["width"] or "-"}', f'{cell["decay"]:g}',
        label,
        *(agreement.shown(found[x]['spearman'], '.2f') for x in targets),
      )  # fmt: skip
  return view


if __name__ == '__main__':
  common.main(run)
