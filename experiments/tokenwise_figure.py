"""The figures of experiments.tokenwise: text and layers under their influence.

A query and a sequence's record (tokenwise_parts) in, Figures out. Colours go
from blue, the largest negative, through white to orange, each row of text or
panel on its own scale; negative tokens are underlined for those who see only
grey.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib import colors, figure, patches

from influence_jax.data import queries as queries_lib
from influence_jax.data import tokenizer as tokenizer_lib
from influence_jax.report import records, style

KINDS = {
  'simple': 'simple: at the token read there',
  'input': 'input tokens',
  'output': 'output tokens',
}
_COLUMNS = 110  # characters a line
_SIZE = 7.0  # points
_WIDTH = 0.6022 * _SIZE / 72  # of a character of DejaVu Sans Mono, inches
_HEIGHT = 1.5 * _SIZE / 72  # of a line
_MARGIN = 0.1  # above and below
_LEAST = 0.1  # of the largest, in a token that is underlined
_POSITIONS = 48  # a panel
# Pale enough for black letters on them; an odd number has white in the middle.
_CMAP = colors.LinearSegmentedColormap.from_list(
  'influence', ['#4d9cc9', '#ffffff', '#e8935a'], 257
)


class Cell(NamedTuple):
  """A piece of a token in its place."""

  token: int
  line: int
  column: int
  text: str


def cells(tokens: Sequence[str], columns: int) -> list[Cell]:
  """Tokens one after another, in lines that begin with a word.

  A word is a token and those after it up to the next space; only one that is
  longer than a line is cut.
  """
  found, line, column = [], 0, 0
  ends = np.cumsum([len(token) for token in tokens])
  for i, token in enumerate(tokens):
    last = i
    while last + 1 < len(tokens) and not tokens[last + 1][:1].isspace():
      last += 1
    word = ends[last] - ends[i] + len(token)
    begins = i == 0 or token[:1].isspace()
    if begins and column and column + word > columns >= word:
      line, column = line + 1, 0
    for start in range(0, len(token), columns):
      text = token[start : start + columns]
      if column + len(text) > columns:
        line, column = line + 1, 0
      found.append(Cell(i, line, column, text))
      column += len(text)
  return found


def visible(token: str) -> str:
  """As shown: END, newlines and what has no width by signs of their own."""
  if token == tokenizer_lib.END:
    return '<end>'
  return records.plain(token.replace('\n', '↵').replace('\t', '→'))


@style.SETTINGS
def tokens(shown: Sequence[tuple[queries_lib.Query, dict]]) -> figure.Figure:
  """Three rows of coloured text a query (Figs. 5, 31, 32)."""
  blocks = _page(shown)
  num_lines = blocks[-1].line + _num_lines(blocks[-1]) + 2.5
  size = style.TWO_COLUMNS, num_lines * _HEIGHT + 2 * _MARGIN
  edges = (1 - _COLUMNS * _WIDTH / size[0]) / 2, _MARGIN / size[1]
  fig = figure.Figure(size, layout='none')
  axes = fig.add_axes((*edges, 1 - 2 * edges[0], 1 - 2 * edges[1]))
  axes.set(xlim=(0, _COLUMNS), ylim=(num_lines, 0))
  axes.axis('off')
  for block in blocks:
    for cell in block.cells:
      _draw(axes, block, cell)
  _legend(axes, num_lines - 1)
  return fig


@style.SETTINGS
def layers(shown: Sequence[tuple[queries_lib.Query, dict]]) -> figure.Figure:
  """Influence by layer and token read, a panel a query (Fig. 4).

  Of a long sequence, the part that has most of it.
  """
  parts = [window(one['simple'], _POSITIONS) for _, one in shown]
  longest = max(len(part) for part in parts)
  height = 0.12 * max(len(one['layers']) for _, one in shown) + 1.0
  fig, found = style.panels(
    style.TWO_COLUMNS, height * len(shown), len(shown), 1
  )
  panels = found[:, 0]
  for panel, part, (query, one) in zip(panels, parts, shown, strict=True):
    values_LxT = np.array([*one['layers'].values()])[:, part]
    bound = np.abs(values_LxT).max() or 1
    image = panel.imshow(
      values_LxT, cmap=_CMAP, vmin=-bound, vmax=bound, aspect='auto',
      origin='lower', interpolation='nearest',
    )  # fmt: skip
    texts = [visible(one['tokens'][t]).strip() or '␣' for t in part]
    names = [style.label(text, 12) for text in texts]
    panel.set_xticks(
      range(len(names)), names, rotation=90, fontsize=style.LEAST
    )
    rows = [style.label(name) for name in one['layers']]
    panel.set_yticks(*style.ticks(rows, 16), fontsize=style.LEAST)
    panel.set_xlim(-0.5, longest - 0.5)
    panel.grid(False)
    cut = f', tokens {part[0]} to {part[-1]}'
    cut = cut if len(part) < len(one['simple']) else ''
    title = style.label(f'{query.id}, {_title(one)}{cut}', 90)
    panel.set_title(title, loc='left')
    fig.colorbar(image, ax=panel, pad=0.01, aspect=12, label='nats')
  return fig


def window(values: Sequence[float], num: int) -> range:
  """The `num` positions in a row of the largest sum of |values|."""
  sums = np.convolve(np.abs(values), np.ones(min(num, len(values))), 'valid')
  start = int(np.argmax(sums))
  return range(start, start + min(num, len(values)))


class _Block(NamedTuple):
  """Lines of text that begin at a line of the page."""

  line: float
  cells: list[Cell]
  values: np.ndarray  # of the tokens, -1 to 1; NaN where there is none
  look: dict  # of the text


def _page(shown) -> list[_Block]:
  blocks, line = [], 0.0

  def add(texts, look, values=None, gap=0.0):
    nonlocal line
    if values is None:
      values = np.full(len(texts), np.nan)
    blocks.append(_Block(line, cells(texts, _COLUMNS), values, look))
    line += _num_lines(blocks[-1]) + gap

  for query, one in shown:
    add(_words(f'{query.id}: {query.prompt}'), {'weight': 'bold'})
    add(_words(f'→{query.completion}'), {'weight': 'bold'})
    add(_words(_title(one)), {'color': '#555555'}, gap=0.4)
    texts = [visible(token) for token in one['tokens']]
    for kind, name in KINDS.items():
      values, bound = _values(one, kind)
      largest = records.number(bound, sign='-')
      add(_words(f'{name}, largest {largest} nats'), {'color': '#555555'})
      add(texts, {}, values, gap=0.5)
    line += 1
  return blocks


def _words(text: str) -> list[str]:
  """Pieces that may begin a line."""
  return re.findall(r'\s*\S+', visible(text))


def _title(one) -> str:
  """What the sequence is."""
  title = f' ({one["title"]})' if one['title'] else ''
  score = records.number(one['score'], sign='-')
  return f'sequence {one["sequence"]}{title}, score {score} nats'


def _values(one: dict, kind: str) -> tuple[np.ndarray, float]:
  """(shares of the largest, [T + 1]; the largest, nats)."""
  values = np.array(one[kind])
  bound = np.abs(values).max()
  place = (1, 0) if kind == 'output' else (0, 1)
  return np.pad(values / (bound or 1), place, constant_values=np.nan), float(
    bound
  )


def _num_lines(block: _Block) -> int:
  return block.cells[-1].line + 1 if block.cells else 0


def _draw(axes, block: _Block, cell: Cell) -> None:
  top, value = block.line + cell.line, block.values[cell.token]
  width = len(cell.text)
  if not np.isnan(value):
    axes.add_patch(
      patches.Rectangle(
        (cell.column, top), width, 0.94, lw=0, color=_CMAP((value + 1) / 2)
      )
    )
  if value < -_LEAST:
    ends = cell.column + 0.1, cell.column + width - 0.1
    axes.plot(ends, [top + 0.86] * 2, color='black', lw=0.6)
  axes.text(
    cell.column, top + 0.7, cell.text, family='DejaVu Sans Mono',
    size=_SIZE, parse_math=False, **block.look,
  )  # fmt: skip


def _legend(axes, line: float) -> None:
  """A scale of nine colours, and what the line under a token means."""
  text = 'share of the largest |influence| in each row:'
  look = dict(family='DejaVu Sans Mono', size=_SIZE)
  axes.text(0, line + 0.7, text, **look)
  start = len(text) + 1
  for n, share in enumerate(np.linspace(-1, 1, 9)):
    place = start + 5 * n, line
    colour = _CMAP((share + 1) / 2)
    axes.add_patch(patches.Rectangle(place, 5, 0.94, lw=0, color=colour))
    axes.text(
      place[0] + 2.5,
      line + 0.7,
      f'{share:+g}' if share else '0',
      ha='center',
      **look,
    )
  note = f'underlined: < -{_LEAST:g}'
  axes.text(_COLUMNS, line + 0.7, note, ha='right', **look)
