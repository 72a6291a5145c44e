import json
import pathlib
import tempfile
from unittest import mock

import bible_texts_test as bible
import numpy as np
from absl.testing import absltest, parameterized

from influence_jax.data import bible_verses, queries

NEW = (40, 41)  # the books that most tests choose


class BibleVersesTest(parameterized.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.directory = pathlib.Path(
      cls.enterClassContext(tempfile.TemporaryDirectory())
    )
    cls.wheel = bible.write_wheel(cls.directory / 'w.whl', bible.mixed_rows())
    cls.load()  # every later call finds the verses prepared

  @classmethod
  def load(cls, **changes):
    options = {
      'languages': bible.ALL,
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
      (book, number)
      for book, count in bible.NUM_VERSES.items()
      for number in range(1, count + 1)
    ]
    for n in range(len(source)):
      (book, number), language = keys[n // 7], bible.ALL[n % 7]
      name = {39: 'Malachi', 40: 'Matthew', 41: 'Mark', 42: 'Luke'}[book]
      words = bible.text(book, number, language)
      expected = {
        'id': n,
        'verse': n // 7,
        'language': language,
        'title': f'{name} 1:{number} ({language})',
        'topic': name,
        'text': '' if n == bible.LACKING * 7 + 6 else words,
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
    expected = [verse for verse in verses if verse != bible.LACKING]
    self.assertEqual(sorted(together), expected)
    for group in groups.values():
      self.assertEqual(list(group), sorted(group))

  def test_groups_have_their_shares(self):
    groups = bible_verses.split(self.load())
    sizes = {name: len(verses) for name, verses in groups.items()}
    self.assertEqual(sizes, {'seen': 30, 'single': 18, 'unseen': 12})

  def test_lacking_verse_is_chosen_where_no_language_lacks_it(self):
    groups = bible_verses.split(self.load(languages=('en', 'ru')))
    self.assertIn(bible.LACKING, np.concatenate(list(groups.values())))

  @parameterized.parameters([bible.ALL], [('fr', 'en')])
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
      self.assertEqual(trained[verse], list(bible.ALL))
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
      record = source[verse * 7 + bible.ALL.index(language)]
      self.assertEqual(line['prompt'] + line['completion'], record['text'])
      self.assertEqual(language, bible.ALL[n % 7])
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
    self.assertEqual(drawn, set(range(5, 64)) - {bible.LACKING})
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


if __name__ == '__main__':
  absltest.main()
