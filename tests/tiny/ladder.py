"""A ladder of the tiny corpus: trained for real, or with scores made up."""

import pathlib
from collections.abc import Callable, Sequence

import ml_collections
import numpy as np
import tiny_config
from tiny import corpus
from tiny import scores as tiny_scores

from experiments import ladder, top_table
from influence_jax import score_store, store, types
from influence_jax.data import queries as queries_lib
from influence_jax.data import tokenizer as tokenizer_lib

QUERIES = [
  queries_lib.Query('a', 'the cat', ' sat', {'class': 'simple'}),
  queries_lib.Query('b', '', 'a blue tree', {'class': 'simple'}),
  queries_lib.Query('c', 'red house', ' ran', {'class': 'other'}),
]
ANSWERS = ('ekfac relative 0.1', 'identity relative 0.1', 'kfac relative 0.1')
LAYERS = {
  f'blocks_{i}/mlp/{name}': types.Layer(f'blocks_{i}/mlp/{name}', 9, 16, True)
  for i in range(3)
  for name in ('fc_in', 'fc_out')
}


def config(
  sizes: Sequence[str] = ('s', 'l'), seeds: Sequence[int] = (0, 1)
) -> ml_collections.ConfigDict:
  """Of real size for seconds of training; the second size has more layers."""
  c = tiny_config.get_config()
  c.ladder = dict(
    sizes=tuple(sizes),
    models={
      size: dict(width=8, num_layers=2 + n) for n, size in enumerate(sizes)
    },
    seeds={size: tuple(seeds) for size in sizes},
    queries=ml_collections.config_dict.placeholder(dict),
    num_held_out=5,
  )
  return c


def write(
  root: pathlib.Path,
  config: ml_collections.ConfigDict,
  queries: Sequence[queries_lib.Query] = tuple(QUERIES),
  scores_fn: Callable | None = None,
) -> None:
  """Corpus, and a folder of scores a rung, as experiments.train_ladder leaves.

  No model, no factors: for studies that read scores alone.

  Args:
    scores_fn: (rung, shape [A, K, N]) -> scores; random ones by default. The
      top table has the first 5 of each query, layers and tokens made up.
  """
  made = tiny_scores.sequences(root)
  store.write_json(root / 'corpus.json', {})
  shape = len(ANSWERS), len(queries), len(made)
  for rung in ladder.rungs(config, root):
    ladder.link_corpus(root, rung)
    rng = np.random.default_rng(rung.seed)
    scores = rng.standard_t(3, shape)
    if scores_fn is not None:
      scores = scores_fn(rung, shape)
    folder = rung.workdir / rung.config.score.folder
    manifest = {
      'queries': [list(query) for query in queries],
      'answers': list(ANSWERS),
      'data': made.fingerprint,
      'params': f'of {rung.name}',
      'factors': f'of {rung.name}',
      'damping': {'relative': 0.1, 'absolute': None},
      'score': {'candidates': {'method': 'all'}, 'num_sequences': None},
    }
    store.write_json(folder / 'manifest.json', manifest)
    path = folder / 'scores.zarr'
    flat = scores.reshape(-1, shape[-1])
    score_store.create(path, *flat.shape, 16).put(0, flat)
    rows = [
      row
      for query, scores_N in zip(queries, scores[0], strict=True)
      for row in _rows(query, scores_N, made, root, rng)
    ]
    top_table.write(folder / 'top.parquet', rows, LAYERS)


def _rows(query, scores_N, made, root, rng) -> list[dict]:
  tokenizer = tokenizer_lib.load(root / 'tokenizer.json')
  documents = corpus.load(None)
  rows = []
  for rank, n in enumerate(np.argsort(-scores_N)[:5].tolist(), start=1):
    record, inputs = made.records[n], made.row(n)[:-1]
    document, score = documents[int(record['document'])], float(scores_N[n])
    layers = rng.dirichlet(np.ones(len(LAYERS))) * score
    tokens = rng.dirichlet(np.ones(len(inputs))) * score
    rows.append(
      {
        'query_id': query.id, 'kind': 'positive', 'rank': rank, 'score': score,
        'scan_score': score, 'sequence': n, 'document': document['id'],
        'chunk': int(record['chunk']), 'title': document['title'],
        'topic': document['topic'],
        'text': tokenizer_lib.decode(tokenizer, inputs[1:]),
        'tokens': tokenizer_lib.pieces(tokenizer, inputs),
        'token_scores': tokens.tolist(), 'layer_scores': layers.tolist(),
      }
    )  # fmt: skip
  return rows
