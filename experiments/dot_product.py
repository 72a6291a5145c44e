"""Do a query's top sequences share its words? EK-FAC and gradient dot product.

  python -m experiments.dot_product --config=configs/dot_product.py \
    --workdir=runs/english

Appendix D.1 (Figs. 33 and 34) of Grosse et al. 2023, counted over all queries
with a label `keywords`, words or phrases separated by '|'. Hits are those of
the first dot_product.num_top scanned sequences whose text has one of the
query's keywords, as whole words in any case. The orders are of the complete
scores (EK-FAC, the first answer; K-FAC; dot product, `identity`) and of BM25 of
prompt and completion, with word weights of the whole corpus. By chance there
would be num_top times the share of scanned sequences with a keyword. Keywords
were chosen by hand, before any scores were seen; BM25 shows what sharing words
with the query is worth by itself. Claim, its bound fixed in advance:

  E13  hits by EK-FAC are at least twice those by dot product, both summed over
       the queries, each the mean over the models (the paper: 36 and 10 of 50,
       one query). If the dot product has no hit it counts as one

Writes WORKDIR/dot_product/: a file a model, result.json and dot_product.png.
Needs no model; goes on after the last file that is done.
Sections read: score, dot_product, ladder.
"""

import os
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import rich
from ml_collections import ConfigDict

from experiments import (
  agreement,
  claims,
  common,
  dot_product_figure,
  ladder,
  parts,
  scored,
)
from influence_jax import store
from influence_jax.data import candidates
from influence_jax.data import queries as queries_lib
from influence_jax.data import sequences as sequences_lib
from influence_jax.data import tokenizer as tokenizer_lib
from influence_jax.report import figures

_THRESHOLD = ('>=', 2)  # E13


def run(config: ConfigDict, workdir: str | os.PathLike) -> dict:
  workdir, section = pathlib.Path(workdir), config.dot_product
  folder = workdir / 'dot_product'
  rungs = ladder.finished(config, workdir, section.sizes)
  rows = [row for rung in rungs for row in _rows(rung, section, folder)]
  names = list(scored.grouped(rows))
  hits = {
    name: np.array(scored.by_query(rows, lambda row, name=name: row[name]))
    for name in (*dot_product_figure.METHODS, dot_product_figure.CHANCE)
  }
  result = {
    **common.provenance('experiments.dot_product', config),
    'queries': rows,
    'methods': {
      name: summary(hits, name) for name in dot_product_figure.METHODS
    },
    'claims': claimed(hits, rungs, section.num_top),
  }
  store.write_json(folder / 'result.json', result)
  drawn = dot_product_figure.draw(names, hits, section.num_top)
  figures.save(drawn, folder / 'dot_product.png')
  rich.print(
    dot_product_figure.tabulate(result['methods'], len(names), section.num_top)
  )
  rich.print(claims.render(result['claims']))
  return result


def keywords(query: queries_lib.Query) -> list[str]:
  """Of the query's label; ValueError if one of them is blank."""
  found = query.labels['keywords'].split('|')
  if not all(word.strip() for word in found):
    raise ValueError(
      f'query {query.id!r} has keywords {query.labels["keywords"]!r}, expected '
      "words separated by single '|': a blank one would be in every text"
    )
  return found


def mentions(texts: Iterable[str], words: Sequence[str]) -> np.ndarray:
  """Which texts have one of the words or phrases, [N] bool.

  Whole words in any case; the words of a phrase are apart by any white space.
  """
  alternatives = '|'.join(
    r'\s+'.join(map(re.escape, word.split())) for word in words
  )
  found = re.compile(rf'(?<!\w)(?:{alternatives})(?!\w)', re.IGNORECASE)
  return np.array([found.search(text) is not None for text in texts])


def ratio(hits_K: np.ndarray, others_K: np.ndarray) -> list[float]:
  """Sum over sum with its 95 % interval over queries; others count 1 if 0."""

  def of(rows: np.ndarray) -> float:
    rows = rows.astype(int)
    return hits_K[rows].sum() / max(others_K[rows].sum(), 1.0)

  return agreement.interval(range(len(hits_K)), of)


def summary(hits: Mapping[str, np.ndarray], name: str) -> dict:
  """Of a method over the queries: hits, beside chance and dot product."""
  return {
    'hits': agreement.interval(hits[name]),
    'to_chance': ratio(hits[name], hits[dot_product_figure.CHANCE]),
    'to_dot_product': ratio(hits[name], hits['identity']),
    'more_than_dot_product': int((hits[name] > hits['identity']).sum()),
  }


def claimed(
  hits: Mapping[str, np.ndarray], rungs: Sequence[ladder.Rung], num_top: int
) -> list[dict]:
  """E13 of the queries' hits, {method: [K]}."""
  return [
    claims.claim(
      'E13', 'App. D.1',
      f'keyword hits in the top {num_top}: EK-FAC over dot product',
      ratio(hits['ekfac'], hits['identity']), _THRESHOLD,
      paper='36 over 10, one query', rungs=rungs,
    )
  ]  # fmt: skip


def _rows(rung, section, folder) -> list[dict]:
  """A row a query with keywords: its hits by method, and by chance."""
  sequences = sequences_lib.open(rung.workdir / 'sequences')
  found = _with_keywords(
    scored.load(rung.workdir / rung.config.score.folder, sequences), rung
  )
  num, num_top = len(found.numbers), section.num_top
  if num < num_top:
    raise ValueError(
      f'{num} sequences were scanned by {rung.name}, expected num_top='
      f'{num_top} or more: ask for fewer in config.dot_product or scan more'
    )
  scores = {name: found.answer(name) for name in ('identity', 'kfac')}
  scores['ekfac'] = found.scores[0]
  origin = {
    **found.origin,
    'answer': found.answers[0],
    'queries': [list(query) for query in found.queries],
    'scores': {name: store.fingerprint(x) for name, x in scores.items()},
    'num_top': num_top,
  }
  done = parts.part(
    folder / f'{rung.name}.json',
    origin,
    lambda: {'queries': _count(rung, sequences, found, scores, num_top)},
  )
  return [{'rung': rung.name, **row} for row in done['queries']]


def _with_keywords(found: scored.Scored, rung) -> scored.Scored:
  """The queries that have keywords; ValueError if there are none."""
  kept = [k for k, query in enumerate(found.queries) if 'keywords' in query[3]]
  if not kept:
    raise ValueError(
      f'none of the {len(found.queries)} queries of {rung.name} has a label '
      '\'keywords\', expected some: add "labels": {"keywords": '
      '"prices|inflation"} to their lines in the file of queries'
    )
  queries = [found.queries[k] for k in kept]
  return found._replace(queries=queries, scores=found.scores[:, kept])


def _count(rung, sequences, found, scores, num_top) -> list[dict]:
  tokenizer = tokenizer_lib.load(rung.workdir / 'tokenizer.json')
  rows = map(sequences.text_tokens, found.numbers.tolist())
  texts = [tokenizer_lib.decode(tokenizer, row) for row in rows]
  tops = {name: candidates.top([x], num_top) for name, x in scores.items()}
  order_KxC = scored.filtered_order('bm25', rung, sequences, found)
  tops['bm25'] = order_KxC[:, :num_top]
  counted = []
  for k, query in enumerate(found.queries):
    hit_C = mentions(texts, keywords(query))
    counted.append(
      {
        'query': query.id,
        **{
          name: int(hit_C[top_KxM[k]].sum()) for name, top_KxM in tops.items()
        },
        dot_product_figure.CHANCE: float(hit_C.mean() * num_top),
      }
    )
  return counted


if __name__ == '__main__':
  common.main(run)
