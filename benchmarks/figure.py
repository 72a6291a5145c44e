"""Figures of benchmarks.compare and .sweep: rows in, a Figure out."""

import itertools

from matplotlib import figure, ticker

from influence_jax.report import style

TARGETS = {  # set before anything was measured
  'medium': {
    'covariance': 1.5,
    'lambda': 2.5,
    'pairwise': 1.5,
    'pairwise_rank32': 1.7,
    'tokens_rank32': 3.0,
    'self_influence': 2.0,
    'end_to_end_cold': 1.8,
    'end_to_end_warm': 2.0,
  },
  'small': {'end_to_end_warm': 3.0},
}
_FILLS = style.NEGATIVE, '#8fc1e3', '#dcebf6'  # apart in grey
_AXES = {'N': 'sequences', 'Q': 'queries of rank 32', 'T': 'positions'}


@style.SETTINGS
def ratios(rows: list[dict]) -> figure.Figure:
  """How many times faster than kronfluence: a bar a stage, targets as ticks.

  Rows of `compare`, in their order, from the top down.
  """
  fig, axes = style.axes(style.ONE_COLUMN, 0.7 + 0.14 * len(rows))
  names = list(dict.fromkeys(row['case'] for row in rows))
  rows = sorted(rows, key=lambda row: names.index(row['case']))
  places = [-i - 0.7 * names.index(row['case']) for i, row in enumerate(rows)]
  for case_index, name in enumerate(names):
    own = [i for i, row in enumerate(rows) if row['case'] == name]
    axes.barh(
      [places[i] for i in own],
      [rows[i]['ratio'] for i in own],
      color=_FILLS[case_index % len(_FILLS)],
      ec='#333333',
      lw=0.5,
      label=name,
    )
  for place, row in zip(places, rows, strict=True):
    ratio, target = row['ratio'], row['target'] or 0
    end = target if 0 < target - ratio < 0.5 else ratio  # not on a target
    axes.annotate(
      f'{ratio:.2f}', (end, place), (3, 0),
      textcoords='offset points', va='center', fontsize=style.SMALL,
      bbox=dict(fc='white', lw=0, pad=0.5),
    )  # fmt: skip
  wanted = [
    (place, row['target'])
    for place, row in zip(places, rows, strict=True)
    if row['target']
  ]
  if wanted:
    axes.plot(
      [target for _, target in wanted], [place for place, _ in wanted],
      ls='', marker='|', ms=7, mew=1.5, color='black', label='target',
    )  # fmt: skip
  axes.axvline(1, color='black', lw=0.8, zorder=0.9)
  axes.set_yticks(places, [row['stage'].replace('_', ' ') for row in rows])
  axes.set(xlabel='times faster than kronfluence', ylim=(min(places) - 1, 1))
  axes.margins(x=0.1)
  axes.grid(axis='y', visible=False)
  fig.legend(loc='outside upper center', ncols=4, handlelength=1.2)
  return fig


@style.SETTINGS
def sweep(rows: list[dict]) -> figure.Figure:
  """Seconds against each of _AXES, rows of `sweep`; both logarithmic."""
  fig, found = style.panels(style.TWO_COLUMNS, 1.7, 1, len(_AXES))
  for axes, (axis, name) in zip(found[0], _AXES.items(), strict=True):
    x, y = zip(
      *[(r[axis], r['seconds']) for r in rows if r['axis'] == axis], strict=True
    )
    axes.loglog(x, y, 'o-', color=style.NEGATIVE)
    axes.set(xlabel=name)
    # Of places that lie close together, the first has a label.
    near = [False] + [b < 1.8 * a for a, b in itertools.pairwise(x)]
    axes.set_xticks(
      x, ['' if hide else f'{n:,}' for n, hide in zip(x, near, strict=True)]
    )
    axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter('{x:g}')
    for each in (axes.xaxis, axes.yaxis):
      each.set_minor_locator(ticker.NullLocator())
  found[0, 0].set(ylabel='seconds')
  return fig
