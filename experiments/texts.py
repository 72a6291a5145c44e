"""Scores of texts that are in no corpus, at full rank.

A text becomes what a document of the corpus does, [begin] + tokens + [end],
cut into chunks if it is longer than the model's context; its score is the sum
of theirs. Sign and scale are as in influence_jax.types: score / N is how much
more likely one copy of the text among N training sequences would make a
completion.

  ours, factors = texts.load(rung)
  scores_KxC = texts.scores(rung.config, ours, factors, queries, ['A text.'])
"""

import pathlib
import tempfile
from collections.abc import Callable, Sequence

import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from experiments import common, fit_curvature, ladder, score, solve, trained
from influence_jax import contraction, curvature, types
from influence_jax import scan as scan_lib
from influence_jax.data import batches as batches_lib
from influence_jax.data import queries as queries_lib
from influence_jax.data import sequences as sequences_lib


def load(
  rung: ladder.Rung,
) -> tuple[trained.Trained, dict[str, types.Factors]]:
  """The rung's model and the factors fitted to it.

  Raises:
    ValueError: one of them is missing, unfinished or of another config.
  """
  ours = trained.load(rung.config, rung.workdir)
  approximation = common.build(
    'curvature', curvature.make, rung.config.curvature
  )
  state = fit_curvature.restore(
    approximation, ours.model.layers, rung.workdir,
    fit_curvature.expected_meta(rung.config, ours), complete=True,
  )  # fmt: skip
  return ours, state.factors


def scores(
  config: ConfigDict,
  ours: trained.Trained,
  factors: dict[str, types.Factors],
  queries: Sequence[queries_lib.Query],
  texts: Sequence[str],
) -> np.ndarray:
  """Score of each text for each query, [K, C] float64, nats.

  By the config's own approximation and damping. Never holds more than
  score.query_batch gradients of the model's size; reads the texts once for each
  so many queries.

  Args:
    config: of the rung, whatever its score.rank.
    factors: of `load`.
    queries: K of them.
    texts: C of them.

  Raises:
    ValueError: there are no texts, one is empty or a query is too long.
  """
  _check(texts)
  batch = score.query_batch(config, ours, queries)
  solver = solve.make_solver(
    config, ours, solve.answers(config)[:1], factors, rank=None
  )
  mesh = common.mesh(config)
  step = scan_lib.make_step(ours.model, mesh)
  chunks, found = solve.chunks(config, len(queries)), []
  with tempfile.TemporaryDirectory() as folder:
    sequences = _sequences(config, ours, texts, pathlib.Path(folder))
    plan = batches_lib.plan(sequences, config.score.batch_tokens)
    for rows in chunks:
      solved = solver(batch, rows)[0][0]
      # The last ones are filled up, so that nothing is compiled twice.
      filled = np.resize(np.arange(len(rows)), len(chunks[0]))
      solved = contraction.take(solved, filled)
      sums_KxC = _scan(step, ours, solved, sequences, plan, mesh)
      found.append(sums_KxC[: len(rows)])
  return np.concatenate(found)


def _check(texts: Sequence[str]) -> None:
  if isinstance(texts, str) or not len(texts):
    raise ValueError(f'texts are {texts!r}, expected a list of one or more')
  empty = [n for n, text in enumerate(texts) if not text]
  if empty:
    raise ValueError(
      f'{len(empty)} of {len(texts)} texts are empty, the first is number '
      f'{empty[0]}: leave them out, there is nothing to score'
    )


def _sequences(config, ours, texts, folder) -> sequences_lib.Sequences:
  """Those of the texts, documents numbered as they are."""
  documents = ({'id': n, 'text': text} for n, text in enumerate(texts))
  return sequences_lib.build(
    documents, ours.corpus.tokenizer, config.data.max_len, folder,
    buckets=config.data.buckets,
  )  # fmt: skip


def _scan(
  step: Callable,
  ours: trained.Trained,
  solved: contraction.Queries,
  sequences: sequences_lib.Sequences,
  plan: list[batches_lib.BatchSpec],
  mesh: Mesh,
) -> np.ndarray:
  """Sums of the chunks' scores by document, [K, C]."""
  documents_N = sequences.records['document']
  num = sequences.info['documents'], contraction.num_queries(solved)
  sums_CxK = np.zeros(num)
  batches = (batches_lib.get(sequences, spec) for spec in plan)
  for ids_B, scores_KxB in scan_lib.scan(
    step, ours.params, solved, batches, mesh
  ):
    np.add.at(sums_CxK, documents_N[ids_B], scores_KxB.T)
  return sums_CxK.T
