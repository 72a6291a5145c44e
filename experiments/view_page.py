"""What view.html is made of: the stores of a workdir, and facts of its run."""

import json
import os
import pathlib
from collections.abc import Iterator, Sequence

import numpy as np
import rich
from ml_collections import ConfigDict

from experiments import plan, token_parts_table, top_table, view_answers
from influence_jax import store
from influence_jax.data import sequences as sequences_lib
from influence_jax.report import records, viewer

_HEALTH = (
  'Mean and max are of the eigenvalues of G, the condition is that of G with '
  'damping; clipped: eigenvalues that rounding made negative; effective rank: '
  '(sum)^2 / sum of squares of the eigenvalues; kfac gap: how far those of '
  'K-FAC are from the ones in use, relative to these.'
)


def write(
  config: ConfigDict,
  workdir: str | os.PathLike,
  others: Sequence[str] = (),
) -> None:
  """Writes the page.

  Args:
    others: workdirs whose scores of the same sequences are shown beside.

  Raises:
    ValueError: there are no top sequences; or scores, or parts of tokens, that
      do not belong to them.
  """
  workdir = pathlib.Path(workdir)
  folder = workdir / config.score.folder
  if not (folder / 'top.parquet').exists():
    raise ValueError(
      f'no top sequences in {folder}: run experiments.score with this --config '
      'and --workdir, its score.num_top above 0'
    )
  rows, layers = top_table.read(folder / 'top.parquet')
  viewer.write(
    workdir / 'view.html',
    workdir.resolve().name,
    store.read_json(folder / 'queries.json'),
    rows,
    layers,
    view_answers.answers(
      workdir,
      folder,
      rows,
      view_answers.named(
        others, config.score.folder, own=workdir.resolve().name
      ),
    ),
    tables(workdir, folder),
    token_parts_table.read(folder),
  )
  path = workdir / 'view.html'
  rich.print(f'view: {path} ({path.stat().st_size / 1e6:.1f} MB)')


def tables(workdir: pathlib.Path, folder: pathlib.Path) -> list[viewer.Table]:
  """Facts of the run, from the files that are there."""
  config = store.read_json(workdir / 'config.json')
  return [
    viewer.Table('The run', ('fact', 'value'), [*_facts(workdir, folder)]),
    *_costs(workdir),
    *_health(workdir),
    viewer.Table('Config', ('key', 'value'), [*_flat(config)]),
  ]


def _facts(workdir, folder) -> Iterator[tuple[str, str]]:
  manifest = store.read_json(folder / 'manifest.json')
  yield 'scores', str(folder)
  yield 'commit', manifest['commit']
  yield 'answers', ', '.join(manifest['answers'])
  yield 'queries', f'{len(manifest["queries"]):,}'
  if (workdir / 'sequences').exists():
    info = store.read_json(workdir / 'sequences' / sequences_lib.INFO)
    for name in ('documents', 'sequences', 'targets', 'vocab_size'):
      yield name.replace('_', ' '), f'{info[name]:,}'
  for name in ('params', 'data', 'factors'):
    yield f'fingerprint of the {name}', manifest[name]
  if (workdir / 'metrics.jsonl').exists():  # a pretrained model has none
    lines = (workdir / 'metrics.jsonl').read_text().splitlines()
    last = json.loads(lines[-1])
    yield 'training steps', f'{last["step"]:,}'
    yield 'last training loss', f'{last["loss"]:.4g} nats a token'
  if (workdir / 'finetune.json').exists():
    tuned = store.read_json(workdir / 'finetune.json')
    for name in ('command', 'commit', 'device'):
      yield f'finetuning: {name}', tuned[name]


def _costs(workdir) -> Iterator[viewer.Table]:
  if (workdir / 'plan.json').exists():
    yield viewer.Table(
      'Predicted cost of each stage',
      ('stage', 'seconds', 'device', 'host', 'disk'),
      [
        (
          x['stage'], _number(x['seconds']),
          plan.size(sum(x['device'].values())), plan.size(x['host']),
          plan.size(x['disk']),
        )
        for x in store.read_json(workdir / 'plan.json')['stages']
      ],
    )  # fmt: skip
  if (workdir / 'plan_measured.json').exists():
    yield viewer.Table(
      'Measured cost, and what was predicted',
      ('run', 'seconds', 'predicted', 'peak of the process', 'predicted'),
      [
        (
          f'{x["what"]}{" (resumed)" if x["resumed"] else ""}',
          _number(x['measured']['seconds']), _number(x['predicted']['seconds']),
          plan.size(x['measured']['bytes']), plan.size(x['predicted']['bytes']),
        )
        for x in store.read_json(workdir / 'plan_measured.json')
      ],
    )  # fmt: skip


def _health(workdir) -> Iterator[viewer.Table]:
  if (workdir / 'factor_health.json').exists():
    found = store.read_json(workdir / 'factor_health.json')
    names = ['layer', *sorted({key for x in found for key in x} - {'layer'})]
    yield viewer.Table(
      'Damping and health of the factors',
      [name.replace('_', ' ') for name in names],
      [[_number(x.get(name, '')) for name in names] for x in found],
      _HEALTH,
    )


def _number(x) -> str:
  """Three digits; words as they are, whole numbers whole."""
  if isinstance(x, str) or not np.isfinite(x):
    return str(x)
  if isinstance(x, int):
    return f'{x:,}'
  return records.number(x, sign='-')


def _flat(tree: dict, path: str = '') -> Iterator[tuple[str, str]]:
  for key, value in tree.items():
    if isinstance(value, dict) and value:
      yield from _flat(value, f'{path}{key}.')
    else:
      yield f'{path}{key}', json.dumps(value, ensure_ascii=False)
