import json
import pathlib
import tempfile
from unittest import mock

import numpy as np
from absl.testing import absltest, parameterized
from scipy import stats
from tiny import compression as tiny

from configs import low_rank as low_rank_config
from experiments import compression, compression_parts, ladder, low_rank
from influence_jax.data import queries as queries_lib

RANKS = (2, 32)


def _config(**kwargs):
  config = tiny.config('low_rank', **kwargs)
  config.low_rank.shown = 'b'
  config.compression.rank.ranks = RANKS
  return config


def _scores(study):
  """Made up: noise that falls with the rank, less of it where weighted."""
  name = study.ours.params_fingerprint
  rng = np.random.default_rng([*name.encode()])
  exact_KxN = rng.normal(size=(3, 40))
  kinds = [
    (rank, weighted, 'randomised')
    for rank in RANKS
    for weighted in (False, True)
  ]
  low = [
    exact_KxN + rng.normal(size=(3, 40)) / rank / (1 + weighted)
    for rank, weighted, _ in kinds
  ]
  return compression_parts.RankScores(kinds, low, exact_KxN)


class ClaimsTest(parameterized.TestCase):
  @parameterized.parameters(
    ([0.99, 0.99, 0.95], True, True),
    ([0.9899, 0.9899, 0.95], False, True),
    ([0.99, 1.0, 0.9499], True, False),
    ([0.5, 0.5, 0.5], False, False),
  )
  def test_median_and_least_hold_from_their_bounds_on(self, r_K, median, least):
    rungs = [ladder.Rung('d128', 1, None, None)]
    r_RxKxX = np.stack([np.zeros(3), r_K], axis=-1)[None]
    good = np.ones_like(r_RxKxX)
    for plain, weighted, wanted in (
      (r_RxKxX, good, [median, least, True, True]),
      (good, r_RxKxX, [True, True, median, least]),
    ):
      pearson = {'plain': plain, 'weighted': weighted}
      found = low_rank.claimed(pearson, RANKS, rungs)
      self.assertEqual([x['held'] for x in found], wanted)
      self.assertEqual([x['id'] for x in found], ['E5a', 'E5b', 'E5c', 'E5d'])
      self.assertEqual(found[0]['sizes'], ['d128'])

  def test_models_are_averaged_in_the_median_and_not_in_the_least(self):
    r_RxKxX = np.array([[[1, 0.9], [1, 0.7], [1, 0.8]],
                        [[1, 1.0], [1, 0.9], [1, 0.2]]])  # fmt: skip
    median, least, *_ = low_rank.claimed(
      {'plain': r_RxKxX, 'weighted': r_RxKxX}, RANKS, []
    )
    self.assertAlmostEqual(median['value'], 0.8)
    self.assertEqual(least['value'], 0.2)
    self.assertIsNone(least['interval'])
    self.assertBetween(median['value'], *median['interval'])


class DrawTest(absltest.TestCase):
  def test_both_panels_of_ranks_have_one_scale_and_a_line_a_query(self):
    rng = np.random.default_rng(0)
    names = [f'query {k}' for k in range(12)]
    pearson = {
      'plain': 1 - rng.uniform(0.01, 0.5, (2, 12, 3)),
      'weighted': 1 - rng.uniform(0, 0.01, (2, 12, 3)),
    }
    exact = rng.normal(size=50)
    scatter = {'query': 'a', 'exact': exact, 'plain': 2 * exact}
    ranks = (1, 8, 32)
    fig = low_rank.draw(names, ranks, pearson, scatter)
    left, plain, weighted = fig.axes
    self.assertIn('r = 1.0000', left.get_title())
    self.assertEqual(plain.get_ylim(), weighted.get_ylim())
    self.assertLen(plain.get_lines(), 12)
    shown = 1 - np.array([line.get_ydata() for line in plain.get_lines()])
    np.testing.assert_allclose(shown, pearson['plain'].mean(axis=0))
    low, high = plain.get_ylim()
    self.assertGreater(low, (1 - shown).max())
    self.assertLess(high, 1e-4)  # the best is on top


class RunTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    self.root = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    self.folder = self.root / 'low_rank'
    for module, name, fn in (
      (compression, 'open_study', tiny.open_study),
      (compression_parts, 'rank_scores', _scores),
    ):
      self.enterContext(mock.patch.object(module, name, fn))

  def test_correlations_are_those_of_the_scores_of_every_model(self):
    config = _config(sizes=('s', 'l'), seeds=(0, 1))
    config.low_rank.sizes = ('l',)
    tiny.finish(config, self.root)
    low_rank.run(config, self.root)
    result = json.loads((self.folder / 'result.json').read_text())
    r_RxK = []
    for m, name in enumerate(('l_seed0', 'l_seed1')):
      self.assertTrue((self.folder / f'{name}.json').exists())
      study = tiny.open_study(config, self.root / name)
      kinds, low, exact_KxN = _scores(study)
      for (rank, weighted, _), x_KxN in zip(kinds, low, strict=True):
        r_KxX = result['pearson'][('plain', 'weighted')[weighted]][m]
        for k, (x, exact) in enumerate(zip(x_KxN, exact_KxN, strict=True)):
          wanted = stats.pearsonr(x, exact).statistic
          self.assertAlmostEqual(r_KxX[k][RANKS.index(rank)], wanted)
          if (rank, weighted) == (32, False):
            r_RxK.append(wanted)
    r_RxK = np.reshape(r_RxK, (2, 3))
    claims = {x['id']: x for x in result['claims']}
    median = np.median(r_RxK.mean(axis=0))
    self.assertAlmostEqual(claims['E5a']['value'], median)
    self.assertAlmostEqual(claims['E5b']['value'], r_RxK.min())
    self.assertEqual(claims['E5c']['sizes'], ['l'])
    self.assertEqual(claims['E5c']['seeds'], [0, 1])
    kinds, low, exact_KxN = _scores(
      tiny.open_study(config, self.root / 'l_seed0')
    )
    self.assertEqual(result['scatter']['query'], 'b')
    np.testing.assert_allclose(result['scatter']['exact'], exact_KxN[1])
    plain = low[kinds.index((32, False, 'randomised'))]
    np.testing.assert_allclose(result['scatter']['plain'], plain[1])
    png = self.folder / 'low_rank.png'
    self.assertGreater(png.stat().st_size, 10_000)

  def test_a_model_is_scored_once_and_kept_apart_from_other_runs(self):
    config = _config(sizes=('s',), seeds=(0,))
    tiny.finish(config, self.root)
    first = low_rank.run(config, self.root)
    with mock.patch.object(
      compression_parts, 'rank_scores', side_effect=AssertionError
    ):
      again = low_rank.run(config, self.root)
      self.assertEqual(again['claims'], first['claims'])
      config.low_rank.shown = 'c'
      with self.assertRaisesRegex(ValueError, "shown is 'b' there, 'c' here"):
        low_rank.run(config, self.root)

  def test_a_model_that_is_not_scored_is_named(self):
    config = _config(sizes=('s', 'l'), seeds=(0,))
    tiny.finish(config, self.root)
    (self.root / 'l_seed0' / 'scores' / 'manifest.json').unlink()
    with self.assertRaisesRegex(ValueError, 'l_seed0.*train_ladder to the end'):
      low_rank.run(config, self.root)

  def test_without_a_ladder_the_workdir_is_the_only_model(self):
    config = _config()
    config.low_rank.sizes = ('d128',)
    del config.ladder
    tiny.finish(config, self.root)
    result = low_rank.run(config, self.root)
    self.assertEqual(result['claims'][0]['sizes'], [])
    self.assertTrue((self.folder / f'{self.root.name}.json').exists())

  def test_what_the_config_lacks_is_named(self):
    config = _config(sizes=('s',), seeds=(0,))
    tiny.finish(config, self.root)
    config.low_rank.shown = 'd'
    with self.assertRaisesRegex(ValueError, r"shown is 'd'.*\['a', 'b', 'c'\]"):
      low_rank.run(config, self.root)
    config.compression.rank.ranks = (2, 16)
    with self.assertRaisesRegex(ValueError, r'\[2, 16\], expected 32'):
      low_rank.run(config, self.root)


class ConfigTest(absltest.TestCase):
  def test_its_queries_are_in_the_file(self):
    section = low_rank_config.get_config().compression.queries
    found = queries_lib.read_queries(section.path)
    self.assertLen({*section.ids} & {query.id for query in found}, 12)


if __name__ == '__main__':
  absltest.main()
