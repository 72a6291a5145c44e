"""Tests of experiments.cross_lingual on verses and scores made up.

Verses 0 to 11 are in the group seen, 12 to 19 are unseen; each in three
languages, document 3 verse + place of the language.
"""

import itertools
import json
import pathlib
import tempfile
import unittest
from types import SimpleNamespace
from unittest import mock

import ml_collections
import numpy as np
from absl.testing import absltest, parameterized
from scipy import stats
from tiny import corpus as tiny_corpus
from tiny import ladder as tiny_ladder

from configs import cross_lingual as cross_lingual_config
from experiments import (
  agreement,
  cross_lingual,
  cross_lingual_figure,
  fit_curvature,
  ladder,
  score,
  texts,
  train,
)
from experiments import cross_lingual_measures as measures
from influence_jax import store
from influence_jax.data import queries as queries_lib

LANGUAGES = ('en', 'fr', 'ko')
GROUPS = {'seen': range(12), 'unseen': range(12, 20)}
ASKED = {'seen': (2, 5, 7), 'unseen': (13, 18)}  # verses of the queries
PARAMETERS = {'s': 1000, 'm': 5000, 'l': 9000}
_WORDS = 'the cat dog sat on a mat ran to from red blue house tree and'.split()


def text(verse, language):
  words = np.random.default_rng(verse).choice(_WORDS, 6).tolist()
  return ' '.join(f'{word}{language[0]}' for word in [*words, f'v{verse}'])


def load(data_dir, **source):
  del data_dir, source
  return [
    {
      'id': n, 'verse': verse, 'language': language, 'topic': 'Book',
      'title': f'Book {verse} ({language})', 'text': text(verse, language),
    }
    for n, (verse, language) in enumerate(
      itertools.product(range(20), LANGUAGES)
    )
  ]  # fmt: skip


def lines(verses, group):
  for verse, language in itertools.product(verses, LANGUAGES):
    whole = text(verse, language)
    labels = {'verse': str(verse), 'language': language, 'group': group}
    yield {
      'id': f'{verse}_{language}', 'prompt': whole[:9], 'completion': whole[9:],
      'labels': {**labels, 'class': 'verse'},
    }  # fmt: skip


def queries(source, *, num_per_group, seed):
  del source
  rng = np.random.default_rng(seed)
  return [
    line
    for group, verses in GROUPS.items()
    for line in lines(np.sort(rng.permutation(verses)[:num_per_group]), group)
  ]


QUERIES = [
  queries_lib.Query(**line)
  for group, verses in ASKED.items()
  for line in lines(verses, group)
]


def setUpModule():
  draws = mock.patch.object(agreement, '_NUM_DRAWS', 200)  # for speed
  draws.start()
  unittest.addModuleCleanup(draws.stop)


def section(**changes):
  found = cross_lingual_config.get_config().cross_lingual
  found.update({'num_top': 4, 'num_random': 4, **changes})
  return found


def columns(rng, num=90):
  verses = rng.integers(20, size=num).astype(str)
  languages = np.array([*LANGUAGES, 'xx'])[rng.integers(4, size=num)]
  return measures.Columns([f't{n}' for n in range(num)], verses, languages)


def rung(size='s', seed=0):
  config = ml_collections.ConfigDict()
  return ladder.Rung(size, seed, config, pathlib.Path('nowhere'))


def transfers(*rho_RxV, own=1.0):
  """A rung each, whose verses' own scores are `own`, the others' rho of it."""
  own_VxL = own * np.ones((len(rho_RxV[0]), 3))
  moved = []
  for rho_V in rho_RxV:
    forth_VxL = own_VxL * np.stack([np.ones(len(rho_V)), rho_V, rho_V], 1)
    moved.append(measures.Transfer(own_VxL, forth_VxL, *[own_VxL] * 3))
  return measures.Transfer(*map(np.stack, zip(*moved, strict=True)))


class GridTest(parameterized.TestCase):
  def test_each_place_is_of_its_verse_and_language(self):
    order = np.random.default_rng(1).permutation(len(QUERIES))
    shuffled = [QUERIES[n] for n in order]
    grid = measures.make_grid(shuffled, section(source='fr'))
    self.assertEqual(grid.languages[0], 'fr')
    self.assertCountEqual(grid.languages, LANGUAGES)
    for group, verses in ASKED.items():
      self.assertCountEqual(grid.verses[group], map(str, verses))
      for verse, rows_L in zip(
        grid.verses[group], grid.rows[group], strict=True
      ):
        for language, k in zip(grid.languages, rows_L, strict=True):
          self.assertEqual(shuffled[k].id, f'{verse}_{language}')

  @parameterized.parameters(
    (QUERIES[:-1], {}, "lack .*'unseen', '18', 'ko'"),
    (QUERIES[1:], {}, "lack .*'seen', '2', 'en'"),
    ([*QUERIES, QUERIES[0]], {}, '1 twice'),
    (QUERIES[:12], {}, "one verse of .'unseen'"),
    (QUERIES, {'source': 'it'}, "source: .'it'. not found among .'en', 'fr'"),
    (QUERIES, {'group': 'single'}, "group: .'single'. not found"),
    (QUERIES, {'scripts': {'en': 'Latin'}}, "scripts: .'fr', 'ko'. not found"),
    (tiny_ladder.QUERIES, {}, "no label 'group'"),
  )
  def test_what_does_not_fit_is_named(self, found, changes, message):
    changed = section()
    if 'scripts' in changes:
      changed.scripts = ml_collections.ConfigDict(changes.pop('scripts'))
    changed.update(changes)
    with self.assertRaisesRegex(ValueError, message):
      measures.make_grid(found, changed)


class TransferTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.rng = np.random.default_rng(0)
    self.grid = measures.make_grid(QUERIES, section())
    self.columns = columns(self.rng, 400)
    self.scores_KxC = self.rng.standard_t(3, (len(QUERIES), 400))

  def moved(self, scores_KxC=None, found=None, **changes):
    scores_KxC = self.scores_KxC if scores_KxC is None else scores_KxC
    return measures.transfer(
      scores_KxC, self.grid, found or self.columns, section(**changes)
    )

  def of(self, verse, language):
    """Scores of a query by the number of the sequence."""
    names = [query.id for query in QUERIES]
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
      if language in LANGUAGES and int(verse) in ASKED['seen']:
        self.of(verse, language)[n] = 100 + n  # its own verse is left out
    got = self.moved()
    for v, verse in enumerate(ASKED['seen']):
      source = self.best(verse, 'en')
      for x, language in enumerate(LANGUAGES):
        own = self.best(verse, language)
        others = [w for w in ASKED['seen'] if w != verse]
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
    for verse in map(str, ASKED['seen']):
      scores_KxC = np.where(mine & (self.columns.verses != verse), 1.0, -1e6)
      scores_KxC = np.where(self.columns.languages == 'en', scores_KxC, 1)
      got = self.moved(np.tile(scores_KxC, (len(QUERIES), 1)))
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
    grid = measures.make_grid(QUERIES, section())
    found = columns(rng, 300)
    scores_KxC = rng.standard_t(3, (len(QUERIES), 300))
    by_verse = {n: rng.standard_t(3, 300) for n in range(20)}
    shares = {'en': 1, 'fr': 0.25, 'ko': -0.5}
    for k, query in enumerate(QUERIES):
      labels = query.labels
      share = shares[labels['language']]
      scores_KxC[k] = share * by_verse[int(labels['verse'])]
    moved = measures.transfer(scores_KxC, grid, found, section())
    stacked = measures.Transfer(*(np.stack([x, 7 * x]) for x in moved))
    got = measures.rho(stacked)
    np.testing.assert_allclose(got['forth'], [[1, 0.25, -0.5]] * 2, 1e-9)
    np.testing.assert_allclose(got['back'][:, :2], [[1, 4]] * 2, 1e-9)
    ratio = got['random'] / got['random'][:, :1]
    np.testing.assert_allclose(ratio, [[1, 0.25, -0.5]] * 2, 1e-9)

  def test_it_is_a_ratio_of_means_over_the_verses_asked_for(self):
    moved = transfers([0.1, 0.5, 0.6])
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
    grid = measures.make_grid(QUERIES, section(source='ko'))
    found = measures.random_verses(
      self.made(queries=queries), grid, section(source='ko')
    )
    self.assertEqual([*found], ['seen', 'unseen'])
    for group, verses in found.items():
      self.assertLen(verses, 4)
      for verse, in_languages in verses.items():
        self.assertIn(int(verse), GROUPS[group])
        self.assertNotIn(int(verse), ASKED[group])
        wanted = [text(int(verse), x) for x in ('ko', 'en', 'fr')]
        self.assertEqual(in_languages, wanted)

  def test_a_corpus_that_draws_no_verses_is_named(self):
    grid = measures.make_grid(QUERIES, section())
    with self.assertRaisesRegex(ValueError, 'verses has no queries'):
      measures.random_verses(self.made(), grid, section())


class RetrieveTest(absltest.TestCase):
  def test_each_text_is_compared_with_those_of_its_language_and_group(self):
    grid = measures.make_grid(QUERIES, section())
    random = {
      group: {
        str(n): [text(n, x) for x in LANGUAGES]
        for n in GROUPS[group]
        if n not in ASKED[group]
      }
      for group in ASKED
    }
    random = {
      group: dict([*verses.items()][:5]) for group, verses in random.items()
    }
    every = {text(*key): key for key in itertools.product(range(20), LANGUAGES)}
    rng = np.random.default_rng(3)
    of = {
      key: rng.standard_normal()
      for key in itertools.product(
        [query.id for query in QUERIES], every.values()
      )
    }

    def scores(config, ours, factors, found, texts):
      self.assertEqual((config, factors), (one.config, 'factors'))
      return np.array([[of[q.id, every[t]] for t in texts] for q in found])

    one = rung()
    ours = SimpleNamespace(params_fingerprint='ours')
    self.enterContext(
      mock.patch.multiple(
        texts, load=lambda _: (ours, 'factors'), scores=scores
      )
    )
    asked = SimpleNamespace(queries=QUERIES, origin={'params': 'ours'})
    got = measures.retrieve(one, asked, grid, random)
    for group, verses in ASKED.items():
      for (v, verse), (x, asks), (y, says) in itertools.product(
        enumerate(verses), enumerate(LANGUAGES), enumerate(LANGUAGES)
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


class ClaimsTest(parameterized.TestCase):
  def claimed(self, rungs, moved, aucs=(0.6, 0.6)):
    sizes = {size: PARAMETERS[size] for size in ('s', 'm', 'l')
             if size in {one.size for one in rungs}}  # fmt: skip
    retrieval = {
      group: {size: {'different': [0.1, 0, 1]} for size in sizes}
      for group in ('seen', 'unseen')
    }
    for group, value in zip(('seen', 'unseen'), aucs, strict=True):
      retrieval[group][[*sizes][-1]]['different'] = [value, 0.2, 0.9]
    return cross_lingual.claimed(rungs, sizes, moved, retrieval)

  @parameterized.parameters(
    ([0.1, 0.2, 0.3], 1.0, True),
    ([0.3, 0.2, 0.1], -1.0, False),
    ([0.1, 0.3, 0.2], 0.5, True),
  )
  def test_rho_must_rise_with_the_size(self, means, value, held):
    rungs = [rung(size) for size in ('s', 'm', 'l')]
    moved = transfers(*[[mean, mean + 1e-3] for mean in means])
    found = self.claimed(rungs, moved)[0]
    self.assertAlmostEqual(found['value'], value)
    np.testing.assert_allclose(found['interval'], [value] * 2)
    self.assertEqual(found['held'], held)
    self.assertEqual(found['sizes'], ['s', 'm', 'l'])

  def test_an_even_ranking_is_not_held(self):
    rungs = [rung(size) for size in ('s', 'm', 'l')]
    moved = transfers([0.2, 0.2], [0.3, 0.3], [0.2, 0.2])
    found = self.claimed(rungs, moved)[0]
    self.assertAlmostEqual(found['value'], 0)
    self.assertFalse(found['held'])

  def test_seeds_are_averaged_and_the_interval_is_over_verses(self):
    rungs = [rung('s', 0), rung('l', 0), rung('s', 1)]
    moved = transfers([0.1, 0.5], [0.3, 0.5], [0.3, 0.9])  # 0.45, then 0.4
    found = self.claimed(rungs, moved)[0]
    self.assertAlmostEqual(found['value'], -1)
    np.testing.assert_allclose(found['interval'], [-1, 1])

  def test_aucs_are_of_the_largest_size_and_must_pass_a_half(self):
    rungs = [rung('s', 0), rung('l', 0), rung('s', 1)]
    moved = transfers([0.1, 0.2], [0.3, 0.2], [0.1, 0.1])
    found = {x['id']: x for x in self.claimed(rungs, moved, (0.501, 0.5))}
    self.assertEqual([*found], ['E16', 'E16b', 'E16c'])
    self.assertEqual(found['E16b']['value'], 0.501)
    self.assertEqual(found['E16b']['interval'], [0.2, 0.9])
    self.assertTrue(found['E16b']['held'])
    self.assertFalse(found['E16c']['held'])
    self.assertEqual(found['E16b']['sizes'], ['l'])
    self.assertEqual(found['E16b']['seeds'], [0])

  def test_of_one_size_there_is_no_rise(self):
    found = self.claimed([rung(), rung('s', 1)], transfers([1, 2], [1, 2]))
    self.assertEqual([x['id'] for x in found], ['E16b', 'E16c'])


class SummaryTest(absltest.TestCase):
  def test_aucs_are_averaged_by_pairs_of_languages(self):
    rng = np.random.default_rng(0)
    rungs = [rung('s', 0), rung('l', 0), rung('s', 1)]
    grid = measures.make_grid(QUERIES, section())
    aucs = [
      {
        kind: {g: rng.random((len(v), 3, 3)).tolist() for g, v in ASKED.items()}
        for kind in ('aligned', 'unaligned')
      }
      for _ in rungs
    ]
    got = cross_lingual.summarise_aucs(rungs, ['s', 'l'], aucs, grid, section())
    pairs = {
      'different': [(x, y) for x in range(3) for y in range(3) if x != y],
      'one script': [(0, 1), (1, 0)],
      'two scripts': [(0, 2), (1, 2), (2, 0), (2, 1)],
      'same': [(0, 0), (1, 1), (2, 2)],
    }
    for group, verses in ASKED.items():
      for size, ofs in (('s', (0, 2)), ('l', (1,))):
        for kind, chosen in {**pairs, 'unaligned': pairs['different']}.items():
          source = 'unaligned' if kind == 'unaligned' else 'aligned'
          wanted = np.mean([
            aucs[r][source][group][v][x][y]
            for r in ofs for v in range(len(verses)) for x, y in chosen
          ])  # fmt: skip
          self.assertAlmostEqual(got[group][size][kind][0], wanted)
        wanted = np.mean([aucs[r]['aligned'][group] for r in ofs], (0, 1))
        np.testing.assert_allclose(got[group][size]['matrix'], wanted)

  def test_rho_is_given_by_size_and_language(self):
    rungs = [rung('s', 0), rung('l', 0), rung('s', 1)]
    moved = transfers([0.1, 0.3], [0.5, 0.7], [0.5, 0.7])
    moved.forth[0, :, 2] = 0  # of the first rung's last language
    got = cross_lingual.summarise_rho(rungs, ['s', 'l'], moved)
    np.testing.assert_allclose(got['s']['forth'], [1, 0.4, 0.3])
    np.testing.assert_allclose(got['l']['forth'], [1, 0.6, 0.6])
    np.testing.assert_allclose(got['s']['mean'][0], 0.35)
    np.testing.assert_allclose(got['l']['mean'], [0.6, 0.5, 0.7])


class DrawTest(absltest.TestCase):
  def test_lines_are_the_languages_and_the_mean_controls(self):
    rho = {
      size: {
        'forth': [1, n, 2 * n], 'back': [1, 5 * n, 6 * n],
        'random': [9, 0, 0.1], 'other': [9, 0.2, 0.4],
      }
      for n, size in enumerate('sml', start=1)
    }  # fmt: skip
    fig = cross_lingual_figure.draw_rho(rho, PARAMETERS, LANGUAGES)
    left, right = fig.axes
    drawn = {x.get_label(): x for x in left.get_lines()}
    np.testing.assert_allclose(drawn['fr'].get_xdata(), [1000, 5000, 9000])
    np.testing.assert_allclose(drawn['ko'].get_ydata(), [2, 4, 6])
    np.testing.assert_allclose(
      drawn['random sequences, mean'].get_ydata(), [0.05] * 3
    )
    np.testing.assert_allclose(
      drawn['another verse, mean'].get_ydata(), [0.3] * 3
    )
    drawn = {x.get_label(): x for x in right.get_lines()}
    np.testing.assert_allclose(drawn['fr'].get_ydata(), [5, 10, 15])

  def test_shades_are_shares_of_the_sources_largest_score(self):
    scores = [[4.0, 2.0], [1.0, 0.0], [-1.0, 8.0]]
    one = {
      'size': 's', 'query': 'q', 'titles': ['a', 'b'], 'scores': scores
    }  # fmt: skip
    fig = cross_lingual_figure.draw_sequences([one], LANGUAGES)
    image = fig.axes[0].get_images()[0]
    np.testing.assert_allclose(image.get_array(), np.array(scores) / 4)
    self.assertEqual(image.get_clim(), (-1, 1))
    marked = [x.get_position() for x in fig.axes[0].texts]
    self.assertEqual(marked, [(0, 2)])

  def test_cells_of_the_matrices_say_their_numbers(self):
    auc = np.arange(9).reshape(3, 3) / 8
    fig = cross_lingual_figure.draw_retrieval(
      {'seen': auc, 'unseen': auc.T}, LANGUAGES
    )
    cells = {x.get_position(): x.get_text() for x in fig.axes[0].texts}
    self.assertEqual(cells[1, 0], '.12')
    self.assertEqual(cells[0, 1], '.38')
    self.assertEqual(cells[2, 2], '1.00')


class RunTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    self.root = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    self.folder = self.root / 'cross_lingual'
    self.enterContext(mock.patch.object(tiny_corpus, 'load', load))
    self.enterContext(
      mock.patch.object(tiny_corpus, 'queries', queries, create=True)
    )

  def config(self, sizes=('s', 'l'), seeds=(0, 1)):
    c = tiny_ladder.config(sizes, seeds)
    c.cross_lingual = section()
    return c

  def write(self, config, **kwargs):
    kwargs = {'queries': QUERIES, **kwargs}
    tiny_ladder.write(self.root, config, **kwargs)
    store.write_json(self.root / 'corpus.json', config.data.to_dict())
    rows = [
      {'rung': one.name, 'parameters': PARAMETERS[one.size]}
      for one in ladder.rungs(config, self.root)
    ]
    store.write_json(self.root / 'ladder.json', {'rungs': rows})

  def models(self, scores):
    """Stands for experiments.texts, which needs trained models."""

    def loaded(one):
      return SimpleNamespace(params_fingerprint=f'of {one.name}'), {}

    return mock.patch.multiple(texts, load=loaded, scores=scores)

  def result(self):
    return json.loads((self.folder / 'result.json').read_text())

  def test_a_ladder_is_measured_and_its_texts_are_scored_once(self):
    config = self.config()
    calls = []

    def scores_fn(one, shape):
      """Larger ones carry over more, of whatever verse and language."""
      shared_N = np.random.default_rng(one.seed).exponential(size=shape[-1])
      share = {'s': 0.2, 'l': 0.6}[one.size]
      shares = [
        1 if query.labels['language'] == 'en' else share for query in QUERIES
      ]
      return np.tile(np.outer(shares, shared_N), (3, 1, 1))

    def scores(config, ours, factors, found, texts):
      """1 for the query's verse in English."""
      del config, factors
      calls.append(ours.params_fingerprint)
      verses = [int(query.labels['verse']) for query in found]
      return np.array([[text(v, 'en') == x for x in texts] for v in verses])

    self.write(config, scores_fn=scores_fn)
    with self.models(scores):
      cross_lingual.run(config, self.root)
    self.assertEqual(
      calls, ['of s_seed0', 'of l_seed0', 'of s_seed1', 'of l_seed1']
    )
    result = self.result()
    np.testing.assert_allclose(result['rho']['s']['forth'], [1, 0.2, 0.2], 1e-5)
    np.testing.assert_allclose(result['rho']['l']['forth'], [1, 0.6, 0.6], 1e-5)
    found = {x['id']: x for x in result['claims']}
    self.assertAlmostEqual(found['E16']['value'], 1)
    self.assertEqual(found['E16']['seeds'], [0, 1])
    matrix = np.array(result['retrieval']['seen']['l']['matrix'])
    np.testing.assert_allclose(matrix, [[1, 0.5, 0.5]] * 3)
    self.assertAlmostEqual(found['E16b']['value'], 4 / 6)
    shown = result['shown']
    self.assertEqual(
      [(x['size'], x['query']) for x in shown],
      [('s', '2_en'), ('s', '5_en'), ('l', '2_en'), ('l', '5_en')],
    )
    for one in shown:
      self.assertLen(one['titles'], 4)
      self.assertTrue(all(title.endswith('(en)') for title in one['titles']))
      verse = one['query'].removesuffix('_en')
      self.assertNotIn(f'Book {verse} (en)', one['titles'])
    for name in ('rho', 'retrieval', 'sequences'):
      self.assertGreater((self.folder / f'{name}.png').stat().st_size, 10_000)
    with self.models(mock.Mock(side_effect=AssertionError)):
      cross_lingual.run(config, self.root)
    self.assertEqual(self.result()['claims'], result['claims'])
    config.cross_lingual.num_random = 3
    with self.assertRaisesRegex(ValueError, 'random.* there'):
      cross_lingual.run(config, self.root)

  def test_rungs_of_other_queries_or_without_parameters_are_refused(self):
    config = self.config(seeds=(0,))
    self.write(config)
    other = self.config(sizes=('l',), seeds=(0,))
    self.write(other, queries=[*QUERIES[3:], *QUERIES[:3]])
    scores = mock.Mock(return_value=np.zeros((15, 15 + 24)))
    with self.assertRaisesRegex(ValueError, r"\['l_seed0'\].*\['s_seed0'\]"):
      cross_lingual.run(config, self.root)
    config.cross_lingual.sizes = ('s', 'l')
    rows = [{'rung': f'{x}_seed0', 'parameters': 9} for x in 'sl']
    store.write_json(self.root / 'ladder.json', {'rungs': rows})
    with self.models(scores):
      with self.assertRaisesRegex(ValueError, 'l_seed0.scores.*15 queries'):
        cross_lingual.run(config, self.root)

  def test_a_corpus_of_one_language_is_named(self):
    config = self.config(sizes=('s',), seeds=(0,))
    self.write(config)
    old = mock.patch.object(
      tiny_corpus, 'load', lambda *_, **__: [{'text': '', 'id': 0}] * 60
    )
    with old, self.assertRaisesRegex(ValueError, 'tiny.corpus have .*verse'):
      cross_lingual.run(config, self.root)

  def test_a_model_of_ones_own_is_scored_for_real(self):
    config = self.config()
    path = self.root / 'asked.jsonl'
    path.write_text(''.join(json.dumps(x._asdict()) + '\n' for x in QUERIES))
    with config.unlocked():
      del config.ladder
    config.score.update(queries=str(path), num_top=0, refine=0, query_batch=8)
    config.score.num_sequences = 50
    config.cross_lingual.sizes = ('d64',)
    train.run(config, self.root)
    fit_curvature.run(config, self.root)
    score.run(config, self.root)
    cross_lingual.run(config, self.root)
    result = self.result()
    self.assertEqual([x['id'] for x in result['claims']], ['E16b', 'E16c'])
    self.assertEqual(result['sizes'], {'': None})
    ours, factors = texts.load(ladder.rungs(config, self.root)[0])
    part = store.read_json(self.folder / f'{self.root.name}.json')
    every = [text(v, x) for v in range(20) for x in LANGUAGES]
    scores_KxT = texts.scores(config, ours, factors, QUERIES, every)
    places = {query.id: k for k, query in enumerate(QUERIES)}
    for group, v, x, y in (('seen', 1, 0, 2), ('unseen', 0, 2, 0)):
      verse, others = ASKED[group][v], part['origin']['random'][group]
      scores_VxL = scores_KxT[places[f'{verse}_{LANGUAGES[x]}']].reshape(20, 3)
      below = scores_VxL[[int(n) for n in others], y] < scores_VxL[verse, y]
      self.assertAlmostEqual(part['aligned'][group][v][x][y], below.mean())
    for name in ('rho', 'retrieval', 'sequences'):
      self.assertGreater((self.folder / f'{name}.png').stat().st_size, 10_000)


if __name__ == '__main__':
  absltest.main()
