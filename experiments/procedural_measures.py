"""What experiments.procedural measures of a model, and its means by class."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from experiments import scored
from influence_jax.data import candidates, planted_sums
from influence_jax.data import queries as queries_lib

PROCEDURES, FACTS = ('sum', 'difference'), ('lookup', 'office')
CLASSES = (*PROCEDURES, *FACTS, 'memorised', 'control', 'simple')
KINDS = ('lead', 'memorised', 'office', 'lookup', 'difference', 'sum')
GUESS = float(np.log(planted_sums.MODULUS))  # loss of a guess, nats


class Measured(NamedTuple):
  """Of one model, or the mean over models."""

  pearson_KxK: np.ndarray
  spearman_KxK: np.ndarray
  answer_K: np.ndarray  # recall of facts, excess of procedures, else NaN
  kind_KxJ: np.ndarray  # share of each of KINDS in the top documents
  loss_K: np.ndarray  # of the completion, nats; NaN if it is not known


def classify(queries: Sequence[queries_lib.Query]) -> list[str]:
  """One of CLASSES a query; ValueError if it has another."""
  found = [
    'control' if query.labels.get('copies') == '0' else name
    for query, name in zip(
      queries, queries_lib.labels(queries, 'class'), strict=True
    )
  ]
  if unknown := {*found} - {*CLASSES}:
    raise ValueError(
      f'queries are of the classes {sorted(unknown)}, expected some of '
      f'{CLASSES}: this study is of the queries of the planted corpus'
    )
  return found


def measure(
  found: scored.Scored,
  documents_C: np.ndarray,
  loss_K: np.ndarray,
  truth: Mapping[str, Any],
  num_top: int,
) -> Measured:
  """All numbers of a model.

  Args:
    documents_C: ids of the scanned sequences' documents.
    loss_K: of the completions.
    truth: as data.planted.truth gives it.

  Raises:
    ValueError: scores are not finite or all the same, or no document with the
      answer was scanned.
  """
  ids_D, scores_KxD = by_document(found.scores[0], documents_C)
  bad = [
    query.id
    for query, scores in zip(found.queries, scores_KxD, strict=True)
    if not (np.isfinite(scores).all() and np.ptp(scores) > 0)
  ]
  if bad:
    raise ValueError(
      f'scores of {bad[:3]} are not finite or all the same, expected numbers '
      'that differ; look at factor_health.json and score again'
    )
  kind_D = np.array([_kind(truth, n) for n in ids_D])
  top_KxM = candidates.top([scores_KxD], num_top)
  scanned = {*ids_D.tolist()}
  answer_K = [
    recall(query, {*ids_D[top_M].tolist()}, scanned, truth)
    for query, top_M in zip(found.queries, top_KxM, strict=True)
  ]
  kind_KxJ = [(kind_D[top_KxM] == kind).mean(axis=1) for kind in KINDS]
  return Measured(
    np.corrcoef(scores_KxD),
    np.corrcoef(stats.rankdata(scores_KxD, axis=1)),
    np.array(answer_K),
    np.stack(kind_KxJ, axis=1),
    loss_K,
  )


def by_document(
  scores_KxC: np.ndarray, documents_C: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Ids of the documents, ascending, [D], and sums of their scores, [K, D]."""
  ids_D, place_C = np.unique(documents_C, return_inverse=True)
  sums = [np.bincount(place_C, scores_C) for scores_C in scores_KxC]
  return ids_D, np.stack(sums)


def recall(
  query: queries_lib.Query,
  top: set[int],
  scanned: set[int],
  truth: Mapping[str, Any],
) -> float:
  """Of a fact the recall of its documents, of a procedure the excess; or NaN.

  Args:
    top: ids of the query's first documents.
    scanned: ids of all that have scores.
  """
  kind = query.labels['class']
  if kind not in (*PROCEDURES, *FACTS):
    return np.nan
  if kind in FACTS:
    (name,) = queries_lib.labels([query], 'fact')
    bearing = {*truth['facts'][name]['documents']} & scanned
    of_kind = set()  # nothing is taken off
  else:
    of_kind = {n for n in scanned if _kind(truth, n) == kind}
    (digit,) = queries_lib.labels([query], 'answer')
    bearing = {n for n in of_kind if digit in _answers(truth, n)}
  if not bearing:
    raise ValueError(
      f'no document that bears the answer of query {query.id!r} was scanned, '
      'expected some: score all sequences, config.score.num_sequences=None'
    )
  by_chance = len(top & of_kind) * len(bearing) / max(len(of_kind), 1)
  return (len(top & bearing) - by_chance) / min(len(top), len(bearing))


def distinct(queries: Sequence[queries_lib.Query]) -> np.ndarray:
  """Which pairs count, [K, K] bool: not those of one fact or passage."""
  names = np.array(
    [
      query.labels.get('fact') or query.labels.get('passage') or query.id
      for query in queries
    ]
  )
  return names[:, None] != names


def by_class(classes: Sequence[str]) -> dict[str, np.ndarray]:
  """{class: places of its queries}, those that there are, in CLASSES' order."""
  names = np.array(classes)
  return {x: np.flatnonzero(names == x) for x in CLASSES if x in classes}


def means(
  r_KxK: np.ndarray, classes: Sequence[str], distinct_KxK: np.ndarray
) -> np.ndarray:
  """Means within and across the classes that there are, in CLASSES' order.

  NaN where a class has no pair.
  """
  rows = by_class(classes).values()
  return np.array(
    [[mean(r_KxK, distinct_KxK, a, b) for b in rows] for a in rows]
  )


def summary(
  one: Measured, classes: Sequence[str], distinct_KxK: np.ndarray
) -> dict:
  """{class: means over its queries}; None where there is nothing to average."""
  rows = by_class(classes)
  r = {
    name: means(x_KxK, classes, distinct_KxK)
    for name, x_KxK in (
      ('pearson', one.pearson_KxK), ('spearman', one.spearman_KxK),
    )
  }  # fmt: skip
  return {
    name: {
      'queries': len(own),
      'loss': plain(one.loss_K[own].mean()),
      'guess': GUESS if name in PROCEDURES else None,
      'answer': plain(one.answer_K[own].mean()),
      'kinds': dict(
        zip(KINDS, one.kind_KxJ[own].mean(axis=0).tolist(), strict=True)
      ),
      **{
        key: dict(zip(rows, map(plain, x_GxG[g]), strict=True))
        for key, x_GxG in r.items()
      },
    }
    for g, (name, own) in enumerate(rows.items())
  }


def plain(x: float) -> float | None:
  """As JSON holds it."""
  return None if np.isnan(x) else float(x)


def mean(r_KxK, distinct_KxK, rows, columns) -> float:
  """Of the pairs that count; NaN if none does."""
  place = np.ix_(rows, columns)
  kept = r_KxK[place][distinct_KxK[place]]
  return float(kept.mean()) if kept.size else np.nan


def _kind(truth, document: int) -> str:
  return truth['documents'].get(str(document), {'kind': 'lead'})['kind']


def _answers(truth, document: int) -> set[str]:
  """Digits that answer the problems of a document of a procedure."""
  entry = truth['documents'][str(document)]
  return {
    str(planted_sums.answer(entry['kind'], *pair)) for pair in entry['problems']
  }
