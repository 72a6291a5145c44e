"""The figure of experiments.scaling: measures by size, a Figure out."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import figure, ticker

from influence_jax.report import style

PANELS = {  # the measure: its axis
  'overlap': 'shared tokens (Jaccard)',
  'topic': 'same topic (%)',
  'similarity': 'cosine of embeddings',
  'score': 'median score (nats)',
}
_SCALES = {'topic': 100}


@style.SETTINGS
def draw(
  sizes: Sequence[Mapping[str, Any]],
  values: Mapping[str, np.ndarray],
  random: Mapping[str, np.ndarray],
) -> figure.Figure:
  """Four measures against the number of parameters, logarithmic.

  Thin grey lines are queries, a thick one their mean, of scores the median,
  with its 95 % interval; dashed is the mean of random sequences.

  Args:
    sizes: S dicts of size, parameters (None if unknown: places in a row) and,
      by measure, the mean and its interval, None where no query has a value.
    values: {measure: [S, K]}, NaN where a query has none.
    random: {measure: [K]}; may lack some.
  """
  fig, found = style.panels(style.TWO_COLUMNS, 3.8, 2, 2, sharex=True)
  panels = found.ravel()
  x_S = [row['parameters'] or n for n, row in enumerate(sizes, start=1)]
  for panel, (name, label) in zip(panels, PANELS.items(), strict=True):
    scale = _SCALES.get(name, 1)
    panel.set(ylabel=label, xscale='log', xlim=(x_S[0] / 1.2, x_S[-1] * 1.2))
    centres = [row[name] for row in sizes]
    if None in centres:
      panel.set(yticks=())
      panel.text(
        0.5, 0.5, 'no query has the label', transform=panel.transAxes,
        ha='center', color='#555555',
      )  # fmt: skip
      continue
    _lines(panel, x_S, scale * values[name], scale * _padded(centres))
    if name in random:
      panel.axhline(
        scale * np.nanmean(random[name]), color='black', ls=(0, (4, 2)),
        lw=1, zorder=2, label='random sequences',
      )  # fmt: skip
  panels[-1].set(yscale='log')
  _ticks(panels[-1], x_S, sizes)
  for panel in panels[2:]:
    panel.set(xlabel='parameters' if sizes[0]['parameters'] else 'model')
  handles, labels = panels[0].get_legend_handles_labels()
  fig.legend(handles, labels, loc='outside upper center', ncols=3)
  return fig


def _padded(centres: Sequence[Sequence[float]]) -> np.ndarray:
  """[S, 3]; of a single query there is no interval."""
  return np.array([x if len(x) == 3 else [x[0]] * 3 for x in centres])


def _lines(panel, x_S, y_SxK, centre_Sx3) -> None:
  marker = '' if len(x_S) > 1 else 'o'
  for k, y_S in enumerate(y_SxK.T):
    panel.plot(
      x_S, y_S, color='#bbbbbb', lw=0.5, marker=marker, ms=2, zorder=1,
      label='_' if k else 'a query',
    )  # fmt: skip
  centre_S, low_S, high_S = centre_Sx3.T
  label = 'mean, of scores median (95 %)'
  style.band(panel, x_S, low_S, high_S, style.NEGATIVE, zorder=2)
  look = dict(color=style.NEGATIVE, lw=1.6, zorder=3, label=label)
  panel.plot(x_S, centre_S, 'o-', **look)


def _ticks(panel, x_S, sizes) -> None:
  """A tick a size, on the axis that all panels share."""
  labels = [
    f'{row["parameters"] / 1e6:.2g} M' if row['parameters'] else 'this one'
    for row in sizes
  ]
  panel.set_xticks(x_S, labels)
  panel.xaxis.set_minor_locator(ticker.NullLocator())
