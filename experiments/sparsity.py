"""From how many sequences does a completion come? Tails of influence scores.

  python -m experiments.sparsity --config=configs/sparsity.py \
    --workdir=runs/english

Figs. 8 and 9 and Table 1 of Grosse et al. 2023, of the complete scores in
config.score.folder (score.matrix=True) of each model of config.sparsity.sizes,
or of the workdir's own model without a ladder (configs/sparsity_quickstart.py).
The largest config.sparsity.share of each query's scores are fitted by a power
law and its rivals, see influence_jax.tails; p is the share of samples from the
fit that are farther from theirs, a power law is rejected at 0.1. Claims, their
bounds fixed in advance; over several models a query counts with the share of
them in which it passes:

  E7  more than half of the queries: p > 0.1; more than half: the power law has
      the least AIC of all families (the paper: p > 0.1 in 6 of 8)
  E8  at least 80 % of the queries: the top 1 % of sequences hold more of the
      positive influence than Gaussian scores would, 6.7 % (the paper: 12-52 %)

Writes WORKDIR/sparsity/: a file a model with all fits, result.json, and, of the
largest model's first seed, tails.png (num_panels queries, evenly spread) and
coverage.png. Less than a second a query and model; goes on after the last model
that is done.
Sections read: score, sparsity, ladder.
"""

import os
import pathlib
import statistics
from collections.abc import Sequence

import numpy as np
import rich
from ml_collections import ConfigDict
from rich import table

from experiments import (
  agreement,
  claims,
  common,
  ladder,
  parts,
  scored,
  sparsity_figure,
)
from influence_jax import store, tails
from influence_jax.data import batches as batches_lib
from influence_jax.report import curves, figures, terminal

_TOP = 0.01  # of the sequences, whose share of influence is claimed
_LEAST_P = 0.1
_NULL = float(curves.gaussian_held(_TOP))


def run(config: ConfigDict, workdir: str | os.PathLike) -> dict:
  workdir, section = pathlib.Path(workdir), config.sparsity
  folder = workdir / 'sparsity'
  rungs = ladder.finished(config, workdir, section.sizes)
  rows = [row for rung in rungs for row in _rows(rung, section, folder)]
  shown = ladder.largest_rung(config, rungs)
  result = {
    **common.provenance('experiments.sparsity', config),
    'shown': shown.name,
    'queries': rows,
    'claims': claimed(rows, rungs),
  }
  store.write_json(folder / 'result.json', result)
  _write_figures(shown, section, folder)
  rich.print(_table(rows, len(rungs)))
  rich.print(claims.render(result['claims']))
  return result


def claimed(rows: Sequence[dict], rungs: Sequence[ladder.Rung]) -> list[dict]:
  """E7 and E8 of rows with `query`, `p`, `best` and `held`, one a model."""

  def claim(name, place, statement, test, threshold, paper) -> dict:
    value = agreement.interval(scored.by_query(rows, test))
    return claims.claim(
      name, place, f'{statement}: share of queries', value, threshold,
      paper=paper, rungs=rungs, form='.0%',
    )  # fmt: skip

  return [
    claim(
      'E7a', 'Table 1', f'KS p > {_LEAST_P:g}', lambda row: row['p'] > _LEAST_P,
      ('>', 0.5), '6 of 8 queries',
    ),
    claim(
      'E7b', 'Fig. 8', 'the power law has the least AIC',
      lambda row: row['best'] == 'power law', ('>', 0.5), 'most of 8 queries',
    ),
    claim(
      'E8', 'Fig. 9', f'top {_TOP:.0%} hold more than {_NULL:.1%}',
      lambda row: row['held'] > _NULL, ('>=', 0.8), 'all: they hold 12-52 %',
    ),
  ]  # fmt: skip


def _rows(rung, section, folder) -> list[dict]:
  """A row a query, from the rung's file of all fits; of rivals AIC alone."""
  _, found, origin = scored.of_rung(rung)
  keys = {name: section[name] for name in ('share', 'num_draws', 'seed')}

  def fit() -> dict:
    pairs = zip(found.queries, found.scores[0], strict=True)
    return {
      'queries': [
        {'query': query.id, **_row(query, scores, rung, section)}
        for query, scores in pairs
      ]
    }

  done = parts.part(folder / f'{rung.name}.json', {**origin, **keys}, fit)
  return [
    {
      'rung': rung.name,
      **row,
      'rivals': {name: one['aic'] for name, one in row['rivals'].items()},
    }
    for row in done['queries']
  ]


def _row(query, scores, rung, section) -> dict:
  try:
    tail = tails.fit(scores, section.share)
  except ValueError as error:
    raise ValueError(f'query {query.id!r} of {rung.name}: {error}') from error
  distance, p = tails.ks(tail, section.num_draws, section.seed)
  rivals = tails.rivals(tail)
  least = min(rivals, key=lambda name: rivals[name]['aic'])
  top, held = curves.held(scores)
  return {
    'num': len(tail.scores),
    'x_min': tail.x_min,
    'largest': float(tail.scores[0]),
    'alpha': tail.alpha,
    'alpha_error': tail.error,
    'ks': distance,
    'p': p,
    'best': least,
    'aic_behind': rivals['power law']['aic'] - rivals[least]['aic'],
    'rivals': rivals,
    'held': float(np.interp(_TOP, top, held)),
  }


def _write_figures(rung, section, folder) -> None:
  sequences, found, _ = scored.of_rung(rung)
  names, scores_KxN = [query.id for query in found.queries], found.scores[0]
  figures.save(figures.coverage(scores_KxN, names), folder / 'coverage.png')
  num = min(section.num_panels, len(names))
  panels = batches_lib.spread(len(names), num)
  few = found._replace(queries=[found.queries[k] for k in panels])
  order_KxN = scored.filtered_order(section.filter.method, rung, sequences, few)
  scores_KxN = scores_KxN[panels]
  filtered_KxM = np.take_along_axis(
    scores_KxN, order_KxN[:, : section.filter.per_query], axis=1
  )
  fitted = [tails.fit(scores, section.share) for scores in scores_KxN]
  drawn = sparsity_figure.draw(
    [names[k] for k in panels], scores_KxN, filtered_KxM, fitted
  )
  figures.save(drawn, folder / 'tails.png')


def _table(rows, num_models) -> table.Table:
  view = terminal.table(
    f'tails of {rows[0]["num"]} scores, models: {num_models}; medians, '
    'and in how many models; AIC behind the best family',
    'query', 'x min', 'alpha', 'p', f'p > {_LEAST_P:g}', 'power law', 'behind',
    'top 1 %',
  )  # fmt: skip
  for name, found in scored.grouped(rows).items():
    x_min, alpha, p, behind, held = (
      statistics.median(row[key] for row in found)
      for key in ('x_min', 'alpha', 'p', 'aic_behind', 'held')
    )
    passed = sum(row['p'] > _LEAST_P for row in found)
    least = sum(row['best'] == 'power law' for row in found)
    view.add_row(
      name, f'{x_min:.3g}', f'{alpha:.2f}', f'{p:.2f}', str(passed), str(least),
      f'{behind:.0f}', f'{held:.0%}',
    )  # fmt: skip
  return view


if __name__ == '__main__':
  common.main(run)
