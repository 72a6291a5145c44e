"""What experiments.word_order shows: bars of one case, ratios by size."""

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import figure, ticker
from rich import table

from experiments import agreement, word_order_offices, word_order_texts
from influence_jax.report import style, terminal

_TITLES = {
  **{k: f'{k}  {v}' for k, v in word_order_texts.PARTITIONS.items()},
  **dict(zip(
    word_order_offices.KINDS,
    ('trained on', 'in other words', 'in the other order'),
    strict=True,
  )),
}  # fmt: skip
_LENGTH = 44  # of a line of a text's label; it has three at most


@style.SETTINGS
def bars(
  case: word_order_texts.Case, scores: Mapping[str, Sequence[Sequence[float]]]
) -> figure.Figure:
  """Score of each text, texts by kind from above, a panel a size (Fig. 24).

  Args:
    case: the query and the C texts.
    scores: {size: [seeds, C]}; dots are seeds, bars their mean.
  """
  shown = [_shown(text, case.query.prompt) for text in case.texts]
  y, titles = _places(case.kinds, shown)
  height = 0.9 + 0.125 * max(y)
  fig, found = style.panels(
    style.TWO_COLUMNS, height, 1, len(scores), sharey=True
  )
  panels = found[0]
  for panel, (size, one) in zip(panels, scores.items(), strict=True):
    mean_C = np.mean(one, axis=0)
    colours = np.where(mean_C < 0, style.NEGATIVE, style.POSITIVE)
    panel.barh(y, mean_C, height=0.8, color=colours.tolist())
    for one_C in one if len(one) > 1 else ():
      panel.plot(one_C, y, 'o', ms=2.2, color='#222222', mfc='white', mew=0.6)
    _finish(panel, size)
  panels[0].set_yticks([*y, *titles], [*shown, *titles.values()])
  for label in panels[0].get_yticklabels()[len(y) :]:
    label.set(fontweight='bold')
  panels[0].set(ylim=(max(y) + 0.8, -0.8))
  query = 'prompt: ' + style.label(case.query.prompt, 100)
  query += '\ncompletion:' + style.label(case.query.completion, 100)
  fig.suptitle(query, x=0.01, ha='left')
  fig.supxlabel('score (nats)')
  return fig


@style.SETTINGS
def dots(
  cases: Sequence[word_order_texts.Case], means: Mapping[str, Sequence]
) -> figure.Figure:
  """Mean score of each kind of text, a line a query, a panel a size (Fig. 26).

  Args:
    cases: K of them, all with texts of P kinds.
    means: {size: [seeds, K, P]}; shown are means over seeds.
  """
  fig, found = style.panels(
    style.TWO_COLUMNS, 0.8 + 0.15 * len(cases), 1, len(means), sharey=True
  )
  panels = found[0]
  y, kinds = np.arange(len(cases)), list(dict.fromkeys(cases[0].kinds))
  for panel, (size, one) in zip(panels, means.items(), strict=True):
    means_KxP = np.mean(one, axis=0)
    panel.hlines(y, means_KxP.min(1), means_KxP.max(1), color='#cccccc', lw=1)
    for n, kind in enumerate(kinds):
      look = {**style.marked(n), 'ls': ''}
      face = look['color'] if n == len(kinds) - 1 else 'white'
      panel.plot(means_KxP[:, n], y, **look, mfc=face, label=_TITLES[kind])
    _finish(panel, size)
  shown = [
    style.label(f'{case.query.prompt}{case.query.completion}', 50)
    for case in cases
  ]
  panels[0].set_yticks(y, shown)
  panels[0].invert_yaxis()
  fig.legend(
    *panels[0].get_legend_handles_labels(), loc='outside upper left', ncols=3
  )
  fig.supxlabel('score (nats)')
  return fig


def _finish(panel, size: str) -> None:
  panel.axvline(0, color='#555555', lw=0.8)
  panel.grid(axis='y', visible=False)
  panel.xaxis.set_major_formatter(ticker.EngFormatter(sep=''))
  panel.locator_params(axis='x', nbins=3)
  panel.tick_params(axis='y', length=0)
  panel.set_title(style.label(size))


@style.SETTINGS
def ratios(found: Mapping[str, Mapping]) -> figure.Figure:
  """Ratios with 95 % intervals by size, a panel a group.

  Args:
    found: {group: {size: {name: [ratio, low, high]}}}; what is not finite is
      left out.
  """
  fig, panels = style.panels(style.TWO_COLUMNS, 2.4, 1, len(found))
  panels = panels[0]
  for panel, (group, sizes) in zip(panels, found.items(), strict=True):
    for n, name in enumerate(_names(sizes)):
      _line(panel, n, name, [one[name] for one in sizes.values()])
    panel.axhline(1, color=style.GREY, lw=1, zorder=0)
    low, high = panel.get_ylim()
    panel.set(ylim=(min(0, low), high + 0.45 * (high - low)))  # of the legend
    panel.set(xlim=(-0.5, len(sizes) - 0.5))
    panel.set_xticks(range(len(sizes)), [style.label(size) for size in sizes])
    panel.grid(axis='x', visible=False)
    panel.set_title(style.label(group))
    panel.legend(loc='upper left')
  panels[0].set(ylabel='ratio of mean scores')
  return fig


def ratio_table(found: Mapping[str, Mapping]) -> table.Table:
  """A row a group and ratio, a column a size."""
  view = terminal.table(
    None, 'names', 'ratio of mean scores (95 %)', *next(iter(found.values())),
    num_labels=2, wrap=True,
  )  # fmt: skip
  for group, sizes in found.items():
    for name in _names(sizes):
      cells = [agreement.shown(one[name], '.2f') for one in sizes.values()]
      view.add_row(group, name, *cells)
  return view


def _names(sizes: Mapping) -> list[str]:
  return list(next(iter(sizes.values())))


def _line(panel, n: int, name: str, values: Sequence[Sequence[float]]) -> None:
  """With its interval."""
  x, look = np.arange(len(values)), {**style.marked(n), 'mfc': 'white'}
  finite = [x if np.isfinite(x[0]) else [np.nan] for x in values]
  panel.plot(x, [value[0] for value in finite], **look, label=name)
  ends = [
    value[1:] if len(value) == 3 and np.isfinite(value).all() else [np.nan] * 2
    for value in finite
  ]
  style.band(panel, x, *zip(*ends, strict=True), look['color'])


def _places(
  kinds: Sequence[str], shown: Sequence[str]
) -> tuple[list[float], dict[float, str]]:
  """Where each text stands, and the title above each kind's first."""
  places, titles, y = [], {}, -1.0
  for n, (kind, text) in enumerate(zip(kinds, shown, strict=True)):
    y += 1
    if n == 0 or kind != kinds[n - 1]:
      y += 0.4 * (n > 0)
      titles[y] = _TITLES[kind]
      y += 1
    lines = text.count('\n')
    places.append(y + lines / 2)
    y += lines
  return places, titles


def _shown(text: str, prompt: str) -> str:
  """A long one without its middle: its ends tell texts apart."""
  text = style.label(text.replace(prompt, '[prompt]'), 114)
  return '\n'.join(textwrap.wrap(text, _LENGTH))
