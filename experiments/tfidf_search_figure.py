"""The figure of experiments.tfidf_search: sequences needed, and recall."""

from collections.abc import Sequence

import numpy as np
from matplotlib import figure, ticker

from influence_jax.report import style


@style.SETTINGS
def draw(
  rows: Sequence[dict],
  kept: Sequence[int],
  recall_Px3: np.ndarray,
  *,
  num_matched: int,
  num_true: int,
  per_query: int,
) -> figure.Figure:
  """Required sequences, fit against scan; recall of TF-IDF's first m, median.

  Hollow marks are scores below the tail, where the fit gives a bound alone.
  Dotted, on the left, is what the scan says if no others match TF-IDF's.

  Args:
    rows: one a query and model, with size, fit, scan and in_tail.
    kept: P numbers of candidates, ascending; the last is of all scanned.
    recall_Px3: of the true top, at these numbers: quartiles of the queries.
    num_matched: how many of TF-IDF's best the search has to match.
    num_true: how many the true top has.
    per_query: TF-IDF's candidates, marked on the right.
  """
  fig, found = style.panels(style.TWO_COLUMNS, 2.5, 1, 2)
  left, right = found[0]
  most = num_matched * (kept[-1] + 1) / (num_matched + 1)
  _draw_required(left, rows, most)
  _draw_recall(right, np.asarray(kept), recall_Px3, num_true)
  right.axvline(per_query, color='black', lw=0.7)
  right.annotate(
    f'{per_query:,}', (per_query, 1), (-2, 2), ha='center',
    xycoords=('data', 'axes fraction'), textcoords='offset points',
    fontsize=style.SMALL,
  )  # fmt: skip
  return fig


def _draw_required(panel, rows, most: float) -> None:
  """A mark a row, the diagonal and, dotted, the `most` a scan can say."""
  sizes = list(dict.fromkeys(row['size'] for row in rows))
  for i, size in enumerate(sizes):
    look = dict(color=style.line(i)['color'], ls='', ms=3, alpha=0.7)
    look['marker'] = style.marked(i)['marker']
    own = [row for row in rows if row['size'] == size]
    within = [(row['scan'], row['fit']) for row in own if row['in_tail']]
    below = [(row['scan'], row['fit']) for row in own if not row['in_tail']]
    panel.plot(*np.reshape(within, (-1, 2)).T, label=size or None, **look)
    panel.plot(*np.reshape(below, (-1, 2)).T, mfc='none', **look)
  fits, scans = ([row[key] for row in rows] for key in ('fit', 'scan'))
  ends = np.array([min(most / 15, min(scans) / 1.3), most * 1.3])
  grey = dict(color=style.GREY, lw=1, zorder=1)
  panel.plot(ends, ends, **grey)
  panel.axvline(most, ls=':', label='the whole scan', **grey)
  panel.set(xscale='log', xlim=ends, xlabel='sequences needed, scan')
  panel.set(yscale='log', ylim=(min(ends[0], min(fits) / 1.3), None))
  panel.set(ylabel='sequences needed, fit')
  panel.xaxis.set_minor_formatter(ticker.NullFormatter())
  if not all(row['in_tail'] for row in rows):
    look = dict(color=style.GREY, mfc='none', ms=3)
    panel.plot([], [], 'o', label='below tail', **look)
  panel.legend(loc='upper left', handlelength=1.4)


def _draw_recall(panel, kept_P, recall_Px3, num_true: int) -> None:
  """Median and quartiles of the queries, between the best and chance."""
  low, median, high = 100 * np.transpose(recall_Px3)
  look, grey = style.line(0), dict(color=style.GREY, lw=1)
  panel.plot(kept_P, median, label='TF-IDF', **look)
  style.band(panel, kept_P, low, high, look['color'], label='quartiles')
  best = 100 * np.minimum(kept_P / num_true, 1)
  panel.plot(kept_P, best, ':', label='best possible', **grey)
  chance = 100 * kept_P / kept_P[-1]
  panel.plot(kept_P, chance, '--', label='random order', **grey)
  panel.set(xscale='log', xlim=(kept_P[0], kept_P[-1]), ylim=(0, 102))
  panel.set(xlabel='candidates kept', ylabel=f'of the true top {num_true} (%)')
  panel.legend(loc='upper left', handlelength=1.8)
