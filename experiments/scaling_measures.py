"""How like a query a sequence is: by tokens, by topic, by what it says.

For experiments.scaling. Tokens are those of the model. Each measure of tokens
is a matrix [K, C], of every query and every scanned sequence, so that its mean
over a row is exactly what sequences at random would have.

  overlap     |Q and D| / |Q or D|, of the two sets of distinct tokens
  weighted    the same, a token counted as its IDF among the scanned sequences:
              sharing 'the' is next to nothing
  bm25        of influence_jax.data.candidates, on the scanned sequences
  topic       1 if the document's topic is the query's label 'topic'
  similarity  cosine of two sentence embeddings, influence_jax.data.encoder

The borders, with which sequences begin and end, are no tokens here.
"""

import functools
import os
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy import sparse

from influence_jax.data import candidates, encoder
from influence_jax.data import queries as queries_lib
from influence_jax.data import sequences as sequences_lib

LABEL = 'topic'  # of a query


def tokens(
  sequences: sequences_lib.Sequences,
  numbers: ArrayLike,
  queries: Sequence[ArrayLike],
) -> dict[str, np.ndarray]:
  """'overlap', 'weighted' and 'bm25' of each query and sequence, [K, C].

  Args:
    sequences: of the corpus.
    numbers: of the C that were scanned.
    queries: the tokens of each, of prompt and completion; ValueError if one
      has none.
  """
  scanned = sequences_lib.Sequences(
    sequences.tokens, sequences.records[np.asarray(numbers)], sequences.info
  )
  bm25_KxC = np.hstack(list(candidates.bm25(scanned, queries)))
  borders, vocab_size = sequences.borders, sequences.info['vocab_size']
  rows = [scanned.row(n) for n in range(len(scanned))]
  sets_CxV = _sets(rows, borders, vocab_size)
  sets_KxV = _sets(queries, borders, vocab_size)
  return {
    'overlap': jaccard(sets_KxV, sets_CxV, np.ones(vocab_size)),
    'weighted': jaccard(sets_KxV, sets_CxV, idf(sets_CxV)),
    'bm25': bm25_KxC,
  }


def jaccard(
  sets_KxV: sparse.csr_array, sets_CxV: sparse.csr_array, weights_V: np.ndarray
) -> np.ndarray:
  """Weight of what two sets share over that of their union, [K, C].

  Args:
    sets_KxV: 1 where set k has v; none is empty.
    sets_CxV: likewise.
    weights_V: of the elements, positive.
  """
  weighted_KxV = sets_KxV.multiply(weights_V[None]).tocsr()
  shared_KxC = (weighted_KxV @ sets_CxV.T).toarray()
  sizes_K, sizes_C = sets_KxV @ weights_V, sets_CxV @ weights_V
  return shared_KxC / (sizes_K[:, None] + sizes_C[None] - shared_KxC)


def idf(sets_CxV: sparse.csr_array) -> np.ndarray:
  """Eq. 29: log((C - n + 0.5) / (n + 0.5) + 1), n of C sets having v, [V]."""
  num, n_V = sets_CxV.shape[0], sets_CxV.sum(axis=0)
  return np.log((num - n_V + 0.5) / (n_V + 0.5) + 1)


def topics(document_fn: Callable[[int], dict], ids: ArrayLike) -> list[str]:
  """The topic of each document of `ids`, '' if it has none; each read once."""
  names = {n: document_fn(n).get('topic', '') for n in np.unique(ids).tolist()}
  return [names[n] for n in np.asarray(ids).tolist()]


def same_topic(
  queries: Sequence[queries_lib.Query], topics: Sequence[str]
) -> np.ndarray:
  """1 where a sequence's topic is the query's, else 0, [K, C].

  A query without the label has a row of NaN.

  Raises:
    ValueError: no sequence has the topic of a query.
  """
  topics_C = np.array(topics)
  same_KxC = np.full((len(queries), len(topics_C)), np.nan)
  for query, same_C in zip(queries, same_KxC, strict=True):
    if LABEL not in query.labels:
      continue
    same_C[:] = topics_C == query.labels[LABEL]
    if not same_C.any():
      raise ValueError(
        f'query {query.id!r} has the topic {query.labels[LABEL]!r}, expected '
        f'one of the scanned sequences: {sorted(set(topics))}; mend or remove '
        f"its label {LABEL!r} and in each rung's scores, too: score again"
      )
  return same_KxC


def embedder(
  cache_dir: str | os.PathLike,
) -> Callable[[Sequence[str]], np.ndarray]:
  """embed_fn(texts) -> [N, D], rows of length 1.

  The encoder is loaded by the first call; a text that it has seen is not
  embedded again.
  """
  seen = {}
  load = functools.cache(lambda: encoder.load(os.path.expanduser(cache_dir)))

  def embed(texts: Sequence[str]) -> np.ndarray:
    new = [text for text in dict.fromkeys(texts) if text not in seen]
    if new:
      seen.update(zip(new, encoder.embed(load(), new), strict=True))
    return np.stack([seen[text] for text in texts])

  return embed


def cosines(
  embed_fn: Callable[[Sequence[str]], np.ndarray],
  queries: Sequence[str],
  text_fn: Callable[[int], str],
  numbers_KxM: np.ndarray,
) -> np.ndarray:
  """Of each query's text and the texts of its own M sequences, [K, M].

  Args:
    embed_fn: from `embedder`.
    queries: K texts.
    text_fn: number of a sequence -> its text.
    numbers_KxM: of sequences.
  """
  numbers_U, places = np.unique(numbers_KxM, return_inverse=True)
  query_KxD = embed_fn(queries)
  sequence_UxD = embed_fn([text_fn(n) for n in numbers_U.tolist()])
  sequence_KxMxD = sequence_UxD[places.reshape(numbers_KxM.shape)]
  return np.einsum('kd,kmd->km', query_KxD, sequence_KxMxD)


def _sets(rows, borders: list[int], vocab_size: int) -> sparse.csr_array:
  """1 where a row has the token, [rows, V]; borders are in none."""
  tokens = np.concatenate([np.asarray(row, np.int64) for row in rows])
  places = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
  kept = ~np.isin(tokens, borders)
  sets = sparse.csr_array(
    (np.ones(kept.sum()), (places[kept], tokens[kept])),
    shape=(len(rows), vocab_size),
  )
  sets.data[:] = 1  # what occurs twice was added up
  return sets
