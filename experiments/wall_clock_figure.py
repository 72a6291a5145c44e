"""The figure of experiments.wall_clock: agreement by seconds, Fig. 7."""

from matplotlib import figure

from experiments import validate_pbrf_figure
from influence_jax.report import style


@style.SETTINGS
def draw(result: dict) -> figure.Figure:
  """Pearson with the response against seconds, a panel a number of

  measurements: a line a solver, a point what is solved in one go.
  """
  numbers = list(dict.fromkeys(row['measurements'] for row in result['rows']))
  labels = list(dict.fromkeys(row['label'] for row in result['rows']))
  fig = figure.Figure((1.6 + 2.4 * len(numbers), 3.0))
  panels = fig.subplots(1, len(numbers), sharey=True, squeeze=False)[0]
  for panel, num in zip(panels, numbers, strict=True):
    for i, label in enumerate(labels):
      mine = [
        row
        for row in result['rows']
        if (row['measurements'], row['label']) == (num, label)
      ]
      panel.plot(
        [row['seconds'] for row in mine], [row['pearson'][0] for row in mine],
        **validate_pbrf_figure.look(i), label=label,
      )  # fmt: skip
    panel.set(xscale='log', xlabel='seconds', title=f'{num} measured')
  panels[0].set(ylabel='Pearson with the response')
  handles, names = panels[0].get_legend_handles_labels()
  fig.legend(handles, names, loc='outside right upper')
  return fig
