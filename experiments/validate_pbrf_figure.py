"""Figures of experiments.validate_pbrf: agreement by damping, and by cost."""

import numpy as np
from matplotlib import figure

from influence_jax.report import style

_KINDS = {
  'absolute': 'damping, the same for all layers',
  'relative': 'damping / mean of EK-FAC’s eigenvalues',
}
_MARKERS = 'osDX^vP*<>'


@style.SETTINGS
def damping(result: dict) -> figure.Figure:
  """Pearson with the response against damping: a line a method, at its last

  step, with the 95 % interval.
  """
  last = {}  # (kind, label): {damping: row}, later steps over earlier ones
  for row in result['rows']:
    kind, value = row['damping'].split()
    last.setdefault((kind, row['label']), {})[float(value)] = row
  kinds = [kind for kind in _KINDS if any(kind == key[0] for key in last)]
  labels = list(dict.fromkeys(label for _, label in last))
  fig = figure.Figure((1.6 + 2.8 * len(kinds), 3.2))
  panels = fig.subplots(1, len(kinds), sharey=True, squeeze=False)[0]
  for panel, kind in zip(panels, kinds, strict=True):
    for i, label in enumerate(labels):
      rows = last.get((kind, label), {})
      places = sorted(rows)
      values = np.array([rows[x]['pearson'] for x in places])
      look = _look(i)
      panel.plot(places, values[:, 0], **look, label=label)
      panel.fill_between(
        places,
        values[:, 1],
        values[:, 2],
        color=look['color'],
        alpha=0.12,
        lw=0,
      )
    panel.set(xscale='log', xlabel=_KINDS[kind])
  panels[0].set(ylabel='Pearson with the response')
  handles, names = panels[0].get_legend_handles_labels()
  fig.legend(handles, names, loc='outside right upper')
  return fig


@style.SETTINGS
def cost(result: dict) -> figure.Figure:
  """Pearson with the response against products and seconds, of the claimed

  damping; what is solved in one go is a point at its seconds alone.
  """
  kind, value = result['config']['validation']['claimed']
  rows = [x for x in result['rows'] if x['damping'] == f'{kind} {value:g}']
  labels = list(dict.fromkeys(row['label'] for row in rows))
  fit = np.median([seed['fit_seconds'] for seed in result['seeds']])
  fig = figure.Figure((7.2, 3.2))
  panels = fig.subplots(1, 2, sharey=True)
  for i, label in enumerate(labels):
    mine = [row for row in rows if row['label'] == label]
    look = _look(i)
    heights = [row['pearson'][0] for row in mine]
    if mine[0]['step'] is None:
      panels[0].axhline(heights[0], **{**look, 'lw': 0.8, 'marker': ''})
    else:
      panels[0].plot([x['products'] for x in mine], heights, **look)
    seconds = [row['seconds'] + fit * (row['step'] is None) for row in mine]
    panels[1].plot(seconds, heights, **look, label=label)
  panels[0].set(
    xscale='symlog', xlabel='products with one sequence’s G, a query',
    ylabel='Pearson with the response',
  )  # fmt: skip
  panels[1].set(xscale='log', xlabel='seconds, all queries, fit included')
  handles, names = panels[1].get_legend_handles_labels()
  fig.legend(handles, names, loc='outside right upper')
  return fig


def _look(i: int) -> dict:
  """Of the method i: told apart by its marker where there are no colours."""
  look = style.line(i % 8)
  return {**look, 'marker': _MARKERS[i % len(_MARKERS)], 'ms': 4}
