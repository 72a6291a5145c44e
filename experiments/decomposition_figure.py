"""Figure of experiments.decomposition: gaps beside correlations."""

import numpy as np
from matplotlib import figure

from influence_jax.report import style

_LOOKS = {
  'pearson': dict(label='Pearson', marker='o', color=style.NEGATIVE),
  'spearman': dict(label='Spearman', marker='D', mfc='w', color=style.POSITIVE),
}


@style.SETTINGS
def gaps(result: dict) -> figure.Figure:
  """A bar a step of the chain, from the top down; what is not a step of it,

  cold's noise and both ends, is hatched. Correlations have their 95 % interval.
  """
  rows = result['rows']
  height = 0.8 + 0.22 * len(rows)
  fig, found = style.panels(style.TWO_COLUMNS, height, 1, 2, sharey=True)
  bars, points = found[0]
  places = np.arange(len(rows))
  drawn = bars.barh(
    places, [row['gap'] for row in rows], 0.65, color=style.PALE, ec='#333333'
  )
  for bar in (drawn[0], drawn[-1]):
    bar.set(hatch='///', facecolor='w')
  for place, row in zip(places, rows, strict=True):
    bars.annotate(
      f'{row["gap"]:.1%}', (row['gap'], place), (3, 0),
      textcoords='offset points', va='center', fontsize=style.SMALL,
    )  # fmt: skip
  bars.set_yticks(places, [row['name'] for row in rows])
  bars.margins(x=0.18)
  bars.set(xlabel='gap: RMS difference / RMS', xlim=(0, None))
  bars.invert_yaxis()  # shared
  for shift, (key, look) in zip((-0.15, 0.15), _LOOKS.items(), strict=True):
    for place, row in zip(places, rows, strict=True):
      mean, *ends = row[key]
      named = look if place == 0 else {**look, 'label': None}
      points.plot(mean, place + shift, ls='', ms=4, **named)
      if ends:
        points.plot(ends, [place + shift] * 2, color=look['color'], lw=1.2)
  points.set(xlabel='correlation over points', xlim=(None, 1.03))
  fig.legend(loc='outside upper right', ncols=2)
  return fig
