import itertools
import json
import pathlib
import re
import tempfile
from unittest import mock

import numpy as np
from absl.testing import absltest, parameterized
from scipy import stats
from tiny import ladder as tiny_ladder

from configs import procedural as procedural_config
from experiments import ladder, procedural, procedural_figure
from experiments import procedural_measures as measures
from influence_jax import store
from influence_jax.data import planted_sums
from influence_jax.data import queries as queries_lib
from influence_jax.data import sequences as sequences_lib


def _query(name, **labels):
  return queries_lib.Query(name, 'the cat', ' sat', labels)


QUERIES = [  # not in the classes' order
  _query('s0', **{'class': 'simple'}),
  _query('l0', **{'class': 'lookup', 'fact': 'lookup-0'}),
  _query('l1', **{'class': 'lookup', 'fact': 'lookup-1'}),
  _query('l2', **{'class': 'lookup', 'fact': 'lookup-1'}),
  _query('o0', **{'class': 'office', 'fact': 'office-0'}),
  _query('o1', **{'class': 'office', 'fact': 'office-1'}),
  _query('+0', **{'class': 'sum', 'answer': '2'}),
  _query('+1', **{'class': 'sum', 'answer': '3'}),
  _query('-0', **{'class': 'difference', 'answer': '2'}),
  _query('-1', **{'class': 'difference', 'answer': '4'}),
  _query('m0', **{'class': 'memorised', 'passage': 'p', 'copies': '2'}),
  _query('m1', **{'class': 'memorised', 'passage': 'q', 'copies': '0'}),
]


def _truth():
  """Of 60 documents: 0-7 lookups, 8-13 offices, 14-45 procedures, 46 copied."""
  rng = np.random.default_rng(0)
  documents, facts = {}, {}
  for kind, places in (('lookup', range(8)), ('office', range(8, 14))):
    for n in places:
      name = f'{kind}-{n % 2}'
      documents[str(n)] = {'kind': kind, 'fact': name, 'order': 'forward'}
      facts.setdefault(name, {'documents': []})['documents'].append(n)
  for n in range(14, 46):
    documents[str(n)] = {
      'kind': ('sum', 'difference')[n % 2],
      'problems': rng.integers(100, size=(3, 2)).tolist(),
    }
  documents['46'] = {'kind': 'memorised', 'passage': 'p'}
  return {'documents': documents, 'facts': facts}


def _bears(truth, n, kind, digit):
  """As a reader of the document's text would tell."""
  entry = truth['documents'].get(str(n), {'kind': 'lead'})
  if entry['kind'] != kind:
    return False
  text = ' '.join(planted_sums.told(kind, *pair) for pair in entry['problems'])
  return digit in re.findall(r'is (\d)', text)


def _config(**kwargs):
  config = tiny_ladder.config(**kwargs)
  config.procedural = procedural_config.get_config().procedural
  return config


class RecallTest(parameterized.TestCase):
  def test_of_a_fact_it_is_the_share_of_its_documents_that_is_found(self):
    truth, everything = _truth(), {*range(60)}
    query = QUERIES[1]  # documents 0, 2, 4, 6
    for top, wanted in (
      ({0, 2, 4, 6, 8}, 1), ({0, 1, 3, 5, 6}, 0.5), ({0, 6}, 1), ({0, 50}, 0.5),
      ({1, 3}, 0),
    ):  # fmt: skip
      got = measures.recall(query, top, everything, truth)
      self.assertAlmostEqual(got, wanted)
    got = measures.recall(query, {0, 1, 2}, {0, 1, 2, 3}, truth)
    self.assertAlmostEqual(got, 1)  # what was not scanned is not missed

  @parameterized.parameters(6, 7, 8, 9)
  def test_of_a_procedure_it_is_what_is_beyond_chance(self, k):
    truth, everything, query = _truth(), range(60), QUERIES[k]
    kind, digit = query.labels['class'], query.labels['answer']
    of_kind = [n for n in range(14, 46) if n % 2 == (kind == 'difference')]
    bearing = [n for n in everything if _bears(truth, n, kind, digit)]
    self.assertBetween(len(bearing), 1, len(of_kind) - 1)
    top = {*of_kind[:5], *bearing[:1], 0, 1, 47}
    hits = sum(_bears(truth, n, kind, digit) for n in top)
    base = len(bearing) / len(of_kind)
    num = sum(n in of_kind for n in top)
    wanted = (hits - base * num) / min(len(top), len(bearing))
    got = measures.recall(query, top, {*everything}, truth)
    self.assertAlmostEqual(got, wanted)
    got = measures.recall(query, {*of_kind}, {*everything}, truth)
    self.assertAlmostEqual(got, 0)  # all of a kind are what chance gives
    got = measures.recall(query, {0, 1, 2}, {*everything}, truth)
    self.assertEqual(got, 0)

  def test_of_others_it_is_not_defined(self):
    got = measures.recall(QUERIES[0], {0}, {0}, _truth())
    self.assertTrue(np.isnan(got))

  def test_an_answer_that_was_not_scanned_and_a_label_that_lacks_are_named(
    self,
  ):
    with self.assertRaisesRegex(ValueError, "'l0' was scanned.*score all"):
      measures.recall(QUERIES[1], {1}, {1, 3}, _truth())
    query = _query('x', **{'class': 'office'})
    with self.assertRaisesRegex(ValueError, "no label 'fact'.*'x'"):
      measures.recall(query, {1}, {1, 3}, _truth())


class PairsTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    self.x_KxD = np.random.default_rng(0).normal(size=(len(QUERIES), 30))
    self.r_KxK = np.corrcoef(self.x_KxD)
    self.classes = measures.classify(QUERIES)
    self.pairs_KxK = measures.distinct(QUERIES)

  def mean(self, one, other):
    """Over pairs of names of classes, one by one."""
    rows = itertools.product(range(len(QUERIES)), repeat=2)
    found = [
      stats.pearsonr(self.x_KxD[i], self.x_KxD[j]).statistic
      for i, j in rows
      if i != j and {i, j} != {2, 3}  # one fact
      and (self.classes[i], self.classes[j]) == (one, other)
    ]  # fmt: skip
    return np.mean(found) if found else np.nan

  def test_means_are_over_pairs_of_other_facts(self):
    got = measures.means(self.r_KxK, self.classes, self.pairs_KxK)
    names = measures.CLASSES
    wanted = [[self.mean(a, b) for b in names] for a in names]
    np.testing.assert_allclose(got, wanted, 1e-9)
    self.assertTrue(np.isnan(got[-1, -1]))  # one simple query

  def test_passages_never_planted_are_a_class_of_their_own(self):
    self.assertEqual(self.classes[-2:], ['memorised', 'control'])

  def test_another_class_is_refused(self):
    with self.assertRaisesRegex(ValueError, r"\['style'\].*expected some of"):
      measures.classify([_query('x', **{'class': 'style'})])

  def test_claims_are_differences_of_the_means(self):
    answer_K = np.random.default_rng(1).uniform(size=len(QUERIES))
    measured = measures.Measured(
      self.r_KxK, None, answer_K, np.zeros((len(QUERIES), 6)), None
    )
    rungs = [ladder.Rung('s', 2, None, None)]
    one, two = procedural.claimed(
      measured, self.classes, self.pairs_KxK, rungs, 20
    )
    wanted = (
      self.mean('sum', 'sum') + self.mean('difference', 'difference')
    ) / 2 - self.mean('lookup', 'lookup')
    self.assertAlmostEqual(one['value'], wanted)
    wanted = answer_K[1:6].mean() - answer_K[6:10].mean()
    self.assertAlmostEqual(two['value'], wanted)
    for claim in (one, two):
      self.assertLess(claim['interval'][0], claim['interval'][1])
      self.assertEqual(claim['held'], claim['value'] > 0)
      self.assertEqual((claim['seeds'], claim['sizes']), ([2], ['s']))

  def test_no_difference_is_not_enough_and_a_small_one_is(self):
    classes = ['sum', 'sum', 'difference', 'difference', 'lookup', 'lookup',
               'office', 'office']  # fmt: skip
    pairs_KxK = ~np.eye(8, dtype=bool)
    r_KxK, answer_K = np.full((8, 8), 0.25), np.full(8, 0.25)
    for r, answer, wanted in ((0.25, 0.25, False), (0.2501, 0.2499, True)):
      r_KxK[0, 1] = r_KxK[1, 0] = r
      answer_K[2] = answer
      measured = measures.Measured(r_KxK, None, answer_K, None, None)
      found = procedural.claimed(measured, classes, pairs_KxK, [], 20)
      self.assertEqual([x['held'] for x in found], [wanted, wanted])

  def test_too_few_queries_are_named(self):
    measured = measures.Measured(self.r_KxK, *[None] * 4)
    classes = ['simple' if x == 'office' else x for x in self.classes]
    with self.assertRaisesRegex(ValueError, "{'office': 0}, expected two"):
      procedural.claimed(measured, classes, self.pairs_KxK, [], 20)

  def test_a_query_drawn_twice_makes_no_pair_with_itself(self):
    rows = np.arange(12)
    got = procedural.interval(
      lambda x: procedural.correlation_gap(
        np.eye(12), ~np.eye(12, dtype=bool), x, x, x[:3]
      ),
      [rows],
    )
    np.testing.assert_allclose(got, 0, atol=1e-12)

  def test_the_interval_of_a_mean_is_as_wide_as_theory_says(self):
    x = np.random.default_rng(3).normal(size=200)
    value, low, high = procedural.interval(np.mean, [x])
    self.assertAlmostEqual(value, x.mean())
    self.assertBetween((high - low) / (2 * 1.96 * stats.sem(x)), 0.93, 1.07)


class RunTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    self.root = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    self.folder = self.root / 'procedural'

  def write(self, config, scores_fn=None):
    self.made = {}

    def kept(rung, shape):
      rng = np.random.default_rng(len(self.made))
      scores = rng.normal(size=shape) if not scores_fn else scores_fn(shape)
      self.made[rung.name] = scores.astype(np.float32)
      return scores

    tiny_ladder.write(self.root, config, queries=QUERIES, scores_fn=kept)
    store.write_json(self.root / 'truth.json', _truth())

  def result(self):
    return json.loads((self.folder / 'result.json').read_text())

  def documents(self, scores):
    """[K, documents], summed one by one."""
    made = sequences_lib.open(self.root / 'sequences')
    total = np.zeros((len(QUERIES), 60))
    for n, record in enumerate(made.records):
      total[:, record['document']] += scores[0][:, n]
    self.assertGreater(len(made), 60)  # some have two sequences
    return total

  def test_numbers_are_those_of_documents_averaged_over_models(self):
    config = _config(seeds=(0, 1))
    config.procedural.num_top = 6
    self.write(config)
    loss = [{'loss': float(k)} for k in range(len(QUERIES))]
    for name in self.made:
      store.write_json(self.root / name / 'scores' / 'queries.json', loss)
    procedural.run(config, self.root)
    result = self.result()
    by_model = [self.documents(scores) for scores in self.made.values()]
    pearson = np.mean([np.corrcoef(x) for x in by_model], axis=0)
    spearman = np.mean(
      [stats.spearmanr(x, axis=1).statistic for x in by_model], axis=0
    )
    for k, row in enumerate(result['pearson']):
      np.testing.assert_allclose(row, pearson[k, :k], atol=1e-4)
    one = result['mean']['sum']
    self.assertAlmostEqual(one['pearson']['sum'], pearson[6, 7], places=5)
    self.assertAlmostEqual(one['spearman']['sum'], spearman[6, 7], places=5)
    self.assertAlmostEqual(
      one['spearman']['office'], spearman[6:8, 4:6].mean(), places=5
    )
    self.assertEqual(one['loss'], 6.5)
    for row in result['rungs']:
      self.assertEqual(row['classes']['sum']['loss'], 6.5)
    classes = result['mean']
    guess = {x: one['guess'] for x, one in classes.items() if one['guess']}
    self.assertEqual({*guess}, {'sum', 'difference'})  # of five answers
    np.testing.assert_allclose([*guess.values()], -np.log(0.2), 1e-9)
    _, _, losses, _ = procedural_figure.tables(result, 6)
    columns = {x.header: [*x.cells] for x in losses.columns}
    self.assertEqual(columns['model'], [*self.made, 'ln 5'])
    self.assertEqual(columns['sum'], ['6.50'] * 4 + ['1.61'])
    self.assertEqual(columns['office'], ['4.50'] * 4 + ['-'])
    self.assertIsNone(result['mean']['simple']['pearson']['simple'])
    self.assertIsNone(result['mean']['simple']['answer'])
    tops = [np.argsort(-x, axis=1)[:, :6] for x in by_model]
    for k, row in enumerate(result['queries']):
      shares = [np.mean([n > 46 for n in top[k]]) for top in tops]
      self.assertAlmostEqual(row['kinds']['lead'], np.mean(shares))
      self.assertAlmostEqual(sum(row['kinds'].values()), 1)
      if row['class'] == 'lookup':
        own = {n for n in range(8) if n % 2 == int(k != 1)}
        found = [len({*top[k].tolist()} & own) / 4 for top in tops]
        self.assertAlmostEqual(row['answer'], np.mean(found))
    names = [row['rung'] for row in result['rungs']]
    self.assertEqual(names, [*self.made])
    p1 = (pearson[6, 7] + pearson[8, 9]) / 2 - pearson[1, 2:4].mean()
    self.assertAlmostEqual(result['claims'][0]['value'], p1, places=5)
    self.assertEqual([x['id'] for x in result['claims']], ['P1', 'P2'])
    for name in ('correlations.png', 'kinds.png'):
      self.assertGreater((self.folder / name).stat().st_size, 10_000)

  def test_planted_procedures_and_facts_are_told_apart(self):
    truth = _truth()
    config = _config(seeds=(0,))
    config.procedural.update(sizes=('l',), num_top=4)

    def scores_fn(shape):
      made = sequences_lib.open(self.root / 'sequences')
      documents = made.records['document'].tolist()
      rng = np.random.default_rng(0)
      scores = 0.1 * rng.normal(size=shape)
      common = rng.normal(size=60)[documents]
      for k, query in enumerate(QUERIES):
        kind, fact = query.labels['class'], query.labels.get('fact')
        entries = [truth['documents'].get(str(n), {}) for n in documents]
        if fact:
          scores[0, k] += [5 * (x.get('fact') == fact) for x in entries]
        elif kind in measures.PROCEDURES:
          scores[0, k] += common
      return scores

    self.write(config, scores_fn)
    procedural.run(config, self.root)
    result = self.result()
    self.assertEqual([row['rung'] for row in result['rungs']], ['l_seed0'])
    self.assertGreater(result['mean']['sum']['pearson']['sum'], 0.9)
    self.assertEqual(result['mean']['lookup']['answer'], 1)
    self.assertEqual(result['mean']['lookup']['kinds']['lookup'], 1)
    for one in result['claims']:
      self.assertTrue(one['held'])
      self.assertGreater(one['interval'][0], 0)

  def test_without_a_ladder_the_workdir_is_the_only_model(self):
    config = _config(sizes=('s',), seeds=(0,))
    config.procedural.update(sizes=('d128',), num_top=6)
    self.write(config)
    rung = self.root / 's_seed0'
    store.write_json(rung / 'truth.json', _truth())
    del config.ladder
    procedural.run(config, rung)
    result = json.loads((rung / 'procedural' / 'result.json').read_text())
    self.assertEqual([row['rung'] for row in result['rungs']], ['s_seed0'])
    self.assertEqual(result['claims'][0]['sizes'], [])
    self.assertIsNone(result['mean']['sum']['loss'])

  def test_what_lacks_or_differs_is_named(self):
    config = _config()
    config.procedural.num_top = 6
    self.write(config)
    path = self.root / 'l_seed1' / 'scores' / 'manifest.json'
    manifest = json.loads(path.read_text())
    manifest['queries'][0][1] = 'another'
    store.write_json(path, manifest)
    with self.assertRaisesRegex(ValueError, 'l_seed1 are of other queries'):
      procedural.run(config, self.root)
    with mock.patch.object(procedural, '_open') as opened:
      (self.root / 'truth.json').unlink()
      with self.assertRaisesRegex(ValueError, 'truth.json.*train_ladder'):
        procedural.run(config, self.root)
      opened.assert_not_called()

  def test_a_model_that_is_not_scored_is_named(self):
    config = _config()
    self.write(config)
    (self.root / 'l_seed1' / 'scores' / 'manifest.json').unlink()
    with self.assertRaisesRegex(ValueError, 'l_seed1.*train_ladder to the end'):
      procedural.run(config, self.root)

  def test_scores_that_are_all_the_same_are_named(self):
    config = _config(sizes=('s',), seeds=(0,))
    self.write(config, lambda shape: np.zeros(shape))
    with self.assertRaisesRegex(ValueError, "'s0'.*all the same"):
      procedural.run(config, self.root)


if __name__ == '__main__':
  absltest.main()
