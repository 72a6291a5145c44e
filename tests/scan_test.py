"""The scan as a user asks for it: answers, filters, refinement, summaries."""

import pathlib
import shutil
import tempfile

import numpy as np
import tiny_config
from absl.testing import absltest

from experiments import fit_curvature, score, solve, top_table, train, trained
from influence_jax import score_store, store, topk
from influence_jax.data import candidates as candidates_lib
from influence_jax.data import queries as queries_lib

_ALSO = (dict(name='kfac', relative=0.1, absolute=None),)


class ScanTest(absltest.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.directory = pathlib.Path(
      cls.enterClassContext(tempfile.TemporaryDirectory())
    )
    cls.workdir = cls.directory / 'workdir'
    config = tiny_config.get_config()
    train.run(config, cls.workdir)
    fit_curvature.run(config, cls.workdir)
    cls.whole = cls.scored('whole', rank=None, refine=5)
    cls.low = cls.scored(
      'low',
      refine=75,
      answers=_ALSO,
    )

  @classmethod
  def scored(cls, folder, **changes):
    config = tiny_config.get_config()
    config.score.update(folder=folder, **changes)
    score.run(config, cls.workdir)
    return cls.workdir / folder

  def matrix(self, folder) -> np.ndarray:
    return score_store.open(folder / 'scores.zarr').read()

  def summary(self, folder, num_queries, k) -> topk.Summary:
    tree = store.load(folder / 'summary').tree
    return store.like(topk.start(num_queries, k), tree)

  def rows(self, folder, name='candidates') -> list[dict]:
    return top_table.read(folder / f'{name}.parquet')[0]

  def test_some_evenly_spread_have_the_scores_of_the_whole_scan(self):
    folder = self.scored(
      'some', rank=None, refine=0, num_sequences=30, num_top=0
    )
    numbers = np.arange(30) * 75 // 30
    np.testing.assert_allclose(
      self.matrix(folder), self.matrix(self.whole)[:, numbers], rtol=1e-4,
      atol=1e-4,
    )  # fmt: skip
    self.assertTrue((folder / 'queries.json').exists())
    self.assertFalse((folder / 'top.parquet').exists())  # num_top is 0
    with absltest.mock.patch.object(score, 'scan') as scan:
      self.scored('some', rank=None, refine=0, num_sequences=30, num_top=0)
    scan.assert_not_called()

  def test_the_summary_is_that_of_the_sorted_matrix(self):
    scores_KxN = self.matrix(self.low)
    self.assertEqual(scores_KxN.shape, (4, 75))
    summary = self.summary(self.low, 4, 75)
    numbers = np.arange(75)
    for k, scores_N in enumerate(scores_KxN.astype(np.float64)):
      order = np.lexsort((numbers, -scores_N))
      np.testing.assert_array_equal(topk.top(summary)[0][k], order)
      np.testing.assert_array_equal(topk.top(summary)[1][k], scores_N[order])
      mass = [np.maximum(sign * scores_N, 0).sum() for sign in (1, -1)]
      np.testing.assert_allclose(summary.mass[k], mass, rtol=1e-12)

  def test_other_answers_come_after_the_queries_of_the_first(self):
    alone = tiny_config.get_config()
    alone.curvature = dict(name='kfac', eigh='float64')
    ours = trained.load(alone, self.workdir)
    factors = store.load(self.workdir / 'factors').tree['factors']
    batch = score.query_batch(
      alone, ours, queries_lib.read_queries(alone.score.queries)
    )
    alone.score.rank = None
    asked = solve.answers(alone)
    queries, _ = solve.solve(alone, ours, asked, factors, batch)
    two = tiny_config.get_config()
    two.score.update(rank=None, answers=(dict(alone.curvature, relative=0.1),))
    both, _ = solve.solve(two, ours, solve.answers(two), factors, batch)
    for path, one in queries.items():
      np.testing.assert_array_equal(one['P'], both[path]['P'][..., 2:])

  def test_refined_scores_are_those_of_full_rank(self):
    wanted = self.matrix(self.whole)
    rows = self.rows(self.low)
    self.assertLen({(r['query_id'], r['sequence']) for r in rows}, 150)
    apart = 0.0
    for row in rows:
      full = wanted[['cat', 'dog'].index(row['query_id']), row['sequence']]
      self.assertLess(abs(row['score'] - full), 1e-4 * np.abs(wanted).max())
      apart = max(apart, abs(row['scan_score'] - full))
    self.assertGreater(apart, 1e-3 * np.abs(wanted).max())  # it had a rank

  def test_refinement_orders_by_the_scores_of_full_rank(self):
    for query in ('cat', 'dog'):
      for kind, sign in (('positive', 1), ('negative', -1)):
        scores = [
          sign * row['score']
          for row in self.rows(self.low)
          if (row['query_id'], row['kind']) == (query, kind)
        ]
        self.assertEqual(scores, sorted(scores, reverse=True))
        self.assertGreater(min(scores), 0)

  def test_refined_in_float64_they_agree_to_the_precision_of_float32(self):
    folder = self.scored('wide', refine=75, refine_float64=True)
    wide, narrow = self.rows(folder), self.rows(self.low)
    scores = {(r['query_id'], r['sequence']): r['score'] for r in narrow}
    largest = max(abs(s) for s in scores.values())
    differences = [
      r['score'] - scores[r['query_id'], r['sequence']] for r in wide
    ]
    self.assertLess(np.abs(differences).max(), 1e-4 * largest)
    self.assertNotEqual(np.abs(differences).max(), 0)

  def test_a_filter_scans_the_union_of_what_the_queries_find(self):
    folder = self.scored(
      'filtered', candidates=dict(method='tf_idf', per_query=7), refine=75
    )
    config = tiny_config.get_config()
    ours = trained.load(config, self.workdir)
    asked = [
      np.array(ours.corpus.tokenizer.encode(q.prompt + q.completion).ids)
      for q in queries_lib.read_queries(config.score.queries)
    ]
    numbers = candidates_lib.union(
      candidates_lib.choose('tf_idf', ours.corpus.sequences, asked, 7)
    )
    self.assertBetween(len(numbers), 8, 14)
    found = {row['sequence'] for row in self.rows(folder)}
    self.assertEqual(found, set(numbers.tolist()))
    np.testing.assert_allclose(
      self.matrix(folder), self.matrix(self.low)[:2, numbers], rtol=1e-4,
      atol=1e-4 * np.abs(self.matrix(self.low)).max(),
    )  # fmt: skip

  def test_without_the_matrix_the_tops_are_the_same(self):
    folder = self.scored('slim', matrix=False, refine=75, answers=_ALSO)
    self.assertFalse((folder / 'scores.zarr').exists())
    self.assertEqual(self.rows(folder), self.rows(self.low))
    self.assertEqual(self.rows(folder, 'top'), self.rows(self.low, 'top'))

  def test_a_summary_goes_on_where_it_was_saved(self):
    class Killed(Exception):
      pass

    updates, update = [], topk.update

    def dies(*args):
      updates.append(args[1])
      if len(updates) == 4:
        raise Killed
      return update(*args)

    with (
      absltest.mock.patch.object(topk, 'update', dies),
      self.assertRaises(Killed),
    ):
      self.scored('killed', matrix=False, refine=75, answers=_ALSO)
    folder = self.scored('killed', matrix=False, refine=75, answers=_ALSO)
    self.assertEqual(self.rows(folder), self.rows(self.low))
    saved, whole = (self.summary(f, 4, 75) for f in (folder, self.low))
    for mine, other in zip(saved, whole, strict=True):
      np.testing.assert_array_equal(mine, other)

  def test_an_unknown_approximation_among_the_answers_is_named(self):
    with self.assertRaisesRegex(ValueError, "unknown .* 'kfca'"):
      self.scored('bad', answers=(dict(name='kfca', relative=0.1),))

  def test_a_damaged_summary_is_scanned_again(self):
    shutil.copytree(self.low, self.workdir / 'damaged')
    (self.workdir / 'damaged' / 'top.parquet').unlink()
    manifest = self.workdir / 'damaged' / 'manifest.json'
    manifest.write_text(manifest.read_text().replace('"low"', '"damaged"'))
    for step in (self.workdir / 'damaged' / 'summary').glob('step_*'):
      (step / 'manifest.json').write_text('{')
    folder = self.scored(
      'damaged', refine=75,
      answers=_ALSO,
    )  # fmt: skip
    self.assertEqual(self.rows(folder), self.rows(self.low))


if __name__ == '__main__':
  absltest.main()
