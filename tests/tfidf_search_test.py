import json
import pathlib
import tempfile
from unittest import mock

import ml_collections
import numpy as np
from absl.testing import absltest, parameterized
from tiny import ladder as tiny_ladder
from tiny import scores as tiny_scores

from configs import quickstart
from configs import tfidf_search as tfidf_config
from experiments import ladder, scored, tfidf_search, tfidf_search_figure
from influence_jax import score_store, store
from influence_jax.data import queries as queries_lib


def _section(**changed):
  section = tfidf_config.get_config().tfidf_search
  section.update(
    sizes=(), per_query=20, share=0.1, num_true=10, num_points=9, **changed
  )
  return section


def _scored(scores_KxC):
  queries = [
    queries_lib.Query(f'q{k}', 'a', 'b') for k in range(len(scores_KxC))
  ]
  numbers = np.arange(scores_KxC.shape[1])
  return scored.Scored(queries, ['ekfac'], scores_KxC[None], numbers, {})


def _rung(size='', seed=0):
  return ladder.Rung(size, seed, ml_collections.ConfigDict(), None)


class SearchTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    rng = np.random.default_rng(0)
    self.scores_KxC = rng.standard_t(3, (4, 300))
    noisy_KxC = self.scores_KxC + rng.standard_normal((4, 300))
    self.order_KxC = np.argsort(-noisy_KxC, axis=1)
    self.found = tfidf_search.search(
      _scored(self.scores_KxC), self.order_KxC, _section()
    )

  def test_rows_say_what_counting_says(self):
    kept = self.found['kept']
    self.assertEqual((kept[0], kept[-1], 20 in kept), (1, 300, True))
    for row, scores, order in zip(
      self.found['queries'], self.scores_KxC, self.order_KxC, strict=True
    ):
      true = sorted(range(300), key=lambda n: -scores[n])[:10]
      self.assertAlmostEqual(row['missing'], len({*true} - {*order[:20]}) / 10)
      wanted = [len({*true} & {*order[:m]}) / 10 for m in kept]
      np.testing.assert_allclose(row['recall'], wanted)
      tenth = sorted(scores[order[:20]], reverse=True)[9]
      self.assertEqual(row['score'], tenth)
      at_least = sum(x >= tenth for x in scores)
      self.assertGreaterEqual(at_least, 10)
      self.assertAlmostEqual(row['scan'], 10 * 301 / (at_least + 1))
      least = sorted(scores, reverse=True)[30]
      self.assertEqual(row['in_tail'], tenth >= least)
      if row['in_tail']:
        share = 0.1 * (tenth / least) ** -row['alpha']
        self.assertAlmostEqual(row['fit'], 10 / share)

  def test_fit_and_scan_agree_where_a_power_law_is_true(self):
    """The share above the score is known to 1 / sqrt(300), alpha to 1 / 45."""
    rng = np.random.default_rng(1)
    scores_KxC = rng.pareto(2.0, (1, 20_000)) + 1
    order_KxC = np.argsort(-scores_KxC, axis=1)
    order_KxC = np.hstack([order_KxC[:, 290:], order_KxC[:, :290]])
    found = tfidf_search.search(_scored(scores_KxC), order_KxC, _section())
    (row,) = found['queries']
    self.assertAlmostEqual(row['scan'], 10 * 20_001 / 301)
    self.assertLess(abs(np.log(row['fit'] / row['scan'])), 5 / 300**0.5)
    self.assertEqual(row['missing'], 1)

  def test_below_the_tail_the_fit_is_a_bound_and_no_ratio_is_taken(self):
    worst_KxC = np.argsort(self.scores_KxC, axis=1)
    found = tfidf_search.search(_scored(self.scores_KxC), worst_KxC, _section())
    rows = found['queries']
    self.assertEqual([row['in_tail'] for row in rows], [False] * 4)
    np.testing.assert_allclose([row['fit'] for row in rows], 10 / 0.1)
    for row in rows:
      self.assertLess(row['scan'], row['fit'])
    summary = tfidf_search.summary(rows)
    self.assertIsNone(summary['ratio'])
    self.assertEqual(summary['below_tail'], 4)

  def test_quartiles_of_the_ratio_are_of_scores_in_the_tail(self):
    rows = [
      {'fit': 10.0 * n, 'scan': 10.0, 'in_tail': n < 6, 'missing': n / 10}
      for n in (1, 2, 3, 4, 5, 9)
    ]
    found = tfidf_search.summary(rows)
    self.assertEqual(found['ratio'], [2, 3, 4])
    self.assertEqual(found['fit'][1], 35)
    self.assertEqual((found['num'], found['below_tail']), (6, 1))
    self.assertAlmostEqual(found['missing'], 0.4)

  def test_marks_are_where_rows_say_and_hollow_below_the_tail(self):
    rows = [
      {'size': 's', 'fit': 700.0, 'scan': 600.0, 'in_tail': True},
      {'size': 's', 'fit': 100.0, 'scan': 20.0, 'in_tail': False},
      {'size': 'l', 'fit': 800.0, 'scan': 810.0, 'in_tail': True},
    ]
    recall_Px3 = np.array([[0, 0.1, 0.2], [0.4, 0.5, 0.5], [1, 1, 1]])
    fig = tfidf_search_figure.draw(
      rows, [1, 10, 1099], recall_Px3,
      num_matched=10, num_true=10, per_query=10,
    )  # fmt: skip
    left, right = fig.axes
    small, hollow, large, _, diagonal, most, _ = left.get_lines()
    self.assertEqual(small.get_xydata().tolist(), [[600, 700]])
    self.assertEqual(hollow.get_xydata().tolist(), [[20, 100]])
    self.assertEqual(hollow.get_markerfacecolor(), 'none')
    self.assertEqual(large.get_xydata().tolist(), [[810, 800]])
    np.testing.assert_array_equal(*diagonal.get_data())
    self.assertEqual(most.get_xdata(), [1000, 1000])
    recall, best, chance, _ = right.get_lines()
    np.testing.assert_allclose(recall.get_ydata(), [10, 50, 100])
    np.testing.assert_allclose(best.get_ydata(), [10, 100, 100])
    np.testing.assert_allclose(
      chance.get_ydata(), [100 / 1099, 1000 / 1099, 100]
    )


class ClaimTest(parameterized.TestCase):
  @parameterized.parameters(
    ([0.1, 0.1], False), ([0.1, 0.12], True), ([0.0, 0.15], False)
  )
  def test_it_holds_beyond_a_tenth_alone(self, missing, held):
    rows = [
      {'query': query, 'missing': x}
      for query, x in zip('ab', missing, strict=True)
    ]
    (claim,) = tfidf_search.claimed(rows, [_rung()], _section())
    self.assertEqual((claim['id'], claim['held']), ('E18', held))
    self.assertAlmostEqual(claim['value'], np.mean(missing))

  def test_a_query_counts_with_the_mean_of_its_models(self):
    rows = [
      {'query': query, 'missing': x}
      for query, x in zip('abab', [0.2, 0.6, 0.4, 0.8], strict=True)
    ]
    rungs = [_rung('s', 0), _rung('s', 1)]
    (claim,) = tfidf_search.claimed(rows, rungs, _section())
    np.testing.assert_allclose(claim['value'], 0.5)
    np.testing.assert_allclose(claim['interval'], [0.3, 0.7])
    self.assertEqual((claim['seeds'], claim['sizes']), ([0, 1], ['s']))


class RunTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    self.root = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))

  def result(self):
    path = self.root / 'tfidf_search' / 'result.json'
    return json.loads(path.read_text())

  def test_a_ladder_is_searched_once_each_model_by_itself(self):
    config = tiny_ladder.config()
    config.tfidf_search = _section()
    tiny_ladder.write(self.root, config)
    tfidf_search.run(config, self.root)
    path = self.root / 'tfidf_search' / 'tfidf_search.png'
    self.assertGreater(path.stat().st_size, 10_000)
    result = self.result()
    self.assertLen(result['queries'], 4 * 3)
    rungs = ['s_seed0', 'l_seed0', 's_seed1', 'l_seed1']
    self.assertEqual(result['summary'].keys(), {*rungs, 'all'})
    missing = [row['missing'] for row in result['queries']]
    (claim,) = result['claims']
    self.assertAlmostEqual(claim['value'], np.mean(missing))
    at = result['kept'].index(20)
    parts = [
      json.loads(path.with_name(f'{name}.json').read_text()) for name in rungs
    ]
    recall = [[row['recall'][at] for row in x['queries']] for x in parts]
    wanted = np.quantile(np.mean(recall, axis=0), (0.25, 0.5, 0.75))
    np.testing.assert_allclose(result['recall'][at], wanted)
    with mock.patch.object(tfidf_search, 'search', side_effect=AssertionError):
      tfidf_search.run(config, self.root)
    self.assertEqual(self.result(), result)
    config.tfidf_search.num_true = 9
    with self.assertRaisesRegex(ValueError, 'num_true is 10 there, 9 here'):
      tfidf_search.run(config, self.root)

  def test_without_a_ladder_the_sequences_that_were_scanned_are_all(self):
    """Scores of every other one: those of the filter are looked up in them."""
    made = tiny_scores.write(self.root)
    folder, num = self.root / 'scores', made.shape[1] // 2
    manifest = store.read_json(folder / 'manifest.json')
    manifest['score']['num_sequences'] = num
    store.write_json(folder / 'manifest.json', manifest)
    numbers = np.arange(num) * made.shape[1] // num
    half = score_store.create(self.root / 'half.zarr', 4, num, 16)
    half.put(0, made[:, numbers])
    (folder / 'scores.zarr').rename(self.root / 'whole.zarr')
    (self.root / 'half.zarr').rename(folder / 'scores.zarr')
    config = quickstart.get_config()
    config.tfidf_search = _section()
    tfidf_search.run(config, self.root)
    result = self.result()
    self.assertEqual(result['scanned'], num)
    self.assertEqual([x['query'] for x in result['queries']], ['a', 'b'])
    for row, scores in zip(result['queries'], made[:, numbers], strict=False):
      at_least = sum(np.float32(scores) >= np.float32(row['score']))
      self.assertAlmostEqual(row['scan'], 10 * (num + 1) / (at_least + 1))
    self.assertEqual(result['recall'][-1], [1, 1, 1])

  def test_more_candidates_than_were_scanned_are_refused(self):
    tiny_scores.write(self.root)
    config = quickstart.get_config()
    for changed in ({'per_query': 1000}, {'per_query': 9}, {'num_true': 1000}):
      config.tfidf_search = _section()
      config.tfidf_search.update(changed)
      with self.assertRaisesRegex(ValueError, 'expected per_query of 10 to'):
        tfidf_search.run(config, self.root)

  def test_scans_of_different_sizes_are_refused(self):
    parts = [{'kept': [1, 20, 80]}, {'kept': [1, 20, 90]}]
    rungs = [_rung('s', 0), _rung('s', 1)]
    with mock.patch.object(tfidf_search, '_part', side_effect=parts):
      with mock.patch.object(ladder, 'finished', return_value=rungs):
        with self.assertRaisesRegex(ValueError, "'s_seed1': 90.*the same in"):
          tfidf_search.run(tfidf_config.get_config(), self.root)


if __name__ == '__main__':
  absltest.main()
