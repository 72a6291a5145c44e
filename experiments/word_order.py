"""Does a fact count that is told in the other order? Influence by word order.

  python -m experiments.word_order --config=configs/word_order.py \
    --workdir=runs/planted

Sec. 5.3.4 and Figs. 24-26 of Grosse et al. 2023. A prompt about an invented
entity is completed by an invented name; texts that no model has seen tell of
the two in six ways (word_order_texts) and are scored at full rank. A pair of
names is one draw, so num_entities others are put into the same templates.
Ratios are of means over entities. Models' scores differ in size: each model's
are first divided by its mean of P1. Claims, fixed in advance, of Astrobia's
templates and the largest config.word_order.claimed sizes:

  E10   forward / flipped, P1 / P5, >= 1.5 (the paper: 2.2, 1.1, 2.3)
  E10b  flipped / name alone, P5 / P6, >= 0.6, and E10c, <= 1.5 (1.0)
  E11   completion removed / forward, P2 / P1, <= 0.15 (0.04 at most)

A name that begins a flipped text has other tokens than after a space, there as
in the paper. With `offices`, facts of the planted corpus, too: documents that
tell the fact that a query asks for, in the query's order; the same in words of
that order that the corpus does not have; and the same turned round.

Writes WORKDIR/word_order/: a file a model, result.json, ratios.png, offices.png
and, with the paper's names, Astrobia.png and gleem.png. A minute or so a model;
goes on after the last one that is done.
Sections read: all of the rungs', word_order, ladder.
"""

import os
import pathlib
from collections.abc import Sequence

import numpy as np
import rich
from matplotlib import figure
from ml_collections import ConfigDict

from experiments import (
  agreement,
  claims,
  common,
  corpus,
  ladder,
  memorization,
  scored,
  word_order_figure,
  word_order_offices,
  word_order_parts,
  word_order_texts,
)
from influence_jax import store
from influence_jax.data import planted_words as words
from influence_jax.report import figures

_LEAST_FORWARD = 1.5  # E10
_LEAST_FLIPPED, _MOST_FLIPPED = 0.6, 1.5  # E10b, E10c
_MOST_REMOVED = 0.15  # E11
_CLAIMED = 'Astrobia'  # the family
_OFFICES = 'offices'
RATIOS = {  # of partitions
  'forward / flipped': ('P1', 'P5'),
  'flipped / name alone': ('P5', 'P6'),
  'removed / forward': ('P2', 'P1'),
}
OFFICE_RATIOS = {
  'trained on / other order': ('own', 'other'),
  'reworded / other order': ('reworded', 'other'),
}


def run(config: ConfigDict, workdir: str | os.PathLike) -> dict:
  workdir, section = pathlib.Path(workdir), config.word_order
  folder = workdir / 'word_order'
  rungs = ladder.finished(config, workdir, section.sizes)
  cases = _cases(config, workdir, rungs[0])
  rows = [word_order_parts.row(rung, cases, folder) for rung in rungs]
  sizes = _sizes(config, rungs)
  found = {
    group: {
      size or rungs[0].name: _ratios(group, cases, rows, [size])
      for size in sizes
    }
    for group in cases
  }
  largest = sizes[-section.claimed :]
  result = {
    **common.provenance('experiments.word_order', config),
    'cases': {
      group: [case.query.id for case in mine] for group, mine in cases.items()
    },
    'texts': {group: mine[0]._asdict() for group, mine in cases.items()},
    'rungs': rows,
    'ratios': found,
    'claims': claimed(
      _ratios(_CLAIMED, cases, rows, largest),
      [rung for rung in rungs if rung.size in largest],
    ),
  }
  store.write_json(folder / 'result.json', result)
  for group, mine in cases.items():
    figures.save(_drawn(group, mine, rows), folder / f'{group}.png')
  figures.save(word_order_figure.ratios(found), folder / 'ratios.png')
  rich.print(word_order_figure.ratio_table(found))
  rich.print(claims.render(result['claims']))
  return result


def claimed(found: dict, rungs: Sequence[ladder.Rung]) -> list[dict]:
  """E10 and E11.

  Args:
    found: {ratio: [value, low, high]} of the models `rungs`.
  """

  def claim(name, statement, ratio, threshold, paper) -> dict:
    return claims.claim(
      name, 'Fig. 24', f'{statement}: {ratio}', found[ratio], threshold,
      paper=paper, rungs=rungs,
    )  # fmt: skip

  forward, flipped, removed = RATIOS
  return [
    claim(
      'E10', 'the order counts', forward, ('>=', _LEAST_FORWARD),
      '2.2, 1.1, 2.3',
    ),
    claim(
      'E10b', 'a flipped fact has its name', flipped, ('>=', _LEAST_FLIPPED),
      '1.0',
    ),
    claim(
      'E10c', 'and no more', flipped, ('<=', _MOST_FLIPPED), '1.0',
    ),
    claim(
      'E11', 'without its completion a fact has no influence', removed,
      ('<=', _MOST_REMOVED), '0.04 at most',
    ),
  ]  # fmt: skip


def ratios(
  means_RxExP: np.ndarray,
  kinds: Sequence[str],
  wanted: dict[str, tuple[str, str]],
) -> dict[str, list[float]]:
  """{name: [ratio, low, high]}, intervals by drawing entities again.

  A ratio is inf where only what it is over is not positive, and NaN, which no
  claim accepts, where neither is.

  Args:
    means_RxExP: mean score of each model R, entity E and kind of text P.
    kinds: the P kinds; models are weighted by their scores of the first.
    wanted: {name: (over, under)}, kinds.
  """
  unit_R = np.abs(means_RxExP[..., 0]).mean(1)
  x_ExP = (means_RxExP / unit_R[:, None, None]).mean(0)
  at = {kind: n for n, kind in enumerate(kinds)}
  return {
    name: _ratio(x_ExP[:, at[over]], x_ExP[:, at[under]])
    for name, (over, under) in wanted.items()
  }


def _ratio(over_E, under_E) -> list[float]:
  def statistic(places, axis=-1):
    places = places.astype(int)
    over, under = over_E[places].mean(axis), under_E[places].mean(axis)
    beyond = np.where(over > 0, np.inf, np.nan)
    return np.divide(over, under, out=beyond, where=under > 0)

  return agreement.interval(np.arange(len(over_E)), statistic)


def _cases(config, workdir, rung) -> dict[str, list[word_order_texts.Case]]:
  """{group: cases}: a case an entity, a group a family; offices if asked."""
  section, made = config.word_order, corpus.load(config.data, workdir)
  taken = set()
  for document in made.module.documents(made.source):
    taken |= words.vocabulary(document['text'])
  found = {
    family: [
      word_order_texts.case(family, names)
      for names in word_order_texts.entities(
        family, section.num_entities, section.seed, taken=taken
      )
    ]
    for family in word_order_texts.FAMILIES
  }
  if section.offices:
    scores = scored.load(
      rung.workdir / rung.config.score.folder, made.sequences
    )
    found[_OFFICES] = word_order_offices.cases(
      scores.queries, memorization.read_truth(workdir), made.document
    )
  return found


def _sizes(config, rungs) -> list[str]:
  """Smallest first."""
  there = {rung.size for rung in rungs}
  if 'ladder' not in config:
    return [*there]
  return [size for size in config.ladder.sizes if size in there]


def _ratios(group, cases, rows, sizes) -> dict[str, list[float]]:
  """Of the models of these sizes."""
  wanted = OFFICE_RATIOS if group == _OFFICES else RATIOS
  kinds = list(dict.fromkeys(cases[group][0].kinds))
  means = [row['means'][group] for row in rows if row['size'] in sizes]
  return ratios(np.array(means), kinds, wanted)


def _drawn(group, cases, rows) -> figure.Figure:
  if group == _OFFICES:
    means = _by_size(rows, lambda row: row['means'][group])
    return word_order_figure.dots(cases, means)
  first = _by_size(rows, lambda row: row['first'][group])
  return word_order_figure.bars(cases[0], first)


def _by_size(rows, fn) -> dict[str, list]:
  """{size: fn(row) of each seed}."""
  found = {}
  for row in rows:
    found.setdefault(row['size'] or row['rung'], []).append(fn(row))
  return found


if __name__ == '__main__':
  common.main(run)
