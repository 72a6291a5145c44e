"""How many times faster than kronfluence: a bar a stage, targets as ticks."""

import io
import os

from matplotlib import figure

from influence_jax.report import files, style

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


@style.SETTINGS
def ratios(rows: list[dict]) -> figure.Figure:
  """Rows of `compare`, in their order, from the top down."""
  fig, axes = style.axes(6.0, 0.8 + 0.2 * len(rows))
  names = list(dict.fromkeys(row['case'] for row in rows))
  rows = sorted(rows, key=lambda row: names.index(row['case']))
  places = [-i - 0.7 * names.index(row['case']) for i, row in enumerate(rows)]
  for case_index, name in enumerate(names):
    own = [i for i, row in enumerate(rows) if row['case'] == name]
    axes.barh(
      [places[i] for i in own],
      [rows[i]['ratio'] for i in own],
      color=style.line(case_index)['color'],
      label=name,
    )
  for place, row in zip(places, rows, strict=True):
    axes.annotate(
      f'{row["ratio"]:.2f}', (row['ratio'], place), (3, 0),
      textcoords='offset points', va='center', fontsize=7,
    )  # fmt: skip
  wanted = [
    (place, row['target'])
    for place, row in zip(places, rows, strict=True)
    if row['target']
  ]
  if wanted:
    axes.plot(
      [target for _, target in wanted], [place for place, _ in wanted],
      ls='', marker='|', ms=10, mew=2, color='black', label='target',
    )  # fmt: skip
  axes.axvline(1, color=style.GREY, lw=1)
  axes.set_yticks(places, [row['stage'].replace('_', ' ') for row in rows])
  axes.set(xlabel='times faster than kronfluence', ylim=(min(places) - 1, 1))
  axes.margins(x=0.1)
  axes.grid(axis='y', visible=False)
  fig.legend(loc='outside right upper')
  return fig


def save(rows: list[dict], path: str | os.PathLike) -> None:
  buffer = io.BytesIO()
  ratios(rows).savefig(buffer, format='png', dpi=150)
  files.write(path, buffer.getvalue())
