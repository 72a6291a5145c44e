"""Are the copies of a memorised passage found? Recall by number of copies.

  python -m experiments.memorization --config=configs/memorization.py \
    --workdir=runs/planted

Sec. 5.3.3 and Fig. 22 of Grosse et al. 2023, where the truth is known: passages
planted in 1 to 32 documents of the corpus (data.planted). A query is the first
half of a passage, its completion the second. A document's score is that of its
best sequence; recall is the share of the passage's k documents among the k of
largest score, for each of config.memorization.methods: approximations in
config.score.folder, or bm25, which knows words alone. Controls are passages
that were never planted. Claim, fixed in advance, of the first method; a query
counts with the mean over models:

  E9  mean recall of planted passages >= 0.9 (the paper: the top sequences
      contain the passage, at all sizes)

That a passage is memorised shows in the loss of its completion, against that of
controls. Writes WORKDIR/memorization/result.json and memorization.png. A few
seconds a model.
Sections read: score, memorization, ladder.
"""

import os
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import rich
from ml_collections import ConfigDict

from experiments import (
  agreement,
  claims,
  common,
  ladder,
  memorization_figure,
  scored,
)
from influence_jax import store
from influence_jax.data import candidates
from influence_jax.data import queries as queries_lib
from influence_jax.data import sequences as sequences_lib
from influence_jax.data import tokenizer as tokenizer_lib
from influence_jax.report import figures

_LEAST_RECALL = 0.9  # E9


class Passages(NamedTuple):
  """What the M queries of the class `memorised` ask for."""

  places: list[int]  # in the file of queries
  queries: list[str]  # ids
  names: list[str]
  copies: list[int]  # 0 is a control
  documents: list[list[int]]  # ids


def run(config: ConfigDict, workdir: str | os.PathLike) -> dict:
  workdir, section = pathlib.Path(workdir), config.memorization
  truth = read_truth(workdir)
  rungs = ladder.finished(config, workdir, section.sizes)
  found = [_measure(rung, truth, section.methods) for rung in rungs]
  asked, rows = found[0][0], [row for _, row in found]
  theirs = [[*zip(*x, strict=True)] for x, _ in found]
  scored.check_alike(rungs, 'passages', theirs)
  result = {
    **common.provenance('experiments.memorization', config),
    'passages': asked._asdict(),
    'rungs': rows,
    'claims': claimed(asked.copies, rows, section.methods[0], rungs),
  }
  store.write_json(workdir / 'memorization' / 'result.json', result)
  drawn = memorization_figure.draw(asked.copies, rows)
  figures.save(drawn, workdir / 'memorization' / 'memorization.png')
  rich.print(memorization_figure.recall_table(asked.copies, rows))
  rich.print(memorization_figure.best_table(asked.copies, rows))
  rich.print(claims.render(result['claims']))
  return result


def read_truth(workdir: pathlib.Path) -> dict:
  """What train_ladder wrote of a planted corpus; ValueError if it did not."""
  path = workdir / 'truth.json'
  if not path.exists():
    raise ValueError(
      f'no {path}: expected the truth about a planted corpus; run experiments.'
      'train_ladder with configs/ladder_planted.py'
    )
  return store.read_json(path)


def passages(queries: Sequence[queries_lib.Query], truth: dict) -> Passages:
  """What the queries of the class `memorised` ask for.

  Raises:
    ValueError: there are none, or they are of another corpus than the truth.
  """
  classes = queries_lib.labels(queries, 'class')
  places = [n for n, name in enumerate(classes) if name == 'memorised']
  asked = [queries[n] for n in places]
  names = queries_lib.labels(asked, 'passage')
  copies = list(map(int, queries_lib.labels(asked, 'copies')))
  documents = [
    truth['passages'].get(name, {}).get('documents') for name in names
  ]
  for query, num, found in zip(asked, copies, documents, strict=True):
    if found is None or len(found) != num:
      raise ValueError(
        f'query {query.id!r} is of {query.labels}, but truth.json has '
        f'{found and len(found)} documents of this passage: score again with '
        "the corpus's own queries.jsonl"
      )
  if not any(copies):
    raise ValueError(
      f'no query is of a planted passage: expected some of class memorised '
      f'with 1 or more copies, got the classes {sorted({*classes})}'
    )
  return Passages(
    places, [query.id for query in asked], names, copies, documents
  )


def by_document(
  scores_KxC: np.ndarray, documents_C: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Ids of the documents, ascending [D], and their best sequence's [K, D]."""
  order_C = np.argsort(documents_C, kind='stable')
  documents_D, starts_D = np.unique(documents_C[order_C], return_index=True)
  best_KxD = np.maximum.reduceat(scores_KxC[:, order_C], starts_D, axis=1)
  return documents_D, best_KxD


def recall(
  scores_KxC: np.ndarray,
  documents_C: np.ndarray,
  planted: Sequence[Sequence[int]],
) -> list[float | None]:
  """Of each query's k planted documents, the share among its top k.

  None where nothing is planted. Of equal scores the smaller id comes first.
  """
  documents_D, best_KxD = by_document(scores_KxC, documents_C)
  order_KxD = np.argsort(-best_KxD, axis=1, kind='stable')
  return [
    np.isin(documents_D[order_D[: len(ids)]], ids).mean() if ids else None
    for order_D, ids in zip(order_KxD.tolist(), planted, strict=True)
  ]


def claimed(
  copies: Sequence[int],
  rows: Sequence[dict],
  method: str,
  rungs: Sequence[ladder.Rung],
) -> list[dict]:
  """E9 of rows with `recall`, one a model."""
  planted = np.asarray(copies) > 0
  recalls = [np.array(row['recall'][method])[planted] for row in rows]
  value = agreement.interval(np.mean(np.array(recalls, float), axis=0))
  statement = 'recall@k of a passage planted in k documents'
  name = memorization_figure.label(method)
  return [
    claims.claim(
      'E9', 'Fig. 22', f'{name}: {statement}', value, ('>=', _LEAST_RECALL),
      paper='the top sequences contain the passage', rungs=rungs,
    )
  ]  # fmt: skip


def _measure(rung, truth, methods) -> tuple[Passages, dict]:
  """The passages and what the rung's scores say of each."""
  sequences = sequences_lib.open(rung.workdir / 'sequences')
  tokenizer = tokenizer_lib.load(rung.workdir / 'tokenizer.json')
  folder = rung.workdir / rung.config.score.folder
  found = scored.load(folder, sequences)
  asked = passages(found.queries, truth)
  documents_C = sequences.records['document'][found.numbers]
  wanted = {n for ids in asked.documents for n in ids}
  if missing := wanted - {*documents_C.tolist()}:
    raise ValueError(
      f'{len(missing)} of {len(wanted)} planted documents are not in the '
      f'scores in {folder}: score again with config.score.num_sequences=None'
    )
  mine = found._replace(
    queries=[found.queries[n] for n in asked.places],
    scores=found.scores[:, asked.places],
  )
  scores = {
    name: _bm25(tokenizer, sequences, mine)
    if name == 'bm25'
    else mine.answer(name)
    for name in methods
  }
  main_KxC = scores[methods[0]]
  best_K = documents_C[main_KxC.argmax(1)].tolist()
  return asked, {
    'rung': rung.name,
    'size': rung.size,
    'recall': {
      name: recall(scores_KxC, documents_C, asked.documents)
      for name, scores_KxC in scores.items()
    },
    'top': main_KxC.max(1).tolist(),
    'top_is_planted': [
      best in ids for best, ids in zip(best_K, asked.documents, strict=True)
    ],
    **_losses(folder, tokenizer, mine.queries),
  }


def _bm25(tokenizer, sequences, mine: scored.Scored) -> np.ndarray:
  """[K, C] of the sequences that were scored; words are weighted by all."""
  tokens = scored.tokens(tokenizer, mine.queries)
  scores_KxN = np.hstack([*candidates.bm25(sequences, tokens)])
  return scores_KxN[:, mine.numbers]


def _losses(folder, tokenizer, queries) -> dict[str, list[float]]:
  """Nats of each completion, and a token of it."""
  path = folder / 'queries.json'
  if not path.exists():
    raise ValueError(
      f'no losses of the queries in {path}: run experiments.score'
    )
  known = {query['id']: query['loss'] for query in store.read_json(path)}
  losses = [known[query.id] for query in queries]
  texts = [query.completion for query in queries]
  lengths = map(len, tokenizer_lib.encode(tokenizer, texts))
  per_token = [x / num for x, num in zip(losses, lengths, strict=True)]
  return {'loss': losses, 'loss_per_token': per_token}


if __name__ == '__main__':
  common.main(run)
