"""The sequences that matter most to each query, with what to show of them."""

import os
import pathlib

import jax
import numpy as np
import pyarrow
import pyarrow.parquet
import tqdm

from experiments import trained
from influence_jax import attribution, influence
from influence_jax.data import batches as batches_lib
from influence_jax.data import queries as queries_lib
from influence_jax.data import tokenizer as tokenizer_lib


def top_sequences(
  scores_N: np.ndarray, num_top: int
) -> dict[str, list[tuple[int, float]]]:
  """{'positive': [(sequence, score), ...], 'negative': ...}, extremes first.

  Ties go to the smaller number; a kind has only scores of its sign.
  """
  found = {}
  for kind, sign in (('positive', 1), ('negative', -1)):
    order = np.argsort(-sign * scores_N, kind='stable')[:num_top]
    kept = order[sign * scores_N[order] > 0]
    found[kind] = [(int(n), float(scores_N[n])) for n in kept]
  return found


def make(
  ours: trained.Trained,
  queries: list[queries_lib.Query],
  solved: dict[str, jax.Array],
  scores_KxN: np.ndarray,
  num_top: int,
  batch_tokens: int,
) -> list[dict]:
  """Rows for influence_jax.report: `num_top` of each sign for each query.

  Token scores are by position: what is read there, the token before the one
  that is predicted (Sec. 3.3). They, and layer scores, add up to the score.
  """
  tops = [top_sequences(scores_N, num_top) for scores_N in scores_KxN]
  numbers = sorted(
    {n for top in tops for pairs in top.values() for n, _ in pairs}
  )
  details = _details(ours, solved, numbers, batch_tokens)
  return [
    {
      'query_id': query.id,
      'kind': kind,
      'rank': rank,
      'score': score,
      **_describe(ours, n),
      'token_scores': details[n][0][:, k].tolist(),
      'layer_scores': details[n][1][:, k].tolist(),
    }
    for k, (query, top) in enumerate(zip(queries, tops, strict=True))
    for kind, pairs in top.items()
    for rank, (n, score) in enumerate(pairs, start=1)
  ]


def write(path: str | os.PathLike, rows: list[dict], layers: dict) -> None:
  """Parquet, whole or not at all; names of layers are in its metadata."""
  path = pathlib.Path(path)
  table = pyarrow.Table.from_pylist(rows)
  names = '\n'.join(attribution.layer_names(layers))
  table = table.replace_schema_metadata({'layers': names})
  unfinished = path.with_name(f'tmp_{path.name}')
  pyarrow.parquet.write_table(table, unfinished)
  unfinished.replace(path)


def read(path: str | os.PathLike) -> tuple[list[dict], list[str]]:
  """Rows and names of the layers."""
  table = pyarrow.parquet.read_table(path)
  return table.to_pylist(), table.schema.metadata[b'layers'].decode().split(
    '\n'
  )


def _details(ours, solved, numbers, batch_tokens):
  """{sequence: (scores by position [T, K], by layer [layers, K])}."""

  @jax.jit
  def score_batch(params, solved, batch):
    layers = ours.model.layers
    by_path = influence.pairwise(ours.model, params, solved, batch)
    by_layer = attribution.by_layer(by_path, layers)
    tokens_BxTxK = attribution.tokenwise(ours.model, params, solved, batch)
    return tokens_BxTxK, jax.numpy.stack([*by_layer.values()], axis=1)

  sequences, found = ours.corpus.sequences, {}
  plan = batches_lib.split(sequences, np.array(numbers, int), batch_tokens)
  for spec in tqdm.tqdm(plan, desc='scores by token', mininterval=1.0):
    batch = batches_lib.get(sequences, spec)
    tokens_BxTxK, layers_BxLxK = score_batch(ours.params, solved, batch)
    tokens_BxTxK, layers_BxLxK = map(np.asarray, (tokens_BxTxK, layers_BxLxK))
    for b, n in enumerate(spec.rows.tolist()):
      num_positions = len(sequences.row(n)) - 1
      found[n] = tokens_BxTxK[b, :num_positions], layers_BxLxK[b]
  return found


def _describe(ours, n: int) -> dict:
  corpus = ours.corpus
  record = corpus.sequences.records[n]
  document = corpus.document(int(record['document']))
  inputs = corpus.sequences.row(n)[:-1]
  return {
    'sequence': n,
    'document': int(record['document']),
    'chunk': int(record['chunk']),
    'title': document.get('title', ''),
    'topic': document.get('topic', ''),
    'text': tokenizer_lib.decode(corpus.tokenizer, inputs[1:]),
    'tokens': tokenizer_lib.pieces(corpus.tokenizer, inputs),
  }
