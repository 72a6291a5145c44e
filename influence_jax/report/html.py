"""A report as one HTML file: queries, their sequences by token, figures, facts.

The file needs no network and no script, and its content policy allows neither.
Titles and texts are other people's: jinja2 escapes each, also in attributes.
"""

import base64
import os
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib import figure

from influence_jax.report import figures as report_figures
from influence_jax.report import files, records, templates


def write(
  path: str | os.PathLike,
  queries: Sequence[dict[str, Any]],
  rows: Sequence[dict[str, Any]],
  layer_names: Sequence[str],
  summary: Mapping[str, Any],
  figures: Mapping[str, figure.Figure],
) -> None:
  """Writes the report, whole or not at all.

  Args:
    path: of the HTML file.
    queries: as in `records`.
    rows: as in `records`.
    layer_names: of the layer scores; may be empty when those are.
    summary: facts of the run, shown as they are; a mapping becomes a table.
    figures: by caption.
  """
  page = render(queries, rows, layer_names, summary, figures)
  files.write(path, page.encode('utf-8'))


def render(
  queries: Sequence[dict[str, Any]],
  rows: Sequence[dict[str, Any]],
  layer_names: Sequence[str],
  summary: Mapping[str, Any],
  figures: Mapping[str, figure.Figure],
) -> str:
  """The report as text; arguments as in `write`."""
  records.check(queries, rows, layer_names)
  groups = records.group(rows)
  sections = [_section(query, groups, layer_names) for query in queries]
  images = [_image(caption, fig) for caption, fig in figures.items()]
  template = templates.environment().get_template('report.html.j2')
  return template.render(
    sections=sections,
    images=images,
    summary=summary,
    num_shades=templates.NUM_SHADES,
  )


def _section(query, groups, layer_names) -> dict[str, Any]:
  kinds = {
    kind: [
      _sequence(row, layer_names) for row in groups.get((query['id'], kind), [])
    ]
    for kind in records.KINDS
  }
  return {'query': query, **kinds}


def _sequence(row: dict[str, Any], layer_names) -> dict[str, Any]:
  tokens = [token.replace('\n', '↵\n') for token in row['tokens']]
  return {
    'row': row,
    'bound': max(map(abs, row['token_scores']), default=0.0),
    'sum': sum(row['token_scores']),
    'tokens': _cells(tokens, row['token_scores']),
    'layers': _cells(layer_names, row['layer_scores']),
  }


def _cells(texts, scores) -> list[tuple[str, str, str]]:
  """(text, score in words, its shade) each, the largest in full colour."""
  bound = max(map(abs, scores), default=0.0)
  return [
    (text, records.number(score), templates.shade(score, bound))
    for text, score in zip(texts, scores, strict=True)
  ]


def _image(caption: str, fig: figure.Figure) -> dict[str, Any]:
  data = base64.b64encode(report_figures.png(fig)).decode('ascii')
  return {
    'caption': caption,
    'data': data,
    'width': round(report_figures.CSS_PIXELS * fig.get_figwidth()),
  }
