"""How many sequences does an unfiltered search need to match one by TF-IDF?

  python -m experiments.tfidf_search --config=configs/tfidf_search.py \
    --workdir=runs/english

After Sec. 5.2.2 of Grosse et al. 2023, of the complete scores in
config.score.folder of each model of config.tfidf_search.sizes, or of the
workdir's own model without a ladder. TF-IDF chooses `per_query` of the scanned
sequences. How many must be looked at, without a filter, until 10 have at least
the score of its 10th best? The paper asks the power law fitted to the tail, n
such that n P(x >= score) = 10; here the scan itself knows, too: the mean over
all orders. TF-IDF's own 10 are in the scan, so it is always reached; where
no others are, the scan says 10 (N + 1) / 11, a tenth less than a perfect fit.
Below the tail the law says nothing: n is at most 10 / share, and no ratio is
taken.

The scan is a sample that both searches see. What a filter of a larger corpus
would find beyond it, as in the paper, is not in these numbers. Claim, its bound
fixed in advance; over several models a query counts with their mean:

  E18  more than 10 % of the unfiltered top `num_true` are not among TF-IDF's
       `per_query` (the paper: without a number)

Writes WORKDIR/tfidf_search/: a file a model, result.json and tfidf_search.png.
Seconds a model; goes on after the last one that is done.
Sections read: score, tfidf_search, ladder.
"""

import os
import pathlib
import statistics
from collections.abc import Mapping, Sequence

import numpy as np
import rich
from ml_collections import ConfigDict
from rich import table

from experiments import (
  agreement,
  claims,
  common,
  filter_recall,
  ladder,
  parts,
  scored,
  tfidf_search_figure,
)
from influence_jax import store, tails
from influence_jax.data import candidates
from influence_jax.report import figures, terminal

NUM = 10  # the best of TF-IDF's that are to be matched
_MISSING = ('>', 0.1)


def run(config: ConfigDict, workdir: str | os.PathLike) -> dict:
  workdir, section = pathlib.Path(workdir), config.tfidf_search
  folder = workdir / 'tfidf_search'
  rungs = ladder.finished(config, workdir, section.sizes)
  done = [_part(rung, section, folder) for rung in rungs]
  kept = _kept(rungs, done)
  rows = [
    {'rung': rung.name, 'size': rung.size, **row}
    for rung, part in zip(rungs, done, strict=True)
    for row in part['queries']
  ]
  recall_Px3 = np.quantile(_recall(rows), (0.25, 0.5, 0.75), axis=0).T
  for row in rows:
    del row['recall']
  by_model = {
    rung.name: [row for row in rows if row['rung'] == rung.name]
    for rung in rungs
  }
  result = {
    **common.provenance('experiments.tfidf_search', config),
    'scanned': kept[-1],
    'queries': rows,
    'summary': {
      name: summary(own) for name, own in {**by_model, 'all': rows}.items()
    },
    'kept': kept,
    'recall': recall_Px3.tolist(),
    'claims': claimed(rows, rungs, section),
  }
  store.write_json(folder / 'result.json', result)
  fig = tfidf_search_figure.draw(
    rows, kept, recall_Px3,
    num_matched=NUM, num_true=section.num_true, per_query=section.per_query,
  )  # fmt: skip
  figures.save(fig, folder / 'tfidf_search.png')
  rich.print(_table(result['summary']))
  rich.print(claims.render(result['claims']))
  return result


def claimed(
  rows: Sequence[dict], rungs: Sequence[ladder.Rung], section: ConfigDict
) -> list[dict]:
  """E18 of rows with `query` and `missing`, one a model."""
  value = agreement.interval(scored.by_query(rows, lambda row: row['missing']))
  return [
    claims.claim(
      'E18', 'Sec. 5.2.2',
      f'of the unfiltered top {section.num_true}, not among the '
      f'{section.per_query} by TF-IDF',
      value, _MISSING, paper='TF-IDF hides abstract matches', rungs=rungs,
      form='.0%',
    )
  ]  # fmt: skip


def search(
  found: scored.Scored, order_KxC: np.ndarray, section: ConfigDict
) -> dict:
  """A row a query, with its recall among the first `kept` of the order.

  Args:
    order_KxC: columns of the scores in TF-IDF's order, best first.
    section: config.tfidf_search.
  """
  scores_KxC, num = found.scores[0], order_KxC.shape[1]
  true_KxM = candidates.top([scores_KxC], section.num_true)
  grid = np.geomspace(1, num, section.num_points).round().astype(int)
  kept = np.unique([*grid, section.per_query])
  recall_KxP = filter_recall.recall(order_KxC, true_KxM, kept)
  missing_K = 1 - recall_KxP[:, kept == section.per_query][:, 0]
  rows = [
    {
      'query': query.id,
      **_required(scores, order[: section.per_query], section.share),
      'missing': missing,
      'recall': recall.tolist(),
    }
    for query, scores, order, missing, recall in zip(
      found.queries, scores_KxC, order_KxC, missing_K.tolist(), recall_KxP,
      strict=True,
    )
  ]  # fmt: skip
  return {'kept': kept.tolist(), 'queries': rows}


def summary(rows: Sequence[dict]) -> dict:
  """Quartiles over the rows; of the ratio over those in the tail, or None."""
  within = [row for row in rows if row['in_tail']]
  ratios = [row['fit'] / row['scan'] for row in within]
  return {
    'num': len(rows),
    'below_tail': len(rows) - len(within),
    'fit': _quartiles([row['fit'] for row in rows]),
    'scan': _quartiles([row['scan'] for row in rows]),
    'ratio': _quartiles(ratios) if ratios else None,
    'missing': statistics.fmean(row['missing'] for row in rows),
  }


def _part(rung, section, folder) -> dict:
  sequences, found, origin = scored.of_rung(rung)
  num = len(found.numbers)
  if not NUM <= section.per_query < num or section.num_true > num:
    raise ValueError(
      f'per_query={section.per_query} and num_true={section.num_true} of {num} '
      f'sequences scanned by {rung.name}: expected per_query of {NUM} to '
      f'{num - 1} and num_true of no more than {num}; change '
      'config.tfidf_search, or score more sequences'
    )
  keys = ('share', 'per_query', 'num_true', 'num_points')
  origin |= {key: section[key] for key in keys}

  def find() -> dict:
    order_KxC = scored.filtered_order('tf_idf', rung, sequences, found)
    return search(found, order_KxC, section)

  return parts.part(folder / f'{rung.name}.json', origin, find)


def _required(scores_C, chosen_M, share) -> dict:
  """How many sequences match the 10th best of the columns chosen."""
  tail = tails.fit(scores_C, share)
  score = float(np.sort(scores_C[chosen_M])[-NUM])
  return {
    'score': score,
    'alpha': tail.alpha,
    'in_tail': score >= tail.x_min,
    'fit': tails.scanned_for(tail, score, NUM),
    'scan': tails.scanned_until(scores_C, score, NUM),
  }


def _kept(rungs, done) -> list[int]:
  """Numbers of candidates at which recall is known, in all models alike."""
  kept = [part['kept'] for part in done]
  if kept.count(kept[0]) < len(kept):
    scans = {rung.name: x[-1] for rung, x in zip(rungs, kept, strict=True)}
    raise ValueError(
      f'numbers of sequences scanned are {scans}: expected the same in all '
      'models; score again with one config.score.num_sequences'
    )
  return kept[0]


def _recall(rows) -> np.ndarray:
  """Mean over the models, [K, P]."""
  return np.array(
    [
      np.mean([row['recall'] for row in found], axis=0)
      for found in scored.grouped(rows).values()
    ]
  )


def _quartiles(values: Sequence[float]) -> list[float]:
  return np.quantile(values, (0.25, 0.5, 0.75)).tolist()


def _table(found: Mapping[str, dict]) -> table.Table:
  view = terminal.table(
    f'unfiltered sequences that match {NUM} by TF-IDF: medians;\n'
    'quartiles of the ratio; how many of TF-IDF are below the tail',
    'model', 'searches', 'below', 'by fit', 'by scan', 'fit / scan', 'missed',
  )  # fmt: skip
  for name, one in found.items():
    low, median, high = one['ratio'] or [float('nan')] * 3
    view.add_row(
      name, str(one['num']), str(one['below_tail']),
      f'{one["fit"][1]:,.0f}', f'{one["scan"][1]:,.0f}',
      agreement.shown((median, low, high), '.2f'), f'{one["missing"]:.0%}',
    )  # fmt: skip
  return view


if __name__ == '__main__':
  common.main(run)
