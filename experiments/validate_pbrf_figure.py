"""The figure of experiments.validate_pbrf: agreement by damping."""

import numpy as np
from matplotlib import figure

from influence_jax.report import style

_KINDS = {
  'absolute': 'damping, the same for all layers',
  'relative': 'damping / mean of EK-FAC’s eigenvalues',
}
_MARKERS = 'osDX^vP*<>'
_DODGE = 1.05


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
      shift = _DODGE ** (i - (len(labels) - 1) / 2)  # bars beside each other
      panel.errorbar(
        np.array(places) * shift, values[:, 0],
        np.abs(values[:, 1:] - values[:, :1]).T,
        **look(i), elinewidth=0.6, label=label,
      )  # fmt: skip
    panel.set(xscale='log', xlabel=_KINDS[kind])
    shown = sorted({x for key in last if key[0] == kind for x in last[key]})
    panel.set_xticks(shown, [f'{x:g}' for x in shown])
    panel.minorticks_off()
  panels[0].set(ylabel='Pearson with the response')
  handles, names = panels[0].get_legend_handles_labels()
  fig.legend(handles, names, loc='outside right upper')
  return fig


def look(i: int) -> dict:
  """Of the method i: told apart by its marker where there are no colours."""
  look = style.line(i % 8)
  return {**look, 'marker': _MARKERS[i % len(_MARKERS)], 'ms': 4}
