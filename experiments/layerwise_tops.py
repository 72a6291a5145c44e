"""What experiments.layerwise looks at: top sequences, their scores by block."""

import re
from typing import NamedTuple

import numpy as np
from absl import logging
from ml_collections import ConfigDict

from experiments import depth, ladder, scored, top_table
from influence_jax.data import queries as queries_lib
from influence_jax.data import sequences as sequences_lib
from influence_jax.data import tokenizer as tokenizer_lib
from influence_jax.report import records


class Tops(NamedTuple):
  """A rung's positive top sequences of each query, best first."""

  rung: ladder.Rung
  queries: list[queries_lib.Query]  # K
  scores: list[np.ndarray]  # a query: [C, L] by block, nats
  overlaps: list[np.ndarray]  # a query: [C], see `jaccard`


def read(rungs: list[ladder.Rung], section: ConfigDict) -> list[Tops]:
  """Of the queries that have positive top sequences in every rung.

  Args:
    section: config.layerwise.

  Raises:
    ValueError: there are no scores, none by layer, or of different queries.
  """
  found = [_read(rung, section) for rung in rungs]
  scored.check_alike(rungs, 'queries', [one.queries for one in found])
  has_K = np.all([[len(x) > 0 for x in one.scores] for one in found], axis=0)
  kept = np.flatnonzero(has_K).tolist()
  without = [
    query.id
    for query, has in zip(found[0].queries, has_K, strict=True)
    if not has
  ]
  if not kept:
    raise ValueError(
      f'none of the queries {without} has positive top sequences in every '
      'rung: look at top.parquet; if it is empty, score with num_top > 0'
    )
  if without:
    logging.warning('left out, without positive top sequences: %s', without)
  return [
    Tops(one.rung, *[[x[k] for k in kept] for x in one[1:]]) for one in found
  ]


def jaccard(a: set[int], b: set[int]) -> float:
  """Distinct tokens in both, as a share of those in either."""
  return len(a & b) / len(a | b)


def _read(rung: ladder.Rung, section: ConfigDict) -> Tops:
  """Of all queries; one without sequences has arrays of none."""
  sequences = sequences_lib.open(rung.workdir / 'sequences')
  tokenizer = tokenizer_lib.load(rung.workdir / 'tokenizer.json')
  folder = rung.workdir / rung.config.score.folder
  queries = scored.load(folder, sequences).queries
  rows, names = _table(folder / 'top.parquet', section.num_top)
  kept, block_M = _blocks(names, section.outside)
  borders = {*tokenizer_lib.borders(tokenizer)}
  tokens = scored.tokens(tokenizer, queries)
  scores, overlaps = [], []
  for query, words in zip(queries, tokens, strict=True):
    mine = rows.get((query.id, 'positive'), [])[: section.num_top]
    scores_CxM = np.array([row['layer_scores'] for row in mine])
    scores_CxM = scores_CxM.reshape(len(mine), len(names))[:, kept]
    scores_CxL = depth.by_block(scores_CxM, block_M)
    texts = [{*sequences.row(row['sequence']).tolist()} for row in mine]
    overlap_C = np.array([jaccard({*words}, text - borders) for text in texts])
    # Always so, unless what is positive lies outside of the blocks.
    has_C = (scores_CxL > 0).any(1)
    scores.append(scores_CxL[has_C])
    overlaps.append(overlap_C[has_C])
  return Tops(rung, queries, scores, overlaps)


def _table(path, num_top: int) -> tuple[dict, list[str]]:
  """Rows by (query, kind), names of layers."""
  if not path.exists():
    raise ValueError(
      f'no {path}: expected top sequences with scores by layer; score with '
      f'config.score.num_top={num_top} into another config.score.folder'
    )
  rows, names = top_table.read(path)
  return records.group(rows), names


def _blocks(names: list[str], outside: str) -> tuple[list[int], np.ndarray]:
  """Which layers are of a block, and of which."""
  kept = [
    m
    for m, name in enumerate(names)
    if not (outside and re.search(outside, name))
  ]
  layers = [names[m] for m in kept]
  block_M = depth.blocks(layers)
  logging.info('blocks: %s', dict(zip(layers, block_M.tolist(), strict=True)))
  return kept, block_M
