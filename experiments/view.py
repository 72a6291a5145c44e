"""The page in which a scoring run is looked at: WORKDIR/view.html.

  python -m experiments.view --config=configs/quickstart.py \
    --workdir=runs/quickstart

One file that needs no network: queries, their sequences by token and layer, how
the scores are spread, what the run was (docs/viewer.md). Reads the scores in
config.score.folder and, of the workdir, what is there of factor_health.json,
plan.json, plan_measured.json, metrics.jsonl and finetune.json; loads no model.
Sections read: score.
"""

import json
import os
import pathlib
from collections.abc import Iterator

import numpy as np
import rich
from ml_collections import ConfigDict

from experiments import common, plan, scored, top_table
from influence_jax import store
from influence_jax.data import sequences as sequences_lib
from influence_jax.report import records, viewer, viewer_distribution

_NONE = viewer.Answers((), {}, {})


def run(config: ConfigDict, workdir: str | os.PathLike) -> None:
  """Writes the page.

  Raises:
    ValueError: there are no top sequences, or scores that do not belong to
      them.
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
    answers(workdir, folder, rows),
    tables(workdir, folder),
  )
  path = workdir / 'view.html'
  rich.print(f'view: {path} ({path.stat().st_size / 1e6:.1f} MB)')


def answers(
  workdir: pathlib.Path, folder: pathlib.Path, rows: list[dict]
) -> viewer.Answers:
  """What the matrix of scores says of the rows, and of all sequences.

  Where it says nothing, `absent` is why. A negative row's rank is counted from
  the smallest score.
  """
  if not (folder / 'scores.zarr').exists():
    return _NONE._replace(absent='config.score.matrix was False')
  method = store.read_json(folder / 'manifest.json')['score']['candidates']
  if method['method'] != 'all':
    return _NONE._replace(
      absent=f'only candidates found by {method["method"]} were scored'
    )
  sequences = sequences_lib.open(workdir / 'sequences')
  found = scored.load(folder, sequences)
  lengths = sequences.records['size'][found.numbers] - 1
  of_rows, distributions = {}, {}
  for k, query in enumerate(found.queries):
    mine = [row for row in rows if row['query_id'] == query.id]
    at = np.searchsorted(found.numbers, [row['sequence'] for row in mine])
    signs = np.array([1 if x['kind'] == 'positive' else -1 for x in mine])
    pairs = [_ranked(scores_N, at, signs) for scores_N in found.scores[:, k]]
    for row, *of_row in zip(mine, *pairs, strict=True):
      of_rows[query.id, row['sequence']] = of_row
    distributions[query.id] = [
      viewer_distribution.describe(scores_N, lengths)
      for scores_N in found.scores[:, k]
    ]
  return viewer.Answers(found.answers, of_rows, distributions)


def tables(workdir: pathlib.Path, folder: pathlib.Path) -> list[viewer.Table]:
  """Facts of the run, from the files that are there."""
  config = store.read_json(workdir / 'config.json')
  return [
    viewer.Table('The run', ('fact', 'value'), [*_facts(workdir, folder)]),
    *_costs(workdir),
    *_health(workdir),
    viewer.Table('Config', ('key', 'value'), [*_flat(config)]),
  ]


def _ranked(scores_N, at, signs) -> list[tuple[float, int]]:
  """(score, rank from 1) of the columns `at`; sign -1 ranks from below."""
  ascending = np.sort(scores_N)
  mine = scores_N[at]
  below = np.searchsorted(ascending, mine, 'left')
  above = len(scores_N) - np.searchsorted(ascending, mine, 'right')
  ranks = 1 + np.where(signs > 0, above, below)
  return list(zip(mine.tolist(), ranks.tolist(), strict=True))


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
      'Damping and health of the factors (influence_jax/health.py)',
      [name.replace('_', ' ') for name in names],
      [[_number(x.get(name, '')) for name in names] for x in found],
    )


def _number(x) -> str:
  """Three digits; words as they are."""
  if isinstance(x, str) or not np.isfinite(x):
    return str(x)
  return records.number(x, sign='-')


def _flat(tree: dict, path: str = '') -> Iterator[tuple[str, str]]:
  for key, value in tree.items():
    if isinstance(value, dict) and value:
      yield from _flat(value, f'{path}{key}.')
    else:
      yield f'{path}{key}', json.dumps(value, ensure_ascii=False)


if __name__ == '__main__':
  common.main(run)
