"""Figures and tables of experiments.procedural."""

from collections.abc import Sequence

import numpy as np
from matplotlib import figure
from rich import table

from experiments import procedural_measures as measures
from influence_jax.report import style, terminal

_FILLS = {  # dark enough apart in grey, and no two neighbours of one texture
  'lead': ('#ffffff', ''), 'memorised': ('#b5b5b5', ''),
  'office': ('#e69f00', '////'), 'lookup': ('#f5d28a', ''),
  'difference': ('#0072b2', ''), 'sum': ('#9ed1f2', '....'),
}  # fmt: skip


@style.SETTINGS
def pairs(
  r_KxK: np.ndarray, classes: Sequence[str], distinct_KxK: np.ndarray
) -> figure.Figure:
  """Correlation of every two queries, by class; beside it the classes' means.

  The scale ends where 2 % of the pairs that count are beyond it.
  """
  rows = measures.by_class(classes)
  order_K = np.concatenate([*rows.values()])
  bound = np.quantile(np.abs(r_KxK[distinct_KxK]), 0.98)
  look = dict(cmap=style.SHADES, vmin=-bound, vmax=bound)
  fig, found = style.panels(style.TWO_COLUMNS, 3.2, 1, 2)
  left, right = found[0]
  left.imshow(r_KxK[np.ix_(order_K, order_K)], interpolation='none', **look)
  ends = np.cumsum([0, *map(len, rows.values())]) - 0.5
  for end in ends[1:-1]:
    left.axhline(end, color='black', lw=0.5)
    left.axvline(end, color='black', lw=0.5)
  mean_GxG = measures.means(r_KxK, classes, distinct_KxK)
  image = right.imshow(mean_GxG, **look)
  for (i, j), x in np.ndenumerate(mean_GxG):
    if np.isfinite(x):
      right.text(j, i, _cell(x), ha='center', va='center', fontsize=style.LEAST)
  for axes, places in (
    (left, (ends[1:] + ends[:-1]) / 2), (right, np.arange(len(rows))),
  ):  # fmt: skip
    axes.set_xticks(places, rows, rotation=90)
    axes.set_yticks(places, rows)
    axes.tick_params(length=0)
    axes.grid(False)
  left.set_title('pairs of queries')
  right.set_title('means of the pairs')
  fig.colorbar(
    image, ax=[left, right], extend='both', shrink=0.75, pad=0.02,
    label='Pearson',
  )  # fmt: skip
  return fig


@style.SETTINGS
def kinds(
  kind_KxJ: np.ndarray, classes: Sequence[str], num_top: int
) -> figure.Figure:
  """Of which kinds the top documents are, a bar a class of queries."""
  rows = measures.by_class(classes)
  share_GxJ = np.array(
    [100 * kind_KxJ[own].mean(axis=0) for own in rows.values()]
  )
  starts_GxJ = np.cumsum(share_GxJ, axis=1) - share_GxJ
  fig, axes = style.axes(style.ONE_COLUMN, 1.0 + 0.2 * len(rows))
  for j, kind in enumerate(measures.KINDS):
    color, hatch = _FILLS[kind]
    axes.barh(
      range(len(rows)), share_GxJ[:, j], left=starts_GxJ[:, j], label=kind,
      color=color, hatch=hatch, edgecolor='#333333', lw=0.6, height=0.7,
    )  # fmt: skip
  for (g, j), share in np.ndenumerate(share_GxJ):
    if share >= 8:
      axes.text(
        starts_GxJ[g, j] + share / 2, g, f'{share:.0f}', ha='center',
        va='center', fontsize=style.LEAST,
        bbox=dict(boxstyle='round,pad=0.15', fc='white', lw=0),
      )  # fmt: skip
  axes.set_yticks(range(len(rows)), rows)
  axes.set(xlim=(0, 100), ylim=(len(rows) - 0.5, -0.5))
  axes.set(xlabel=f'of the top {num_top} documents (%)', ylabel='queries')
  axes.grid(False)
  fig.legend(loc='outside upper right', ncols=3, title='documents')
  return fig


def tables(result: dict, num_top: int) -> list[table.Table]:
  """Means over the models, a row a class; loss and Pearson, a row a model."""
  classes = result['mean']
  view = terminal.table(
    'means over the models and over pairs within a class;\n'
    f'answer in the top {num_top}: recall of facts, excess of procedures',
    'queries', 'number', 'loss (nats)', 'Pearson', 'Spearman', 'answer',
  )  # fmt: skip
  shares = terminal.table(
    f'of the top {num_top} documents (%)', 'queries', *measures.KINDS
  )
  within = terminal.table('Pearson within the class', 'model', *classes)
  losses = terminal.table(
    'loss of the completion (nats); ln 5 is a guess', 'model', *classes
  )
  for name, one in classes.items():
    numbers = one['loss'], one['pearson'][name], one['spearman'][name]
    cells = map(_cell, (*numbers, one['answer']))
    view.add_row(name, str(one['queries']), *cells)
    shares.add_row(name, *(f'{100 * x:.0f}' for x in one['kinds'].values()))
  for row in result['rungs']:
    cells = [_cell(one['pearson'][x]) for x, one in row['classes'].items()]
    within.add_row(row['rung'], *cells)
    cells = [_cell(one['loss']) for one in row['classes'].values()]
    losses.add_row(row['rung'], *cells)
  guesses = [_cell(one['guess']) for one in classes.values()]
  losses.add_row('ln 5', *guesses)
  return [view, shares, losses, within]


def _cell(x: float | None) -> str:
  return '-' if x is None else f'{round(x, 2) + 0:.2f}'  # 0.00, not -0.00
