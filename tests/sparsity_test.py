import json
import pathlib
import tempfile

import numpy as np
from absl.testing import absltest
from tiny import scores as tiny_scores

from configs import sparsity as sparsity_config
from experiments import sparsity
from influence_jax import tails


def _rows(ps, bests, helds):
  return [
    {'p': p, 'best': best, 'held': held}
    for p, best, held in zip(ps, bests, helds, strict=True)
  ]


class SparsityTest(absltest.TestCase):
  def test_claims_hold_beyond_their_thresholds_alone(self):
    law = 'power law'
    even = _rows([0.1, 0.2], [law, 'GEV'], [0.9, 0.9])
    self.assertEqual([x['held'] for x in sparsity.claims(even)], [0, 0, 1])
    most = _rows([0.2, 0.2, 0.0], [law, law, 'GEV'], [0.9, 0.9, 0.06])
    self.assertEqual([x['held'] for x in sparsity.claims(most)], [1, 1, 0])
    fifths = _rows([0] * 5, ['GEV'] * 5, [0.5, 0.5, 0.5, 0.5, 0.066])
    value = sparsity.claims(fifths)[2]
    self.assertTrue(value['held'])
    self.assertAlmostEqual(value['value'], 0.8)

  def test_panels_show_the_scores_and_the_law_fitted_to_them(self):
    scores_KxN = np.random.default_rng(0).pareto(2.0, (5, 400)) + 1
    fitted = [tails.fit(x, 0.1) for x in scores_KxN]
    names = list('abcde')
    fig = sparsity.draw(names, scores_KxN, scores_KxN[:, :9], fitted)
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

  def test_binary_writes_fits_figures_and_claims(self):
    workdir = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    scores_KxN = tiny_scores.write(workdir)
    config = sparsity_config.get_config()
    config.sparsity.update(share=0.1, num_draws=50)
    config.sparsity.filter.per_query = 20
    sparsity.run(config, workdir)
    folder = workdir / 'sparsity'
    for name in ('tails.png', 'coverage.png'):
      self.assertGreater((folder / name).stat().st_size, 10_000)
    result = json.loads((folder / 'result.json').read_text())
    self.assertEqual([row['query'] for row in result['queries']], ['a', 'b'])
    self.assertEqual([x['id'] for x in result['claims']], ['E7a', 'E7b', 'E8'])
    for row, scores in zip(result['queries'], scores_KxN, strict=False):
      self.assertAlmostEqual(row['largest'], scores.max(), places=5)
      self.assertEqual(row['num'], len(scores) // 10)
    config.sparsity.share = 0.9
    with self.assertRaisesRegex(ValueError, 'smaller share'):
      sparsity.run(config, workdir)


if __name__ == '__main__':
  absltest.main()
