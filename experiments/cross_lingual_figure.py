"""Figures and tables of experiments.cross_lingual, from its result."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import figure, ticker
from rich import table

from experiments import agreement
from influence_jax.report import records, style, terminal

_CONTROLS = {  # how their lines look
  'random': ('random sequences, mean', dict(marker='x', color=style.GREY)),
  'other': ('another verse, mean', dict(marker='+', color='#444444')),
}
_GROUPS = ('seen', 'unseen')  # whose matrices are drawn, if they are there
_DIFFERENT = 'different'


def draw(result: Mapping[str, Any]) -> dict[str, figure.Figure]:
  """{name: figure}: rho, sequences and retrieval."""
  sizes = result['sizes']
  largest = [*sizes][-1]
  matrices = {
    group: by_size[largest]['matrix']
    for group, by_size in result['retrieval'].items()
  }
  groups = [name for name in _GROUPS if name in matrices] or [*matrices]
  return {
    'rho': draw_rho(result['rho'], sizes, result['languages']),
    'sequences': draw_sequences(result['shown'], result['languages']),
    'retrieval': draw_retrieval(
      {name: matrices[name] for name in groups}, result['languages']
    ),
  }


@style.SETTINGS
def draw_rho(
  rho: Mapping[str, Mapping[str, Any]],
  sizes: Mapping[str, int | None],
  languages: Sequence[str],
) -> figure.Figure:
  """rho against the number of parameters, logarithmic; a line a language.

  On the left the source's top sequences for the other languages, and the mean
  of the languages' controls; on the right theirs for the source.
  """
  fig, found = style.panels(style.TWO_COLUMNS, 2.4, 1, 2, sharey=True)
  left, right = found[0]
  x_S = [number or n for n, number in enumerate(sizes.values(), start=1)]
  for panel, kind in ((left, 'forth'), (right, 'back')):
    for i, name in enumerate(languages[1:]):
      y_S = [rho[size][kind][i + 1] for size in sizes]
      panel.plot(x_S, y_S, label=name, **style.marked(i))
    _axis(panel, x_S, sizes)
  for kind, (label, look) in _CONTROLS.items():
    y_S = [np.mean(rho[size][kind][1:]) for size in sizes]
    left.plot(x_S, y_S, ls='--', lw=1, ms=4.5, label=label, **look)
  source = languages[0]
  left.set(ylabel='rho: score over own score')
  left.set_title(f'top in {source}, for other languages')
  right.set_title(f"other languages' top, for {source}")
  handles, labels = left.get_legend_handles_labels()
  fig.legend(handles, labels, loc='outside right upper')
  return fig


@style.SETTINGS
def draw_sequences(
  shown: Sequence[Mapping[str, Any]], languages: Sequence[str]
) -> figure.Figure:
  """Scores of the source's top sequences by language (the paper's Fig. 16).

  A row of panels a query, a panel a size; shade is the score as a share of the
  panel's largest for the source; what goes beyond it has its shade.

  Args:
    shown: dicts of size, query, titles [M] and scores [L, M].
  """
  queries = list(dict.fromkeys(one['query'] for one in shown))
  sizes = list(dict.fromkeys(one['size'] for one in shown))
  longest = max(len(title) for one in shown for title in one['titles'])
  height = 0.35 + 0.13 * len(languages) + 0.055 * min(longest, 29)
  fig, panels = style.panels(
    style.TWO_COLUMNS, height * len(queries), len(queries), len(sizes)
  )
  for one in shown:
    panel = panels[queries.index(one['query']), sizes.index(one['size'])]
    scores_LxM = np.asarray(one['scores'])
    largest = scores_LxM[0].max()
    image = _shades(panel, scores_LxM / largest, -1, 1)
    for (i, j), score in np.ndenumerate(scores_LxM):
      if score < -largest / 10:  # for those who see only grey
        panel.text(j, i, '−', ha='center', va='center', fontsize=style.LEAST)
    titles = [style.label(title) for title in one['titles']]
    panel.set_xticks(
      range(len(titles)), titles, rotation=90, fontsize=style.LEAST
    )
    panel.set_yticks(range(len(languages)), languages)
    name = f'{style.label(one["size"])}: ' if one['size'] else ''
    name += records.number(largest, sign='-')
    panel.set_title(f'{name} nats', fontsize=style.SMALL)
  for panel, query in zip(panels[:, 0], queries, strict=True):
    panel.set_ylabel(style.label(query), fontsize=style.SMALL)
  fig.colorbar(
    image, ax=panels, pad=0.01, aspect=25, extend='both',
    label=f"score / largest for {languages[0]}'s query",
  )  # fmt: skip
  return fig


@style.SETTINGS
def draw_retrieval(
  matrices: Mapping[str, Any], languages: Sequence[str]
) -> figure.Figure:
  """AUC of a verse's text by language, white at chance, a panel a group.

  Args:
    matrices: {group: [L, L]}, the query's language in rows, the text's in
      columns.
  """
  width = style.ONE_COLUMN if len(matrices) == 1 else style.TWO_COLUMNS
  fig, found = style.panels(width, 2.6, 1, len(matrices))
  panels = found[0]
  for panel, (group, auc_LxL) in zip(panels, matrices.items(), strict=True):
    image = _shades(panel, np.asarray(auc_LxL), 0, 1)
    for (i, j), x in np.ndenumerate(np.asarray(auc_LxL)):
      text = f'{x:.2f}'.removeprefix('0')
      panel.text(j, i, text, ha='center', va='center', fontsize=style.LEAST)
    panel.set_xticks(range(len(languages)), languages)
    panel.set_yticks(range(len(languages)), languages)
    panel.set(xlabel="text's language")
    panel.set_title(f'{style.label(group)} verses')
  panels[0].set(ylabel="query's language")
  fig.colorbar(image, ax=panels, label='AUC', pad=0.01, aspect=25)
  return fig


def tables(result: Mapping[str, Any]) -> list[table.Table]:
  """Of rho and of the AUCs, by size."""
  languages = result['languages'][1:]
  moved = terminal.table(
    f'rho: {result["languages"][0]} top sequences for the same verse in other '
    'languages, means of seeds; controls and the reverse are means of these',
    'size', *languages, 'mean (95 %)', 'random', 'other verse', 'reverse',
    wrap=True,
  )  # fmt: skip
  for size, row in result['rho'].items():
    means = [np.mean(row[kind][1:]) for kind in ('random', 'other', 'back')]
    moved.add_row(
      size or '-', *[f'{x:.2f}' for x in row['forth'][1:]],
      agreement.shown(row['mean'], '.2f'), *[f'{x:.2f}' for x in means],
    )  # fmt: skip
  kinds = (_DIFFERENT, 'one script', 'two scripts', 'same', 'unaligned')
  found = terminal.table(
    'AUC of a verse among random ones of the same language, by the languages '
    'of query and text; unaligned: another verse than the query',
    'group', 'size', *kinds, wrap=True,
  )  # fmt: skip
  for group, by_size in result['retrieval'].items():
    for size, row in by_size.items():
      cells = [
        agreement.shown(row[kind], '.2f') if kind in row else '-'
        for kind in kinds
      ]
      found.add_row(group, size or '-', *cells)
  return [moved, found]


def _axis(panel, x_S, sizes: Mapping[str, int | None]) -> None:
  known = None not in sizes.values()
  labels = [
    f'{size}\n{number / 1e6:.2g} M' if known else 'this one'
    for size, number in sizes.items()
  ]
  panel.axhline(0, color='#555555', lw=0.8, zorder=1)
  panel.set(xscale='log', xlim=(x_S[0] / 1.2, x_S[-1] * 1.2))
  panel.set(xlabel='parameters' if known else 'model')
  panel.set_xticks(x_S, labels)
  panel.xaxis.set_minor_locator(ticker.NullLocator())


def _shades(panel, x_IxJ: np.ndarray, low: float, high: float):
  image = panel.imshow(
    x_IxJ, cmap=style.SHADES, vmin=low, vmax=high, aspect='auto'
  )
  panel.grid(False)
  return image
