"""The records that every report shows: checked, grouped and put in words.

A query is a dict with `id`, `prompt`, `completion` and `loss` (of the
completion, nats). A row is one sequence that matters to one query, a dict of

  query_id, kind ('positive' or 'negative'), rank (from 1 within its kind)
  sequence, document, chunk (integers), title, topic, text
  score         float, nats; sign and scale as in `types`
  tokens        list[str]
  token_scores  list[float], one a token, adding up to the score
  layer_scores  list[float], one a layer, adding up to the score

Texts are other people's: nothing in them is markup, here or in a terminal.
"""

import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

KINDS = ('positive', 'negative')

# What changes how other characters are shown: controls (tab and newline are
# kept), marks that turn the direction of text, halves of surrogate pairs.
_UNSEEN = re.compile(
  r'[\x00-\x08\x0b-\x1f\x7f-\x9f'
  r'\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]'
)


def check(
  queries: Sequence[dict[str, Any]],
  rows: Sequence[dict[str, Any]],
  layer_names: Sequence[str] | None = None,
) -> None:
  """Raises ValueError at the first record that cannot be shown as it is.

  Args:
    queries: as in the module docstring.
    rows: as in the module docstring.
    layer_names: one a layer score; None where layers are not shown.
  """
  ids = [query['id'] for query in queries]
  if len(set(ids)) < len(ids):
    raise ValueError(f'query ids must be unique, got {ids}; rename the copies')
  for query in queries:
    _check_finite(query['loss'], f'loss of query {query["id"]!r}')
  for row in rows:
    _check_row(row, set(ids), layer_names)


def group(rows: Sequence[dict[str, Any]]) -> dict[tuple[str, str], list]:
  """The rows of each (query_id, kind), by rank."""
  groups = {}
  for row in sorted(rows, key=lambda row: row['rank']):
    groups.setdefault((row['query_id'], row['kind']), []).append(row)
  return groups


def layer_scores(rows: Sequence[dict[str, Any]]) -> dict[str, np.ndarray]:
  """Layer scores of each query's positive rows, {query_id: [rows, layers]}."""
  return {
    query_id: np.array([row['layer_scores'] for row in rows_of_kind])
    for (query_id, kind), rows_of_kind in group(rows).items()
    if kind == 'positive'
  }


def number(x: float, sign: str = '+') -> str:
  """x to three digits or the unit: +0.0123, -4.50, +12,345, +1.20e7.

  Args:
    x: finite.
    sign: '+' shows the sign of positive numbers too, '-' does not.
  """
  rounded = abs(float(f'{x:.2e}'))
  if rounded == 0:
    return '0'
  if 1e-3 <= rounded < 1e6:
    decimals = max(0, 2 - math.floor(math.log10(rounded)))
    return f'{x:{sign},.{decimals}f}'
  mantissa, exponent = f'{x:{sign}.2e}'.split('e')
  return f'{mantissa}e{int(exponent)}'


def plain(text: str) -> str:
  r"""The text with unseen characters spelt out: '\x1b' as four characters."""
  return _UNSEEN.sub(
    lambda match: match[0].encode('unicode_escape').decode('ascii'), text
  )


def _check_row(row, ids, layer_names) -> None:
  where = f'sequence {row["sequence"]} of query {row["query_id"]!r}'
  if row['query_id'] not in ids:
    raise ValueError(f'{where}: no such query among {sorted(ids)}; pass it too')
  if row['kind'] not in KINDS:
    raise ValueError(
      f'{where}: kind is {row["kind"]!r}, expected one of {KINDS}'
    )
  num_tokens, num_scores = len(row['tokens']), len(row['token_scores'])
  if num_tokens != num_scores:
    raise ValueError(
      f'{where}: {num_tokens} tokens and {num_scores} token scores, expected '
      'one score a token; leave out the padding of both or of neither'
    )
  if layer_names is not None and len(row['layer_scores']) != len(layer_names):
    raise ValueError(
      f'{where}: {len(row["layer_scores"])} layer scores, expected '
      f'{len(layer_names)}, one a layer name; pass the names of this run'
    )
  for field in ('score', 'token_scores', 'layer_scores'):
    _check_finite(row[field], f'{field} of {where}')


def _check_finite(values, what: str) -> None:
  values = np.atleast_1d(np.asarray(values, np.float64))
  bad = values[~np.isfinite(values)]
  if bad.size:
    raise ValueError(
      f'{what}: expected finite numbers, got {bad.size} of {values.size} that '
      f'are not, the first {bad[0]}; look for the batch that made it'
    )
