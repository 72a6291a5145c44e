"""The page in which a run is looked at: one HTML file that opens from disk.

viewer*.js draw it from JSON that the page holds. Its content policy allows this
script and this style, by their digests, and no network. Texts are other
people's: in the JSON no character of them can end the element that holds it,
and the script shows them as text nodes alone.

A sequence's tokens are in the page once, however many queries it matters to,
as one string: DEL stands between them, which no text shows (`records.plain`).
Scores by token and by layer are whole multiples of a power of ten, the largest
of them one of four digits: `parts` x 10^`exponent` nats.
"""

import base64
import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import markupsafe

from influence_jax.report import files, html, records

_SCRIPTS = 'viewer_charts.js', 'viewer_sequences.js', 'viewer.js'
_BETWEEN_TOKENS = '\x7f'
_IN_SCRIPT = {ord(x): f'\\u{ord(x):04x}' for x in '<>&\u2028\u2029'}


class Table(NamedTuple):
  """A table of the page's last tab, shown as it is."""

  title: str
  header: Sequence[str]
  rows: Sequence[Sequence[str]]


class Answers(NamedTuple):
  """Scores of every sequence under each approximation and damping."""

  labels: Sequence[str]  # A
  of_rows: Mapping  # {(query_id, sequence): A pairs (score, rank from 1)}
  distributions: Mapping  # {query_id: A dicts of viewer_distribution.describe}
  absent: str = ''  # why there are none, in words


def write(
  path: str | os.PathLike,
  title: str,
  queries: Sequence[dict[str, Any]],
  rows: Sequence[dict[str, Any]],
  layer_names: Sequence[str],
  answers: Answers,
  tables: Sequence[Table],
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
  """
  page = render(title, queries, rows, layer_names, answers, tables)
  files.write(path, page.encode('utf-8'))


def render(
  title: str,
  queries: Sequence[dict[str, Any]],
  rows: Sequence[dict[str, Any]],
  layer_names: Sequence[str],
  answers: Answers,
  tables: Sequence[Table],
) -> str:
  """The page as text; arguments as in `write`, errors of `records.check`."""
  records.check(queries, rows, layer_names)
  environment = html.environment()
  script = ''.join(_source(environment, name) for name in _SCRIPTS)
  style = _source(environment, 'viewer.css')
  found = data(title, queries, rows, layer_names, answers, tables)
  return environment.get_template('viewer.html.j2').render(
    title=title,
    script=markupsafe.Markup(script),
    style=markupsafe.Markup(style),
    script_digest=_digest(script),
    style_digest=_digest(style),
    data=markupsafe.Markup(to_json(found)),
  )


def data(title, queries, rows, layer_names, answers, tables) -> dict[str, Any]:
  """What the script draws, as JSON has it; arguments as in `write`."""
  groups = records.group(rows)
  found = {
    'title': title,
    'layers': list(layer_names),
    'answers': list(answers.labels),
    'absent': answers.absent,
    'queries': [
      {
        'id': query['id'],
        'prompt': query['prompt'],
        'completion': query['completion'],
        'loss': _rounded(query['loss']),
        'labels': query['labels'],
        'rows': [
          _row(row, answers)
          for kind in records.KINDS
          for row in groups.get((query['id'], kind), [])
        ],
        'distributions': _rounded(answers.distributions.get(query['id'], [])),
      }
      for query in queries
    ],
    'tables': [table._asdict() for table in tables],
  }
  sequences = {row['sequence']: _sequence(row) for row in rows}
  return {**_plain(found), 'sequences': sequences}


def to_json(tree: Any) -> str:
  """JSON that may stand in a <script>."""
  text = json.dumps(
    tree, ensure_ascii=False, allow_nan=False, separators=(',', ':')
  )
  return text.translate(_IN_SCRIPT)


def scaled(scores: Sequence[float]) -> dict[str, Any]:
  """{exponent, parts}: the scores to a 2,000th of the largest, or better."""
  bound = max(map(abs, scores), default=0.0)
  exponent = math.floor(math.log10(bound)) - 3 if bound else 0
  unit = 10.0**exponent
  return {'exponent': exponent, 'parts': [round(x / unit) for x in scores]}


def _row(row: dict[str, Any], answers: Answers) -> dict[str, Any]:
  pairs = answers.of_rows.get((row['query_id'], row['sequence']), [])
  return {
    'kind': row['kind'],
    'rank': row['rank'],
    'sequence': row['sequence'],
    'score': _rounded(row['score']),
    'scan_score': _rounded(row['scan_score']),
    'answers': [[_rounded(score), rank] for score, rank in pairs],
    'tokens': scaled(row['token_scores']),
    'layers': scaled(row['layer_scores']),
  }


def _sequence(row: dict[str, Any]) -> dict[str, Any]:
  texts = _plain({key: row[key] for key in ('title', 'topic', 'tokens')})
  tokens = _BETWEEN_TOKENS.join(texts['tokens'])
  numbers = {key: row[key] for key in ('document', 'chunk')}
  return {**texts, 'tokens': tokens, **numbers}


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
