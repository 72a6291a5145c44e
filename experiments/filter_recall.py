"""How much of what is influential would a filter before the scan have kept?

  python -m experiments.filter_recall --config=configs/filter_recall.py \
    --workdir=runs/quickstart

Takes the complete scores in config.score.folder, of experiments.score or, its
first approximation, of experiments.retrieval. The true top are the sequences
of the largest scores. Every filter, and a random order, ranks all sequences for
each query; recall at m is the share of the true top among the filter's first m.
Writes WORKDIR/filter_recall/result.json and filter_recall.png. Reads neither
the model nor the documents.
Sections read: score, filter_recall.
"""

import os
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
import rich
from matplotlib import figure
from ml_collections import ConfigDict
from rich import table

from experiments import agreement, common, scored
from influence_jax import store
from influence_jax.data import candidates
from influence_jax.data import sequences as sequences_lib
from influence_jax.data import tokenizer as tokenizer_lib
from influence_jax.report import figures, style, terminal

_LABELS = {'tf_idf': 'TF-IDF', 'bm25': 'BM25', 'random': 'random order'}


def run(config: ConfigDict, workdir: str | os.PathLike) -> dict:
  workdir = pathlib.Path(workdir)
  section = config.filter_recall
  sequences = sequences_lib.open(workdir / 'sequences')
  tokenizer = tokenizer_lib.load(workdir / 'tokenizer.json')
  found = scored.load(workdir / config.score.folder, sequences)
  queries, scores_KxN = found.queries, found.scores[0]
  num = len(sequences)
  true_KxM = candidates.top([scores_KxN], section.num_true)
  orders = {
    name: candidates.choose(
      name, sequences, scored.tokens(tokenizer, queries), num
    )
    for name in section.methods
  }
  rng = np.random.default_rng(section.seed)
  orders['random'] = np.stack([rng.permutation(num) for _ in queries])
  grid = np.geomspace(1, num, section.num_points).round().astype(int)
  kept = np.unique([*grid, *(m for m in section.missed_at if m <= num)])
  recalls = {
    name: recall(order_KxN, true_KxM, kept)
    for name, order_KxN in orders.items()
  }
  result = {
    **common.provenance('experiments.filter_recall', config),
    'sequences': num,
    'queries': [query.id for query in queries],
    'kept': kept.tolist(),
    'recall': {name: _summary(x_KxP) for name, x_KxP in recalls.items()},
    'missed': {
      name: {
        str(m): _summary(1 - x_KxP[:, kept == m][:, 0])
        for m in section.missed_at
        if m <= num
      }
      for name, x_KxP in recalls.items()
    },
  }
  store.write_json(workdir / 'filter_recall' / 'result.json', result)
  fig = draw(kept, recalls, true_KxM.shape[1])
  figures.save(fig, workdir / 'filter_recall' / 'filter_recall.png')
  rich.print(_table(result['missed'], true_KxM.shape[1]))
  return result


def recall(
  order_KxN: np.ndarray, true_KxM: np.ndarray, kept: Sequence[int]
) -> np.ndarray:
  """The share of the M true ones among the first of an order, [K, P].

  Args:
    order_KxN: all sequences, best first.
    true_KxM: the sequences to find.
    kept: P numbers of sequences, each from 1 to N.
  """
  rank_KxN = np.argsort(order_KxN, axis=1)
  rank_KxM = np.take_along_axis(rank_KxN, true_KxM, axis=1)
  return np.stack([(rank_KxM < m).mean(axis=1) for m in kept], axis=1)


@style.SETTINGS
def draw(
  kept: Sequence[int], recalls: Mapping[str, np.ndarray], num_true: int
) -> figure.Figure:
  """Recall against candidates kept: median and quartiles of the queries.

  Dotted is the most that is possible: the filter's first m are all true ones.

  Args:
    kept: P numbers of sequences, ascending.
    recalls: {name: [K, P]}.
    num_true: how many there are to find.
  """
  fig, axes = style.axes(style.ONE_COLUMN, 2.4)
  for i, (name, recall_KxP) in enumerate(recalls.items()):
    low, median, high = np.quantile(recall_KxP, (0.25, 0.5, 0.75), axis=0)
    look = style.line(i)
    axes.plot(kept, 100 * median, label=_LABELS.get(name, name), **look)
    style.band(axes, kept, 100 * low, 100 * high, look['color'])
  best = 100 * np.minimum(np.asarray(kept) / num_true, 1)
  axes.plot(kept, best, ':', color=style.GREY, lw=1, label='best possible')
  axes.set(xscale='log', xlim=(kept[0], kept[-1]), ylim=(0, 102))
  axes.set(xlabel='candidates kept', ylabel=f'of the true top {num_true} (%)')
  fig.legend(loc='outside upper center', ncols=2)
  return fig


def _summary(x: np.ndarray) -> dict:
  """Over the queries, axis 0."""
  return {
    'mean': x.mean(axis=0).tolist(),
    'quartiles': np.quantile(x, (0.25, 0.5, 0.75), axis=0).T.tolist(),
    'per_query': x.tolist(),
  }


def _table(missed: dict, num_true: int) -> table.Table:
  view = terminal.table(
    f'of the true top {num_true}, missed: mean (quartiles)',
    'filter', *[f'{m} kept' for m in next(iter(missed.values()))], wrap=True,
  )  # fmt: skip
  for name, row in missed.items():
    cells = [
      agreement.shown((x['mean'], *x['quartiles'][::2]), '.0%')
      for x in row.values()
    ]
    view.add_row(_LABELS.get(name, name), *cells)
  return view


if __name__ == '__main__':
  common.main(run)
