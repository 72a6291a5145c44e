"""Top sequences of a small and a large model side by side, as one HTML file.

For experiments.scaling, after Figs. 1 and 10-14 of Grosse et al. 2023. The file
needs no network and no script, and its content policy allows neither. Titles
and texts are other people's: jinja2 escapes each. Tokens that the query has
too, the commonest included, are marked.
"""

import itertools
import os
from collections.abc import Mapping, Sequence
from typing import Any

from experiments import corpus, scaling_tops, scored
from influence_jax.data import tokenizer as tokenizer_lib
from influence_jax.report import files, records, templates

_TEMPLATE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; \
style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>Top sequences by size</title>
<style>
:root { --ink: #1c1c1e; --dim: #63656b; --line: #dcdde0; --paper: #fff;
  --box: #f5f5f3; --link: #0a5ea8; --mark: rgb(240 130 0 / 0.25); }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8e8ea; --dim: #a0a3aa; --line: #383b41; --paper: #17181b;
    --box: #202226; --link: #7cb8f5; --mark: rgb(225 115 0 / 0.4); }
}
body { margin: 0 auto; padding: 2rem 1.2rem 4rem; max-width: 72rem;
  background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; margin: 0 0 .5rem; }
h2 { font-size: 1.2rem; margin: 3rem 0 .6rem; padding-top: .8rem;
  border-top: 1px solid var(--line); }
a { color: var(--link); }
p { max-width: 46rem; }
table { border-collapse: collapse; width: 100%; table-layout: fixed; }
th, td { padding: .5rem 1rem .5rem 0; text-align: left; vertical-align: top;
  border-bottom: 1px solid var(--line); }
th, .note, .topic { color: var(--dim); font-weight: 400; }
.note { font-size: .82rem; margin: .3rem 0 0; }
.query { white-space: pre-wrap; color: var(--dim); background: var(--box);
  padding: .7rem .9rem; border-radius: 4px; }
.query b { color: var(--ink); }
.score { font-weight: 600; font-variant-numeric: tabular-nums; }
.text { white-space: pre-wrap; padding-top: .3rem;
  font: 13px/1.65 ui-monospace, monospace; }
mark { color: inherit; background: var(--mark); text-decoration: underline; }
@media print {
  :root { --ink: #000; --dim: #444; --line: #bbb; --paper: #fff; }
  body { padding: 0; max-width: none; font-size: 10pt; }
  .text { font-size: 8pt; }
  mark { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
}
</style>
</head>
<body>
<h1>What matters to a small and to a large model?</h1>
<p>The training sequences of the largest influence on each completion, in nats,
not divided by the number of sequences. <mark>Marked</mark> are the tokens that
the query has, too; Jaccard is the share of them among all tokens of the two,
each counted once, and cosine that of the sentence embeddings.</p>
<nav>
{% for query in queries %}
<a href="#q{{ loop.index }}">{{ query.id }}</a>{{ "" if loop.last else " ·" }}
{% endfor %}
</nav>
{% for query in queries %}
<section id="q{{ loop.index }}">
<h2>{{ query.id }}</h2>
<div class="query" dir="auto">{{ query.prompt }}\
<b>{{ query.completion }}</b></div>
{% if query.topic %}
<p class="note">topic: {{ query.topic }}</p>
{% endif %}
<table>
<tr>{% for name in names %}<th>{{ name }}</th>{% endfor %}</tr>
{% for cells in query.ranks %}
<tr>
{% for cell in cells %}
<td><span class="score">{{ cell.score }}</span>
<span class="title">{{ cell.title }}</span>
<span class="topic">{{ cell.topic }}</span>
<div class="text" dir="auto">
{%- for text, shared in cell.pieces -%}
{% if shared %}<mark>{{ text }}</mark>{% else %}{{ text }}{% endif %}
{%- endfor -%}
</div>
<p class="note">Jaccard {{ cell.overlap }}, cosine {{ cell.similarity }},
sequence {{ cell.sequence }}</p></td>
{% endfor %}
</tr>
{% endfor %}
</table>
</section>
{% endfor %}
</body>
</html>
"""


def write(
  path: str | os.PathLike,
  made: corpus.Corpus,
  sides: Sequence[scaling_tops.Side],
  parameters: Mapping[str, int | None],
  num_shown: int,
) -> None:
  """Writes the page, whole or not at all.

  Args:
    path: of the HTML file.
    made: the corpus of all sides.
    sides: one a column, of the same queries.
    parameters: {size: number}, None where it is unknown.
    num_shown: sequences a query.
  """
  names = [_name(side.top.rung, parameters) for side in sides]
  queries = sides[0].top.queries
  tokens = scored.tokens(made.tokenizer, queries)
  shown = [
    {**query._asdict(), 'topic': query.labels.get('topic', ''), 'ranks': [
      [_cell(made, side, k, rank, set(tokens[k])) for side in sides]
      for rank in range(min(num_shown, sides[0].top.places_KxM.shape[1]))]}
    for k, query in enumerate(queries)
  ]  # fmt: skip
  files.write(path, render(names, shown).encode('utf-8'))


def render(names: Sequence[str], queries: Sequence[dict[str, Any]]) -> str:
  """The page as text.

  Args:
    names: of the columns.
    queries: dicts of id, prompt, completion, topic and ranks, a list of rows of
      cells, one a column: dicts of score, title, topic, overlap, similarity,
      sequence and pieces, [(text, whether the query has it)].
  """
  template = templates.environment().from_string(_TEMPLATE)
  return template.render(names=names, queries=queries)


def pieces(
  made: corpus.Corpus, n: int, shared: set[int]
) -> list[tuple[str, bool]]:
  """The text of sequence n cut where tokens of `shared` begin or end."""
  return [
    (tokenizer_lib.decode(made.tokenizer, tokens), is_shared)
    for is_shared, tokens in itertools.groupby(
      made.sequences.text_tokens(n), lambda token: int(token) in shared
    )
  ]


def _name(rung, parameters) -> str:
  number = parameters[rung.size]
  return f'{rung.name}, {number:,} parameters' if number else rung.name


def _cell(made, side, k, rank, shared) -> dict[str, Any]:
  n = int(side.top.numbers_KxM[k, rank])
  document = made.document(int(made.sequences.records['document'][n]))
  return {
    'score': records.number(float(side.top.scores_KxM[k, rank])),
    'title': document.get('title', ''),
    'topic': document.get('topic', ''),
    'overlap': f'{side.measures["overlap"][k, rank]:.2f}',
    'similarity': f'{side.measures["similarity"][k, rank]:.2f}',
    'sequence': n,
    'pieces': pieces(made, n, shared),
  }
