"""Tests of experiments.cross_lingual_measures on tiny.bible."""

import itertools
from types import SimpleNamespace
from unittest import mock

import ml_collections
import numpy as np
from absl.testing import absltest, parameterized
from scipy import stats
from tiny import bible
from tiny import ladder as tiny_ladder

from experiments import cross_lingual_measures as measures
from experiments import texts


def columns(rng, num=90):
  verses = rng.integers(20, size=num).astype(str)
  languages = np.array([*bible.LANGUAGES, 'xx'])[rng.integers(4, size=num)]
  return measures.Columns([f't{n}' for n in range(num)], verses, languages)


class GridTest(parameterized.TestCase):
  def test_each_place_is_of_its_verse_and_language(self):
    order = np.random.default_rng(1).permutation(len(bible.QUERIES))
    shuffled = [bible.QUERIES[n] for n in order]
    grid = measures.make_grid(shuffled, bible.section(source='fr'))
    self.assertEqual(grid.languages[0], 'fr')
    self.assertCountEqual(grid.languages, bible.LANGUAGES)
    for group, verses in bible.ASKED.items():
      self.assertCountEqual(grid.verses[group], map(str, verses))
      for verse, rows_L in zip(
        grid.verses[group], grid.rows[group], strict=True
      ):
        for language, k in zip(grid.languages, rows_L, strict=True):
          self.assertEqual(shuffled[k].id, f'{verse}_{language}')

  @parameterized.parameters(
    (bible.QUERIES[:-1], {}, "lack .*'unseen', '18', 'ko'"),
    (bible.QUERIES[1:], {}, "lack .*'seen', '2', 'en'"),
    ([*bible.QUERIES, bible.QUERIES[0]], {}, '1 twice'),
    (bible.QUERIES[:12], {}, "one verse of .'unseen'"),
    (
      bible.QUERIES,
      {'source': 'it'},
      "source: .'it'. not found among .'en', 'fr'",
    ),
    (bible.QUERIES, {'group': 'single'}, "group: .'single'. not found"),
    (
      bible.QUERIES,
      {'scripts': {'en': 'Latin'}},
      "scripts: .'fr', 'ko'. not found",
    ),
    (tiny_ladder.QUERIES, {}, "no label 'group'"),
  )
  def test_what_does_not_fit_is_named(self, found, changes, message):
    changed = bible.section()
    if 'scripts' in changes:
      changed.scripts = ml_collections.ConfigDict(changes.pop('scripts'))
    changed.update(changes)
    with self.assertRaisesRegex(ValueError, message):
      measures.make_grid(found, changed)


class TransferTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.rng = np.random.default_rng(0)
    self.grid = measures.make_grid(bible.QUERIES, bible.section())
    self.columns = columns(self.rng, 400)
    self.scores_KxC = self.rng.standard_t(3, (len(bible.QUERIES), 400))

  def moved(self, scores_KxC=None, found=None, **changes):
    scores_KxC = self.scores_KxC if scores_KxC is None else scores_KxC
    return measures.transfer(
      scores_KxC, self.grid, found or self.columns, bible.section(**changes)
    )

  def of(self, verse, language):
    """Scores of a query by the number of the sequence."""
    names = [query.id for query in bible.QUERIES]
    return self.scores_KxC[names.index(f'{verse}_{language}')]

  def best(self, verse, language):
    """Numbers of its four best, one by one."""
    found = []
    for n in sorted(range(400), key=lambda n: -self.of(verse, language)[n]):
      own = self.columns.verses[n] == str(verse)
      if self.columns.languages[n] == language and not own:
        found.append(n)
    return found[:4]

  def test_means_are_those_of_a_search_one_by_one(self):
    for n, (verse, language) in enumerate(
      zip(self.columns.verses, self.columns.languages, strict=True)
    ):
      if language in bible.LANGUAGES and int(verse) in bible.ASKED['seen']:
        self.of(verse, language)[n] = 100 + n  # its own verse is left out
    got = self.moved()
    for v, verse in enumerate(bible.ASKED['seen']):
      source = self.best(verse, 'en')
      for x, language in enumerate(bible.LANGUAGES):
        own = self.best(verse, language)
        others = [w for w in bible.ASKED['seen'] if w != verse]
        wanted = {
          'own': np.mean([self.of(verse, language)[n] for n in own]),
          'forth': np.mean([self.of(verse, language)[n] for n in source]),
          'back': np.mean([self.of(verse, 'en')[n] for n in own]),
          'other': np.mean(
            [self.of(w, language)[n] for w in others for n in source]
          ),
        }
        for name, value in wanted.items():
          np.testing.assert_allclose(getattr(got, name)[v, x], value, 1e-9)

  def test_the_order_of_sequences_changes_nothing_but_the_random_ones(self):
    order = self.rng.permutation(400)
    turned = measures.Columns(
      [self.columns.titles[n] for n in order],
      self.columns.verses[order], self.columns.languages[order],
    )  # fmt: skip
    got, wanted = self.moved(self.scores_KxC[:, order], turned), self.moved()
    for name in ('own', 'forth', 'back', 'other'):
      np.testing.assert_allclose(
        getattr(got, name), getattr(wanted, name), 1e-9
      )

  def test_random_sequences_are_of_the_source_and_of_other_verses(self):
    mine = self.columns.languages == 'en'
    for verse in map(str, bible.ASKED['seen']):
      scores_KxC = np.where(mine & (self.columns.verses != verse), 1.0, -1e6)
      scores_KxC = np.where(self.columns.languages == 'en', scores_KxC, 1)
      got = self.moved(np.tile(scores_KxC, (len(bible.QUERIES), 1)))
      v = self.grid.verses['seen'].index(verse)
      np.testing.assert_allclose(got.random[v], 1)

  def test_random_sequences_follow_the_seed_and_are_not_the_top(self):
    one, again, other = self.moved(), self.moved(), self.moved(seed=1)
    np.testing.assert_array_equal(one.random, again.random)
    self.assertGreater(np.abs(one.random - other.random).min(), 1e-6)
    self.assertLess(one.random[:, 0].max(), one.own[:, 0].min())

  def test_without_a_positive_top_or_with_too_few_it_says_so(self):
    with self.assertRaisesRegex(ValueError, 'top 4 of verse 2 in en .* -'):
      self.moved(-np.abs(self.scores_KxC))
    with self.assertRaisesRegex(ValueError, "in 'en' were scored.*=300"):
      self.moved(num_top=300)


class RhoTest(absltest.TestCase):
  def test_a_language_of_a_fixed_share_has_that_rho_and_its_inverse_back(self):
    rng = np.random.default_rng(0)
    grid = measures.make_grid(bible.QUERIES, bible.section())
    found = columns(rng, 300)
    scores_KxC = rng.standard_t(3, (len(bible.QUERIES), 300))
    by_verse = {n: rng.standard_t(3, 300) for n in range(20)}
    shares = {'en': 1, 'fr': 0.25, 'ko': -0.5}
    for k, query in enumerate(bible.QUERIES):
      labels = query.labels
      share = shares[labels['language']]
      scores_KxC[k] = share * by_verse[int(labels['verse'])]
    moved = measures.transfer(scores_KxC, grid, found, bible.section())
    stacked = measures.Transfer(*(np.stack([x, 7 * x]) for x in moved))
    got = measures.rho(stacked)
    np.testing.assert_allclose(got['forth'], [[1, 0.25, -0.5]] * 2, 1e-9)
    np.testing.assert_allclose(got['back'][:, :2], [[1, 4]] * 2, 1e-9)
    ratio = got['random'] / got['random'][:, :1]
    np.testing.assert_allclose(ratio, [[1, 0.25, -0.5]] * 2, 1e-9)

  def test_it_is_a_ratio_of_means_over_the_verses_asked_for(self):
    moved = bible.transfers([0.1, 0.5, 0.6])
    moved.own[0, 2] *= 3
    moved.forth[0, 2] *= 3
    everything = measures.rho(moved)['forth'][0, 1]
    self.assertAlmostEqual(everything, (0.1 + 0.5 + 3 * 0.6) / 5)
    rows = np.array([2, 0, 2])
    self.assertAlmostEqual(
      measures.rho(moved, rows)['forth'][0, 1], (6 * 0.6 + 0.1) / 7
    )


class AucTest(absltest.TestCase):
  def test_it_is_mann_whitneys_u_over_the_number_of_pairs(self):
    rng = np.random.default_rng(0)
    own = rng.integers(6, size=(2, 3, 2, 3)).astype(float)  # with ties
    random = rng.integers(6, size=(2, 3, 5, 3)).astype(float)
    got = measures.auc(own, random)
    for v, x, w, y in np.ndindex(*got.shape):
      u = stats.mannwhitneyu([own[v, x, w, y]], random[v, x, :, y]).statistic
      self.assertAlmostEqual(got[v, x, w, y], u / 5, places=12)


class RandomVersesTest(absltest.TestCase):
  def made(self, **module):
    return SimpleNamespace(
      module=SimpleNamespace(__name__='verses', **module), source=None
    )

  def test_they_are_whole_of_their_group_and_of_no_query(self):
    grid = measures.make_grid(bible.QUERIES, bible.section(source='ko'))
    found = measures.random_verses(
      self.made(queries=bible.queries), grid, bible.section(source='ko')
    )
    self.assertEqual([*found], ['seen', 'unseen'])
    for group, verses in found.items():
      self.assertLen(verses, 4)
      for verse, in_languages in verses.items():
        self.assertIn(int(verse), bible.GROUPS[group])
        self.assertNotIn(int(verse), bible.ASKED[group])
        wanted = [bible.text(int(verse), x) for x in ('ko', 'en', 'fr')]
        self.assertEqual(in_languages, wanted)

  def test_a_corpus_that_draws_no_verses_is_named(self):
    grid = measures.make_grid(bible.QUERIES, bible.section())
    with self.assertRaisesRegex(ValueError, 'verses has no queries'):
      measures.random_verses(self.made(), grid, bible.section())


class RetrieveTest(absltest.TestCase):
  def test_each_text_is_compared_with_those_of_its_language_and_group(self):
    grid = measures.make_grid(bible.QUERIES, bible.section())
    random = {
      group: {
        str(n): [bible.text(n, x) for x in bible.LANGUAGES]
        for n in bible.GROUPS[group]
        if n not in bible.ASKED[group]
      }
      for group in bible.ASKED
    }
    random = {
      group: dict([*verses.items()][:5]) for group, verses in random.items()
    }
    every = {
      bible.text(*key): key
      for key in itertools.product(range(20), bible.LANGUAGES)
    }
    rng = np.random.default_rng(3)
    of = {
      key: rng.standard_normal()
      for key in itertools.product(
        [query.id for query in bible.QUERIES], every.values()
      )
    }

    def scores(config, ours, factors, found, texts):
      self.assertEqual((config, factors), (one.config, 'factors'))
      return np.array([[of[q.id, every[t]] for t in texts] for q in found])

    one = bible.rung()
    ours = SimpleNamespace(params_fingerprint='ours')
    self.enterContext(
      mock.patch.multiple(
        texts, load=lambda _: (ours, 'factors'), scores=scores
      )
    )
    asked = SimpleNamespace(queries=bible.QUERIES, origin={'params': 'ours'})
    got = measures.retrieve(one, asked, grid, random)
    for group, verses in bible.ASKED.items():
      for (v, verse), (x, asks), (y, says) in itertools.product(
        enumerate(verses),
        enumerate(bible.LANGUAGES),
        enumerate(bible.LANGUAGES),
      ):
        name = f'{verse}_{asks}'

        def below(w, name=name, says=says, group=group):
          rest = [of[name, (int(r), says)] for r in random[group]]
          return np.mean(np.array(rest) < of[name, (w, says)])

        self.assertAlmostEqual(got['aligned'][group][v][x][y], below(verse))
        others = np.mean([below(w) for w in verses if w != verse])
        self.assertAlmostEqual(got['unaligned'][group][v][x][y], others)
    asked.origin = {'params': 'of before'}
    with self.assertRaisesRegex(ValueError, "s_seed0.*params is 'ours' there"):
      measures.retrieve(one, asked, grid, random)


if __name__ == '__main__':
  absltest.main()
