"""The figures of experiments.layerwise: what it found in, Figures out."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import figure, lines, ticker

from experiments import agreement, depth, layerwise_tops
from influence_jax.report import style

ALL = 'all queries'
ORDERS = {'lower': 'v', 'middle': 'o', 'upper': '^', 'whole': 's'}
_PANELS = 3  # a line
_PALE = '#8ab4d4'  # of queries


@style.SETTINGS
def draw(
  sizes: Sequence[str],
  profiles: Sequence[np.ndarray],
  classes: Sequence[str],
  centre_K: np.ndarray,
  thirds: Mapping[str, np.ndarray],
  tops: layerwise_tops.Tops,
) -> dict[str, figure.Figure]:
  """{name of the file: figure}.

  Args:
    sizes: of the rungs.
    profiles: of the rungs, [K, L], nats.
    classes: of the queries.
    centre_K: centres of mass.
    thirds: {third: [K]}, overlaps; may be empty.
    tops: of the rung whose sequences are shown.
  """
  drawn = {
    'blocks': _blocks(sizes, profiles),
    'centres': centres(classes, centre_K),
    'sequences': _sequences(classes, tops),
  }
  if thirds:
    names = list(dict.fromkeys([*classes, ALL]))
    rows = [[name in (one, ALL) for one in classes] for name in names]
    drawn['thirds'] = overlaps(
      names,
      {
        third: [agreement.interval(overlap_K[mine]) for mine in rows]
        for third, overlap_K in thirds.items()
      },
    )
  return drawn


@style.SETTINGS
def centres(classes: Sequence[str], centre_K: np.ndarray) -> figure.Figure:
  """A dot a query; the mean of a class with its 95 % interval."""
  names = list(dict.fromkeys(classes))
  fig, axes = style.axes(style.ONE_COLUMN, 0.8 + 0.22 * len(names))
  rng = np.random.default_rng(0)  # queries at one place lie apart
  for i, name in enumerate(names):
    mine_K = centre_K[[one == name for one in classes]]
    heights_K = i + rng.uniform(-0.2, 0.2, len(mine_K))
    axes.plot(mine_K, heights_K, 'o', ms=2.5, mew=0, color=_PALE)
    mean, *ends = agreement.interval(mine_K)
    if ends:
      axes.plot(ends, [i, i], color='black', lw=1.2, zorder=3)
    axes.plot(mean, i, 'D', ms=3.5, color='black', zorder=3)
  _rows(axes, names)
  axes.set(xlim=(0, 1), xlabel='centre of mass (0 first block, 1 last)')
  handles = [_dot(_PALE), _dot('black', 'D')]
  labels = ['a query', 'mean (95 %)']
  fig.legend(handles, labels, loc='outside upper right', ncols=2)
  return fig


@style.SETTINGS
def overlaps(
  names: Sequence[str], thirds: Mapping[str, Sequence[Sequence[float]]]
) -> figure.Figure:
  """Overlap with the query, by the third that gave the order (Figs. 20, 21).

  Args:
    names: of the classes.
    thirds: {third: [mean, low, high] of each class}; of one query, [mean].
  """
  fig, axes = style.axes(style.ONE_COLUMN, 0.9 + 0.28 * len(names))
  for j, (third, found) in enumerate(thirds.items()):
    at = (j - (len(thirds) - 1) / 2) * 0.2
    look = dict(color=style.line(j)['color'])
    for i, (mean, *ends) in enumerate(found):
      axes.plot(ends, [i + at] * len(ends), lw=1, **look)
      axes.plot(mean, i + at, ORDERS[third], **look, label=None if i else third)
  _rows(axes, names)
  axes.set(xlim=(0, None), xlabel='tokens shared with the query (Jaccard)')
  fig.legend(
    loc='outside upper right', ncols=4, title='order by blocks',
    handletextpad=0.1,
  )  # fmt: skip
  return fig


def _blocks(sizes, profiles) -> figure.Figure:
  """Mean score by block, a panel a size, a dot a seed (Fig. 17)."""
  kinds = list(dict.fromkeys(sizes))
  width = style.ONE_COLUMN if len(kinds) < 3 else style.TWO_COLUMNS
  fig, found = style.panels(width, 1.9, 1, len(kinds))
  panels = found[0]
  for panel, kind in zip(panels, kinds, strict=True):
    seeds = [x for size, x in zip(sizes, profiles, strict=True) if size == kind]
    mean_KxL = np.mean(seeds, axis=0)
    x_L = np.arange(1, mean_KxL.shape[1] + 1)
    panel.bar(x_L, mean_KxL.mean(0), color=style.PALE, width=0.7)
    _errors(panel, x_L, mean_KxL.T)
    if len(seeds) > 1:
      for one_KxL in seeds:
        panel.plot(
          x_L + 0.18, one_KxL.mean(0), 'o', ms=2.5, color=style.NEGATIVE
        )
    panel.axhline(mean_KxL.mean(), color=style.GREY, ls='--', lw=1)
    panel.grid(axis='x', visible=False)
    panel.xaxis.set_major_locator(ticker.MaxNLocator(8, integer=True))
    panel.yaxis.set_major_formatter(ticker.EngFormatter(sep=''))
    panel.set_title(style.label(kind))
    panel.set(xlabel='block')
  panels[0].set(ylabel='mean score (nats)')
  handles = [lines.Line2D([], [], color=style.GREY, ls='--', lw=1)]
  labels = ['mean over blocks']
  if len(profiles) > len(kinds):
    handles.append(_dot(style.NEGATIVE))
    labels.append('a seed')
  fig.legend(handles, labels, loc='outside upper right', ncols=2)
  return fig


def _sequences(classes, tops) -> figure.Figure:
  """All top sequences of a class, by centre of mass (Figs. 18, 19).

  A column is a sequence: its scores by block as shares of the sum of their
  sizes, the last block on top. 1 % of the shares are beyond the colours. The
  line is the centre of mass.
  """
  names = list(dict.fromkeys(classes))
  rows = -(-len(names) // _PANELS)
  columns = min(_PANELS, len(names))
  height = 0.5 + 1.1 * rows
  fig, found = style.panels(style.TWO_COLUMNS, height, rows, columns)
  panels = found.ravel()
  for panel in panels[len(names) :]:
    panel.remove()
  bound = np.quantile(np.abs(_shares(np.concatenate(tops.scores))), 0.99)
  for i, (panel, name) in enumerate(zip(panels, names, strict=False)):
    mine = [
      x for x, one in zip(tops.scores, classes, strict=True) if one == name
    ]
    image = _heat_map(panel, np.concatenate(mine), bound)
    panel.set_title(style.label(name))
    if i % columns:
      panel.tick_params(labelleft=False)
  fig.colorbar(
    image, ax=list(panels[: len(names)]), pad=0.01, aspect=16, extend='both',
    label='share of a sequence’s |score|',
  )  # fmt: skip
  fig.supylabel('block')
  fig.supxlabel('top sequences, by centre of mass')
  return fig


def _shares(scores_CxL):
  return scores_CxL / np.abs(scores_CxL).sum(1, keepdims=True)


def _heat_map(panel, scores_CxL, bound):
  """Shares and their centre of mass, sequences sorted by it."""
  centre_C = depth.centre(scores_CxL)
  order = np.argsort(centre_C, kind='stable')
  num, num_blocks = scores_CxL.shape
  image = panel.imshow(
    _shares(scores_CxL[order]).T, cmap=style.SHADES, vmin=-bound, vmax=bound,
    aspect='auto', origin='lower', interpolation='nearest',
    extent=(0, num, 0.5, num_blocks + 0.5),
  )  # fmt: skip
  height_C = 1 + centre_C[order] * (num_blocks - 1)
  panel.plot(np.arange(num) + 0.5, height_C, color='black', lw=1)
  panel.grid(False)
  panel.xaxis.set_major_locator(ticker.MaxNLocator(3, integer=True))
  panel.yaxis.set_major_locator(ticker.MaxNLocator(6, integer=True))
  return image


def _errors(panel, x, values_LxK) -> None:
  for at, values_K in zip(x, values_LxK, strict=True):
    _, *ends = agreement.interval(values_K)
    if ends:
      panel.plot([at, at], ends, color='black', lw=1)


def _rows(axes, names: Sequence[str]) -> None:
  axes.set_yticks(range(len(names)), [style.label(name) for name in names])
  axes.set_ylim(len(names) - 0.5, -0.5)
  axes.grid(axis='y', visible=False)


def _dot(colour: str, marker: str = 'o') -> lines.Line2D:
  return lines.Line2D([], [], ls='', marker=marker, ms=3.5, color=colour)
