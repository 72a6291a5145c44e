"""The figure of experiments.solver_cost: agreement with the exact by cost."""

import numpy as np
from matplotlib import figure

from influence_jax.report import style

_EXACT = 'exact'
_GAP = 0.06  # of Pearson, between two names


@style.SETTINGS
def cost(result: dict) -> figure.Figure:
  """Pearson with the exact solution against products and against seconds.

  A line a solver, with the 95 % interval over queries. An approximation takes
  no product: a mark at the left edge, and a point at the seconds of its solve.
  """
  methods = {}  # label: its rows
  for row in result['rows']:
    if row['label'] != _EXACT:
      methods.setdefault(row['label'], []).append(row)
  alone = [label for label, rows in methods.items() if rows[0]['step'] is None]
  solvers = [label for label in methods if label not in alone]
  fig, found = style.panels(style.TWO_COLUMNS, 3.0, 1, 2, sharey=True)
  panels = found[0]
  for i, label in enumerate(solvers):
    look = style.marked(i)
    for panel, key in zip(panels, ('products', 'seconds'), strict=True):
      rows = [row for row in methods[label] if row[key] > 0]
      places = [row[key] for row in rows]
      panel.plot(places, [x['pearson'][0] for x in rows], **look, label=label)
      ends = [x['pearson'][1:] for x in rows if x['pearson'][1:]]
      if ends:
        style.band(panel, places, *zip(*ends, strict=True), look['color'])
  heights = [methods[label][0]['pearson'][0] for label in alone]
  for label, height, place in zip(alone, heights, _apart(heights), strict=True):
    across = panels[0].get_yaxis_transform()
    panels[0].plot([0, 0.04], [height] * 2, 'k', lw=1.2, transform=across)
    panels[0].text(
      0.05, place, label, va='center', fontsize=style.SMALL, transform=across
    )
    panels[1].plot(methods[label][0]['seconds'], height, 'k_', ms=6, mew=1.2)
  for panel in panels:
    panel.axhline(result['wanted'], color=style.GREY, lw=0.8, zorder=1)
    panel.set(xscale='log')
  if alone:
    left, right = panels[0].get_xlim()
    panels[0].set_xlim(left**1.5 / right**0.5, right)  # room for the names
  panels[0].set(
    xlabel='products with one sequence’s G, a query',
    ylabel='Pearson with the exact solution',
  )  # fmt: skip
  panels[1].set(xlabel='seconds, all queries, without the fit')
  handles, names = panels[1].get_legend_handles_labels()
  fig.legend(handles, names, loc='outside right upper')
  return fig


def _apart(heights: list[float]) -> np.ndarray:
  """Where the names stand: at the heights, but _GAP from each other."""
  places, last = np.zeros(len(heights)), -np.inf
  for i in np.argsort(heights, stable=True):
    last = places[i] = max(heights[i], last + _GAP)
  return places
