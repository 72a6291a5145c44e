"""The figure of experiments.validate_pbrf: agreement by damping."""

import numpy as np
from matplotlib import figure

from influence_jax.report import style

_KINDS = {
  'absolute': 'damping, the same for all layers',
  'relative': 'damping / mean of EK-FAC’s eigenvalues',
}
_DODGE = 1.25


@style.SETTINGS
def damping(result: dict) -> figure.Figure:
  """Pearson with the response against damping: a line a method, at its last

  step, with the 95 % interval; of one damping, points beside each other.
  """
  last = {}  # (kind, label): {damping: row}, later steps over earlier ones
  for row in result['rows']:
    kind, value = row['damping'].split()
    last.setdefault((kind, row['label']), {})[float(value)] = row
  kinds = [kind for kind in _KINDS if any(kind == key[0] for key in last)]
  labels = list(dict.fromkeys(label for _, label in last))
  wide = len(kinds) > 1
  width = style.TWO_COLUMNS if wide else style.ONE_COLUMN
  fig, found = style.panels(
    width, 2.5 if wide else 3.0, 1, len(kinds), sharey=True
  )
  for panel, kind in zip(found[0], kinds, strict=True):
    shown = sorted({x for key in last if key[0] == kind for x in last[key]})
    for i, label in enumerate(labels):
      rows = last.get((kind, label), {})
      places = [x for x in shown if x in rows]
      values = np.array([rows[x]['pearson'] for x in places]).reshape(-1, 3).T
      if len(shown) == 1:
        places = np.array(places) * _DODGE ** (i - (len(labels) - 1) / 2)
      style.band(panel, places, *values[1:], look(i)['color'])
      panel.plot(places, values[0], **look(i), label=label)
    panel.set(xscale='log', xlabel=_KINDS[kind])
    panel.set_xticks(shown, [f'{x:g}' for x in shown])
    panel.minorticks_off()
  found[0, 0].set(ylabel='Pearson with the response')
  fig.legend(
    *found[0, 0].get_legend_handles_labels(),
    loc='outside right upper' if wide else 'outside lower center',
    ncols=1 if wide else 2,
  )
  return fig


def look(i: int) -> dict:
  """Of the method i, in this figure and that of seconds."""
  return style.marked(i)
