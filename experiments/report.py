"""Shows what a scoring run found: tables, figures and report.html.

  python -m experiments.report --config=configs/quickstart.py \
    --workdir=runs/quickstart

Reads the scores in config.score.folder; prints the top sequences of each query;
writes WORKDIR/report.html and figures/*.png. Sections read: score, report.
"""

import json
import os
import pathlib

import rich
from ml_collections import ConfigDict

from experiments import common, top_table
from influence_jax import score_store, store
from influence_jax.report import figures, html, records
from influence_jax.report import table as table_lib


def run(config: ConfigDict, workdir: str | os.PathLike) -> None:
  workdir = pathlib.Path(workdir)
  folder = workdir / config.score.folder
  if not (folder / 'top.parquet').exists():
    raise ValueError(f'no finished scores in {folder}: run experiments.score')
  queries = store.read_json(folder / 'queries.json')
  rows, layers = top_table.read(folder / 'top.parquet')
  names = [query['id'] for query in queries]
  drawn = {}
  if (folder / 'scores.zarr').exists():
    scores_KxN = score_store.open(folder / 'scores.zarr').read()[: len(names)]
    drawn['tail'] = figures.tail(scores_KxN, names)
    drawn['coverage'] = figures.coverage(scores_KxN, names)
  drawn['layers'] = figures.layers(records.layer_scores(rows), layers)
  if (workdir / 'metrics.jsonl').exists():  # a pretrained model has none
    losses = _losses(workdir / 'metrics.jsonl')
    drawn['training'] = figures.training_curve(*losses)
  for name, figure in drawn.items():
    figures.save(figure, workdir / 'figures' / f'{name}.png')
  captions = {
    'tail': 'How many sequences matter: share of positive scores at least x',
    'coverage': 'Share of all positive influence in the top sequences',
    'layers': 'Influence by layer, over the top sequences',
    'training': 'Training loss',
  }
  html.write(
    workdir / 'report.html',
    queries,
    rows,
    layers,
    _summary(workdir, folder),
    {captions[name]: figure for name, figure in drawn.items()},
  )
  rich.print(table_lib.render(queries, rows, num=config.report.num_shown))
  rich.print(f'report: {workdir / "report.html"}')


def _losses(path: pathlib.Path) -> tuple[list[int], list[float]]:
  lines = [json.loads(line) for line in path.read_text().splitlines()]
  return [x['step'] for x in lines], [x['loss'] for x in lines]


def _summary(workdir: pathlib.Path, folder: pathlib.Path) -> dict:
  manifest = store.read_json(folder / 'manifest.json')
  scan = store.load(folder / 'summary').tree
  health = store.read_json(workdir / 'factor_health.json')
  return {
    'queries': len(manifest['queries']),
    'training sequences': int(scan['num']),
    'answers': ', '.join(manifest['answers']),
    'commit': manifest['commit'],
    'damping by layer': {x['layer']: x['damping'] for x in health},
    'config': json.dumps(store.read_json(workdir / 'config.json')),
  }


if __name__ == '__main__':
  common.main(run)
