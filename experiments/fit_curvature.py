"""Fits the curvature of a trained model on its corpus.

  python -m experiments.fit_curvature --config=configs/quickstart.py \
    --workdir=runs/quickstart

Writes WORKDIR/factors/ (a checkpoint of the fit, at its end the factors) and
factor_health.json, and prints a table of them. The same command again goes on
from the last checkpoint and returns at once when all is fitted. Sections read:
data, model or checkpoint, layers, curvature, fit, damping, plan.
"""

import json
import os
import pathlib

import jax
import rich
from absl import logging
from ml_collections import ConfigDict
from rich import table

from experiments import common, compared, trained
from influence_jax import (
  curvature,
  fit,
  health,
  influence,
  store,
  types,
)
from influence_jax.data import batches as batches_lib
from influence_jax.report import terminal


def run(
  config: ConfigDict,
  workdir: str | os.PathLike,
  ours: trained.Trained | None = None,
) -> None:
  """`ours` is `trained.load(config, workdir)` where that was done before."""
  workdir = pathlib.Path(workdir)
  ours = ours or trained.load(config, workdir)
  approximation = common.build('curvature', curvature.make, config.curvature)
  trained.print_layers(ours.found, approximation)
  mesh = common.mesh(config)
  sequences = ours.corpus.sequences
  plan = batches_lib.plan(
    sequences,
    config.fit.batch_tokens,
    limit=config.fit.num_sequences,
  )
  meta = expected_meta(config, ours)
  state = restore(approximation, ours.model.layers, workdir, meta)
  if state and state.stage == len(approximation.stages):
    logging.info('fit: all stages are done')
  else:
    common.save_config(config, workdir)

    def save(state: fit.FitState) -> None:
      step = state.stage * (len(plan) + 1) + state.cursor
      place = {'stage': state.stage, 'cursor': state.cursor}
      counts = {'num_stages': len(approximation.stages)}
      tree = state._asdict() | {'counts': state.counts._asdict()}
      store.save(
        workdir / 'factors', step, tree,
        {**meta, **place, **counts, 'commit': common.commit()},
      )  # fmt: skip

    resumed = state is not None
    with compared.prediction(config, ours, workdir, 'fit', resumed=resumed):
      state = fit.fit(
        approximation,
        ours.model,
        common.place(config, mesh, ours.params),
        len(plan),
        lambda cursor: common.get_batch(mesh, sequences, plan[cursor]),
        jax.random.key(config.fit.seed),
        mesh=mesh,
        targets=config.fit.targets,
        state=state,
        save=save,
        save_every=config.fit.save_every,
      )
  damping = influence.damping_of(
    approximation, ours.model.layers, state.factors, **config.damping
  )
  records = health.health(
    approximation, ours.model.layers, state.factors, damping
  )
  store.write_json(workdir / 'factor_health.json', records)
  rich.print(_health_table(records))


def expected_meta(config: ConfigDict, ours: trained.Trained) -> dict:
  """What factors must be of to be used with this model, data and config."""
  sections = {name: config[name].to_dict() for name in ('curvature', 'fit')}
  return {
    'kind': 'fit',
    'params': ours.params_fingerprint,
    'data': ours.corpus.sequences.fingerprint,
    'layers': json.loads(json.dumps(ours.model.layers)),
    'config': sections,
  }


def restore(
  approximation: types.Curvature,
  layers: dict,
  workdir: pathlib.Path,
  meta: dict,
  *,
  complete: bool = False,
) -> fit.FitState | None:
  """The state that is in the workdir, None if there is none.

  Raises:
    ValueError: it is of another run; or, if a `complete` one is asked for, it
      is missing, damaged or unfinished.
  """
  read = store.load if complete else store.latest
  found = read(workdir / 'factors')
  if found is None:
    return None
  store.check(found.meta, meta, f'the fit in {workdir / "factors"}')
  stage = found.meta['stage']
  if complete and stage != len(approximation.stages):
    raise ValueError(
      f'{workdir / "factors"} is in stage {stage} of '
      f'{len(approximation.stages)}: run experiments.fit_curvature to its end'
    )
  return fit.FitState(
    stage,
    found.meta['cursor'],
    types.Counts(**found.tree['counts']),
    found.tree['sums'],
    {path: found.tree['factors'].get(path, {}) for path in layers},
  )


def _health_table(records: list[dict]) -> table.Table:
  short = {'condition': 'cond.', 'effective_rank': 'rank', 'kfac_gap': 'gap'}
  names = [short.get(key, key) for key in records[0]]
  view = terminal.table('factor health', *names)
  for record in records:
    view.add_row(
      *[x if isinstance(x, str) else f'{x:.2g}' for x in record.values()]
    )
  return view


if __name__ == '__main__':
  common.main(run)
