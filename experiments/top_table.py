"""The sequences that matter most to each query, with what to show of them."""

import os
import pathlib

import pyarrow
import pyarrow.parquet

from experiments import refine, trained
from influence_jax import attribution, processes
from influence_jax.data import queries as queries_lib
from influence_jax.data import tokenizer as tokenizer_lib

ROW_GROUP = 2_000  # rows that are read together: those of few queries


def rows(
  ours: trained.Trained,
  queries: list[queries_lib.Query],
  tops: list[dict[str, list[refine.Top]]],
) -> list[dict]:
  """Rows for influence_jax.report: those of `tops` that have token scores.

  Token scores are by position: what is read there, the token before the one
  that is predicted (Sec. 3.3). They, and layer scores, add up to the score, but
  plain layers (config.plain) are in layer scores alone.
  """
  return [
    {
      'query_id': query.id,
      'kind': kind,
      'rank': rank,
      'score': top.score,
      'scan_score': top.scan_score,
      **_describe(ours, top.sequence),
      'token_scores': top.token_scores,
      'layer_scores': top.layer_scores,
    }
    for query, by_kind in zip(queries, tops, strict=True)
    for kind, found in by_kind.items()
    for rank, top in enumerate(found, start=1)
    if top.token_scores is not None
  ]


def candidates(
  queries: list[queries_lib.Query], tops: list[dict[str, list[refine.Top]]]
) -> list[dict]:
  """All of `tops`, both scores, no text: what the two stages said."""
  return [
    {
      'query_id': query.id, 'kind': kind, 'rank': rank,
      'sequence': top.sequence, 'score': top.score,
      'scan_score': top.scan_score,
    }
    for query, by_kind in zip(queries, tops, strict=True)
    for kind, found in by_kind.items()
    for rank, top in enumerate(found, start=1)
  ]  # fmt: skip


def write(path: str | os.PathLike, rows: list[dict], layers: dict) -> None:
  """Parquet, whole or not at all; names of layers are in its metadata.

  Of many processes the first one writes.
  """
  if not processes.is_first():
    return
  path = pathlib.Path(path)
  table = pyarrow.Table.from_pylist(rows)
  names = '\n'.join(attribution.layer_names(layers))
  table = table.replace_schema_metadata({'layers': names})
  unfinished = path.with_name(f'tmp_{path.name}')
  pyarrow.parquet.write_table(table, unfinished, row_group_size=ROW_GROUP)
  unfinished.replace(path)


def read(path: str | os.PathLike) -> tuple[list[dict], list[str]]:
  """Rows and names of the layers."""
  table = pyarrow.parquet.read_table(path)
  return table.to_pylist(), table.schema.metadata[b'layers'].decode().split(
    '\n'
  )


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
