"""The one style of all figures.

Colours of Okabe and Ito, told apart by dashes where there are no colours, and
the same colour for the same query in every figure. Orange is positive, blue is
negative.
"""

from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib import figure, lines

from influence_jax.report import records

POSITIVE = '#d55e00'
NEGATIVE = '#0072b2'
GREY = '#8a8a8a'
_COLOURS = (
  *('#0072b2', '#d55e00', '#009e73', '#cc79a7'),
  *('#000000', '#e69f00', '#56b4e9', '#8c510a'),
)
_DASHES = ('-', (0, (5, 1.5)), (0, (1, 1)), (0, (5, 1.5, 1, 1.5)))
SETTINGS = matplotlib.rc_context(
  {
    'font.size': 9,
    'legend.fontsize': 8,
    'legend.frameon': False,
    'legend.handlelength': 2.6,
    'axes.spines.top': False,
    'axes.spines.right': False,
    'axes.edgecolor': '#555555',
    'axes.grid': True,
    'grid.color': '#e4e4e4',
    'grid.linewidth': 0.6,
    'lines.linewidth': 1.5,
    'figure.constrained_layout.use': True,
  }
)


def axes(width: float, height: float):
  """A new figure of one pair of axes, in inches."""
  fig = figure.Figure((width, height))
  return fig, fig.subplots()


def line(i: int) -> dict[str, Any]:
  """How the line of query i looks, in every figure."""
  if i >= len(_COLOURS):
    return dict(color='#bbbbbb', lw=0.7, zorder=1)
  return dict(color=_COLOURS[i], ls=_DASHES[i % len(_DASHES)], zorder=2)


def legend(axes, names, heights_K: np.ndarray, form: str = '') -> None:
  """Beside the axes, from the highest line down; NaN where there is no line."""
  order = np.argsort(-np.nan_to_num(heights_K, nan=-np.inf), stable=True)
  named = [i for i in order if i < len(_COLOURS)]
  notes = [
    '(none positive)' if np.isnan(height) else form.format(height)
    for height in heights_K
  ]
  labels = [f'{label(names[i])} {notes[i]}' for i in named]
  handles = [lines.Line2D([], [], **line(i)) for i in named]
  if len(names) > len(_COLOURS):
    handles.append(lines.Line2D([], [], **line(len(_COLOURS))))
    labels.append(f'{len(names) - len(_COLOURS)} others')
  areas, area_labels = axes.get_legend_handles_labels()
  axes.figure.legend(
    handles + areas, labels + area_labels, loc='outside right upper'
  )


def label(name: str, length: int = 28) -> str:
  """The name as matplotlib shows it letter for letter, cut in the middle."""
  name = records.plain(name).replace('\n', ' ')
  if len(name) > length:
    name = f'{name[: length // 2]}…{name[-(length // 2) :]}'
  return name.replace('$', r'\$')


def ticks(labels: Sequence[str], most: int) -> tuple[range, Sequence[str]]:
  """Places and labels, of every second or third only if they are too many."""
  every = slice(None, None, -(-len(labels) // most))
  return range(len(labels))[every], labels[every]
