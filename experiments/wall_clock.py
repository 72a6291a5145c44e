"""What does it cost to agree with the proximal Bregman response? Fig. 7.

  python -m experiments.wall_clock --config=configs/wall_clock_concrete.py \
    --workdir=runs/validation/wall_clock_concrete

As experiments.validate_pbrf, at validation.claimed alone, for each number of
measurements (queries) of wall_clock.measurements: seconds until a method has
solved for all of them, and Pearson's correlation of its scores with the
responses over the points, the mean over those measurements and the seeds.
Not counted are the scoring of points, the same work for all methods, and
LiSSA's search for a scale, which whoever uses it finds by trial. EK-FAC's fit
counts for EK-FAC and for what it preconditions. All is compiled before.

  E4  seconds that LiSSA needs to agree as well as EK-FAC over those of EK-FAC,
      at wall_clock.claimed measurements; LiSSA's whole run if it never does

Writes WORKDIR/seed0/..., WORKDIR/result.json and wall_clock.png. The same
command again goes on where it stopped; times are of the run that took them.
Sections read: those of validate_pbrf, wall_clock.
"""

import functools
import os
import pathlib
import time

import jax
import jax.numpy as jnp
import numpy as np
import rich
from ml_collections import ConfigDict

from experiments import (
  agreement,
  claims,
  common,
  estimates,
  parts,
  responses,
  validate_pbrf,
  validation_task,
  wall_clock_figure,
)
from influence_jax import (
  curvature,
  fit,
  fit_step,
  influence,
  sharding,
  store,
  taps,
  types,
)
from influence_jax.report import figures, terminal

_FITTED = 'EK-FAC', 'K-FAC', 'EK-FAC-CG', 'ASTRA'  # need a fit of EK-FAC first


def run(config: ConfigDict, workdir: str | os.PathLike) -> dict:
  workdir, section = pathlib.Path(workdir), config.validation
  if section.num_queries < max(config.wall_clock.measurements):
    raise ValueError(
      f'validation.num_queries is {section.num_queries}, expected at least the '
      f'largest of wall_clock.measurements, {config.wall_clock.measurements}'
    )
  rows = []
  with jax.enable_x64(section.dtype == 'float64'):
    for seed in section.seeds:
      rows += _of_seed(config, workdir / f'seed{seed}', seed)
  kept = validate_pbrf.summarise(rows, 'measurements', 'label', 'step')
  result = {
    **common.provenance('experiments.wall_clock', config),
    'task': section.task,
    'rows': kept,
    'claims': [_claim(config, kept)],
  }
  store.write_json(workdir / 'result.json', result)
  figures.save(wall_clock_figure.draw(result), workdir / 'wall_clock.png')
  rich.print(_table(result))
  rich.print(claims.render(result['claims']))
  return result


def ratio(rows: list[dict], measurements: int) -> float:
  """Seconds of LiSSA, as soon as it agrees as EK-FAC does, over EK-FAC's."""
  mine = [row for row in rows if row['measurements'] == measurements]
  (ekfac,) = [row for row in mine if row['label'] == validate_pbrf.EKFAC]
  lissa = [row for row in mine if row['label'] == validate_pbrf.LISSA]
  reached = [x for x in lissa if x['pearson'][0] >= ekfac['pearson'][0]]
  first = min(reached, key=lambda x: x['step'], default=None)
  theirs = first or max(lissa, key=lambda x: x['step'])
  return theirs['seconds'] / ekfac['seconds']


def _of_seed(config, workdir, seed) -> list[dict]:
  own, section = config.copy_and_resolve_references(), config.validation
  own.train.seed = seed
  task = validation_task.train_and_load(own, workdir)
  names = {dict(x)['curvature'] for x in section.methods if 'curvature' in x}
  fits = {x: validation_task.fitted(task, x, seed) for x in names | {'ekfac'}}
  kind, value = section.claimed
  damping = influence.damping_of(
    fits['ekfac'][0], task.model.layers, fits['ekfac'][1],
    **{'relative': None, kind: value},
  )  # fmt: skip
  sections = 'data', 'model', 'train', 'validation'
  origin = {
    'config': {name: own[name].to_dict() for name in sections},
    'params': store.fingerprint(task.params),
  }
  truth = responses.compute(own, task, fits['ekfac'], damping, workdir, origin)
  converged_M = truth['ratio'] <= validate_pbrf.CONVERGED
  rows = []
  for num in config.wall_clock.measurements:
    queries = jax.tree.map(lambda x, num=num: x[:num], task.queries)
    few = task._replace(queries=queries)
    found = parts.part(
      workdir / f'measurements_{num}.json', origin,
      functools.partial(_measured, own, few, fits, damping),
    )  # fmt: skip
    named = {'measurements': num, 'truth': truth['response'][:num]}
    rows += [
      _row(one, found['fit'], converged_M, **named)
      for one in found['estimates']
      if 'scores' in one
    ]
  return rows


def _measured(own, task, fits, damping) -> dict:
  found = estimates.compute(own, task, fits, damping)
  return {'estimates': found, 'fit': fit_seconds(task)}


def fit_seconds(task: validation_task.Task) -> float:
  """Of EK-FAC's fit to task.batches: its passes and eigendecompositions."""
  layers, batches = task.model.layers, task.batches
  mesh, factors = sharding.make_mesh(data=1), {path: {} for path in layers}
  rows = [
    jax.tree.map(lambda x, s=s: x[s], batches) for s in range(len(batches.mask))
  ]
  total = 0.0
  for stage in curvature.make('ekfac').stages:
    step = fit_step.make(task.model, stage, mesh, 'model')

    def run(stage=stage, step=step, factors=factors):
      sums = taps.zeros(layers, stage.init)
      counts = types.Counts(jnp.zeros(()), jnp.zeros(()))
      sums, counts = jax.tree.map(lambda x: x[None], (sums, counts))
      for batch in rows:
        counts, sums, *_ = step(
          task.params, factors, jax.random.key(0), batch, counts, sums
        )
      state = fit.FitState(0, 0, counts, sums, factors)
      return jax.block_until_ready(fit.finish_stage(stage, layers, state))

    run()  # compiles
    started = time.perf_counter()
    factors = run()
    total += time.perf_counter() - started
  return total


def _row(one, fit, converged_M, *, measurements, truth) -> dict:
  scores_KxM = np.array(one['scores'])
  return {
    'measurements': measurements,
    **{key: one[key] for key in ('label', 'step', 'products')},
    'seconds': one['seconds'] + fit * (one['label'] in _FITTED),
    **validate_pbrf.correlations(scores_KxM, truth, converged_M),
  }


def _claim(config, rows) -> dict:
  section, num = config.validation, config.wall_clock.claimed
  kind, value = section.claimed
  made = claims.claim(
    f'E4 {section.task}', '7',
    f'seconds of LiSSA over those of EK-FAC and its fit, {num} measurements, '
    f'damping {kind} {value:g}',
    ratio(rows, num), ('>=', 10.0), paper='an order of magnitude', form='.1f',
  )  # fmt: skip
  return {**made, 'seeds': [*section.seeds]}


def _table(result):
  view = terminal.table(
    f'{result["task"]}: correlation with the response (95 %) by seconds',
    'measurements', 'method', 'step', 'Pearson', 'products', 's',
    num_labels=2,
  )  # fmt: skip
  for row in result['rows']:
    view.add_row(
      str(row['measurements']), row['label'],
      '-' if row['step'] is None else str(row['step']),
      agreement.shown(row['pearson'], '.3f'), f'{row["products"]:,.0f}',
      f'{row["seconds"]:.3g}',
    )  # fmt: skip
  return view


if __name__ == '__main__':
  common.main(run)
