"""Which sequences to score for a query: those that share its words.

Before the influence scan each query chooses `per_query` sequences by TF-IDF
(Grosse et al. 2023, 3.2.1) or BM25; what is scanned is their union. What has
influence without sharing words is lost: experiments/filter_recall.py counts it.

TF-IDF is what Eqs. 28 and 29 mean: score(Q, D) is the sum of IDF(t) over the
tokens t of Q that are in D, IDF(t) = log((C - n + 0.5) / (n + 0.5) + 1), where
n of the C sequences have t. How it departs from the text:

* The sum runs over the query's tokens, each as often as it occurs there. The
  text says the document's, but then Q would not enter.
* There is no k1: exists(t, D) is 0 or 1, so the factor with k1 is 1 or 0. How
  often D has t does not count; nor, as in the paper, does D's length.

BM25 is bm25s's `lucene` variant, k1 = 1.5 and b = 0.75: the same IDF times
f / (f + k1 (1 - b + b |D| / mean |D|)), f times t among the |D| tokens of D.

A document is a sequence; what begins and ends its row is no token, nor is it
one of a query.
TF-IDF reads the corpus twice, a chunk at a time. bm25s keeps an index of it: 8
bytes for each sequence and distinct token of its that a query has, 8 more a
sequence; several times that while building.
"""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy import sparse

from influence_jax.data import sequences as sequences_lib

CHUNK = 2048  # sequences that are scored together


def choose(
  method: str,
  sequences: sequences_lib.Sequences,
  queries: Sequence[ArrayLike],
  per_query: int = 10_000,
) -> np.ndarray:
  """Each query's candidates, [K, min(per_query, N)] int64, best first.

  Args:
    method: 'tf_idf' or 'bm25'.
    sequences: N of them.
    queries: the tokens of each, of prompt and completion.
    per_query: how many. If fewer share a token with the query, the others are
      the first of the corpus, score 0.
  """
  methods = {'tf_idf': tf_idf, 'bm25': bm25}
  if method not in methods:
    raise ValueError(
      f'candidates by {method!r}: expected one of {list(methods)}, or in a '
      "config 'all', which scans every sequence"
    )
  if per_query < 1:
    raise ValueError(
      f'per_query={per_query}, expected 1 or more: ask for more candidates'
    )
  return top(methods[method](sequences, queries), per_query)


def union(top_KxM: np.ndarray) -> np.ndarray:
  """The sequences that some query chose, ascending, each once; int64."""
  return np.unique(top_KxM)


def tf_idf(
  sequences: sequences_lib.Sequences, queries: Sequence[ArrayLike]
) -> Iterator[np.ndarray]:
  """TF-IDF of all queries and of each chunk of sequences in turn, [K, C]."""
  columns_V, counts_UxK = _columns(sequences, queries)
  n_U = np.zeros(len(counts_UxK))
  for exists_CxU in _exists(sequences, columns_V, len(n_U)):
    n_U += exists_CxU.sum(axis=0)
  idf_U = np.log((len(sequences) - n_U + 0.5) / (n_U + 0.5) + 1)
  for exists_CxU in _exists(sequences, columns_V, len(n_U)):
    yield (exists_CxU @ (counts_UxK * idf_U[:, None])).T


def bm25(
  sequences: sequences_lib.Sequences, queries: Sequence[ArrayLike]
) -> Iterator[np.ndarray]:
  """BM25 of all queries and of each chunk of sequences in turn, [K, C]."""
  columns_V, counts_UxK = _columns(sequences, queries)
  num = len(counts_UxK)
  import bm25s  # here: it starts JAX's devices, `processes.start` comes first

  index = bm25s.BM25(k1=1.5, b=0.75, method='lucene').build_index_from_ids(
    range(num + 1), _Rows(sequences, columns_V), show_progress=False
  )
  arrays = tuple(index[name] for name in ('data', 'indices', 'indptr'))
  weights = sparse.csc_array(arrays, shape=(len(sequences), num + 1))
  weights_NxU = weights[:, :num].tocsr()
  for start in range(0, len(sequences), CHUNK):
    yield (weights_NxU[start : start + CHUNK] @ counts_UxK).T


def top(scores: Iterable[np.ndarray], per_query: int) -> np.ndarray:
  """The columns of each row's largest scores, best first, [K, M] int64.

  Args:
    scores: [K, C] of each chunk in turn. Of equal scores the first comes first.
    per_query: M, unless there are fewer columns.
  """
  best, numbers, start = [], [], 0
  for scores_KxC in scores:
    new = start + np.indices(scores_KxC.shape)[1]
    start += scores_KxC.shape[1]
    best, numbers = np.hstack([*best, scores_KxC]), np.hstack([*numbers, new])
    order = np.argsort(-best, axis=1, kind='stable')[:, :per_query]
    best = [np.take_along_axis(best, order, axis=1)]
    numbers = [np.take_along_axis(numbers, order, axis=1)]
  return numbers[0]


def _columns(sequences, queries) -> tuple[np.ndarray, np.ndarray]:
  """Each token's column, [V], and how often each query has it, [U, K].

  The column is U if no query has the token, and -1 for borders of rows.
  """
  vocab_size, borders = sequences.info['vocab_size'], sequences.borders
  asked = [np.asarray(query, np.int64) for query in queries]
  asked = [tokens[~np.isin(tokens, borders)] for tokens in asked]
  for k, tokens in enumerate(asked):
    if not len(tokens) or tokens.min() < 0 or tokens.max() >= vocab_size:
      raise ValueError(
        f'query {k} has the tokens {tokens.tolist()}, expected some, each from '
        f"0 to {vocab_size - 1}; encode it with the corpus's tokenizer"
      )
  asked_U = np.unique(np.concatenate(asked))
  columns_V = np.full(vocab_size, len(asked_U))
  columns_V[asked_U] = np.arange(len(asked_U))
  columns_V[borders] = -1
  counts = [np.bincount(columns_V[t], minlength=len(asked_U)) for t in asked]
  return columns_V, np.stack(counts, axis=1).astype(np.float64)


def _exists(sequences, columns_V, num_columns) -> Iterator[sparse.csr_array]:
  """[C, U] of each chunk: 1 where the sequence has the token, else 0."""
  for start in range(0, len(sequences), CHUNK):
    records = sequences.records[start : start + CHUNK]
    stop = records['start'][-1] + records['size'][-1]
    columns = columns_V[sequences.tokens[records['start'][0] : stop]]
    rows = np.repeat(np.arange(len(records)), records['size'])
    asked = (0 <= columns) & (columns < num_columns)
    exists_CxU = sparse.csr_array(
      (np.ones(asked.sum()), (rows[asked], columns[asked])),
      shape=(len(records), num_columns),
    )
    exists_CxU.data[:] = 1
    yield exists_CxU


class _Rows:
  """The sequences' columns as bm25s wants them, read anew by each iteration."""

  def __init__(self, sequences, columns_V):
    self._sequences, self._columns_V = sequences, columns_V

  def __len__(self) -> int:
    return len(self._sequences)

  def __iter__(self) -> Iterator[list[int]]:
    for n in range(len(self)):
      columns = self._columns_V[self._sequences.row(n)]
      yield columns[columns >= 0].tolist()
