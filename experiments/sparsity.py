"""From how many sequences does a completion come? Tails of influence scores.

  python -m experiments.sparsity --config=configs/sparsity.py \
    --workdir=runs/quickstart

Figs. 8 and 9 and Table 1 of Grosse et al. 2023, of the complete scores in
config.score.folder (score.matrix=True). The largest config.sparsity.share of
each query's scores are fitted by a power law and its rivals, see
influence_jax.tails; p is the share of samples from the fit that are farther
from theirs, a power law is rejected at 0.1. Claims, their bounds fixed in
advance:

  E7  more than half of the queries: p > 0.1; more than half: the power law has
      the least AIC of all families (the paper: p > 0.1 in 6 of 8)
  E8  at least 80 % of the queries: the top 1 % of sequences hold more of the
      positive influence than Gaussian scores would, 6.7 % (the paper: 12-52 %)

Writes WORKDIR/sparsity/result.json, tails.png and coverage.png.
Sections read: score, sparsity.
"""

import os
import pathlib

import numpy as np
import rich
from matplotlib import figure
from ml_collections import ConfigDict
from rich import box, table

from experiments import agreement, common, scored
from influence_jax import store, tails
from influence_jax.data import candidates
from influence_jax.data import sequences as sequences_lib
from influence_jax.data import tokenizer as tokenizer_lib
from influence_jax.report import curves, figures, style

_TOP = 0.01  # of the sequences, whose share of influence is claimed
_LEAST_P = 0.1


def run(config: ConfigDict, workdir: str | os.PathLike) -> dict:
  workdir, section = pathlib.Path(workdir), config.sparsity
  sequences = sequences_lib.open(workdir / 'sequences')
  found = scored.load(workdir / config.score.folder, sequences)
  queries, scores_KxN = found.queries, found.scores[0]
  tokenizer = tokenizer_lib.load(workdir / 'tokenizer.json')
  chosen_KxM = candidates.choose(
    sequences=sequences,
    queries=scored.tokens(tokenizer, queries),
    **section.filter,
  )
  names = [query.id for query in queries]
  fitted = [tails.fit(scores, section.share) for scores in scores_KxN]
  rows = [
    {'query': name, **_row(tail, scores, section)}
    for name, tail, scores in zip(names, fitted, scores_KxN, strict=True)
  ]
  result = {
    **common.provenance('experiments.sparsity', config),
    'sequences': scores_KxN.shape[1],
    'queries': rows,
    'claims': claims(rows),
  }
  folder = workdir / 'sparsity'
  store.write_json(folder / 'result.json', result)
  filtered_KxM = np.take_along_axis(scores_KxN, chosen_KxM, axis=1)
  drawn = draw(names, scores_KxN, filtered_KxM, fitted)
  figures.save(drawn, folder / 'tails.png')
  figures.save(figures.coverage(scores_KxN, names), folder / 'coverage.png')
  for view in (_table(rows), _claims_table(result['claims'])):
    rich.print(view)
  return result


def claims(rows: list[dict]) -> list[dict]:
  """E7 and E8: value is [share of the queries, low, high], held if it passes.

  `threshold` is the least share, itself included in E8 alone.
  """
  fits = agreement.share([row['p'] > _LEAST_P for row in rows])
  best = agreement.share([row['best'] == 'power law' for row in rows])
  null = float(curves.gaussian_held(_TOP))
  sparse = agreement.share([row['held'] > null for row in rows])
  return [
    _claim(
      'E7a', 'Table 1', f'KS p > {_LEAST_P:g}', fits, 0.5, fits[0] > 0.5
    ),
    _claim(
      'E7b', 'Fig. 8', 'the power law has the least AIC', best, 0.5,
      best[0] > 0.5,
    ),
    _claim(
      'E8', 'Fig. 9', f'top {_TOP:.0%} hold more than {null:.1%}', sparse, 0.8,
      sparse[0] >= 0.8,
    ),
  ]  # fmt: skip


@style.SETTINGS
def draw(
  names: list[str],
  scores_KxN: np.ndarray,
  filtered_KxM: np.ndarray,
  fitted: list[tails.Tail],
) -> figure.Figure:
  """Share of positive scores >= x, log-log, a panel a query (Fig. 8).

  Unfiltered, of a filter's candidates, and the power law fitted to the former.
  """
  columns = min(4, len(names))
  rows = -(-len(names) // columns)
  fig = figure.Figure((2.3 * columns, 2.0 * rows + 0.3))
  panels = fig.subplots(rows, columns, squeeze=False)
  panels = panels.ravel()
  for panel in panels[len(names) :]:
    panel.remove()
  for panel, name, scores, filtered, tail in zip(
    panels, names, scores_KxN, filtered_KxM, fitted, strict=False
  ):
    x, share = curves.ccdf(scores)
    panel.plot(*curves.ccdf(filtered), ':', color=style.GREY, label='TF-IDF')
    panel.plot(x, share, color=style.NEGATIVE, label='unfiltered')
    at_min = (x > tail.x_min).mean()
    ends = np.array([tail.x_min, tail.scores[0]])
    panel.plot(
      ends, at_min * (ends / tail.x_min) ** -tail.alpha, '--',
      color=style.POSITIVE, label='power law',
    )  # fmt: skip
    panel.set(xscale='log', yscale='log')
    panel.set(xlim=(np.quantile(x, 0.01), None))
    panel.set_title(
      f'{style.label(name, 18)}  α = {tail.alpha:.2f}', fontsize=8
    )
  fig.supxlabel('score (nats)', fontsize=9)
  fig.supylabel('share of positive scores ≥ x', fontsize=9)
  handles, labels = panels[0].get_legend_handles_labels()
  fig.legend(handles, labels, loc='outside upper right', ncols=3)
  return fig


def _row(tail, scores, section) -> dict:
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


def _claim(name, place, statement, share, threshold, held) -> dict:
  return {
    'id': name, 'figure': place, 'statement': f'{statement}: share of queries',
    'value': share[0], 'interval': share[1:], 'threshold': threshold,
    'held': bool(held),
  }  # fmt: skip


def _table(rows) -> table.Table:
  view = table.Table(
    title=f'tails of {rows[0]["num"]} scores; AIC behind the best family',
    title_justify='left', box=box.SIMPLE_HEAD, pad_edge=False,
  )  # fmt: skip
  view.add_column('query', overflow='fold')
  for name in ('x min', 'alpha', 'p', 'best', 'behind', 'top 1 %'):
    view.add_column(name, justify='right', no_wrap=True)
  for row in rows:
    view.add_row(
      row['query'], f'{row["x_min"]:.3g}',
      f'{row["alpha"]:.2f} ± {row["alpha_error"]:.2f}', f'{row["p"]:.2f}',
      row['best'], f'{row["aic_behind"]:.0f}', f'{row["held"]:.0%}',
    )  # fmt: skip
  return view


def _claims_table(found) -> table.Table:
  view = table.Table(
    'claim', 'statement', 'value (95 %)', 'asked for', 'held',
    box=box.SIMPLE_HEAD, pad_edge=False,
  )  # fmt: skip
  for one in found:
    low, high = one['interval']
    view.add_row(
      one['id'], one['statement'],
      f'{one["value"]:.0%} ({low:.0%}-{high:.0%})', f'{one["threshold"]:.0%}',
      'yes' if one['held'] else 'NO',
    )  # fmt: skip
  return view


if __name__ == '__main__':
  common.main(run)
