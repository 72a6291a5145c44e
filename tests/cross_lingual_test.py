"""Tests of experiments.cross_lingual on tiny.bible and scores made up."""

import json
import pathlib
import tempfile
import unittest
from types import SimpleNamespace
from unittest import mock

import numpy as np
from absl.testing import absltest, parameterized
from tiny import bible
from tiny import corpus as tiny_corpus
from tiny import ladder as tiny_ladder

from experiments import (
  agreement,
  cross_lingual,
  fit_curvature,
  ladder,
  score,
  texts,
  train,
)
from experiments import cross_lingual_measures as measures
from influence_jax import store


def setUpModule():
  draws = mock.patch.object(agreement, '_NUM_DRAWS', 200)  # for speed
  draws.start()
  unittest.addModuleCleanup(draws.stop)


class ClaimsTest(parameterized.TestCase):
  def claimed(self, rungs, moved, aucs=(0.6, 0.6)):
    sizes = {size: bible.PARAMETERS[size] for size in ('s', 'm', 'l')
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
    rungs = [bible.rung(size) for size in ('s', 'm', 'l')]
    moved = bible.transfers(*[[mean, mean + 1e-3] for mean in means])
    found = self.claimed(rungs, moved)[0]
    self.assertAlmostEqual(found['value'], value)
    np.testing.assert_allclose(found['interval'], [value] * 2)
    self.assertEqual(found['held'], held)
    self.assertEqual(found['sizes'], ['s', 'm', 'l'])

  def test_an_even_ranking_is_not_held(self):
    rungs = [bible.rung(size) for size in ('s', 'm', 'l')]
    moved = bible.transfers([0.2, 0.2], [0.3, 0.3], [0.2, 0.2])
    found = self.claimed(rungs, moved)[0]
    self.assertAlmostEqual(found['value'], 0)
    self.assertFalse(found['held'])

  def test_seeds_are_averaged_and_the_interval_is_over_verses(self):
    rungs = [bible.rung('s', 0), bible.rung('l', 0), bible.rung('s', 1)]
    # Means over seeds and verses: 0.45, then 0.4
    moved = bible.transfers([0.1, 0.5], [0.3, 0.5], [0.3, 0.9])
    found = self.claimed(rungs, moved)[0]
    self.assertAlmostEqual(found['value'], -1)
    np.testing.assert_allclose(found['interval'], [-1, 1])

  def test_aucs_are_of_the_largest_size_and_must_pass_a_half(self):
    rungs = [bible.rung('s', 0), bible.rung('l', 0), bible.rung('s', 1)]
    moved = bible.transfers([0.1, 0.2], [0.3, 0.2], [0.1, 0.1])
    found = {x['id']: x for x in self.claimed(rungs, moved, (0.501, 0.5))}
    self.assertEqual([*found], ['E16', 'E16b', 'E16c'])
    self.assertEqual(found['E16b']['value'], 0.501)
    self.assertEqual(found['E16b']['interval'], [0.2, 0.9])
    self.assertTrue(found['E16b']['held'])
    self.assertFalse(found['E16c']['held'])
    self.assertEqual(found['E16b']['sizes'], ['l'])
    self.assertEqual(found['E16b']['seeds'], [0])

  def test_of_one_size_there_is_no_rise(self):
    found = self.claimed(
      [bible.rung(), bible.rung('s', 1)], bible.transfers([1, 2], [1, 2])
    )
    self.assertEqual([x['id'] for x in found], ['E16b', 'E16c'])


class SummaryTest(absltest.TestCase):
  def test_aucs_are_averaged_by_pairs_of_languages(self):
    rng = np.random.default_rng(0)
    rungs = [bible.rung('s', 0), bible.rung('l', 0), bible.rung('s', 1)]
    grid = measures.make_grid(bible.QUERIES, bible.section())
    aucs = [
      {
        kind: {
          g: rng.random((len(v), 3, 3)).tolist() for g, v in bible.ASKED.items()
        }
        for kind in ('aligned', 'unaligned')
      }
      for _ in rungs
    ]
    got = cross_lingual.summarise_aucs(
      rungs, ['s', 'l'], aucs, grid, bible.section()
    )
    pairs = {
      'different': [(x, y) for x in range(3) for y in range(3) if x != y],
      'one script': [(0, 1), (1, 0)],
      'two scripts': [(0, 2), (1, 2), (2, 0), (2, 1)],
      'same': [(0, 0), (1, 1), (2, 2)],
    }
    for group, verses in bible.ASKED.items():
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
    rungs = [bible.rung('s', 0), bible.rung('l', 0), bible.rung('s', 1)]
    moved = bible.transfers([0.1, 0.3], [0.5, 0.7], [0.5, 0.7])
    moved.forth[0, :, 2] = 0  # of the first rung's last language
    got = cross_lingual.summarise_rho(rungs, ['s', 'l'], moved)
    np.testing.assert_allclose(got['s']['forth'], [1, 0.4, 0.3])
    np.testing.assert_allclose(got['l']['forth'], [1, 0.6, 0.6])
    np.testing.assert_allclose(got['s']['mean'][0], 0.35)
    np.testing.assert_allclose(got['l']['mean'], [0.6, 0.5, 0.7])


class RunTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    self.root = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    self.folder = self.root / 'cross_lingual'
    self.enterContext(mock.patch.object(tiny_corpus, 'load', bible.load))
    self.enterContext(
      mock.patch.object(tiny_corpus, 'queries', bible.queries, create=True)
    )

  def config(self, sizes=('s', 'l'), seeds=(0, 1)):
    c = tiny_ladder.config(sizes, seeds)
    c.cross_lingual = bible.section()
    return c

  def write(self, config, **kwargs):
    kwargs = {'queries': bible.QUERIES, **kwargs}
    tiny_ladder.write(self.root, config, **kwargs)
    store.write_json(self.root / 'corpus.json', config.data.to_dict())
    rows = [
      {'rung': one.name, 'parameters': bible.PARAMETERS[one.size]}
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
        1 if query.labels['language'] == 'en' else share
        for query in bible.QUERIES
      ]
      return np.tile(np.outer(shares, shared_N), (3, 1, 1))

    def scores(config, ours, factors, found, texts):
      """1 for the query's verse in English."""
      del config, factors
      calls.append(ours.params_fingerprint)
      verses = [int(query.labels['verse']) for query in found]
      return np.array(
        [[bible.text(v, 'en') == x for x in texts] for v in verses]
      )

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
    self.write(other, queries=[*bible.QUERIES[3:], *bible.QUERIES[:3]])
    scores = mock.Mock(return_value=np.zeros((15, 15 + 24)))
    with self.assertRaisesRegex(ValueError, r"\['l_seed0'\].*\['s_seed0'\]"):
      cross_lingual.run(config, self.root)
    config.cross_lingual.sizes = ('s', 'l')
    rows = [{'rung': f'{x}_seed0', 'parameters': 9} for x in 'sl']
    store.write_json(self.root / 'ladder.json', {'rungs': rows})
    with self.models(scores):
      with self.assertRaisesRegex(ValueError, 'l_seed0 are of other queries'):
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
    path.write_text(
      ''.join(json.dumps(x._asdict()) + '\n' for x in bible.QUERIES)
    )
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
    every = [bible.text(v, x) for v in range(20) for x in bible.LANGUAGES]
    scores_KxT = texts.scores(config, ours, factors, bible.QUERIES, every)
    places = {query.id: k for k, query in enumerate(bible.QUERIES)}
    for group, v, x, y in (('seen', 1, 0, 2), ('unseen', 0, 2, 0)):
      verse, others = bible.ASKED[group][v], part['origin']['random'][group]
      scores_T = scores_KxT[places[f'{verse}_{bible.LANGUAGES[x]}']]
      scores_VxL = scores_T.reshape(20, 3)
      below = scores_VxL[[int(n) for n in others], y] < scores_VxL[verse, y]
      self.assertAlmostEqual(part['aligned'][group][v][x][y], below.mean())
    for name in ('rho', 'retrieval', 'sequences'):
      self.assertGreater((self.folder / f'{name}.png').stat().st_size, 10_000)


if __name__ == '__main__':
  absltest.main()
