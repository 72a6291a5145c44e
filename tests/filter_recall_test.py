import json
import pathlib
import tempfile

import numpy as np
from absl.testing import absltest
from tiny import scores as tiny_scores

from configs import filter_recall as filter_recall_config
from experiments import filter_recall


class FilterRecallTest(absltest.TestCase):
  def test_recall_is_what_sets_in_common_say(self):
    rng = np.random.default_rng(0)
    order_KxN = np.stack([rng.permutation(30) for _ in range(4)])
    true_KxM = np.stack([rng.permutation(30)[:7] for _ in range(4)])
    kept = [1, 2, 10, 29, 30]
    wanted = [
      [len({*order[:m]} & {*true}) / 7 for m in kept]
      for order, true in zip(order_KxN.tolist(), true_KxM.tolist(), strict=True)
    ]
    got = filter_recall.recall(order_KxN, true_KxM, kept)
    np.testing.assert_allclose(got, wanted, 1e-12)

  def test_curve_has_a_line_a_filter_and_the_best_possible(self):
    recalls = {'tf_idf': np.array([[0, 0.5, 1], [0.5, 0.5, 1], [0.1, 0.2, 1]])}
    fig = filter_recall.draw([1, 2, 3], recalls, 2)
    lines = fig.axes[0].get_lines()
    np.testing.assert_allclose(lines[0].get_ydata(), [10, 50, 100])
    np.testing.assert_allclose(lines[1].get_ydata(), [50, 100, 100])

  def test_binary_counts_what_filters_miss_and_refuses_another_corpus(self):
    workdir = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    tiny_scores.write(workdir)
    config = filter_recall_config.get_config()
    config.filter_recall.update(num_true=5, num_points=9, missed_at=(5, 10**6))
    filter_recall.run(config, workdir)
    folder = workdir / 'filter_recall'
    self.assertGreater((folder / 'filter_recall.png').stat().st_size, 10_000)
    result = json.loads((folder / 'result.json').read_text())
    self.assertEqual(result['queries'], ['a', 'b'])
    self.assertEqual(set(result['recall']), {'tf_idf', 'bm25', 'random'})
    self.assertEqual(list(result['missed']['bm25']), ['5'])
    at = result['kept'].index(5)
    for name, summary in result['recall'].items():
      self.assertEqual(np.shape(summary['per_query']), (2, len(result['kept'])))
      self.assertEqual(summary['mean'][-1], 1)
      missed = result['missed'][name]['5']['mean']
      self.assertAlmostEqual(missed, 1 - summary['mean'][at])
    tiny_scores.sequences(workdir, 50)
    with self.assertRaisesRegex(ValueError, 'another run'):
      filter_recall.run(config, workdir)


if __name__ == '__main__':
  absltest.main()
