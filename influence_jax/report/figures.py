"""Figures of scores after Grosse et al. 2023, arrays in, a Figure out.

tail is the form of their Fig. 8, coverage of Fig. 9, layers of Figs. 17-19.
Figures are made without pyplot: nothing is left open, and any backend will do.
They have a width of `style`, and their files the same bytes every time.
"""

import io
import logging
import os
import pathlib
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib import figure
from numpy.typing import ArrayLike

from influence_jax.report import curves, files, style

DPI = 200  # of a PNG
CSS_PIXELS = 110  # of a page, for an inch of a figure
# Of each PDF it tells of every letter, also where only `info` of ours is shown.
logging.getLogger('fontTools').setLevel(logging.WARNING)


@style.SETTINGS
def tail(scores_KxN: ArrayLike, names: Sequence[str]) -> figure.Figure:
  """Share of the positive scores that are at least x, log-log, by query.

  Cut on the left where 99 % of a query's positive scores are larger.
  """
  scores_KxN = _checked(scores_KxN, names)
  fig, axes = style.axes(style.TWO_COLUMNS, 2.5)
  lefts = []
  for i, scores in enumerate(scores_KxN):
    x, share = curves.ccdf(scores)
    kept = _log_spaced(len(x))
    axes.plot(x[kept], share[kept], **style.line(i))
    lefts += [x[int(0.99 * len(x))]] if len(x) else []
  if lefts:
    axes.set(xscale='log', yscale='log', xlim=(min(lefts), None))
  else:
    axes.set(xticks=(), yticks=())  # nothing to show, as the legend says
  axes.set(xlabel='score (nats)', ylabel='share of positive scores ≥ x')
  largest_K = scores_KxN.max(axis=1, initial=0)
  style.legend(axes, names, np.where(largest_K > 0, largest_K, np.nan))
  return fig


@style.SETTINGS
def coverage(scores_KxN: ArrayLike, names: Sequence[str]) -> figure.Figure:
  """Share of all positive influence held by the top 0 to 1 % of sequences.

  The grey area is what scores drawn from a zero-mean Gaussian would give, 6.7 %
  at 1 %: only what lies clearly above it is concentrated.
  """
  scores_KxN = _checked(scores_KxN, names)
  fig, axes = style.axes(style.TWO_COLUMNS, 2.5)
  top = np.linspace(0, 0.01, 201)
  null = curves.gaussian_held(top)
  label = f'Gaussian scores {null[-1]:.1%}'
  axes.fill_between(100 * top, 100 * null, color='#d4d4d4', label=label)
  at_one_K = np.zeros(len(names))
  for i, scores in enumerate(scores_KxN):
    share = np.interp(top, *curves.held(scores))
    axes.plot(100 * top, 100 * share, **style.line(i))
    at_one_K[i] = share[-1]
  axes.set(xlim=(0, 1), ylim=(0, None))
  axes.set(xlabel='top sequences (%)', ylabel='of positive influence (%)')
  style.legend(axes, names, at_one_K, '{:.0%}')
  return fig


@style.SETTINGS
def layers(
  layer_scores: Mapping[str, ArrayLike], layer_names: Sequence[str]
) -> figure.Figure:
  """Share of each query's influence that goes through each layer, in %.

  A share is of the summed scores of the sequences given, so a query's shares
  add up to 100 %; a query whose sum is not positive has none.

  Args:
    layer_scores: {query: [sequences, layers]}, of its top sequences.
    layer_names: of the columns.
  """
  if not layer_scores:
    raise ValueError('no layer scores, expected those of a query or more')
  share_KxL = np.array(
    [
      100 * curves.layer_shares(name, scores_CxL, layer_names)
      for name, scores_CxL in layer_scores.items()
    ]
  )
  rows = [style.label(name) for name in layer_scores]
  columns = [style.label(name) for name in layer_names]
  height = 0.3 + 0.06 * max(map(len, columns)) + min(0.17 * len(rows), 7)
  fig, axes = style.axes(style.TWO_COLUMNS, max(height, 1.4))
  image = _heat_map(axes, share_KxL)
  axes.set_xticks(*style.ticks(columns, 42), rotation=90)
  axes.set_yticks(*style.ticks(rows, 50))
  fig.colorbar(image, label='influence (%)', pad=0.01, aspect=12)
  return fig


@style.SETTINGS
def training_curve(
  steps: ArrayLike,
  losses: ArrayLike,
  eval_steps: ArrayLike = (),
  eval_losses: ArrayLike = (),
) -> figure.Figure:
  """Loss in nats a token, of training batches and of held-out text."""
  fig, axes = style.axes(style.ONE_COLUMN, 2.0)
  axes.plot(steps, losses, color=style.GREY, lw=0.6, label='training batch')
  if len(eval_steps):
    axes.plot(
      eval_steps, eval_losses, 'o-', color=style.NEGATIVE, label='held out'
    )
    axes.legend(loc='upper right')
  axes.set(xlabel='step', ylabel='loss (nats per token)')
  return fig


def png(fig: figure.Figure) -> bytes:
  """The figure as a PNG of DPI dots an inch."""
  return _file(fig, format='png')


def pdf(fig: figure.Figure) -> bytes:
  """The figure as a PDF without a date; letters are TrueType, and text."""
  return _file(fig, format='pdf', metadata={'CreationDate': None})


def save(fig: figure.Figure, path: str | os.PathLike) -> None:
  """Writes path as .png and as .pdf; each is whole or not there at all."""
  path = pathlib.Path(path)
  contents = {'.pdf': pdf(fig), '.png': png(fig)}
  for suffix, content in contents.items():
    files.write(path.with_suffix(suffix), content)


@style.SETTINGS
def _file(fig: figure.Figure, **kwargs) -> bytes:
  buffer = io.BytesIO()
  # Else savefig gives this layout to a figure that has none.
  with matplotlib.rc_context({'figure.constrained_layout.use': False}):
    fig.savefig(buffer, dpi=DPI, **kwargs)
  return buffer.getvalue()


def _checked(scores_KxN: ArrayLike, names: Sequence[str]) -> np.ndarray:
  scores_KxN = np.asarray(scores_KxN)
  if scores_KxN.ndim != 2 or len(scores_KxN) != len(names):
    raise ValueError(
      f'scores have shape {scores_KxN.shape}, expected ({len(names)}, N), one '
      f'row a name; pass the scores of {list(names)}'
    )
  for name, scores in zip(names, scores_KxN, strict=True):
    bad = np.flatnonzero(~np.isfinite(scores))
    if bad.size:
      raise ValueError(
        f'{bad.size} scores of query {name!r} are not finite, expected none, '
        f'the first is of sequence {bad[0]}; score the query again'
      )
  return scores_KxN


def _log_spaced(num: int, kept: int = 2000) -> np.ndarray:
  """Indices below num, all of the first and ever fewer of the rest."""
  if num <= kept:
    return np.arange(num)
  return np.unique(np.geomspace(1, num, kept).astype(int)) - 1


def _heat_map(axes, share_KxL: np.ndarray):
  """Cells in colour, with numbers where there is room for them.

  Without numbers the negative ones have a minus, for those who see only grey.
  """
  bound = max(np.nanmax(np.abs(share_KxL), initial=0), 1e-9)
  image = axes.imshow(
    share_KxL, cmap=style.SHADES, vmin=-bound, vmax=bound, aspect='auto'
  )
  axes.grid(False)
  room = share_KxL.shape[1] <= 16
  for (i, j), share in np.ndenumerate(share_KxL):
    if np.isfinite(share) and (room or share < -bound / 10):
      text = f'{round(share)}' if room else '−'
      axes.text(j, i, text, ha='center', va='center', fontsize=style.LEAST)
  return image
