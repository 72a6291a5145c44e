"""Figure and table of experiments.dot_product: hits by query and method."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import figure
from rich import table

from experiments import agreement
from influence_jax.report import style, terminal

METHODS = {
  'ekfac': 'EK-FAC',
  'kfac': 'K-FAC',
  'identity': 'dot product',
  'bm25': 'BM25',
}
CHANCE = 'chance'
_LOOKS = {  # told apart by form alone
  'ekfac': dict(marker='o', ms=4, color=style.POSITIVE),
  'kfac': dict(marker='D', ms=5.5, color='black', mfc='none', mew=0.7),
  'identity': dict(marker='X', ms=4, color=style.NEGATIVE),
  'bm25': dict(marker='^', ms=3.5, color='#555555', mfc='white'),
  CHANCE: dict(marker='|', ms=6, color='black', mew=1.2),
}


@style.SETTINGS
def draw(
  names: Sequence[str], hits: Mapping[str, np.ndarray], num_top: int
) -> figure.Figure:
  """Hits by query and method, by falling hits of EK-FAC; lines to dot product.

  Args:
    names: of the K queries.
    hits: {method or 'chance': [K]}.
  """
  fig, axes = style.axes(style.ONE_COLUMN, 0.9 + 0.125 * len(names))
  order_K = np.argsort(-hits['ekfac'], kind='stable')
  rows = range(len(names))
  axes.hlines(
    rows, hits['ekfac'][order_K], hits['identity'][order_K],
    color='#bbbbbb', lw=1, zorder=1,
  )  # fmt: skip
  for name in (CHANCE, 'bm25', 'kfac', 'identity', 'ekfac'):
    axes.plot(
      hits[name][order_K], rows, ls='', label=METHODS.get(name, 'by chance'),
      clip_on=False, **_LOOKS[name],
    )  # fmt: skip
  axes.set_yticks(rows, [style.label(names[k]) for k in order_K])
  axes.set(xlim=(0, num_top), ylim=(len(names) - 0.4, -0.6))
  axes.set_xlabel(f'sequences with a keyword, of the top {num_top}')
  handles, labels = axes.get_legend_handles_labels()
  fig.legend(
    handles[::-1], labels[::-1], loc='outside upper center', ncols=3,
    handletextpad=0.1, columnspacing=1,
  )  # fmt: skip
  return fig


def tabulate(found: Mapping[str, dict], num: int, num_top: int) -> table.Table:
  """A row a method.

  Args:
    found: {method: its summary}, as experiments.dot_product makes it.
    num: of queries.
  """
  view = terminal.table(
    f'keyword hits in the top {num_top}: mean of {num} queries; ratios '
    'of sums (95 %);\nqueries with more hits than by dot product',
    'by', 'hits', '/ chance', '/ dot product', 'more',
  )  # fmt: skip
  for name, one in found.items():
    cells = [
      agreement.shown(one[key], '.1f')
      for key in ('hits', 'to_chance', 'to_dot_product')
    ]
    view.add_row(METHODS[name], *cells, str(one['more_than_dot_product']))
  return view
