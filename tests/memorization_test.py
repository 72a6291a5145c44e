"""Tests of experiments.memorization on made-up scores."""

import json
import pathlib
import tempfile

import ml_collections
import numpy as np
from absl.testing import absltest, parameterized
from tiny import ladder as tiny_ladder

from configs import memorization as memorization_config
from experiments import ladder, memorization, memorization_figure
from influence_jax import store
from influence_jax.data import queries as queries_lib
from influence_jax.data import sequences as sequences_lib
from influence_jax.data import tokenizer as tokenizer_lib

PLANTED = {'one': [7], 'two': [3, 50], 'four': [1, 2, 30, 59], 'none': []}
TRUTH = {'passages': {name: {'documents': x} for name, x in PLANTED.items()}}
COMPLETIONS = {'one': ' sat', 'two': ' a mat', 'four': ' blue', 'none': ' it'}
QUERIES = [
  queries_lib.Query('other', 'the cat', ' sat', {'class': 'office'}),
  *(
    queries_lib.Query(
      f'of {name}', 'the red house', COMPLETIONS[name],
      {'class': 'memorised', 'passage': name, 'copies': str(len(ids))},
    )
    for name, ids in PLANTED.items()
  ),
]  # fmt: skip


def _rung(seed=0, size='s'):
  return ladder.Rung(size, seed, ml_collections.ConfigDict(), None)


def _rows(*recalls):
  return [{'recall': {'ekfac': list(x)}} for x in recalls]


class RecallTest(absltest.TestCase):
  def test_it_is_that_of_documents_by_their_best_sequence(self):
    rng = np.random.default_rng(0)
    documents_C = rng.integers(0, 40, 90) * 2  # some have no sequence
    scores_KxC = rng.normal(size=(6, 90))
    there = sorted({*documents_C.tolist()})
    planted = [rng.choice(there, k, replace=False).tolist()
               for k in (1, 2, 3, 8, 20, 5)]  # fmt: skip
    wanted = []
    for scores, ids in zip(scores_KxC, planted, strict=True):
      best = {d: max(scores[documents_C == d]) for d in there}
      found = sorted(there, key=lambda d: -best[d])[: len(ids)]
      wanted.append(len({*found} & {*ids}) / len(ids))
    got = memorization.recall(scores_KxC, documents_C, planted)
    np.testing.assert_allclose(got, wanted)
    self.assertLess(0, min(wanted[3:]))

  def test_it_is_none_of_a_control_and_ties_go_to_the_smaller_id(self):
    scores_KxC = np.zeros((4, 5))
    documents_C = np.array([5, 4, 3, 2, 1])
    got = memorization.recall(
      scores_KxC, documents_C, [[], [1], [5], [1, 2, 5]]
    )
    self.assertEqual(got, [None, 1.0, 0.0, 2 / 3])


class ClaimTest(parameterized.TestCase):
  @parameterized.parameters((0.9, True), (0.899, False), (1.0, True))
  def test_it_holds_from_its_threshold_on(self, recall, held):
    copies, rows = [2, 2, 0], _rows([1, 2 * recall - 1, None])
    (found,) = memorization.claimed(copies, rows, 'ekfac', [_rung()])
    self.assertAlmostEqual(found['value'], recall)
    self.assertEqual((found['id'], found['held']), ('E9', held))
    self.assertEqual(found['threshold'], ['>=', 0.9])

  def test_a_passage_counts_with_the_mean_over_models(self):
    rows = _rows([1, None, 0.5], [0, None, 0.5], [0, None, 1])
    rungs = [_rung(0, 's'), _rung(0, 'l'), _rung(2, 's')]
    (found,) = memorization.claimed([1, 0, 4], rows, 'ekfac', rungs)
    self.assertAlmostEqual(found['value'], (1 / 3 + 2 / 3) / 2)
    np.testing.assert_allclose(found['interval'], [1 / 3, 2 / 3])
    self.assertEqual((found['seeds'], found['sizes']), ([0, 2], ['s', 'l']))


class MeansTest(absltest.TestCase):
  def test_they_are_over_passages_of_as_many_copies_and_over_models(self):
    rows = [{'x': [1, 2, 3, None]}, {'x': [5, 6, 7, None]}]
    found = memorization_figure.means([4, 1, 4, 0], rows, lambda row: row['x'])
    self.assertEqual([*found], [0, 1, 4])
    self.assertEqual((found[1], found[4]), (4, 4))
    self.assertTrue(np.isnan(found[0]))


class RunTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    self.root = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    self.config = self.with_section(tiny_ladder.config())

  def with_section(self, config):
    config.memorization = memorization_config.get_config().memorization
    config.memorization.methods = ('ekfac', 'kfac', 'identity', 'bm25')
    return config

  def write(self, config, queries=QUERIES):
    """Scores that find each copy at once, but K-FAC's, the other way round."""

    def scores_fn(rung, shape):
      made = sequences_lib.open(rung.workdir / 'sequences')
      documents_N = made.records['document']
      rng = np.random.default_rng([rung.seed, len(rung.name + rung.size)])
      scores = rng.uniform(-1, 1, shape)
      for k, query in enumerate(queries):
        ids = PLANTED.get(query.labels.get('passage'), [])
        for number in ids:
          at = np.flatnonzero(documents_N == number)[-1]
          scores[:, k, at] = [10 + rung.seed, 10, -10]
      return scores

    tiny_ladder.write(self.root, config, queries, scores_fn)
    store.write_json(self.root / 'truth.json', TRUTH)
    for rung in ladder.rungs(config, self.root):
      described = [
        {**query._asdict(), 'loss': 6.0 + k}
        for k, query in enumerate(queries[::-1])
      ]
      store.write_json(rung.workdir / 'scores' / 'queries.json', described)

  def run_it(self, config):
    memorization.run(config, self.root)
    folder = self.root / 'memorization'
    self.assertGreater((folder / 'memorization.png').stat().st_size, 10_000)
    return json.loads((folder / 'result.json').read_text())

  def test_every_size_and_seed_is_measured(self):
    self.write(self.config)
    result = self.run_it(self.config)
    self.assertEqual(result['passages']['copies'], [1, 2, 4, 0])
    self.assertEqual(
      [row['rung'] for row in result['rungs']],
      ['s_seed0', 'l_seed0', 's_seed1', 'l_seed1'],
    )
    tokenizer = tokenizer_lib.load(self.root / 'tokenizer.json')
    lengths = [len(x) for x in tokenizer_lib.encode(
      tokenizer, [COMPLETIONS[name] for name in PLANTED])]  # fmt: skip
    for row in result['rungs']:
      self.assertEqual({*row['recall']}, {'ekfac', 'kfac', 'identity', 'bm25'})
      self.assertEqual(row['recall']['ekfac'], [1, 1, 1, None])
      self.assertEqual(row['recall']['identity'], [1, 1, 1, None])
      self.assertLess(sum(row['recall']['kfac'][:3]), 1)
      self.assertLess(sum(row['recall']['bm25'][:3]), 3)
      best = 10 + int(row['rung'][-1])
      self.assertEqual(row['top'][:3], [best] * 3)
      self.assertLess(row['top'][3], 1)
      self.assertEqual(row['top_is_planted'], [True, True, True, False])
      self.assertEqual(row['loss'], [9, 8, 7, 6])
      np.testing.assert_allclose(
        row['loss_per_token'], np.divide([9, 8, 7, 6], lengths)
      )
    (claim,) = result['claims']
    self.assertEqual((claim['value'], claim['held']), (1, True))
    self.assertEqual((claim['seeds'], claim['sizes']), ([0, 1], ['s', 'l']))

  def test_the_first_method_alone_is_claimed_of_the_sizes_asked_for(self):
    self.config.memorization.update(methods=('kfac', 'bm25'), sizes=('l',))
    self.write(self.config)
    result = self.run_it(self.config)
    (claim,) = result['claims']
    wanted = np.mean([row['recall']['kfac'][:3] for row in result['rungs']])
    self.assertAlmostEqual(claim['value'], wanted)
    self.assertFalse(claim['held'])
    self.assertEqual(claim['sizes'], ['l'])

  def test_without_a_ladder_the_workdir_is_the_only_model(self):
    config = self.config
    with config.unlocked():
      del config.ladder
    config.memorization.sizes = ('d64',)
    self.write(config)
    result = self.run_it(config)
    self.assertLen(result['rungs'], 1)
    self.assertEqual(result['claims'][0]['sizes'], [])

  def test_what_is_missing_or_of_another_corpus_is_named(self):
    self.write(self.config)
    other = {**PLANTED, 'two': [3]}
    wrong = {'passages': {name: {'documents': x} for name, x in other.items()}}
    store.write_json(self.root / 'truth.json', wrong)
    with self.assertRaisesRegex(ValueError, "'of two' .*has 1 documents"):
      memorization.run(self.config, self.root)
    wrong['passages']['two']['documents'] = [3, 60]
    store.write_json(self.root / 'truth.json', wrong)
    with self.assertRaisesRegex(ValueError, '1 of 7 planted documents are not'):
      memorization.run(self.config, self.root)
    (self.root / 'l_seed0' / 'scores' / 'queries.json').unlink()
    store.write_json(self.root / 'truth.json', TRUTH)
    with self.assertRaisesRegex(ValueError, 'no losses.*l_seed0'):
      memorization.run(self.config, self.root)
    (self.root / 'truth.json').unlink()
    with self.assertRaisesRegex(ValueError, 'ladder_planted'):
      memorization.run(self.config, self.root)

  def test_queries_without_planted_passages_are_refused(self):
    self.write(self.config, [QUERIES[0], QUERIES[-1]])
    with self.assertRaisesRegex(ValueError, "got the classes.*'office'"):
      memorization.run(self.config, self.root)

  def test_models_of_other_queries_are_refused(self):
    self.write(self.config)
    path = self.root / 's_seed1' / 'scores' / 'manifest.json'
    manifest = store.read_json(path)
    manifest['queries'][1][0] = 'another'
    store.write_json(path, manifest)
    described = [{'id': q[0], 'loss': 1.0} for q in manifest['queries']]
    store.write_json(path.with_name('queries.json'), described)
    with self.assertRaisesRegex(ValueError, 's_seed1 are of other passages'):
      memorization.run(self.config, self.root)


if __name__ == '__main__':
  absltest.main()
