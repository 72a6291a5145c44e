"""Trains, fits and scores every model of a ladder.

  python -m experiments.train_ladder --config=configs/ladder_planted.py \
    --workdir=runs/planted

Makes the corpus once (WORKDIR/sequences), its own queries and the truth about
it if it has them (queries.jsonl, truth.json), then for each rung, all sizes of
the first seed first: WORKDIR/d64_seed0/ with what experiments.train,
.fit_curvature and .score leave there. Ends with a table, ladder.json (loss on
documents never trained on, tokens, steps, seconds) and ladder.png. The same
command again goes on where it stopped.
Sections read: all of the rungs', ladder.
"""

import json
import os
import pathlib

import jax
import numpy as np
import rich
from absl import logging
from matplotlib import figure
from ml_collections import ConfigDict
from rich import table

from experiments import (
  common,
  corpus,
  fit_curvature,
  held_out,
  ladder,
  score,
  train,
  trained,
)
from influence_jax import store
from influence_jax.report import figures, style, terminal


def run(config: ConfigDict, workdir: str | os.PathLike) -> dict:
  workdir = pathlib.Path(workdir)
  made = corpus.load(config.data, workdir)
  write_made(config, made, workdir)
  apart = None
  if hasattr(made.module, 'held_out'):
    apart = held_out.sequences(config, made, workdir / 'held_out')
  rows = []
  for rung in ladder.rungs(config, workdir):
    logging.info('ladder: %s', rung.name)
    ladder.link_corpus(workdir, rung)
    train.run(rung.config, rung.workdir)
    row = _describe(rung, apart, config.ladder.num_held_out)
    fit_curvature.run(rung.config, rung.workdir)
    score.run(rung.config, rung.workdir)
    rows.append(row)
    result = {
      **common.provenance('experiments.train_ladder', config),
      'corpus': made.sequences.info,
      'rungs': rows,
    }
    store.write_json(workdir / 'ladder.json', result)
  curves = {row['rung']: _losses(workdir / row['rung']) for row in rows}
  figures.save(draw(rows, curves), workdir / 'ladder.png')
  rich.print(_table(rows))
  return result


def write_made(
  config: ConfigDict, made: corpus.Corpus, workdir: pathlib.Path
) -> None:
  """queries.jsonl and truth.json of a corpus that has them."""
  if config.ladder.queries is not None:
    found = made.module.queries(made.source, **config.ladder.queries)
    lines = ''.join(json.dumps(query) + '\n' for query in found)
    unfinished = workdir / f'tmp_{ladder.QUERIES}'
    unfinished.write_text(lines)
    unfinished.replace(workdir / ladder.QUERIES)
  if hasattr(made.module, 'truth'):
    store.write_json(workdir / 'truth.json', made.module.truth(made.source))


@style.SETTINGS
def draw(rows: list[dict], curves: dict[str, np.ndarray]) -> figure.Figure:
  """Training loss of each rung, smoothed; a dot where held-out text ends.

  Args:
    rows: of ladder.json.
    curves: {rung: losses of its steps, nats a token}.
  """
  fig, axes = style.axes(style.ONE_COLUMN, 2.4)
  sizes = list(dict.fromkeys(row['size'] for row in rows))
  for row in rows:
    losses = curves[row['rung']]
    width = max(1, len(losses) // 20)
    smooth = np.convolve(losses, np.ones(width) / width, 'valid')
    look = style.line(sizes.index(row['size']))
    first = row['seed'] == min(r['seed'] for r in rows)
    name = f'{row["size"]}, {row["parameters"] / 1e6:.2g} M parameters'
    steps = np.arange(width, len(losses) + 1)
    axes.plot(steps, smooth, **look, label=name if first else None)
    if row['held_out'] is not None:
      axes.plot(len(losses), row['held_out'], 'o', color=look['color'])
  axes.set(xlabel='step', ylabel='loss (nats per token)')
  axes.legend(loc='upper right', title='● held-out text at the end')
  return fig


def _describe(rung: ladder.Rung, apart, limit: int) -> dict:
  lines = _read_metrics(rung.workdir)
  path = rung.workdir / 'held_out.json'
  if not path.exists():
    ours = trained.load(rung.config, rung.workdir)
    found = None
    if apart is not None:
      found = held_out.loss(
        rung.config, ours, apart, limit, rung.config.train.batch_tokens
      )
    sizes = [x.size for x in jax.tree.leaves(ours.params)]
    store.write_json(path, {'loss': found, 'parameters': int(sum(sizes))})
  apart = store.read_json(path)
  return {
    'rung': rung.name,
    'size': rung.size,
    'seed': rung.seed,
    'parameters': apart['parameters'],
    'steps': len(lines),
    'tokens': int(sum(line['tokens'] for line in lines)),
    'train': float(np.mean([line['loss'] for line in lines[-50:]])),
    'held_out': apart['loss'],
    'seconds': round(sum(line['seconds'] for line in lines)),
  }


def _read_metrics(workdir: pathlib.Path) -> list[dict]:
  text = (workdir / 'metrics.jsonl').read_text()
  return [json.loads(line) for line in text.splitlines()]


def _losses(workdir: pathlib.Path) -> np.ndarray:
  return np.array([line['loss'] for line in _read_metrics(workdir)])


def _table(rows: list[dict]) -> table.Table:
  view = terminal.table(
    'loss in nats per token: last 50 steps, held-out text',
    'rung', 'parameters', 'steps', 'tokens', 'train', 'held out', 's',
  )  # fmt: skip
  for row in rows:
    apart = '-' if row['held_out'] is None else f'{row["held_out"]:.3f}'
    view.add_row(
      row['rung'], f'{row["parameters"]:,}', f'{row["steps"]:,}',
      f'{row["tokens"]:,}', f'{row["train"]:.3f}', apart, f'{row["seconds"]:,}',
    )  # fmt: skip
  return view


if __name__ == '__main__':
  common.main(run)
