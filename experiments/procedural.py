"""Do answers of a procedure come from the same documents, and facts do not?

  python -m experiments.procedural --config=configs/procedural.py \
    --workdir=runs/planted

After Ruis et al. (2024), arXiv 2411.12580, on the planted corpus: sums and
differences modulo 5 are procedures, asked of operands that no document has;
lookups and offices are facts. The influence vector of a query is its scores
(the first answer of complete scores) over all scanned documents; a document's
score is the sum of its sequences', for influence adds up. Passages asked about
but never planted are a class of their own, 'control'. All numbers are means
over the models.

(a) Pearson's and Spearman's correlation of the vectors of two queries, within a
class and across. Pairs of one query, fact or passage with itself do not count.

  P1  Pearson: the mean over the pairs within 'sum' and that within
      'difference', the mean of the two, less the mean within 'lookup': > 0

(b) Recall of the answer: of the documents that bear it, how many are among the
first num_top = 20, as a share of min(20, those that bear it). A fact's are its
own documents in the truth. A procedure's are those of the same kind that give
the query's digit as the answer of one of their problems, whatever the operands:
that the answer shows up, as Ruis et al. count it, and no more. A fifth
of the kind do, so what chance would give is taken off before the division: the
documents of the kind among the first 20, times the share of the kind that bears
the digit. What is left is the excess; at most 1 less that share. A problem is
told in many documents of the same words, which have the same score: beware of
few problems behind 20 documents.

  P2  recall of facts (mean over the queries of 'lookup' and 'office') less the
      excess of procedures (mean over 'sum' and 'difference'): > 0

(c) The kinds of the first 20 documents.

Bounds and definitions were fixed before any score was seen. In the intervals
each class is drawn again for itself; pairs of a query with its own copy do not
count. A model says something of procedures only if it has learned them: one
that guesses has a loss of ln 5 = 1.6 nats on the digit, see the table of it.

Writes WORKDIR/procedural/result.json, correlations.png and kinds.png. Needs
WORKDIR/truth.json and no model; seconds a rung.
Sections read: score, ladder, procedural.
"""

import functools
import os
import pathlib
from collections.abc import Callable, Sequence

import numpy as np
import rich
from ml_collections import ConfigDict

from experiments import claims, common, ladder, procedural_figure, scored
from experiments import procedural_measures as measures
from influence_jax import store
from influence_jax.data import sequences as sequences_lib
from influence_jax.report import figures

_ABOVE_ZERO = ('>', 0)  # P1, P2
_NUM_DRAWS = 2000  # of the bootstrap


def run(config: ConfigDict, workdir: str | os.PathLike) -> dict:
  workdir, section = pathlib.Path(workdir), config.procedural
  folder, truth = workdir / 'procedural', _truth(workdir)
  rungs = ladder.finished(config, workdir, section.sizes)
  opened = [_open(rung) for rung in rungs]
  queries = opened[0][0].queries
  scored.check_alike(rungs, 'queries', [found.queries for found, *_ in opened])
  classes, pairs_KxK = measures.classify(queries), measures.distinct(queries)
  measured = [measures.measure(*one, truth, section.num_top) for one in opened]
  mean = measures.Measured(
    *(np.mean(x, axis=0) for x in zip(*measured, strict=True))
  )
  result = {
    **common.provenance('experiments.procedural', config),
    **_describe(mean, queries, classes),
    'rungs': [
      {'rung': rung.name, 'classes': measures.summary(one, classes, pairs_KxK)}
      for rung, one in zip(rungs, measured, strict=True)
    ],
    'mean': measures.summary(mean, classes, pairs_KxK),
    'claims': claimed(mean, classes, pairs_KxK, rungs, section.num_top),
  }
  store.write_json(folder / 'result.json', result)
  drawn = procedural_figure.pairs(mean.pearson_KxK, classes, pairs_KxK)
  figures.save(drawn, folder / 'correlations.png')
  drawn = procedural_figure.kinds(mean.kind_KxJ, classes, section.num_top)
  figures.save(drawn, folder / 'kinds.png')
  for view in procedural_figure.tables(result, section.num_top):
    rich.print(view)
  rich.print(claims.render(result['claims']))
  return result


def correlation_gap(
  r_KxK: np.ndarray, distinct_KxK: np.ndarray, *rows: np.ndarray
) -> float:
  """P1, of the rows of 'sum', 'difference' and 'lookup'."""
  within = [measures.mean(r_KxK, distinct_KxK, x, x) for x in rows]
  return (within[0] + within[1]) / 2 - within[2]


def answer_gap(answer_K: np.ndarray, *rows: np.ndarray) -> float:
  """P2, of the rows of 'sum', 'difference', 'lookup' and 'office'."""
  procedures, facts = np.concatenate(rows[:2]), np.concatenate(rows[2:])
  return float(answer_K[facts].mean() - answer_K[procedures].mean())


def interval(
  statistic: Callable, samples: Sequence[np.ndarray], seed: int = 0
) -> list[float]:
  """[statistic(*samples), low, high], 95 %, each sample drawn for itself."""
  rng = np.random.default_rng(seed)
  drawn = [
    statistic(*(rng.choice(x, len(x)) for x in samples))
    for _ in range(_NUM_DRAWS)
  ]
  ends = np.nanquantile(drawn, (0.025, 0.975))
  return [float(statistic(*samples)), *ends.tolist()]


def claimed(
  mean: measures.Measured,
  classes: Sequence[str],
  distinct_KxK: np.ndarray,
  rungs: Sequence[ladder.Rung],
  num_top: int,
) -> list[dict]:
  """P1 and P2; ValueError if a class has less than two queries."""
  asked = (*measures.PROCEDURES, *measures.FACTS)
  if few := {x: n for x in asked if (n := classes.count(x)) < 2}:
    raise ValueError(
      f'numbers of queries by class: {few}, expected two or more of each of '
      f'{asked}: ask for more in config.ladder.queries'
    )
  rows = measures.by_class(classes)
  of_pairs = functools.partial(correlation_gap, mean.pearson_KxK, distinct_KxK)
  of_answers = functools.partial(answer_gap, mean.answer_K)
  return [
    claims.claim(
      'P1', 'Ruis et al.', 'Pearson within procedures less within lookups',
      interval(of_pairs, [rows[x] for x in asked[:3]]), _ABOVE_ZERO,
      paper='procedures correlate, facts do not', rungs=rungs,
    ),
    claims.claim(
      'P2', 'Ruis et al.',
      f'answer in the top {num_top}: facts less procedures',
      interval(of_answers, [rows[x] for x in asked]), _ABOVE_ZERO,
      paper='it shows up for facts, hardly for reasoning', rungs=rungs,
    ),
  ]  # fmt: skip


def _truth(workdir: pathlib.Path) -> dict:
  path = workdir / 'truth.json'
  if not path.exists():
    raise ValueError(
      f'no {path}, expected what experiments.train_ladder writes of the '
      'planted corpus: this study needs a corpus of known truth; run that on '
      'configs/ladder_planted.py'
    )
  return store.read_json(path)


def _open(rung) -> tuple[scored.Scored, np.ndarray, np.ndarray]:
  """Scores, the sequences' documents [C], and losses of the completions [K]."""
  folder = rung.workdir / rung.config.score.folder
  sequences = sequences_lib.open(rung.workdir / 'sequences')
  found = scored.load(folder, sequences)
  loss_K = np.full(len(found.queries), np.nan)
  if (folder / 'queries.json').exists():
    loss_K = [
      query['loss'] for query in store.read_json(folder / 'queries.json')
    ]
  documents_C = sequences.records['document'][found.numbers]
  return found, documents_C, np.array(loss_K)


def _describe(mean, queries, classes) -> dict:
  """A row a query, and Pearson of every pair, of each query those before it."""
  return {
    'queries': [
      {
        'query': query.id,
        'class': name,
        'loss': measures.plain(mean.loss_K[k]),
        'answer': measures.plain(mean.answer_K[k]),
        'kinds': dict(
          zip(measures.KINDS, mean.kind_KxJ[k].tolist(), strict=True)
        ),
      }
      for k, (query, name) in enumerate(zip(queries, classes, strict=True))
    ],
    'pearson': [
      x_K[:k].round(4).tolist() for k, x_K in enumerate(mean.pearson_KxK)
    ],
  }


if __name__ == '__main__':
  common.main(run)
