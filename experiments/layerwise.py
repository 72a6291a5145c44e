"""Through which blocks of the network does influence pass?

  python -m experiments.layerwise --config=configs/layerwise.py \
    --workdir=runs/planted

Figs. 17 to 21 and 35 of Grosse et al. 2023, of the scores by layer of each
query's positive top sequences (top.parquet), the layers of a block summed. A
sequence's centre of mass is that of its positive scores by block, 0 in the
first and 1 in the last; a query's is the mean over its sequences, then over the
rungs. Departure: the paper takes the top 500, and 10,000 to put in the order of
a third of the layers; here both are config.layerwise.num_top. Claims, their
bounds fixed in advance:

  E12  the centres of simple and memorised completions (layerwise.upper) are
       deeper than those of reasoning (layerwise.middle): one-sided p < 0.05
       by permutation of the queries
  E14  all depths contribute: the largest block's mean score is at most 2.5
       times the mean over blocks, in the rung where it is most

Writes WORKDIR/layerwise/result.json, blocks.png (Fig. 17), sequences.png
(Figs. 18, 19), centres.png and, of three blocks or more, thirds.png (Figs. 20,
21). Needs no model; seconds a rung.
Sections read: score, ladder, layerwise.
"""

import os
import pathlib

import numpy as np
import rich
from ml_collections import ConfigDict
from rich import table

from experiments import (
  agreement,
  claims,
  common,
  ladder,
  layerwise_figure,
  layerwise_measures,
  layerwise_tops,
)
from influence_jax import store
from influence_jax.data import queries as queries_lib
from influence_jax.report import figures, terminal

LARGEST_P = 0.05  # E12
LARGEST_RATIO = 2.5  # E14


def run(config: ConfigDict, workdir: str | os.PathLike) -> dict:
  workdir, section = pathlib.Path(workdir), config.layerwise
  rungs = ladder.finished(config, workdir, section.sizes)
  tops = layerwise_tops.read(rungs, section)
  queries = tops[0].queries
  classes = [layerwise_figure.ALL] * len(queries)
  if section.label:
    classes = queries_lib.labels(queries, section.label)
  profiles = [layerwise_measures.profile(one) for one in tops]
  centre_RxK = np.array([layerwise_measures.centres(one) for one in tops])
  thirds = layerwise_measures.in_thirds(tops, section.num_overlap)
  apart = layerwise_measures.separation(centre_RxK.mean(0), classes, section)
  result = {
    **common.provenance('experiments.layerwise', config),
    'queries': _queries(tops, classes, centre_RxK),
    'rungs': _rungs(tops, profiles),
    'classes': _by_class(classes, {'centre': centre_RxK.mean(0), **thirds}),
    'separation': apart,
    'claims': _claims(rungs, profiles, apart, section),
  }
  folder = workdir / 'layerwise'
  store.write_json(folder / 'result.json', result)
  drawn = layerwise_figure.draw(
    [rung.size for rung in rungs], profiles, classes, centre_RxK.mean(0),
    thirds, _deepest(tops),
  )  # fmt: skip
  for name, fig in drawn.items():
    figures.save(fig, folder / f'{name}.png')
  for view in (*_tables(result), claims.render(result['claims'])):
    rich.print(view)
  return result


def _deepest(tops):
  """The first rung of the most blocks: its sequences are drawn."""
  return max(tops, key=lambda one: one.scores[0].shape[1])


def _claims(rungs, profiles, apart, section) -> list[dict]:
  found = []
  if apart:
    sides = ', '.join(section.upper), ', '.join(section.middle)
    found.append(
      claims.claim(
        'E12', 'Fig. 19',
        f'{sides[0]}: centre of mass deeper than that of {sides[1]}, p',
        apart['p'], ('<', LARGEST_P), rungs=rungs, form='.4f',
        paper='simple and memorised: upper layers; reasoning: middle',
      )
    )  # fmt: skip
  value = agreement.interval(
    np.arange(len(profiles[0])),
    lambda rows: layerwise_measures.unevenness(profiles, rows),
  )
  found.append(
    claims.claim(
      'E14', 'Fig. 17', 'largest block / mean block, most uneven rung',
      value, ('<=', LARGEST_RATIO), rungs=rungs,
      paper='about uniform over depth',
    )
  )  # fmt: skip
  return found


def _queries(tops, classes, centre_RxK) -> list[dict]:
  return [
    {
      'query': query.id,
      'class': classes[k],
      'sequences': [len(one.scores[k]) for one in tops],
      'centre': centre_RxK[:, k].tolist(),
    }
    for k, query in enumerate(tops[0].queries)
  ]


def _rungs(tops, profiles) -> list[dict]:
  return [
    {
      'rung': one.rung.name,
      'blocks': profile_KxL.mean(0).tolist(),
      'ratio': layerwise_measures.unevenness(
        [profile_KxL], np.arange(len(profile_KxL))
      ),
    }
    for one, profile_KxL in zip(tops, profiles, strict=True)
  ]


def _by_class(classes, values: dict[str, np.ndarray]) -> dict:
  """{class: {'queries': how many, value: [mean, low, high], ...}}, and ALL."""
  found = {}
  for name in dict.fromkeys([*classes, layerwise_figure.ALL]):
    mine = [name in (one, layerwise_figure.ALL) for one in classes]
    found[name] = {
      'queries': sum(mine),
      **{key: agreement.interval(x_K[mine]) for key, x_K in values.items()},
    }
  return found


def _tables(result) -> list[table.Table]:
  by_rung = terminal.table(
    'mean score by block, first to last (nats)',
    'rung', 'blocks', 'largest / mean',
  )  # fmt: skip
  for row in result['rungs']:
    shown = ' '.join(f'{x:.3g}' for x in row['blocks'])
    by_rung.add_row(row['rung'], shown, f'{row["ratio"]:.2f}')
  orders = [
    name
    for name in result['classes'][layerwise_figure.ALL]
    if name not in ('queries', 'centre')
  ]
  title = 'centre of mass: 0 first block, 1 last (95 %)'
  if orders:
    title += '; tokens shared with the query in the order by a third, the whole'
  by_class = terminal.table(title, 'class', 'queries', 'centre', *orders)
  for name, row in result['classes'].items():
    centre = agreement.shown(row['centre'], '.3f')
    means = [f'{row[order][0]:.3f}' for order in orders]
    by_class.add_row(name, str(row['queries']), centre, *means)
  return [by_rung, by_class]


if __name__ == '__main__':
  common.main(run)
