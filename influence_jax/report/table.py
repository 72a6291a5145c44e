"""The sequences that mattered most, as tables for a terminal.

Texts go in as `rich.text.Text`, never as strings, which rich would read as
markup: '[red]' in a sequence is shown, not obeyed.
"""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from rich import box, console
from rich import table as rich_table
from rich import text as rich_text

from influence_jax.report import records

_LEGEND = (
  'Scores in nats. Positive: one more copy of the sequence in the training set '
  'makes the completion more likely, by score / (number of training sequences).'
)
_COLOURS = {1: 'dark_orange', 0: '', -1: 'dodger_blue2'}  # by sign


def render(
  queries: Sequence[dict[str, Any]],
  rows: Sequence[dict[str, Any]],
  num: int = 3,
  num_negative: int = 1,
  width: int = 120,
) -> console.Group:
  """Each query and its strongest sequences, to be printed by rich.

  Args:
    queries: as in `records`.
    rows: as in `records`; layer scores are not used.
    num: positive sequences a query.
    num_negative: negative sequences a query.
    width: of an excerpt, in characters.
  """
  records.check(queries, rows)
  groups = records.group(rows)
  parts = []
  for query in queries:
    positive = groups.get((query['id'], 'positive'), [])[:num]
    negative = groups.get((query['id'], 'negative'), [])[:num_negative]
    parts += [_heading(query), _table(positive, negative, width), _text('')]
  return console.Group(*parts, _text(_LEGEND, 'dim'))


def excerpt(
  tokens: Sequence[str], token_scores: Sequence[float], width: int
) -> slice:
  """The tokens that fit in `width` and hold the most |token score|."""
  ends = np.cumsum([0, *map(len, tokens)])
  mass = np.cumsum([0.0, *np.abs(token_scores)])
  starts = np.arange(len(tokens))
  stops = np.searchsorted(ends, ends[:-1] + width, side='right') - 1
  stops = np.maximum(stops, starts + 1)  # one token at least, however long
  best = np.argmax(mass[stops] - mass[starts])
  return slice(int(starts[best]), int(stops[best]))


def _text(text: str, style: str = '') -> rich_text.Text:
  return rich_text.Text(records.plain(text), style)


def _line(text: str) -> str:
  return re.sub(r'\s+', ' ', text)


def _heading(query: dict[str, Any]) -> rich_text.Text:
  loss = records.number(query['loss'], sign='-')
  return rich_text.Text.assemble(
    _text(query['id'], 'bold underline'),
    _text(f'  completion: {loss} nats\n', 'dim'),
    _text(query['prompt'], 'dim'),
    _text(query['completion'], 'bold'),
  )


def _table(positive, negative, width: int) -> rich_table.Table:
  table = rich_table.Table(box=box.SIMPLE, header_style='dim', pad_edge=False)
  table.add_column('rank', justify='right', no_wrap=True)
  table.add_column('score', justify='right', no_wrap=True)
  table.add_column('title', max_width=24)
  table.add_column('topic', max_width=16)
  table.add_column('where it comes from', ratio=1)
  for rows in (positive, negative):
    for row in rows:
      table.add_row(
        str(row['rank']),
        _text(records.number(row['score']), _colour(row['score'])),
        _text(_line(row['title'])),
        _text(_line(row['topic'])),
        _excerpt(row, width),
      )
    table.add_section()
  return table


def _excerpt(row: dict[str, Any], width: int) -> rich_text.Text:
  """Coloured where a token has at least half the largest |token score|."""
  tokens = row['tokens'] or [row['text']]
  scores = row['token_scores'] or [0.0]
  half = max(map(abs, scores)) / 2
  part = excerpt(tokens, scores, width)
  text = rich_text.Text('…' if part.start else '')
  for token, score in zip(tokens[part], scores[part], strict=True):
    strong = half > 0 and abs(score) >= half
    text.append(_text(_line(token), _colour(score) if strong else ''))
  cut = part.stop < len(tokens) or len(text) > width + 1
  text.truncate(width + 1)
  text.rstrip()
  return text.append('…' if cut else '')


def _colour(score: float) -> str:
  return _COLOURS[int(np.sign(score))]
