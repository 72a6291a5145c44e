"""Do larger models carry over more from a text in another language?

  python -m experiments.cross_lingual --config=configs/cross_lingual.py \
    --workdir=runs/bible

Figs. 15 and 16 of Grosse et al. 2023, on a corpus whose queries are the same
verses in several languages: influence_jax.data.bible_verses.

Transfer, of the verses of config.cross_lingual.group: the num_top sequences in
the source language with the largest scores (answer 0, as scanned) for the
source's query, that verse left out, are looked up for the same verse's query in
another language. rho is their mean score there over that for the source, each
a mean over verses. Beside it, over the same denominator: as many random
sequences of the source language in place of the top ones, and the queries of
the group's other verses in that language in place of this verse's. The reverse
takes the top in the other language for its query to the source's query.

Retrieval, beyond the paper: the verses of all queries, and num_random others of
each group and of a query's length, are scored as texts, whole and at full rank.
The AUC of a query in language X and a language Y is the share of the random
verses of the query's group in Y that score less than the query's own verse in
Y, ties half. Unaligned is that of the group's other query verses in its place:
of the same texts in all, so it shows what they score for any query. Claims,
their bounds fixed in advance:

  E16   the mean rho of the languages rises with size: Spearman's correlation
        with the number of parameters > 0; left out where there is one size
  E16b  mean AUC over pairs of different languages, largest size, of verses
        that were trained on in all languages (group seen) > 0.5
  E16c  the same of verses trained on in none (group unseen)

Intervals are by bootstrap over verses. Writes WORKDIR/cross_lingual/: a file a
rung with its AUCs, result.json, rho.png, retrieval.png and, of the first seed,
sequences.png (Fig. 16). A rung takes a scan of a thousand short texts for all
queries; goes on after the last one that is done.
Sections read: all of the rungs', ladder, cross_lingual.
"""

import os
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
import rich
from ml_collections import ConfigDict
from scipy import stats

from experiments import (
  agreement,
  claims,
  common,
  corpus,
  cross_lingual_figure,
  ladder,
  parts,
  scored,
)
from experiments import cross_lingual_measures as measures
from influence_jax import store
from influence_jax.report import figures

_LEAST_CORRELATION = 0  # E16
_LEAST_AUC = 0.5  # E16b, E16c


def run(config: ConfigDict, workdir: str | os.PathLike) -> dict:
  workdir, section = pathlib.Path(workdir), config.cross_lingual
  folder = workdir / 'cross_lingual'
  rungs = ladder.finished(config, workdir, section.sizes)
  sizes = ladder.parameters(config, workdir, rungs)
  made = corpus.load(config.data, workdir)
  first = scored.load(rungs[0].workdir / config.score.folder, made.sequences)
  grid = measures.make_grid(first.queries, section)
  columns = measures.describe(made, first.numbers)
  random = measures.random_verses(made, grid, section)
  moved, aucs, shown = [], [], []
  for rung in rungs:
    found = scored.load(rung.workdir / config.score.folder, made.sequences)
    pair, theirs = (rungs[0], rung), (first, found)
    scored.check_alike(pair, 'queries', [x.queries for x in theirs])
    scored.check_alike(pair, 'sequences', [x.numbers.tolist() for x in theirs])
    scores_KxC = found.scores[0].astype(np.float64)  # for means
    moved.append(measures.transfer(scores_KxC, grid, columns, section))
    aucs.append(_part(folder, rung, found, grid, random))
    if rung.seed == rungs[0].seed:
      shown += _shown(rung, found, grid, columns, section)
  moved = measures.Transfer(*map(np.stack, zip(*moved, strict=True)))
  result = {
    **common.provenance('experiments.cross_lingual', config),
    'languages': grid.languages,
    'verses': grid.verses,
    'sizes': sizes,
    'rungs': [rung.name for rung in rungs],
    'transfer': {name: x.tolist() for name, x in moved._asdict().items()},
    'rho': summarise_rho(rungs, sizes, moved),
    'retrieval': summarise_aucs(rungs, sizes, aucs, grid, section),
    'shown': shown,
  }
  result['claims'] = claimed(rungs, sizes, moved, result['retrieval'])
  store.write_json(folder / 'result.json', result)
  for name, fig in cross_lingual_figure.draw(result).items():
    figures.save(fig, folder / f'{name}.png')
  for view in cross_lingual_figure.tables(result):
    rich.print(view)
  rich.print(claims.render(result['claims']))
  return result


def summarise_rho(
  rungs: Sequence[ladder.Rung], sizes: Sequence[str], moved: measures.Transfer
) -> dict[str, dict]:
  """{size: {'mean': [rho, low, high], and of `rho` {language: mean of seeds}}}.

  'mean' is over the languages but the source.
  """
  by_kind = {
    kind: _by_size(x_RxL, rungs, sizes)
    for kind, x_RxL in measures.rho(moved).items()
  }
  found, verses = {}, np.arange(moved.own.shape[1])
  for s, size in enumerate(sizes):
    mean = agreement.interval(
      verses, lambda v, s=s: _mean_rho(rungs, sizes, moved, v)[s]
    )
    kinds = {kind: x_SxL[s].tolist() for kind, x_SxL in by_kind.items()}
    found[size] = {'mean': mean, **kinds}
  return found


def summarise_aucs(
  rungs: Sequence[ladder.Rung],
  sizes: Sequence[str],
  aucs: Sequence[Mapping[str, Mapping[str, list]]],
  grid: measures.Grid,
  section: ConfigDict,
) -> dict[str, dict[str, dict]]:
  """{group: {size: {'matrix': [L, L], kind of pairs: [mean, low, high]}}}."""
  scripts_L = np.array([section.scripts[name] for name in grid.languages])
  same_LxL = scripts_L[:, None] == scripts_L
  own_LxL = np.eye(len(scripts_L), dtype=bool)
  kinds = {
    'different': ('aligned', ~own_LxL),
    'one script': ('aligned', same_LxL & ~own_LxL),
    'two scripts': ('aligned', ~same_LxL),
    'same': ('aligned', own_LxL),
    'unaligned': ('unaligned', ~own_LxL),
  }
  found = {group: {size: {} for size in sizes} for group in grid.verses}
  for group, by_size in found.items():
    of = {
      name: _by_size(np.array([x[name][group] for x in aucs]), rungs, sizes)
      for name in ('aligned', 'unaligned')
    }
    for s, size in enumerate(sizes):
      by_size[size]['matrix'] = of['aligned'][s].mean(0).tolist()
      for kind, (name, pairs_LxL) in kinds.items():
        if pairs_LxL.any():
          auc_V = of[name][s][:, pairs_LxL].mean(1)
          by_size[size][kind] = agreement.interval(auc_V)
  return found


def claimed(
  rungs: Sequence[ladder.Rung],
  sizes: Mapping[str, int | None],
  moved: measures.Transfer,
  retrieval: Mapping[str, Mapping[str, Mapping]],
) -> list[dict]:
  """E16 if there are two sizes or more, E16b and E16c for groups there are."""
  found, largest = [], list(sizes)[-1]
  if len(sizes) > 1:
    value = agreement.interval(
      np.arange(moved.own.shape[1]),
      lambda v: (
        stats.spearmanr(
          list(sizes.values()), _mean_rho(rungs, sizes, moved, v)
        ).statistic
      ),
    )
    found.append(
      claims.claim(
        'E16', 'Fig. 16',
        'rho rises with size: Spearman with the number of parameters', value,
        ('>', _LEAST_CORRELATION), rungs=rungs,
        paper='near 0 at 810M, grows steadily with size',
      )
    )  # fmt: skip
  for name, group in (('E16b', 'seen'), ('E16c', 'unseen')):
    if 'different' in retrieval.get(group, {}).get(largest, {}):
      found.append(
        claims.claim(
          name, 'beyond Fig. 16',
          f'a verse in another language outranks others, {group}: AUC',
          retrieval[group][largest]['different'], ('>', _LEAST_AUC),
          rungs=[rung for rung in rungs if rung.size == largest],
          paper='not measured',
        )
      )  # fmt: skip
  return found


def _part(folder, rung, found, grid, random) -> dict:
  origin = {
    **found.origin,
    'queries': [list(query) for query in found.queries],
    'random': {group: list(verses) for group, verses in random.items()},
  }
  return parts.part(
    folder / f'{rung.name}.json', origin,
    lambda: measures.retrieve(rung, found, grid, random),
  )  # fmt: skip


def _shown(rung, found, grid, columns, section) -> list[dict]:
  """The first verses' top in the source, with scores in all languages."""
  scores_KxC, rows_VxL = found.scores[0], grid.rows[section.group]
  shown = []
  for v, rows_L in enumerate(rows_VxL[: section.num_shown]):
    top_M = measures.tops(scores_KxC, v, grid, columns, section)[0]
    shown.append(
      {
        'size': rung.size,
        'query': found.queries[rows_L[0]].id,
        'titles': [columns.titles[c] for c in top_M],
        'scores': scores_KxC[rows_L[:, None], top_M].tolist(),
      }
    )
  return shown


def _by_size(x_R, rungs, sizes) -> np.ndarray:
  """Means over seeds, [S, ...]."""
  sizes_R = np.array([rung.size for rung in rungs])
  return np.stack([x_R[sizes_R == size].mean(0) for size in sizes])


def _mean_rho(rungs, sizes, moved, verses) -> np.ndarray:
  """Over the languages but the source and over seeds, [S]."""
  forth_RxL = measures.rho(moved, verses.astype(int))['forth']
  return _by_size(forth_RxL[:, 1:].mean(1), rungs, sizes)


if __name__ == '__main__':
  common.main(run)
