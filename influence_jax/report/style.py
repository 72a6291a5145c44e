"""The one style of all figures: sizes, letters, colours.

A figure is as wide as a column or as the text of a paper in two columns, here
ICML's, and goes into it at its own size. NeurIPS and ICLR set text 5.5 inches
wide, ACL 6.30 and its columns 3.03: there the wide ones shrink to 0.81 or 0.93,
and the least letters to 5.3 points.

Colours of Okabe and Ito, and the same colour for the same query in every
figure. Where there are no colours, two lines differ by their dashes, or by 10
or more in lightness (L* of CIELAB, 0 black and 100 white). Orange is positive,
blue is negative. Intervals are bands where x has an order, else bars.

Letters are of the caller's font.family: a second one in that list is taken for
what the first lacks, e.g. Chinese.
"""

from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib import colors, figure, lines

from influence_jax.report import records

ONE_COLUMN, TWO_COLUMNS = 3.25, 6.75  # inches
SIZE, SMALL, LEAST = 8, 7, 6.5  # points: labels; ticks and legends; notes
POSITIVE = '#d55e00'
NEGATIVE = '#0072b2'
GREY = '#8a8a8a'
PALE = '#b9d3e8'  # of bars
SHADES = colors.LinearSegmentedColormap.from_list(
  'influence', [NEGATIVE, '#ffffff', POSITIVE], 257  # white is in the middle
).with_extremes(bad='#dddddd')  # fmt: skip
MARKERS = 'os^DvXP*<>'
_COLOURS = (
  *('#0072b2', '#d55e00', '#009e73', '#cc79a7'),
  *('#000000', '#e69f00', '#56b4e9', '#8c510a'),
)
_DASHES = ('-', (0, (5, 1.5)), (0, (1, 1)), (0, (5, 1.5, 1, 1.5)))
_TICKS = {'width': 0.6, 'size': 2.4, 'pad': 2.4}
SETTINGS = matplotlib.rc_context(
  {
    'font.size': SIZE,
    'axes.titlesize': SIZE,
    'axes.labelsize': SIZE,
    'figure.titlesize': SIZE,
    'figure.labelsize': SIZE,
    'xtick.labelsize': SMALL,
    'ytick.labelsize': SMALL,
    'legend.fontsize': SMALL,
    'legend.title_fontsize': SMALL,
    'legend.frameon': False,
    'legend.handlelength': 2.4,
    'legend.columnspacing': 1.4,
    'legend.labelspacing': 0.35,
    'axes.titlepad': 4,
    'axes.labelpad': 3,
    'axes.spines.top': False,
    'axes.spines.right': False,
    'axes.edgecolor': '#555555',
    'axes.linewidth': 0.6,
    'axes.axisbelow': True,
    'axes.grid': True,
    'grid.color': '#e4e4e4',
    'grid.linewidth': 0.5,
    'hatch.linewidth': 0.5,
    'lines.linewidth': 1.2,
    'lines.markersize': 3.5,
    'lines.markeredgewidth': 0.8,
    **{f'{x}tick.major.{k}': v for x in 'xy' for k, v in _TICKS.items()},
    **{f'{x}tick.minor.{k}': v / 1.5 for x in 'xy' for k, v in _TICKS.items()},
    'figure.constrained_layout.use': True,
    'figure.autolayout': False,
    # Of files: letters stay letters, and nothing of the caller's changes them.
    'pdf.fonttype': 42,
    'savefig.bbox': None,
    'savefig.facecolor': 'white',
    'savefig.transparent': False,
    'text.usetex': False,
  }
)


def axes(width: float, height: float):
  """A new figure of one pair of axes, in inches."""
  fig = figure.Figure((width, height))
  return fig, fig.subplots()


def panels(width: float, height: float, rows: int, columns: int, **shared):
  """A new figure and its axes, [rows, columns]."""
  fig = figure.Figure((width, height))
  return fig, fig.subplots(rows, columns, squeeze=False, **shared)


def line(i: int) -> dict[str, Any]:
  """How the line of query i looks, in every figure."""
  if i >= len(_COLOURS):
    return dict(color='#bbbbbb', lw=0.6, zorder=1)
  return dict(color=_COLOURS[i], ls=_DASHES[i % len(_DASHES)], zorder=2)


def marked(i: int) -> dict[str, Any]:
  """A line with marks, for more than queries: no two of the first 40 agree."""
  marker = MARKERS[i % len(MARKERS)]
  return {**line(i % len(_COLOURS)), 'marker': marker}


def band(axes, x, low, high, color: str, **look) -> None:
  """An interval around a line, light enough for others; of one x, a bar."""
  if len(x) == 1:
    axes.vlines(x, low, high, color=color, lw=1, **look)
  else:
    axes.fill_between(x, low, high, color=color, alpha=0.15, lw=0, **look)


def legend(axes, names, heights_K: np.ndarray, form: str = '', **look) -> None:
  """Of a line a query, from the highest line down; NaN where there is none.

  Beside the axes, or as `look` says.
  """
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
    handles + areas, labels + area_labels,
    **{'loc': 'outside right upper', **look},
  )  # fmt: skip


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
