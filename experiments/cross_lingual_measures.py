"""How much of a verse's influence carries over to its other languages.

For experiments.cross_lingual, which says what is measured and why: `transfer`
and `rho` of scored sequences, `retrieve` and `auc` of the verses themselves.
Further shapes: L languages, the source first; G groups; V verses of a group
that have queries, W the same again; M top sequences; R random verses, of `rho`
rungs.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from experiments import corpus, ladder, scored, texts
from influence_jax import store
from influence_jax.data import queries as queries_lib


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
  verses = {
    group: list(dict.fromkeys(v for g, v, _ in keys if g == group))
    for group in dict.fromkeys(group_K)
  }
  missing = {(g, v, x) for g, v, _ in keys for x in languages} - {*keys}
  few = [group for group, own in verses.items() if len(own) < 2]
  if missing or few or len(places) < len(keys):
    raise ValueError(
      f'the queries lack {sorted(missing)}, have one verse of {few} and '
      f'{len(keys) - len(places)} twice: expected each verse once in each of '
      f'{languages}, two or more a group; let the corpus make them'
    )
  rows = {
    group: np.array(
      [[places[group, verse, x] for x in languages] for verse in own]
    )
    for group, own in verses.items()
  }
  return Grid(languages, verses, rows)


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
    tops_LxM = tops(scores_KxC, v, grid, columns, section)
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


def tops(
  scores_KxC: np.ndarray,
  v: int,
  grid: Grid,
  columns: Columns,
  section: ConfigDict,
) -> np.ndarray:
  """Places of the largest scores of verse v's queries, [L, M], best first.

  A language's are sequences in that language; the verse itself is left out.
  """
  group, found = section.group, []
  for k, language in zip(grid.rows[group][v], grid.languages, strict=True):
    rest_C = _others(columns, grid.verses[group][v], language)
    if len(rest_C) < section.num_top:
      raise ValueError(
        f'{len(rest_C)} sequences in {language!r} were scored, expected '
        f'config.cross_lingual.num_top={section.num_top} or more: score more '
        'of them'
      )
    order = np.argsort(-scores_KxC[k, rest_C], kind='stable')
    found.append(rest_C[order[: section.num_top]])
  return np.stack(found)


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
  """{'aligned', 'unaligned': {group: AUCs as lists [V, L, L]}}.

  By the query's and the text's language; `random` is of `random_verses`.
  """
  ours, factors = texts.load(rung)
  expected = {'params': found.origin['params']}
  theirs = {'params': ours.params_fingerprint}
  store.check(theirs, expected, f'the model of {rung.name}, by its scores,')
  own = [query.prompt + query.completion for query in found.queries]
  rest = [text for x in random.values() for row in x.values() for text in row]
  scores_KxC = texts.scores(
    rung.config, ours, factors, found.queries, [*own, *rest]
  )
  shape = len(own), len(random), -1, len(grid.languages)
  random_KxGxRxL = scores_KxC[:, len(own) :].reshape(shape)
  aligned, unaligned = {}, {}
  for g, group in enumerate(random):
    rows_VxL = grid.rows[group]
    own_VxLxWxL = scores_KxC[:, rows_VxL][rows_VxL]
    auc_VxLxWxL = auc(own_VxLxWxL, random_KxGxRxL[rows_VxL, g])
    same_VxLxL = np.einsum('vxvy->vxy', auc_VxLxWxL)
    rest_VxLxL = auc_VxLxWxL.sum(2) - same_VxLxL
    aligned[group] = same_VxLxL.tolist()
    unaligned[group] = (rest_VxLxL / (len(rows_VxL) - 1)).tolist()
  return {'aligned': aligned, 'unaligned': unaligned}


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


def _others(columns: Columns, verse: str, language: str) -> np.ndarray:
  """Places of the sequences in a language that are not of the verse."""
  mine_C = columns.languages == language
  return np.flatnonzero(mine_C & (columns.verses != verse))
