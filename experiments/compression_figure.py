"""The figure of experiments.compression: what it found in, a Figure out."""

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import figure, ticker

from influence_jax.report import style

_NEAREST = 1e-4  # 1 - r that is drawn as the best there is
_COLUMNS = (('rank', 'rank'), ('blocks', 'bytes'))  # each from top to bottom
DRAWN = tuple(column[0] for column in _COLUMNS)  # parts that are curves


@style.SETTINGS
def draw(parts: Mapping[str, dict]) -> figure.Figure:
  """Pearson against rank; Pearson and bytes against blocks: what there is.

  Thick lines are medians over the queries, bands quartiles, thin lines the
  least. Steps of the vertical axis are tenfold: .99 and .999 are told apart.
  """
  columns = [column for column in _COLUMNS if column[0] in parts]
  width = (style.ONE_COLUMN, style.TWO_COLUMNS)[len(columns) - 1]
  fig = figure.Figure((width, 2.7))
  axes = fig.subplot_mosaic(
    [*map(list, zip(*columns, strict=True))], height_ratios=(2, 1)
  )
  if 'rank' in parts:
    _draw_rank(axes['rank'], parts['rank']['rows'])
  if 'blocks' in parts:
    _draw_blocks(axes['blocks'], axes['bytes'], parts['blocks']['rows'])
  for name, _ in columns:
    for row in parts.get('draw', {'rows': ()})['rows']:
      axes[name].axhline(
        max(1 - row['pearson']['median'], _NEAREST), color='#555555', ls=':',
        label='other labels drawn',
      )  # fmt: skip
    axes[name].set(ylabel='Pearson')
    _tenfold(axes[name])
    axes[name].legend(loc='lower right' if name == 'rank' else 'upper right')
  return fig


def lines(axes, x: Sequence[int], pearson_KxX: np.ndarray, label: str) -> None:
  """Pearson against x, a line a query, on axes like those of `draw`."""
  ticks(axes, x, label)
  for k, r_X in enumerate(pearson_KxX):
    missing_X = np.maximum(1 - r_X, _NEAREST)
    axes.plot(x, missing_X, marker='o', ms=2, **style.line(k))
  axes.set(ylabel='Pearson')
  _tenfold(axes)


def ticks(axes, x: Sequence[int], label: str) -> None:
  """A logarithmic axis with a tick at each x."""
  axes.set(xscale='log', xlabel=label)
  axes.set_xticks(x, x)
  axes.xaxis.set_minor_locator(ticker.NullLocator())


def _draw_rank(axes, rows):
  ranks = sorted({row['rank'] for row in rows})
  methods = list(dict.fromkeys(row['method'] for row in rows))
  ticks(axes, ranks, 'rank')
  for i, (weighted, method) in enumerate(
    itertools.product((True, False), methods)
  ):
    mine = [
      row
      for row in rows
      if (row['weighted'], row['method']) == (weighted, method)
    ]
    label = 'weighted' if weighted else 'plain'
    look = style.line(i // len(methods))
    if method == methods[0]:
      _band(axes, ranks, mine, look, label)
    else:
      axes.plot(
        ranks, _missing(mine, 'median'), 'x' if weighted else '+', ms=6,
        color=look['color'], label=f'{label}, {method} SVD',
      )  # fmt: skip


def _draw_blocks(above, below, rows):
  blocks = [row['blocks'] for row in rows]
  for axes in (above, below):
    ticks(axes, blocks, 'blocks a side')
  above.set(xlabel='')
  above.tick_params(labelbottom=False)
  _band(above, blocks, rows, style.line(0), 'blocks')
  for key, label, marker in (
    ('factor_bytes', 'all factors', 'o-'),
    ('covariance_bytes', 'sums of A and S', 's--'),
  ):
    share = [100 * row[key] / rows[0][key] for row in rows]
    below.plot(blocks, share, marker, color='#555555', label=label)
  below.set(ylim=(0, 108), ylabel='bytes (%)')
  below.legend(loc='upper right')


def _band(axes, x, rows, look, label):
  axes.plot(x, _missing(rows, 'median'), marker='o', label=label, **look)
  quartiles = np.transpose([row['pearson']['quartiles'] for row in rows])
  low, high = np.maximum(1 - quartiles, _NEAREST)
  style.band(axes, x, low, high, look['color'])
  axes.plot(x, _missing(rows, 'min'), **{**look, 'lw': 0.6})


def _missing(rows, key):
  """1 - Pearson."""
  return [max(1 - row['pearson'][key], _NEAREST) for row in rows]


def _tenfold(axes):
  axes.set_yscale('log')
  least = max(max(line.get_ydata(), default=0) for line in axes.get_lines())
  places = [0.5, 0.2, 0.1, 0.03, 0.01, 0.003, 1e-3, _NEAREST]
  names = [f'{1 - x:g}' for x in places[:-1]] + [f'≥ {1 - _NEAREST:g}']
  axes.set_yticks(places, names)
  axes.yaxis.set_minor_locator(ticker.NullLocator())
  axes.set_ylim(1.3 * least, 0.8 * _NEAREST)
