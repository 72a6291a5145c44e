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
from typing import NamedTuple

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
  texts,
)
from influence_jax import store
from influence_jax.data import queries as queries_lib
from influence_jax.report import figures

_LEAST_CORRELATION = 0  # E16
_LEAST_AUC = 0.5  # E16b, E16c


class Grid(NamedTuple):
  """Which query is which verse in which language."""

  languages: list[str]  # L, the source first
  verses: dict[str, list[str]]  # {group: V}
  rows: dict[str, np.ndarray]  # {group: [V, L]}, places among the queries


class Columns(NamedTuple):
  """What the C scanned sequences are."""

  titles: list[str]
  verses: np.ndarray  # [C] str
  languages: np.ndarray  # [C] str


class Transfer(NamedTuple):
  """Means over num_top sequences, nats; [V, L], the source is language 0."""

  own: np.ndarray  # top of a language's query, for that query
  forth: np.ndarray  # top of the source's query, for a language's
  back: np.ndarray  # top of a language's query, for the source's
  random: np.ndarray  # random ones of the source, for a language's query
  other: np.ndarray  # as forth, for the queries of the other verses


def run(config: ConfigDict, workdir: str | os.PathLike) -> dict:
  workdir, section = pathlib.Path(workdir), config.cross_lingual
  folder = workdir / 'cross_lingual'
  rungs = ladder.rungs(config, workdir, section.sizes or None)
  sizes = _parameters(config, workdir, rungs)
  made = corpus.load(config.data, workdir)
  found = scored.load(rungs[0].workdir / config.score.folder, made.sequences)
  grid = make_grid(found.queries, section)
  columns = describe(made, found.numbers)
  random = random_verses(made, grid, section)
  moved, aucs, shown = [], [], []
  for rung in rungs:
    found = _load(rung, made, found)
    scores_KxC = found.scores[0].astype(np.float64)  # for means
    moved.append(transfer(scores_KxC, grid, columns, section))
    aucs.append(_part(folder, rung, found, grid, random))
    if rung.seed == rungs[0].seed:
      shown += _shown(rung, found, grid, columns, section)
  moved = Transfer(*map(np.stack, zip(*moved, strict=True)))
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


def make_grid(
  queries: Sequence[queries_lib.Query], section: ConfigDict
) -> Grid:
  """From the labels verse, language and group.

  Raises:
    ValueError: labels are missing, a verse is not in each language once, a
      group is of one verse, or the section names what is not there.
  """
  group_K, verse_K, language_K = (
    queries_lib.labels(queries, name) for name in ('group', 'verse', 'language')
  )
  languages = list(dict.fromkeys([section.source, *language_K]))
  _check_section(section, group_K, language_K)
  keys = list(zip(group_K, verse_K, language_K, strict=True))
  places = {key: k for k, key in enumerate(keys)}
  verses = {}
  for group, verse, _ in places:
    verses.setdefault(group, {})[verse] = None
  asked = {
    group: [[(group, v, name) for name in languages] for v in own]
    for group, own in verses.items()
  }
  missing = {key for x in asked.values() for row in x for key in row} - {*keys}
  few = [group for group, own in verses.items() if len(own) < 2]
  if missing or few or len(places) < len(keys):
    raise ValueError(
      f'the queries lack {sorted(missing)}, have one verse of {few} and '
      f'{len(keys) - len(places)} twice: expected each verse once in each of '
      f'{languages}, two or more a group; let the corpus make them'
    )
  return Grid(
    languages,
    {group: list(own) for group, own in verses.items()},
    {
      group: np.array([[places[key] for key in row] for row in x])
      for group, x in asked.items()
    },
  )


def describe(made: corpus.Corpus, numbers_C: np.ndarray) -> Columns:
  """Of these sequences; ValueError if documents have no verse or language."""
  ids = made.sequences.records['document'][numbers_C].tolist()
  documents = [made.document(n) for n in ids]
  if lacking := {'verse', 'language', 'title'} - {*documents[0]}:
    raise ValueError(
      f'documents of {made.module.__name__} have {sorted(documents[0])}, '
      f'expected {sorted(lacking)} too: take a corpus in several languages, as '
      'bible_verses'
    )
  return Columns(
    [document['title'] for document in documents],
    np.array([str(document['verse']) for document in documents]),
    np.array([document['language'] for document in documents]),
  )


def random_verses(
  made: corpus.Corpus, grid: Grid, section: ConfigDict
) -> dict[str, dict[str, list[str]]]:
  """{group: {verse: its text in each language}}, num_random without a query.

  They are drawn by the corpus's own queries(), so they are of like length.
  """
  if not hasattr(made.module, 'queries'):
    raise ValueError(
      f'{made.module.__name__} has no queries(source, num_per_group=, seed=), '
      'expected a corpus that draws verses, as bible_verses'
    )
  num = max(map(len, grid.verses.values())) + section.num_random
  lines = made.module.queries(made.source, num_per_group=num, seed=section.seed)
  found = {group: {} for group in grid.verses}
  for line in lines:
    labels = line['labels']
    group, verse = labels['group'], labels['verse']
    if group in found and verse not in grid.verses[group]:
      text = line['prompt'] + line['completion']
      found[group].setdefault(verse, {})[labels['language']] = text
  rng, drawn = np.random.default_rng(section.seed), {}
  for group, verses in found.items():
    names = rng.choice([*verses], section.num_random, replace=False).tolist()
    drawn[group] = {
      verse: [verses[verse][name] for name in grid.languages] for verse in names
    }
  return drawn


def transfer(
  scores_KxC: np.ndarray, grid: Grid, columns: Columns, section: ConfigDict
) -> Transfer:
  """Of the verses of section.group.

  Raises:
    ValueError: too few sequences of a language were scanned, or a query's top
      has no positive mean.
  """
  rows_VxL, rng = grid.rows[section.group], np.random.default_rng(section.seed)
  found = Transfer(*np.zeros((len(Transfer._fields), *rows_VxL.shape)))
  for v, rows_L in enumerate(rows_VxL):
    tops_LxM = _tops(scores_KxC, v, grid, columns, section)
    found.own[v] = scores_KxC[rows_L[:, None], tops_LxM].mean(1)
    found.forth[v] = scores_KxC[rows_L[:, None], tops_LxM[0]].mean(1)
    found.back[v] = scores_KxC[rows_L[0], tops_LxM].mean(1)
    rest_C = _others(columns, grid.verses[section.group][v], section.source)
    random_M = rng.choice(rest_C, section.num_top, replace=False)
    found.random[v] = scores_KxC[rows_L[:, None], random_M].mean(1)
    rest_WxL = np.delete(rows_VxL, v, axis=0)
    found.other[v] = scores_KxC[rest_WxL[..., None], tops_LxM[0]].mean((0, 2))
  if not (found.own > 0).all():
    v, x = np.argwhere(~(found.own > 0))[0]
    raise ValueError(
      f'the top {section.num_top} of verse {grid.verses[section.group][v]} in '
      f'{grid.languages[x]} have a mean score of {found.own[v, x]:.3g}, '
      'expected more than 0: a share of it would mean nothing; score more '
      'sequences'
    )
  return found


def rho(moved: Transfer, rows: np.ndarray | slice = slice(None)) -> dict:
  """{'forth', 'random', 'other', 'back': [R, L]} of verses `rows` of [R, V, L].

  Of the source, the first language, forth and back are 1.
  """
  mean = Transfer(*(x_RxVxL[:, rows].mean(1) for x_RxVxL in moved))
  found = {
    name: getattr(mean, name) / mean.own[:, :1]
    for name in ('forth', 'random', 'other')
  }
  return {**found, 'back': mean.back / mean.own}


def auc(own_VxLxWxL: np.ndarray, random_VxLxRxL: np.ndarray) -> np.ndarray:
  """Share of R random verses that score less than each of W, [V, L, W, L].

  Ties count half. Of a query (verse, language), by the text's language.
  """
  own, random = own_VxLxWxL[:, :, :, None], random_VxLxRxL[:, :, None]
  return ((own > random) + 0.5 * (own == random)).mean(3)


def retrieve(
  rung: ladder.Rung,
  found: scored.Scored,
  grid: Grid,
  random: Mapping[str, Mapping[str, Sequence[str]]],
) -> dict[str, dict]:
  """{'aligned', 'unaligned': {group: AUC of query's and text's language}}.

  Args:
    random: of `random_verses`.

  Returns:
    AUCs as lists [V, L, L].
  """
  ours, factors = texts.load(rung)
  expected = {'params': found.origin['params']}
  theirs = {'params': ours.params_fingerprint}
  store.check(theirs, expected, f'the model of {rung.name}, by its scores,')
  own = [query.prompt + query.completion for query in found.queries]
  rest = [text for x in random.values() for row in x.values() for text in row]
  scores_KxT = texts.scores(
    rung.config, ours, factors, found.queries, [*own, *rest]
  )
  shape = len(own), len(random), -1, len(grid.languages)
  random_KxGxRxL = scores_KxT[:, len(own) :].reshape(shape)
  aligned, unaligned = {}, {}
  for g, group in enumerate(random):
    rows_VxL = grid.rows[group]
    own_VxLxWxL = scores_KxT[:, rows_VxL][rows_VxL]
    auc_VxLxWxL = auc(own_VxLxWxL, random_KxGxRxL[rows_VxL, g])
    same_VxLxL = np.einsum('vxvy->vxy', auc_VxLxWxL)
    rest_VxLxL = auc_VxLxWxL.sum(2) - same_VxLxL
    aligned[group] = same_VxLxL.tolist()
    unaligned[group] = (rest_VxLxL / (len(rows_VxL) - 1)).tolist()
  return {'aligned': aligned, 'unaligned': unaligned}


def summarise_rho(
  rungs: Sequence[ladder.Rung], sizes: Sequence[str], moved: Transfer
) -> dict[str, dict]:
  """{size: {'mean': [rho, low, high], and of `rho` {language: mean of seeds}}}.

  'mean' is over the languages but the source.
  """
  by_kind = {
    kind: _by_size(x_RxL, rungs, sizes) for kind, x_RxL in rho(moved).items()
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
  grid: Grid,
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
  moved: Transfer,
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


def _check_section(section, groups, languages) -> None:
  for key, named, known in (
    ('source', {section.source}, languages),
    ('group', {section.group}, groups),
    ('scripts', {*languages}, section.scripts),
  ):
    if missing := named - {*known}:
      raise ValueError(
        f'config.cross_lingual.{key}: {sorted(missing)} not found among '
        f'{sorted({*known})}; a source and a group that queries have, and a '
        'script for each of their languages, are expected'
      )


def _parameters(config, workdir, rungs) -> dict[str, int | None]:
  """How many each size has, smallest first; None without a ladder."""
  if 'ladder' not in config:
    return {rung.size: None for rung in rungs}
  path = workdir / 'ladder.json'
  rows = store.read_json(path)['rungs'] if path.exists() else []
  known = {row['rung']: row['parameters'] for row in rows}
  if missing := [rung.name for rung in rungs if rung.name not in known]:
    raise ValueError(
      f'{path} has the parameters of {sorted(known)}, expected {missing} too: '
      'run experiments.train_ladder to its end'
    )
  found = {rung.size: known[rung.name] for rung in rungs}
  return dict(sorted(found.items(), key=lambda pair: pair[1]))


def _load(rung, made, before) -> scored.Scored:
  """Its scores; ValueError if not of the queries and sequences of `before`."""
  folder = rung.workdir / rung.config.score.folder
  found = scored.load(folder, made.sequences)
  same = np.array_equal(found.numbers, before.numbers)
  if not same or found.queries != before.queries:
    raise ValueError(
      f'the scores in {folder} are of {len(found.queries)} queries and '
      f'{len(found.numbers)} sequences, expected the {len(before.queries)} and '
      f'{len(before.numbers)} of the rungs before: score all with one config'
    )
  return found


def _part(folder, rung, found, grid, random) -> dict:
  origin = {
    **found.origin,
    'queries': [list(query) for query in found.queries],
    'random': {group: list(verses) for group, verses in random.items()},
  }
  return parts.part(
    folder / f'{rung.name}.json', origin,
    lambda: retrieve(rung, found, grid, random),
  )  # fmt: skip


def _tops(scores_KxC, v, grid, columns, section) -> np.ndarray:
  """Places of the largest scores of verse v's queries, [L, M], best first."""
  group, tops = section.group, []
  for k, language in zip(grid.rows[group][v], grid.languages, strict=True):
    rest_C = _others(columns, grid.verses[group][v], language)
    if len(rest_C) < section.num_top:
      raise ValueError(
        f'{len(rest_C)} sequences in {language!r} were scored, expected '
        f'config.cross_lingual.num_top={section.num_top} or more: score more '
        'of them'
      )
    order = np.argsort(-scores_KxC[k, rest_C], kind='stable')
    tops.append(rest_C[order[: section.num_top]])
  return np.stack(tops)


def _others(columns: Columns, verse: str, language: str) -> np.ndarray:
  """Places of the sequences in a language that are not of the verse."""
  mine_C = columns.languages == language
  return np.flatnonzero(mine_C & (columns.verses != verse))


def _shown(rung, found, grid, columns, section) -> list[dict]:
  """The first verses' top in the source, with scores in all languages."""
  scores_KxC, rows_VxL = found.scores[0], grid.rows[section.group]
  shown = []
  for v, rows_L in enumerate(rows_VxL[: section.num_shown]):
    top_M = _tops(scores_KxC, v, grid, columns, section)[0]
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
  forth_RxL = rho(moved, verses.astype(int))['forth']
  return _by_size(forth_RxL[:, 1:].mean(1), rungs, sizes)


if __name__ == '__main__':
  common.main(run)
