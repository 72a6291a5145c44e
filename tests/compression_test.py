import json
import pathlib
import tempfile

import numpy as np
import tiny_config
from absl.testing import absltest

from configs import compression as compression_config
from experiments import (
  agreement,
  compression,
  compression_figure,
  compression_parts,
  fit_curvature,
  train,
)


class CompressionTest(absltest.TestCase):
  def test_refinement_finds_what_sets_in_common_say(self):
    rng = np.random.default_rng(0)
    exact_KxN = rng.normal(size=(5, 40))
    scores_KxN = exact_KxN + rng.normal(size=(5, 40))
    for m in (4, 9, 40):
      wanted = []
      for x, exact in zip(scores_KxN, exact_KxN, strict=True):
        first = sorted(range(40), key=lambda n: -x[n])[:m]
        best = sorted(first, key=lambda n: -exact[n])[:4]
        true = sorted(range(40), key=lambda n: -exact[n])[:4]
        wanted.append(len({*best} & {*true}) / 4)
      got = agreement.refined(scores_KxN, exact_KxN, m, 4)
      np.testing.assert_allclose(got, wanted)
    np.testing.assert_allclose(got, 1)  # all were scored again

  def test_binary_measures_goes_on_and_refuses_other_queries(self):
    workdir = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    config = compression_config.with_compression(tiny_config.get_config())
    config.data.buckets = ()  # one shape to compile for
    config.compression.update(num_sequences=50, batch_tokens=256, num_top=5)
    config.compression.queries.update(
      path=config.score.queries, num=3, prompt_words=3, completion_words=4
    )
    config.compression.rank.update(ranks=(2, 8), rescored=(5, 50))
    config.compression.blocks.blocks = (1, 4)
    train.run(config, workdir)
    fit_curvature.run(config, workdir)
    result = compression.run(config, workdir)
    folder = workdir / 'compression'
    self.assertGreater((folder / 'compression.png').stat().st_size, 10_000)
    for name, labels in (('rank', ['rank']), ('blocks', ['', 'blocks a side'])):
      drawn = compression_figure.draw({name: result['parts'][name]})
      self.assertEqual([axes.get_xlabel() for axes in drawn.axes], labels)
    kept = json.loads((folder / 'result.json').read_text())
    self.assertEqual(kept['parts'], json.loads(json.dumps(result['parts'])))
    for row in result['parts']['rank']['rows']:
      self.assertLen(row['pearson']['per_query'], 5)
      if row['rank'] == 8:  # the whole width
        self.assertGreater(row['pearson']['min'], 1 - 1e-5)
    for row in result['parts']['rank']['two_stage']:
      if row['rescored'] == 50:
        self.assertEqual(row['overlap']['min'], 1)
    one, four = result['parts']['blocks']['rows']
    self.assertAlmostEqual(one['pearson']['min'], 1, places=12)
    self.assertLess(four['pearson']['min'], 1 - 1e-6)
    self.assertLess(four['covariance_bytes'], one['covariance_bytes'] / 3)
    for row in result['parts']['precision']['rows']:
      self.assertBetween(row['pearson']['min'], 0.5, 1 - 1e-9)
    self.assertLess(result['parts']['draw']['rows'][0]['pearson']['max'], 1)

    def fail(*args, **kwargs):
      raise AssertionError('computed again')

    with absltest.mock.patch.object(compression_parts, '_solve', fail):
      again = compression.run(config, workdir)
      self.assertEqual(again['parts'], result['parts'])
      (folder / 'rank.json').unlink()
      with self.assertRaisesRegex(AssertionError, 'again'):
        compression.run(config, workdir)
    config.compression.queries.num = 2
    with self.assertRaisesRegex(ValueError, 'queries'):
      compression.run(config, workdir)


if __name__ == '__main__':
  absltest.main()
