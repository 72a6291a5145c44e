"""The figure of experiments.wall_clock: agreement by seconds, Fig. 7."""

from matplotlib import figure

from influence_jax.report import style


@style.SETTINGS
def draw(result: dict) -> figure.Figure:
  """Pearson with the response against seconds, a panel a number of

  measurements: a line a solver, a point what is solved in one go, with the 95 %
  interval.
  """
  numbers = list(dict.fromkeys(row['measurements'] for row in result['rows']))
  labels = list(dict.fromkeys(row['label'] for row in result['rows']))
  fig, found = style.panels(
    style.TWO_COLUMNS, 2.4, 1, len(numbers), sharey=True
  )
  for panel, num in zip(found[0], numbers, strict=True):
    rows = [row for row in result['rows'] if row['measurements'] == num]
    for i, label in enumerate(labels):
      _line(panel, i, label, [row for row in rows if row['label'] == label])
    panel.set(xscale='log', xlabel='seconds', title=f'{num} measured')
  found[0, 0].set(ylabel='Pearson with the response')
  handles, names = found[0, 0].get_legend_handles_labels()
  fig.legend(handles, names, loc='outside right upper')
  return fig


def _line(panel, i: int, label: str, rows: list[dict]) -> None:
  look, places = style.marked(i), [row['seconds'] for row in rows]
  panel.plot(places, [row['pearson'][0] for row in rows], label=label, **look)
  ends = [row['pearson'][1:] or row['pearson'] * 2 for row in rows]
  if rows:
    style.band(panel, places, *zip(*ends, strict=True), look['color'])
