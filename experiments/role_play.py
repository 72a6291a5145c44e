"""What makes a small model answer like an assistant? A demonstration.

  python -m experiments.role_play --config=configs/role_play.py \
    --workdir=runs/english

Sec. 5.3.5 of Grosse et al. 2023: for answers in which an assistant of 52
billion parameters speaks of itself, the top sequences are fiction and essays
about machines with a mind, and none repeats the answer. Our models of a few
million parameters are no assistants, and their corpus has no such dialogues:
that the queries of class role_play have top sequences at all shows the method
at work and is no evidence on what assistants do, so nothing is claimed.

Shows the first config.role_play.num_shown sequences of each such query on the
first of the largest models, and how much the top num_top of a query share with
it: overlap is |Q and D| / |Q or D| of the sets of tokens, mean over sequences
and seeds, beside that of all scanned sequences, which have no choice. Reads
top.parquet. Writes WORKDIR/role_play/result.json and overlap.png in seconds.
Sections read: score, role_play, ladder.
"""

import os
import pathlib
from collections.abc import Sequence

import numpy as np
import rich
from matplotlib import figure, lines
from ml_collections import ConfigDict
from rich import markup, table

from experiments import (
  agreement,
  common,
  ladder,
  scaling_measures,
  scored,
  top_table,
)
from influence_jax import store
from influence_jax.data import queries as queries_lib
from influence_jax.data import sequences as sequences_lib
from influence_jax.data import tokenizer as tokenizer_lib
from influence_jax.report import figures, style, terminal

NOTE = (
  'A demonstration of the method: models of this size are no assistants, and '
  'nothing here is evidence on what assistants do.'
)
_CLASS = 'role_play'
_TEXT, _PRINTED = 400, 160  # characters of a sequence that are kept, and shown


def run(config: ConfigDict, workdir: str | os.PathLike) -> dict:
  workdir, section = pathlib.Path(workdir), config.role_play
  rungs = ladder.finished(config, workdir, ladder.largest(config))
  found = [_measure(rung, section) for rung in rungs]
  asked = [[row['query'] for row in rows] for rows in found]
  scored.check_alike(rungs, 'queries', asked)
  rows = _mean(found)
  result = {
    **common.provenance('experiments.role_play', config),
    'note': NOTE,
    'shown': rungs[0].name,
    'rungs': [rung.name for rung in rungs],
    'queries': rows,
    'classes': by_class(rows),
    'claims': [],
  }
  store.write_json(workdir / 'role_play' / 'result.json', result)
  figures.save(draw(rows), workdir / 'role_play' / 'overlap.png')
  for row in rows:
    if row['class'] == _CLASS:
      rich.print(_tops_table(row))
  rich.print(_class_table(result['classes']))
  rich.print(NOTE)
  return result


def by_class(rows: Sequence[dict]) -> dict[str, dict]:
  """{class: `overlap` and `scanned`, [mean, low, high] over its queries}."""
  found = {}
  for row in rows:
    found.setdefault(row['class'], []).append(row)
  return {
    name: {
      'queries': len(mine),
      **{
        key: agreement.interval([row[key] for row in mine])
        for key in ('overlap', 'scanned')
      },
    }
    for name, mine in found.items()
  }


def _measure(rung: ladder.Rung, section: ConfigDict) -> list[dict]:
  """A row a query: overlap of its top sequences and the first of them."""
  sequences = sequences_lib.open(rung.workdir / 'sequences')
  folder = rung.workdir / rung.config.score.folder
  found = scored.load(folder, sequences)
  classes = queries_lib.labels(found.queries, 'class')
  if _CLASS not in classes:
    raise ValueError(
      f'no query in {folder} is of class {_CLASS}, got {sorted({*classes})}: '
      'score configs/english_queries.jsonl or label some of your own'
    )
  tokenizer = tokenizer_lib.load(rung.workdir / 'tokenizer.json')
  overlap_KxC = scaling_measures.tokens(
    sequences, found.numbers, scored.tokens(tokenizer, found.queries)
  )['overlap']
  tops = _tops(folder, found.queries, section.num_top)
  rows = []
  for query, name, overlap_C in zip(
    found.queries, classes, overlap_KxC, strict=True
  ):
    mine = tops[query.id]
    at = np.searchsorted(found.numbers, [top['sequence'] for top in mine])
    shown = list(zip(mine, overlap_C[at].tolist(), strict=True))
    rows.append(
      {
        'query': query.id,
        'prompt': query.prompt,
        'completion': query.completion,
        'class': name,
        'overlap': float(overlap_C[at].mean()),
        'scanned': float(overlap_C.mean()),
        'tops': [_top(*one) for one in shown[: section.num_shown]],
      }
    )
  return rows


def _top(row: dict, overlap: float) -> dict:
  kept = {key: row[key] for key in ('score', 'sequence', 'title', 'topic')}
  return {**kept, 'text': row['text'][:_TEXT], 'overlap': overlap}


def _tops(folder, queries, num: int) -> dict[str, list[dict]]:
  """{query: its first `num` rows of positive score}."""
  rows, _ = top_table.read(folder / 'top.parquet')
  tops = {query.id: [] for query in queries}
  for row in sorted(rows, key=lambda row: row['rank']):
    if row['kind'] == 'positive' and row['rank'] <= num:
      tops[row['query_id']].append(row)
  without = [name for name, mine in tops.items() if not mine]
  if without:
    raise ValueError(
      f'{len(without)} queries, the first {without[0]!r}, have no sequence of '
      f'positive score in {folder / "top.parquet"}: score again with '
      f'config.score.num_top={num}'
    )
  return tops


def _mean(found: Sequence[Sequence[dict]]) -> list[dict]:
  """Rows of the first model, with overlaps averaged over all."""
  return [
    {**rows[0], 'overlap': float(np.mean([row['overlap'] for row in rows]))}
    for rows in zip(*found, strict=True)
  ]


@style.SETTINGS
def draw(rows: Sequence[dict]) -> figure.Figure:
  """Overlap of each query with its top sequences, and class by class."""
  classes = by_class(rows)
  fig, axes = style.axes(style.ONE_COLUMN, 0.9 + 0.27 * len(classes))
  for y, (name, found) in enumerate(classes.items()):
    colour = style.POSITIVE if name == _CLASS else style.NEGATIVE
    mine = [row['overlap'] for row in rows if row['class'] == name]
    apart = (
      np.linspace(-0.22, 0.22, len(mine)) if len(mine) > 1 else np.zeros(1)
    )
    axes.plot(mine, y + apart, 'o', ms=3, mfc='white', color=colour)
    mean, *ends = found['overlap']
    axes.plot(mean, y, '|', ms=11, mew=1.5, color='black')
    axes.hlines(y, *ends or [mean] * 2, color='black', lw=1)
    axes.plot(found['scanned'][0], y, 'x', ms=4.5, color=style.GREY)
  names = [
    f'{style.label(name)} ({found["queries"]})'
    for name, found in classes.items()
  ]
  axes.set_yticks(range(len(names)), names)
  axes.set(xlabel='overlap of tokens', xlim=(0, None))
  axes.set(ylim=(len(names) - 0.5, -0.5))
  axes.grid(axis='y', visible=False)
  fig.legend(*_legend(), loc='outside upper center', ncols=3, handlelength=1.5)
  return fig


def _legend() -> tuple[list, list[str]]:
  look = dict(color=style.NEGATIVE, mfc='white', ms=3)
  handles = [
    lines.Line2D([], [], marker='o', ls='', **look),
    lines.Line2D([], [], marker='|', ms=8, mew=1.5, color='black', lw=1),
    lines.Line2D([], [], marker='x', ls='', ms=4.5, color=style.GREY),
  ]
  return handles, ['a query, its top', 'mean (95 %)', 'all scanned']


def _tops_table(row: dict) -> table.Table:
  prompt = ' '.join(f'{row["prompt"]}{row["completion"]}'.split())
  view = terminal.table(
    markup.escape(prompt), 'score', 'overlap', 'from', 'text', num_labels=4
  )
  for top in row['tops']:
    view.add_row(
      f'{top["score"]:.3g}', f'{top["overlap"]:.2f}',
      markup.escape(top['title']),
      markup.escape(' '.join(top['text'][:_PRINTED].split())),
    )  # fmt: skip
  return view


def _class_table(classes: dict[str, dict]) -> table.Table:
  view = terminal.table(
    'overlap of tokens with the query: mean over queries (95 %)',
    'class', 'queries', 'top sequences', 'all scanned',
  )  # fmt: skip
  for name, found in classes.items():
    cells = [
      agreement.shown(found[key], '.3f') for key in ('overlap', 'scanned')
    ]
    view.add_row(markup.escape(name), str(found['queries']), *cells)
  return view


if __name__ == '__main__':
  common.main(run)
