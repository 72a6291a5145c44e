"""What experiments.memorization shows: its figure, its tables, their means."""

import operator
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from matplotlib import figure, lines, ticker
from rich import table

from influence_jax.report import style, terminal

_LABELS = {
  'ekfac': 'EK-FAC',
  'kfac': 'K-FAC',
  'identity': 'dot product',
  'bm25': 'BM25',
}
_OTHERS = 4  # lines of methods look like none of a size


def means(
  copies: Sequence[int], rows: Sequence[dict], fn: Callable
) -> dict[int, float]:
  """{k: mean of fn(row) over the passages of k copies and over the rows}.

  Args:
    copies: of the passages, 0 for a control.
    rows: one a model.
    fn: gives a number for each passage, or None, which makes the mean NaN.
  """
  copies_K = np.asarray(copies)
  values_K = np.mean([np.array(fn(row), float) for row in rows], axis=0)
  return {k: float(values_K[copies_K == k].mean()) for k in sorted({*copies})}


def by_size(rows: Sequence[dict]) -> dict[str, list[dict]]:
  """The models of each size; without a ladder by the name of the workdir."""
  sizes = {}
  for row in rows:
    sizes.setdefault(row['size'] or row['rung'], []).append(row)
  return sizes


def label(method: str) -> str:
  return _LABELS.get(method, method)


@style.SETTINGS
def draw(copies: Sequence[int], rows: Sequence[dict]) -> figure.Figure:
  """Means over passages and seeds, by copies; controls have none.

  Recall of the first method by size, and of all methods, sizes together; score
  of the best sequence; loss of the completion.
  """
  fig, found = style.panels(style.TWO_COLUMNS, 3.6, 2, 2, sharex=True)
  (recalls, methods), (tops, losses) = found
  main, *_ = names = list(rows[0]['recall'])
  for n, mine in enumerate(by_size(rows).values()):
    _line(recalls, n, means(copies, mine, lambda x: x['recall'][main]))
    _line(tops, n, means(copies, mine, lambda x: x['top']))
    _line(losses, n, means(copies, mine, lambda x: x['loss_per_token']))
  for n, name in enumerate(names):
    found = means(copies, rows, lambda x, name=name: x['recall'][name])
    _line(methods, n + _OTHERS, found)
  recalls.set_title(f'by {label(main)}')
  methods.set_title('mean over models')
  for panel in (recalls, methods):
    panel.set(ylim=(-0.05, 1.05), ylabel='recall of the copies')
  tops.set(yscale='log', ylabel='best score (nats)')
  losses.set(ylim=(0, None), ylabel='loss (nats per token)')
  _ticks(recalls, sorted({*copies}))
  for panel in (tops, losses):
    panel.set(xlabel='copies in the corpus')
  fig.legend(*_entries(0, by_size(rows)), loc='outside upper left', ncols=6)
  methods.legend(*_entries(_OTHERS, map(label, names)))
  return fig


def recall_table(copies: Sequence[int], rows: Sequence[dict]) -> table.Table:
  """The first method by size, the others of all models."""
  main, *others = rows[0]['recall']
  sizes = by_size(rows)
  of = [(f'{label(main)} {size}', mine, main) for size, mine in sizes.items()]
  of += [(label(name), rows, name) for name in others]
  columns = {
    title: means(copies, mine, lambda row, name=name: row['recall'][name])
    for title, mine, name in of
  }
  return _table('recall: means over passages and models', columns, '.2f')


def best_table(copies: Sequence[int], rows: Sequence[dict]) -> table.Table:
  columns = {
    f'{name} {size}': means(copies, mine, operator.itemgetter(key))
    for size, mine in by_size(rows).items()
    for name, key in (
      ('loss', 'loss_per_token'), ('best', 'top'), ('a copy', 'top_is_planted')
    )
  }  # fmt: skip
  return _table(
    'loss of the completion, nats per token; best score, nats; share of best '
    'sequences with a copy', columns, '.3g',
  )  # fmt: skip


def _line(panel, n: int, found: dict[int, float]) -> None:
  """Joined by thin dashes to what controls have."""
  planted = [k for k in found if k]
  x = np.array([_place(k, planted) for k in found])
  y, is_planted = np.array([*found.values()]), np.array([*found]) > 0
  look = _look(n)
  panel.plot(x[is_planted], y[is_planted], **look)
  if not is_planted.all():
    panel.plot(x[:2], y[:2], **{**look, 'ls': ':', 'lw': 0.8})


def _place(k: int, planted: Sequence[int]) -> float:
  """0 copies stand one step left of the fewest."""
  return k or min(planted) / 2


def _ticks(panel, ks: Sequence[int]) -> None:
  panel.set_xscale('log', base=2)
  places = [_place(k, [k for k in ks if k]) for k in ks]
  panel.set_xticks(places, [str(k) if k else '0\ncontrol' for k in ks])
  panel.xaxis.set_minor_locator(ticker.NullLocator())


def _entries(start: int, names: Iterable[str]) -> tuple[list, list[str]]:
  """Handles and labels of a legend, the first of line `start`."""
  labels = [style.label(name) for name in names]
  handles = [
    lines.Line2D([], [], **_look(n)) for n in range(start, start + len(labels))
  ]
  return handles, labels


def _look(n: int) -> dict:
  return {**style.marked(n), 'mfc': 'white'}


def _table(title: str, columns: dict[str, dict], form: str) -> table.Table:
  """A row a number of copies."""
  view = terminal.table(title, 'copies', *columns, wrap=True)
  for k in next(iter(columns.values())):
    cells = [found[k] for found in columns.values()]
    view.add_row(
      str(k), *['-' if np.isnan(x) else format(x, form) for x in cells]
    )
  return view
