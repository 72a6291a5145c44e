"""Is the article found that a completion was taken from?

  python -m experiments.retrieval --config=configs/retrieval.py \
    --workdir=runs/quickstart

Cuts a prompt and a completion out of articles that the model was trained on,
ranks all articles for each by EK-FAC, K-FAC and gradient dot product (one pass:
they share an eigenbasis) and by BM25 over the same words, and counts how often
the source comes first, or among the first. An article's score is the largest of
its sequences'. Goes on where it stopped; writes WORKDIR/retrieval/result.json.
Needs a fitted workdir.
Sections read: data, model, layers, curvature, fit, damping, retrieval.
"""

import os
import pathlib

import numpy as np
import rich
from ml_collections import ConfigDict
from rich import table

from experiments import (
  agreement,
  common,
  fit_curvature,
  score,
  solve,
  trained,
)
from influence_jax import curvature, score_store, store
from influence_jax.data import queries as queries_lib
from influence_jax.report import terminal

_TOP = (1, 5, 10)


def run(config: ConfigDict, workdir: str | os.PathLike) -> dict:
  folder = pathlib.Path(workdir) / 'retrieval'
  folder.mkdir(exist_ok=True, parents=True)
  ours = trained.load(config, workdir)
  sources, queries = make_queries(ours, **config.retrieval.queries)
  ranks = {'BM25': _bm25_ranks(ours, queries, sources)}
  scores = _influence(config, pathlib.Path(workdir), folder, ours, queries)
  for name, scores_KxN in scores.items():
    ranks[name] = _ranks(_by_document(ours, scores_KxN), sources)
  result = {
    **common.provenance('experiments.retrieval', config),
    'articles': int(ours.corpus.sequences.records['document'].max()) + 1,
    'sources': sources,
    'ranks': {name: rank_K.tolist() for name, rank_K in ranks.items()},
    'found': {name: _found(rank_K) for name, rank_K in ranks.items()},
  }
  store.write_json(folder / 'result.json', result)
  rich.print(_table(result['found']))
  return result


def make_queries(
  ours: trained.Trained,
  num: int,
  prompt_words: int,
  completion_words: int,
  seed: int,
) -> tuple[list[int], list[queries_lib.Query]]:
  """Ids of `num` articles, drawn at random, and a query out of each.

  The completion is the words after the first `prompt_words`. Articles too
  short for that are not drawn.
  """
  count = int(ours.corpus.sequences.records['document'].max()) + 1
  sources, queries = [], []
  for number in np.random.default_rng(seed).permutation(count).tolist():
    words = ours.corpus.document(number)['text'].split(' ')
    if len(words) < prompt_words + completion_words:
      continue
    prompt = ' '.join(words[:prompt_words])
    completion = words[prompt_words : prompt_words + completion_words]
    sources.append(number)
    queries.append(
      queries_lib.Query(str(number), prompt, ' ' + ' '.join(completion))
    )
    if len(queries) == num:
      return sources, queries
  raise ValueError(
    f'only {len(queries)} articles have {prompt_words + completion_words} '
    f'words, expected {num}: ask for fewer queries or words'
  )


def _influence(config, workdir, folder, ours, queries) -> dict:
  """{approximation: scores_KxN}, all of one pass over the corpus."""
  full = common.build('curvature', curvature.make, config.curvature)
  state = fit_curvature.restore(
    full, ours.model.layers, workdir,
    fit_curvature.expected_meta(config, ours), complete=True,
  )  # fmt: skip
  names = config.retrieval.approximations
  damping = config.damping.to_dict()
  asked = [solve.Answer(name, curvature.make(name), damping) for name in names]
  batch = score.query_batch(config, ours, queries)
  solved, _ = solve.solve(config, ours, asked, state.factors, batch)
  score.claim(
    folder,
    {
      'retrieval': config.retrieval.to_dict(),
      **score.origin(config, ours, state.factors, queries),
    },
  )
  numbers = np.arange(len(ours.corpus.sequences))
  scores = score_store.create(
    folder / 'scores.zarr',
    len(names) * len(queries),
    len(numbers),
    config.score.chunk,
  )
  score.scan(config, ours, solved, numbers, scores, folder / 'summary')
  parts = np.split(scores.read(), len(names))
  return dict(zip(names, parts, strict=True))


def _by_document(ours, scores_KxN: np.ndarray) -> np.ndarray:
  """The largest score of each article's sequences, [K, articles]."""
  documents_N = ours.corpus.sequences.records['document']
  best = np.full((len(scores_KxN), documents_N.max() + 1), -np.inf)
  for k, scores_N in enumerate(scores_KxN):
    np.maximum.at(best[k], documents_N, scores_N)
  return best


def _ranks(scores_KxD: np.ndarray, sources: list[int]) -> np.ndarray:
  """From 1; articles that tie with the source count as before it."""
  own_K = scores_KxD[np.arange(len(sources)), sources]
  return (scores_KxD >= own_K[:, None]).sum(1)


def _bm25_ranks(ours, queries, sources) -> np.ndarray:
  count = int(ours.corpus.sequences.records['document'].max()) + 1
  texts = [ours.corpus.document(number)['text'] for number in range(count)]
  import bm25s  # here: it starts JAX's devices, `processes.start` comes first

  retriever = bm25s.BM25()
  retriever.index(
    bm25s.tokenize(texts, show_progress=False), show_progress=False
  )
  asked = [query.prompt + query.completion for query in queries]
  tokens = bm25s.tokenize(asked, return_ids=False, show_progress=False)
  return _ranks(np.stack([retriever.get_scores(t) for t in tokens]), sources)


def _found(rank_K: np.ndarray) -> dict:
  """{'top n': [share, low, high]} with Wilson's 95 % interval; median rank."""
  found = {}
  for n in _TOP:
    found[f'top {n}'] = agreement.share(rank_K <= n)
  return {**found, 'median rank': float(np.median(rank_K))}


def _table(found: dict) -> table.Table:
  tops = [f'top {n}' for n in _TOP]
  view = terminal.table(None, 'method', *tops, 'median rank', wrap=True)
  for name, row in found.items():
    shares = [agreement.shown(row[top], '.0%') for top in tops]
    view.add_row(name, *shares, f'{row["median rank"]:g}')
  return view


if __name__ == '__main__':
  common.main(run)
