"""The top sequences of every rung and what experiments.scaling sees in them.

Reads finished scores and documents, no model. Topics and embeddings cost more
than seconds: they are parts, kept in the study's folder.
"""

import functools
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from experiments import corpus, ladder, parts, scored
from experiments import scaling_measures as measures
from influence_jax import store
from influence_jax.data import candidates, encoder
from influence_jax.data import queries as queries_lib
from influence_jax.data import tokenizer as tokenizer_lib


class Top(NamedTuple):
  """The M largest scores of each query on one rung, best first."""

  rung: ladder.Rung
  queries: list[queries_lib.Query]  # K
  scanned: np.ndarray  # [C] numbers of sequences
  origin: dict[str, Any]  # of the scores
  places_KxM: np.ndarray  # in `scanned`
  scores_KxM: np.ndarray  # nats

  @property
  def numbers_KxM(self) -> np.ndarray:
    return self.scanned[self.places_KxM]


class Side(NamedTuple):
  """What was seen in the tops of one rung."""

  top: Top
  measures: dict[str, np.ndarray]  # {name: [K, M]}, 'score' among them


def measure(
  config: ConfigDict,
  made: corpus.Corpus,
  rungs: Sequence[ladder.Rung],
  folder: pathlib.Path,
) -> tuple[list[Side], dict[str, np.ndarray]]:
  """One side a rung, and of random sequences the means, {measure: [K]}.

  Random sequences are all that were scanned, for 'similarity' a draw of them.

  Args:
    config: the whole one; its section `scaling` is read.
    made: the corpus of all rungs.
    rungs: with finished scores.
    folder: of the parts.

  Raises:
    ValueError: scores are missing, or not of the same queries and sequences on
      all rungs.
  """
  section = config.scaling
  tops = [top(rung, made, section.num_top) for rung in rungs]
  scored.check_alike(rungs, 'queries', [one.queries for one in tops])
  scored.check_alike(rungs, 'sequences', [one.scanned.tolist() for one in tops])
  queries, scanned = tops[0].queries, tops[0].scanned
  all_KxC = _of_scanned(made, queries, scanned, folder)
  similarity_fn = functools.partial(
    _similarity, made, queries, measures.embedder(section.cache_dir), folder
  )

  def side(one: Top) -> Side:
    found = {
      name: np.take_along_axis(x_KxC, one.places_KxM, axis=1)
      for name, x_KxC in all_KxC.items()
    }
    cosine_KxM = similarity_fn(one.rung.name, one.origin, one.numbers_KxM)
    return Side(
      one, {**found, 'similarity': cosine_KxM, 'score': one.scores_KxM}
    )

  drawn_KxM = _draw(scanned, len(queries), section.num_random, section.seed)
  random = {name: x_KxC.mean(axis=1) for name, x_KxC in all_KxC.items()}
  random['similarity'] = similarity_fn('random', {}, drawn_KxM).mean(axis=1)
  return [side(one) for one in tops], random


def top(rung: ladder.Rung, made: corpus.Corpus, num_top: int) -> Top:
  """The rung's `num_top` largest scores of answer 0.

  Raises:
    ValueError: the median of a query's is not positive.
  """
  folder = rung.workdir / rung.config.score.folder
  found = scored.load(folder, made.sequences)
  scores_KxC = found.scores[0]
  places_KxM = candidates.top([scores_KxC], num_top)
  scores_KxM = np.take_along_axis(scores_KxC, places_KxM, axis=1)
  for query, scores_M in zip(found.queries, scores_KxM, strict=True):
    if not (median := np.median(scores_M)) > 0:
      raise ValueError(
        f'the top {len(scores_M)} scores of query {query.id!r} in {folder} '
        f'have the median {median}, expected a positive one: ask for fewer '
        'with config.scaling.num_top'
      )
  return Top(
    rung, found.queries, found.numbers, found.origin, places_KxM, scores_KxM
  )


def _of_scanned(made, queries, scanned, folder) -> dict[str, np.ndarray]:
  """All that needs no embeddings, {measure: [K, C]}."""
  asked = scored.tokens(made.tokenizer, queries)
  topics = [''] * len(scanned)  # of no use without labels
  if any(measures.LABEL in query.labels for query in queries):
    topics = _topics(made, scanned, folder / 'topics.json')
  return {
    **measures.tokens(made.sequences, scanned, asked),
    'topic': measures.same_topic(queries, topics),
  }


def _topics(made, scanned, path) -> list[str]:
  """Of each scanned sequence's document."""
  ids = made.sequences.records['document'][scanned]
  origin = {'data': made.sequences.fingerprint, 'scanned': len(scanned)}

  def find() -> dict:
    return {'topics': measures.topics(made.document, ids)}

  return parts.part(path, origin, find)['topics']


def _similarity(
  made: corpus.Corpus,
  queries: Sequence[queries_lib.Query],
  embed_fn: Callable,
  folder: pathlib.Path,
  name: str,
  origin: dict[str, Any],
  numbers_KxM: np.ndarray,
) -> np.ndarray:
  """Cosine of each query with each of its own sequences, [K, M]."""
  texts = [query.prompt + query.completion for query in queries]
  origin = {
    **origin,
    'data': made.sequences.fingerprint,
    'texts': texts,
    'sequences': store.fingerprint({'numbers': numbers_KxM}),
    'encoder': encoder.PACKAGE.sha256,
  }

  def text(n: int) -> str:
    return tokenizer_lib.decode(made.tokenizer, made.sequences.text_tokens(n))

  def find() -> dict:
    found_KxM = measures.cosines(embed_fn, texts, text, numbers_KxM)
    return {'cosines': found_KxM.tolist()}

  return np.array(parts.part(folder / f'{name}.json', origin, find)['cosines'])


def _draw(scanned, num_queries, num, seed) -> np.ndarray:
  """The same `num` scanned sequences, or all there are, for each query."""
  rng = np.random.default_rng(seed)
  drawn = rng.choice(scanned, min(num, len(scanned)), replace=False)
  return np.tile(np.sort(drawn), (num_queries, 1))
