"""Which rank is enough for a query's gradients?

  python -m experiments.low_rank --config=configs/low_rank.py \
    --workdir=runs/english

Sec. 3.2.2 and Fig. 3 of Grosse et al. 2023: the preconditioned gradient of each
query and weight matrix is cut to a low rank, and its scores over
config.compression.num_sequences sequences are compared with those of full rank.
Plain is the paper's, the singular values of the matrix itself; weighted is
ours, in the metric of the curvature. It is the part `rank` of
experiments.compression (the first of its methods), of each model of
config.low_rank.sizes, or of the workdir's own model without a ladder. Claims at
rank 32, their bounds fixed in advance:

  E5a  plain, median over the queries of Pearson, the mean over the models:
       >= 0.99 (the paper: 0.995, one query)
  E5b  plain, the least of any query and model: >= 0.95; no interval, the
       bootstrap has none for an extreme
  E5c, E5d  the same, weighted

Writes WORKDIR/low_rank/: a file a model, result.json and low_rank.png. Needs
models that are fitted and scored; goes on after the last one that is done.
Sections read: as experiments.compression; low_rank, ladder.
"""

import os
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
import rich
from matplotlib import figure
from ml_collections import ConfigDict
from rich import table

from experiments import (
  agreement,
  claims,
  common,
  compression,
  compression_figure,
  compression_parts,
  ladder,
  parts,
)
from influence_jax import store
from influence_jax.report import figures, style, terminal

RANK = 32
_MEDIAN, _LEAST = ('>=', 0.99), ('>=', 0.95)  # E5
_KINDS = {False: 'plain', True: 'weighted'}


def run(config: ConfigDict, workdir: str | os.PathLike) -> dict:
  workdir = pathlib.Path(workdir)
  folder = workdir / 'low_rank'
  ranks = list(config.compression.rank.ranks)
  if RANK not in ranks:
    raise ValueError(
      f'config.compression.rank.ranks is {ranks}, expected {RANK} among them: '
      'the claims are of that rank'
    )
  rungs = ladder.finished(config, workdir, config.low_rank.sizes)
  done = [_part(rung, folder) for rung in rungs]
  names = [query[0] for query in done[0]['origin']['queries']]
  pearson = {
    name: pearsons(done, ranks, weighted) for weighted, name in _KINDS.items()
  }
  result = {
    **common.provenance('experiments.low_rank', config),
    'queries': names,
    'ranks': ranks,
    # [models, queries, ranks]
    'pearson': {name: x.tolist() for name, x in pearson.items()},
    'scatter': done[0]['scatter'],
    'claims': claimed(pearson, ranks, rungs),
  }
  store.write_json(folder / 'result.json', result)
  drawn = draw(names, ranks, pearson, done[0]['scatter'])
  figures.save(drawn, folder / 'low_rank.png')
  rich.print(_table(ranks, pearson))
  rich.print(claims.render(result['claims']))
  return result


def pearsons(
  done: Sequence[Mapping], ranks: Sequence[int], weighted: bool
) -> np.ndarray:
  """Of each model's part, by query and rank, [R, K, X]; the first method's."""
  method = done[0]['rows'][0]['method']
  by_model = [
    {
      row['rank']: row['pearson']['per_query']
      for row in part['rows']
      if (row['weighted'], row['method']) == (weighted, method)
    }
    for part in done
  ]
  return np.array(
    [np.transpose([rows[rank] for rank in ranks]) for rows in by_model]
  )


def claimed(
  pearson: Mapping[str, np.ndarray],
  ranks: Sequence[int],
  rungs: Sequence[ladder.Rung],
) -> list[dict]:
  """E5a to E5d of {'plain', 'weighted': [R, K, X]}."""
  found = []
  for name, ids in zip(_KINDS.values(), ('ab', 'cd'), strict=True):
    r_RxK = pearson[name][..., list(ranks).index(RANK)]
    median = agreement.interval(r_RxK.mean(axis=0), np.median)
    for letter, statistic, value, threshold in (
      (ids[0], 'median', median, _MEDIAN),
      (ids[1], 'least', float(r_RxK.min()), _LEAST),
    ):
      found.append(
        claims.claim(
          f'E5{letter}', 'Fig. 3',
          f'Pearson at rank {RANK}, {name}: {statistic} of the queries', value,
          threshold, paper='0.995, one query', rungs=rungs, form='.4f',
        )
      )  # fmt: skip
  return found


@style.SETTINGS
def draw(
  names: Sequence[str],
  ranks: Sequence[int],
  pearson: Mapping[str, np.ndarray],
  scatter: Mapping,
) -> figure.Figure:
  """Rank 32 against full rank of one query; Pearson against rank, by query.

  Lines are means over the models; steps of their axis are tenfold, up to 1.

  Args:
    pearson: {'plain', 'weighted': [R, K, X]}.
    scatter: 'query', 'exact' and 'plain', its scores.
  """
  fig, found = style.panels(style.TWO_COLUMNS, 2.9, 1, 3)
  left, *others = found[0]
  exact, low = scatter['exact'], scatter['plain']
  ends = [min(*exact, *low), max(*exact, *low)]
  left.plot(ends, ends, color=style.GREY, lw=1, zorder=1)
  left.plot(exact, low, 'o', ms=2, mew=0, color=style.NEGATIVE, alpha=0.6)
  left.set(
    xlabel='score, full rank (nats)', ylabel=f'rank {RANK}, plain (nats)'
  )
  r = np.corrcoef(exact, low)[0, 1]
  left.set_title(f'{style.label(scatter["query"], 16)}: r = {r:.4f}')
  for axes, (name, r_RxKxX) in zip(others, pearson.items(), strict=True):
    compression_figure.lines(axes, ranks, r_RxKxX.mean(axis=0), 'rank')
    axes.set_title(name)
  lowest = max(axes.get_ylim()[0] for axes in others)
  for axes in others:
    axes.set_ylim(bottom=lowest)
  others[1].tick_params(labelleft=False)
  others[1].set(ylabel='')
  at_K = pearson['plain'].mean(axis=0)[:, list(ranks).index(RANK)]
  style.legend(
    others[0], names, at_K, '{:.4f}', loc='outside lower center', ncols=3,
    title=f'Pearson, plain, rank {RANK}',
  )  # fmt: skip
  return fig


def _part(rung: ladder.Rung, folder: pathlib.Path) -> dict:
  """What experiments.compression finds, with the scores of one query."""
  study = compression.open_study(rung.config, rung.workdir)
  names, shown = [x.id for x in study.queries], rung.config.low_rank.shown
  if shown not in names:
    raise ValueError(
      f'config.low_rank.shown is {shown!r}, expected a query of {names}'
    )

  def compare() -> dict:
    found = compression_parts.rank_scores(study)
    places = [(x[0], x[1]) for x in found.kinds]
    low_KxN = found.low[places.index((RANK, False))]
    k = names.index(shown)
    scatter = {
      'query': shown,
      'exact': found.exact_KxN[k].tolist(),
      'plain': low_KxN[k].tolist(),
    }
    compared = compression_parts.compare_ranks(study, found)
    return {**compared, 'scatter': scatter}

  origin = {**compression.origin(study, 'rank'), 'shown': shown}
  return parts.part(folder / f'{rung.name}.json', origin, compare)


def _table(
  ranks: Sequence[int], pearson: Mapping[str, np.ndarray]
) -> table.Table:
  num_models, num_queries, _ = pearson['plain'].shape
  heads = [head for name in pearson for head in (name, 'least')]
  view = terminal.table(
    f'Pearson with full rank: median of {num_queries} queries, least of '
    f'these and {num_models} models',
    'rank', *heads,
  )  # fmt: skip
  for x, rank in enumerate(ranks):
    cells = [
      f'{value:.4f}'
      for r_RxKxX in pearson.values()
      for value in _middle_and_least(r_RxKxX[..., x])
    ]
    view.add_row(str(rank), *cells)
  return view


def _middle_and_least(r_RxK: np.ndarray) -> tuple[float, float]:
  """As in the claims: median of the means over models, least of all."""
  return np.median(r_RxK.mean(axis=0)), r_RxK.min()


if __name__ == '__main__':
  common.main(run)
