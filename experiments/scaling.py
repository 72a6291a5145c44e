"""Do larger models look less at shared words and more at themes?

  python -m experiments.scaling --config=configs/scaling.py \
    --workdir=runs/english

Figs. 1, 10-14 and 36-41 of Grosse et al. 2023 show what matters to a small and
to a large model, for the reader to compare; here it is measured, see
scaling_measures. The top sequences of a query are those of its
config.scaling.num_top largest scores by the config's own approximation, answer
0, as scanned: not scored again at full rank. A query's value at a size is the
mean over them, of scores the median, and then the mean over seeds. Its slope is
that of the least-squares line through these values, of scores their log10,
against log10 of the number of parameters. Claims, their bounds fixed in
advance:

  E15   shared tokens (plain Jaccard): a negative slope in at least 2/3 of the
        queries
  E15b  cosine of sentence embeddings: a positive slope in at least 2/3
  E17   scores of the smallest over those of the largest size: more than 1. Of a
        query the geometric mean over the seeds that both have, then the median

Queries without the label 'topic' take no part in the agreement of topics. With
one size, as without a ladder, there are neither slopes nor claims.

Writes WORKDIR/scaling/result.json, scaling.png, sequences.html, with the first
sequences of the smallest and of the largest size side by side, and the parts
topics.json, random.json and one a rung. Reads no model.
Sections read: data, score, ladder, scaling.
"""

import os
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
import rich
from ml_collections import ConfigDict
from rich import table

from experiments import (
  agreement,
  claims,
  common,
  corpus,
  ladder,
  scaling_figure,
  scaling_sequences,
  scaling_slopes,
  scaling_tops,
)
from influence_jax import store
from influence_jax.report import figures, terminal

_LEAST_SHARE = 2 / 3  # of the queries
_LEAST_RATIO = 1
_NAMES = {
  'overlap': 'shared tokens',
  'weighted': 'the same by IDF',
  'bm25': 'BM25',
  'topic': 'same topic',
  'similarity': 'embeddings',
  'score': 'score, nats',
}


def run(config: ConfigDict, workdir: str | os.PathLike) -> dict:
  workdir, section = pathlib.Path(workdir), config.scaling
  folder = workdir / 'scaling'
  rungs = ladder.finished(config, workdir, section.sizes)
  parameters = ladder.parameters(config, workdir, rungs)
  made = corpus.load(config.data, workdir)
  sides, random = scaling_tops.measure(config, made, rungs, folder)
  sizes = list(parameters)
  each = [scaling_slopes.of_queries(side.measures) for side in sides]
  values = scaling_slopes.by_size(sizes, rungs, each)
  slopes = {}
  if len(sizes) > 1:
    slopes = scaling_slopes.slopes(list(parameters.values()), values)
  result = {
    **common.provenance('experiments.scaling', config),
    'scanned': len(sides[0].top.scanned),
    'queries': [query.id for query in sides[0].top.queries],
    'rungs': [
      {'rung': rung.name, **_listed(x)}
      for rung, x in zip(rungs, each, strict=True)
    ],
    'random': _listed(random),
    'sizes': [
      {'size': size, 'parameters': number, **{
        name: scaling_slopes.centre(name, x_SxK[s])
        for name, x_SxK in values.items()}}
      for s, (size, number) in enumerate(parameters.items())
    ],
    'slopes': {
      name: scaling_slopes.summary(slope_K) for name, slope_K in slopes.items()
    },
    'claims': find_claims(sizes, rungs, each, slopes) if slopes else [],
  }  # fmt: skip
  store.write_json(folder / 'result.json', result)
  fig = scaling_figure.draw(result['sizes'], values, random)
  figures.save(fig, folder / 'scaling.png')
  ends = [
    next(side for side in sides if side.top.rung.size == size)
    for size in dict.fromkeys((sizes[0], sizes[-1]))
  ]
  scaling_sequences.write(
    folder / 'sequences.html', made, ends, parameters, section.num_shown
  )
  rich.print(_table(result))
  if slopes:
    rich.print(claims.render(result['claims']))
  return result


def find_claims(
  sizes: Sequence[str],
  rungs: Sequence[ladder.Rung],
  each: Sequence[Mapping[str, np.ndarray]],
  slopes: Mapping[str, np.ndarray],
) -> list[dict]:
  """E15, E15b and E17.

  Args:
    sizes: smallest first.
    rungs: all.
    each: {measure: [K]} of each rung.
    slopes: {measure: [K]}.
  """
  seeds = scaling_slopes.shared_seeds(sizes, rungs)
  ends = [x for x in rungs if x.size in (sizes[0], sizes[-1])]
  ratio_K = scaling_slopes.ratios(sizes, rungs, each)
  themes = 'Figs. 1, 10-14, 36-41'
  paper = 'strings of tokens at 810M, themes at 52B'
  return [
    claims.claim(
      'E15', themes, 'shared tokens fall with size: share of queries',
      agreement.share(slopes['overlap'] < 0), ('>=', _LEAST_SHARE),
      paper=paper, rungs=rungs, form='.0%',
    ),
    claims.claim(
      'E15b', themes, 'likeness in meaning rises with size: share of queries',
      agreement.share(slopes['similarity'] > 0), ('>=', _LEAST_SHARE),
      paper=paper, rungs=rungs, form='.0%',
    ),
    claims.claim(
      'E17', 'Figs. 10-14',
      f'top scores of {sizes[0]} over those of {sizes[-1]}: median of queries',
      agreement.interval(ratio_K, np.median), ('>', _LEAST_RATIO),
      paper='0.1-10 nats at 810M, 0.01-0.13 at 52B',
      rungs=[x for x in ends if x.seed in seeds],
    ),
  ]  # fmt: skip


def _listed(measures: Mapping[str, np.ndarray]) -> dict[str, list]:
  """By query, to five digits; None for NaN."""
  return {
    name: [None if np.isnan(x) else float(f'{x:.5g}') for x in x_K]
    for name, x_K in measures.items()
  }


def _table(result: dict) -> table.Table:
  sizes = result['sizes']
  names = [row['size'] or 'this model' for row in sizes]
  view = terminal.table(
    f'top sequences of {len(result["queries"])} queries among '
    f'{result["scanned"]:,}; slope (95 %) a tenfold of parameters, of log10 of '
    'scores',
    '', *names, 'random', 'slope', 'falls', 'rises', wrap=True,
  )  # fmt: skip
  for name, label in _NAMES.items():
    random = [x for x in result['random'].get(name, ()) if x is not None]
    centres = [row[name] for row in sizes] + [random and [np.mean(random)]]
    numbers = [f'{x[0]:.3g}' if x else '-' for x in centres]
    slope = result['slopes'].get(name, {})
    view.add_row(label, *numbers, *_slope_cells(slope))
  return view


def _slope_cells(slope: Mapping[str, list[float] | None]) -> list[str]:
  if not slope.get('mean'):
    return ['-'] * 3
  shares = [f'{slope[x][0]:.0%}' for x in ('falling', 'rising')]
  return [agreement.shown(slope['mean'], '+.3f'), *shares]


if __name__ == '__main__':
  common.main(run)
