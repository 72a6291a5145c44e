import json
import pathlib
import tempfile
from unittest import mock

import ml_collections
import numpy as np
from absl.testing import absltest, parameterized
from tiny import ladder as tiny_ladder
from tiny import scores as tiny_scores

from configs import sparsity as sparsity_config
from configs import sparsity_quickstart
from experiments import ladder, scored, sparsity, sparsity_figure
from influence_jax import tails
from influence_jax.data import candidates
from influence_jax.data import sequences as sequences_lib
from influence_jax.data import tokenizer as tokenizer_lib

_LAW = 'power law'


def _rows(ps, bests, helds, names='abcde'):
  return [
    {'query': name, 'p': p, 'best': best, 'held': held}
    for name, p, best, held in zip(names, ps, bests, helds, strict=False)
  ]


def _rung(seed=0, size='s', workdir=None):
  return ladder.Rung(size, seed, ml_collections.ConfigDict(), workdir)


def _section(config):
  config.sparsity = sparsity_config.get_config().sparsity
  config.sparsity.update(sizes=(), share=0.1, num_draws=50)
  config.sparsity.filter.per_query = 20
  return config


class ClaimsTest(parameterized.TestCase):
  def held(self, rows):
    return [x['held'] for x in sparsity.claimed(rows, [_rung()])]

  def test_they_hold_beyond_their_thresholds_alone(self):
    even = _rows([0.1, 0.2], [_LAW, 'GEV'], [0.9, 0.9])
    self.assertEqual(self.held(even), [False, False, True])
    most = _rows([0.2, 0.2, 0.0], [_LAW, _LAW, 'GEV'], [0.9, 0.9, 0.06])
    self.assertEqual(self.held(most), [True, True, False])
    fifths = _rows([0] * 5, ['GEV'] * 5, [0.5, 0.5, 0.5, 0.5, 0.066])
    value = sparsity.claimed(fifths, [_rung()])[2]
    self.assertTrue(value['held'])
    self.assertAlmostEqual(value['value'], 0.8)

  def test_a_query_counts_with_the_share_of_models_in_which_it_passes(self):
    one = _rows([0.2, 0.2], [_LAW, 'GEV'], [0.9, 0.01])
    other = _rows([0.2, 0.05], [_LAW, _LAW], [0.9, 0.9])
    rungs = [_rung(0, 's'), _rung(0, 'l'), _rung(2, 's')]
    found = sparsity.claimed([*one, *other, *other], rungs)
    values = [x['value'] for x in found]
    np.testing.assert_allclose(values, [(1 + 1 / 3) / 2, 5 / 6, 5 / 6])
    np.testing.assert_allclose(found[0]['interval'], [1 / 3, 1])
    self.assertEqual(found[0]['seeds'], [0, 2])
    self.assertEqual(found[0]['sizes'], ['s', 'l'])

  def test_a_query_that_a_model_lacks_is_named(self):
    one = _rows([0.2, 0.2], [_LAW, 'GEV'], [0.9, 0.01])
    with self.assertRaisesRegex(ValueError, "first 'b'.* in 1 .*expected 2"):
      sparsity.claimed([*one, *one[:1]], [_rung()])


class DrawTest(absltest.TestCase):
  def test_panels_show_the_scores_and_the_law_fitted_to_them(self):
    scores_KxN = np.random.default_rng(0).pareto(2.0, (5, 400)) + 1
    fitted = [tails.fit(x, 0.1) for x in scores_KxN]
    names = list('abcde')
    fig = sparsity_figure.draw(names, scores_KxN, scores_KxN[:, :9], fitted)
    self.assertLen(fig.axes, 5)
    filtered, unfiltered, law = fig.axes[2].get_lines()
    np.testing.assert_allclose(
      filtered.get_xdata(), np.sort(scores_KxN[2, :9])[::-1]
    )
    self.assertLen(unfiltered.get_xdata(), 400)
    x, share = law.get_data()
    np.testing.assert_allclose(x, [fitted[2].x_min, scores_KxN[2].max()])
    np.testing.assert_allclose(share[0], 0.1)
    slope = np.diff(np.log(share)) / np.diff(np.log(x))
    np.testing.assert_allclose(-slope, fitted[2].alpha)


class RunTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    self.root = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    self.folder = self.root / 'sparsity'

  def result(self):
    return json.loads((self.folder / 'result.json').read_text())

  def test_a_ladder_is_fitted_once_and_its_largest_is_drawn(self):
    config = _section(tiny_ladder.config(seeds=(0, 1)))
    made = {}

    def scores_fn(rung, shape):
      rng = np.random.default_rng([rung.seed, len(rung.size + rung.name)])
      made[rung.name] = rng.standard_t(3, shape)
      made[rung.name][0, 0] = np.arange(shape[-1])  # 2 % are in the first
      return made[rung.name]

    tiny_ladder.write(self.root, config, scores_fn=scores_fn)
    config.sparsity.num_panels = 2
    draw = mock.Mock(wraps=sparsity_figure.draw)
    with mock.patch.object(sparsity_figure, 'draw', draw):
      sparsity.run(config, self.root)
    names, scores_KxN, filtered_KxM, _ = draw.call_args.args
    self.assertEqual(names, ['a', 'b'])
    np.testing.assert_allclose(scores_KxN, made['l_seed0'][0, :2], 1e-6)
    chosen_KxM = candidates.choose(
      'tf_idf',
      sequences_lib.open(self.root / 'sequences'),
      scored.tokens(
        tokenizer_lib.load(self.root / 'tokenizer.json'),
        tiny_ladder.QUERIES[:2],
      ),
      20,
    )
    for filtered, scores, chosen in zip(
      filtered_KxM, scores_KxN, chosen_KxM, strict=True
    ):
      np.testing.assert_array_equal(filtered, scores[chosen])
    result = self.result()
    self.assertEqual(result['shown'], 'l_seed0')
    self.assertLen(result['queries'], 4 * 3)
    for row in result['queries']:
      scores = np.sort(made[row['rung']][0]['abc'.index(row['query'])])[::-1]
      self.assertAlmostEqual(row['largest'], scores[0], places=5)
      wanted = len(scores) / 100 * scores[0] / scores[scores > 0].sum()
      self.assertAlmostEqual(row['held'], wanted, places=5)  # of 75 sequences
    sparse = result['claims'][2]
    helds = [[x['held'] for x in result['queries'] if x['query'] == q]
             for q in 'abc']  # fmt: skip
    wanted = np.mean([np.mean([x > 0.0667 for x in y]) for y in helds])
    self.assertAlmostEqual(sparse['value'], wanted)
    self.assertEqual((sparse['seeds'], sparse['sizes']), ([0, 1], ['s', 'l']))
    for name in ('tails.png', 'coverage.png'):
      self.assertGreater((self.folder / name).stat().st_size, 10_000)
    with mock.patch.object(tails, 'rivals', side_effect=AssertionError):
      sparsity.run(config, self.root)
    self.assertEqual(self.result()['claims'], result['claims'])
    config.sparsity.num_draws = 51
    with self.assertRaisesRegex(ValueError, 'num_draws is 50 there, 51 here'):
      sparsity.run(config, self.root)

  def test_other_scores_of_the_same_model_are_not_taken_for_its_own(self):
    config = _section(tiny_ladder.config(sizes=('s',), seeds=(0,)))
    tiny_ladder.write(self.root, config)
    sparsity.run(config, self.root)
    tiny_ladder.write(
      self.root, config,
      scores_fn=lambda rung, shape: np.random.default_rng(9).pareto(2, shape),
    )  # fmt: skip
    with self.assertRaisesRegex(ValueError, 'scores is .* there'):
      sparsity.run(config, self.root)

  def test_without_a_ladder_the_workdir_is_the_only_model(self):
    scores_KxN = tiny_scores.write(self.root)
    config = sparsity_quickstart.get_config()
    config.sparsity.update(share=0.1, num_draws=50, sizes=('d128',))
    config.sparsity.filter.per_query = 20
    sparsity.run(config, self.root)
    for name in ('tails.png', 'coverage.png'):
      self.assertGreater((self.folder / name).stat().st_size, 10_000)
    result = self.result()
    self.assertEqual([row['query'] for row in result['queries']], ['a', 'b'])
    self.assertEqual([x['id'] for x in result['claims']], ['E7a', 'E7b', 'E8'])
    self.assertEqual(result['claims'][0]['sizes'], [])
    for row, scores in zip(result['queries'], scores_KxN, strict=False):
      self.assertAlmostEqual(row['largest'], scores.max(), places=5)
      self.assertEqual(row['num'], len(scores) // 10)

  def test_what_cannot_be_fitted_is_named(self):
    tiny_scores.write(self.root)
    config = sparsity_quickstart.get_config()
    config.sparsity.share = 0.9
    with self.assertRaisesRegex(ValueError, "query 'b' of .*smaller share"):
      sparsity.run(config, self.root)

  def test_a_rung_without_scores_says_what_to_run(self):
    config = _section(tiny_ladder.config())
    tiny_ladder.write(self.root, config)
    (self.root / 's_seed0' / 'scores' / 'manifest.json').unlink()
    with self.assertRaisesRegex(
      ValueError, 's_seed0.*run experiments.train_ladder'
    ):
      sparsity.run(config, self.root)


if __name__ == '__main__':
  absltest.main()
