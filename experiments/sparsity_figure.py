"""The figure of experiments.sparsity: tails of scores and their power laws."""

from collections.abc import Sequence

import numpy as np
from matplotlib import figure

from influence_jax import tails
from influence_jax.report import curves, style


@style.SETTINGS
def draw(
  names: Sequence[str],
  scores_KxN: np.ndarray,
  filtered_KxM: np.ndarray,
  fitted: Sequence[tails.Tail],
) -> figure.Figure:
  """Share of positive scores >= x, log-log, a panel a query (Fig. 8).

  Unfiltered, of a filter's candidates, and the power law fitted to the former.
  """
  columns = min(4, len(names))
  rows = -(-len(names) // columns)
  fig, found = style.panels(
    style.TWO_COLUMNS, 1.4 * rows + 0.5, rows, columns, sharey=True
  )
  panels = found.ravel()
  for panel in panels[len(names) :]:
    panel.remove()
  for panel, name, scores, filtered, tail in zip(
    panels, names, scores_KxN, filtered_KxM, fitted, strict=False
  ):
    _draw_tail(panel, scores, filtered, tail)
    title = f'{style.label(name, 16)}  α = {tail.alpha:.2f}'
    panel.set_title(title)
  fig.supxlabel('score (nats)')
  fig.supylabel('share of positive scores ≥ x')
  handles, labels = panels[0].get_legend_handles_labels()
  fig.legend(handles, labels, loc='outside upper right', ncols=3)
  return fig


def _draw_tail(panel, scores_N, filtered_M, tail: tails.Tail) -> None:
  """The law is a straight line from the threshold to the largest score."""
  x, share = curves.ccdf(scores_N)
  panel.plot(*curves.ccdf(filtered_M), ':', color=style.GREY, label='TF-IDF')
  panel.plot(x, share, color=style.NEGATIVE, label='unfiltered')
  share_at_min = (x > tail.x_min).mean()
  ends = np.array([tail.x_min, tail.scores[0]])
  law = share_at_min * (ends / tail.x_min) ** -tail.alpha
  panel.plot(ends, law, '--', color=style.POSITIVE, label='power law')
  panel.set(xscale='log', yscale='log', xlim=(np.quantile(x, 0.01), None))
