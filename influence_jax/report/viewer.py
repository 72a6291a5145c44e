"""The page in which a run is looked at: one HTML file that opens from disk.

viewer*.js draw it from JSON that the page holds. Its content policy allows this
script and this style, by their digests, and no network. Texts are other
people's: in the JSON no character of them can end the element that holds it,
and the script shows them as text nodes alone.

A sequence's tokens are in the page once, however many queries it matters to,
as one string: DEL stands between them, which no text shows (`records.plain`).
Scores by token and by layer are whole multiples of a unit, the largest of them
1,000 or more; two characters each (`packed`), or they would be most of the
page. For the same reason rows are lists, of what `columns` names.
"""

import base64
import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import markupsafe

from influence_jax.report import files, records, templates, viewer_distribution

_SCRIPTS = tuple(
  f'viewer{part}.js'
  for part in ('_charts', '_parts', '_sequences', '_distribution', '')
)
_COLUMNS = (
  'kind', 'rank', 'sequence', 'score', 'scan_score', 'answers', 'tokens',
  'layers',
)  # fmt: skip
_PARTS = 'input', 'output', 'norm'
_BETWEEN_TOKENS = '\x7f'
_IN_SCRIPT = {ord(x): f'\\u{ord(x):04x}' for x in '<>&\u2028\u2029'}
# Printable, and the same in JSON and in a <script>.
_DIGITS = [x for x in map(chr, range(32, 127)) if x not in '"\\<>&']
_BASE = len(_DIGITS)  # 90
_LARGEST = _BASE**2 // 2 - 1  # 4,049


class Table(NamedTuple):
  """A table of the page's last tab, shown as it is."""

  title: str
  header: Sequence[str]
  rows: Sequence[Sequence[str]]
  note: str = ''  # how to read it


class Answers(NamedTuple):
  """Scores of every sequence under each approximation and damping."""

  labels: Sequence[str]  # A
  of_rows: Mapping  # {(query_id, sequence): A pairs (score, rank from 1)}
  distributions: Mapping  # {query_id: A dicts of viewer_distribution.describe,
  # with `agreement`, the rank correlation with the first}
  absent: str = ''  # why there are none, in words


def write(
  path: str | os.PathLike,
  title: str,
  queries: Sequence[dict[str, Any]],
  rows: Sequence[dict[str, Any]],
  layer_names: Sequence[str],
  answers: Answers,
  tables: Sequence[Table],
  token_parts: Mapping[tuple[str, int], dict] | None = None,
) -> None:
  """Writes the page, whole or not at all.

  Args:
    path: of the HTML file.
    title: of the page.
    queries: as in `records`, with `labels`.
    rows: as in `records`, with `scan_score`.
    layer_names: of the layer scores.
    answers: none of them, if the matrix of scores is not there.
    tables: facts of the run.
    token_parts: {(query_id, sequence): input and output (a score a token),
      last (a token) and gradient_norm} of every row; None if there are none.
  """
  page = render(title, queries, rows, layer_names, answers, tables, token_parts)
  files.write(path, page.encode('utf-8'))


def render(
  title: str,
  queries: Sequence[dict[str, Any]],
  rows: Sequence[dict[str, Any]],
  layer_names: Sequence[str],
  answers: Answers,
  tables: Sequence[Table],
  token_parts: Mapping[tuple[str, int], dict] | None = None,
) -> str:
  """The page as text; arguments as in `write`, errors of `records.check`."""
  records.check(queries, rows, layer_names)
  environment = templates.environment()
  script = ''.join(_source(environment, name) for name in _SCRIPTS)
  style = _source(environment, 'viewer.css')
  found = data(title, queries, rows, layer_names, answers, tables, token_parts)
  return environment.get_template('viewer.html.j2').render(
    title=title,
    script=markupsafe.Markup(script),
    style=markupsafe.Markup(style),
    script_digest=_digest(script),
    style_digest=_digest(style),
    data=markupsafe.Markup(to_json(found)),
  )


def data(
  title, queries, rows, layer_names, answers, tables, token_parts=None
) -> dict[str, Any]:
  """What the script draws, as JSON has it; arguments as in `write`."""
  groups, parts = records.group(rows), token_parts or {}
  found = {
    'title': title,
    'layers': list(layer_names),
    'answers': list(answers.labels),
    'absent': answers.absent,
    'has_parts': bool(parts),
    'columns': [*_COLUMNS, *(_PARTS if parts else ())],
    'queries': [
      {
        'id': query['id'],
        'prompt': query['prompt'],
        'completion': query['completion'],
        'loss': _rounded(query['loss']),
        'labels': query['labels'],
        'rows': [
          _row(row, answers, parts.get((row['query_id'], row['sequence'])))
          for kind in records.KINDS
          for row in groups.get((query['id'], kind), [])
        ],
        'distributions': _rounded(answers.distributions.get(query['id'], [])),
        'norm_correlation': _of_norms(query['id'], groups, parts),
      }
      for query in queries
    ],
    'tables': [table._asdict() for table in tables],
  }
  last = {n: found['last'] for (_, n), found in parts.items()}
  sequences = {
    n: _sequence(row, last.get(n))
    for n, row in {row['sequence']: row for row in rows}.items()
  }
  return {**_plain(found), 'sequences': sequences}


def to_json(tree: Any) -> str:
  """JSON that may stand in a <script>."""
  text = json.dumps(
    tree, ensure_ascii=False, allow_nan=False, separators=(',', ':')
  )
  return text.translate(_IN_SCRIPT)


def packed(scores: Sequence[float]) -> list:
  """[unit, parts]: the scores to a 2,000th of the largest, or better.

  A score is `unit` nats times a whole number n, |n| <= 4,049; `parts` is the
  two digits, of _DIGITS, of n + 4,050 for each.
  """
  bound = max(map(abs, scores), default=0.0)
  unit = 10.0 ** (math.floor(math.log10(bound)) - 3) if bound else 1.0
  if bound > _LARGEST * unit:
    unit *= 2.5
  whole = (round(x / unit) + _LARGEST + 1 for x in scores)
  parts = ''.join(_DIGITS[n // _BASE] + _DIGITS[n % _BASE] for n in whole)
  return [_rounded(unit), parts]


def _row(
  row: dict[str, Any], answers: Answers, parts: dict[str, Any] | None
) -> list:
  """What _COLUMNS names and, where there are parts, _PARTS."""
  pairs = answers.of_rows.get((row['query_id'], row['sequence']), [])
  found = [
    row['kind'],
    row['rank'],
    row['sequence'],
    _rounded(row['score']),
    _rounded(row['scan_score']),
    [[_rounded(score), rank] for score, rank in pairs],
    packed(row['token_scores']),
    packed(row['layer_scores']),
  ]
  if parts is None:
    return found
  sums = {kind: float(sum(parts[kind])) for kind in ('input', 'output')}
  return [
    *found,
    *([*packed(parts[kind]), _rounded(sums[kind])] for kind in sums),
    _rounded(parts['gradient_norm']),
  ]


def _of_norms(query_id: str, groups, parts) -> float | None:
  """Rank correlation of |score| and gradient norm, of the query's rows."""
  if not parts:
    return None
  rows = [x for kind in records.KINDS for x in groups.get((query_id, kind), [])]
  norms = [parts[query_id, row['sequence']]['gradient_norm'] for row in rows]
  return viewer_distribution.rank_correlation(
    [abs(row['score']) for row in rows], norms
  )


def _sequence(row: dict[str, Any], last: str | None) -> dict[str, Any]:
  texts = _plain({key: row[key] for key in ('title', 'topic', 'tokens')})
  tokens = _BETWEEN_TOKENS.join(texts['tokens'])
  numbers = {key: row[key] for key in ('document', 'chunk')}
  found = {**texts, 'tokens': tokens, **numbers}
  return found if last is None else {**found, 'last': records.plain(last)}


def _rounded(tree: Any) -> Any:
  """Floats to six digits."""
  if isinstance(tree, float):
    return float(f'{tree:.6g}')
  if isinstance(tree, dict):
    return {key: _rounded(value) for key, value in tree.items()}
  return [_rounded(x) for x in tree] if isinstance(tree, list) else tree


def _plain(tree: Any) -> Any:
  """Texts with unseen characters spelt out."""
  if isinstance(tree, str):
    return records.plain(tree)
  if isinstance(tree, dict):
    return {_plain(key): _plain(value) for key, value in tree.items()}
  return [*map(_plain, tree)] if isinstance(tree, (list, tuple)) else tree


def _source(environment, name: str) -> str:
  """A file beside this one, unchanged: its braces are no template's."""
  return environment.loader.get_source(environment, name)[0]


def _digest(text: str) -> str:
  digest = hashlib.sha256(text.encode('utf-8')).digest()
  return f'sha256-{base64.b64encode(digest).decode("ascii")}'
