import json
import pathlib
import tempfile
from unittest import mock

import numpy as np
from absl.testing import absltest, parameterized
from tiny import compression as tiny

from experiments import compression, compression_parts, ladder, sub_blocks

BLOCKS = (1, 2, 4)


def _config(**kwargs):
  config = tiny.config('sub_blocks', **kwargs)
  config.compression.blocks.blocks = BLOCKS
  return config


def _pearson(study):
  """Made up, [K, X]."""
  rng = np.random.default_rng([*study.ours.params_fingerprint.encode()])
  return 1 - rng.uniform(0, 0.05, (3, len(BLOCKS))) * [0, 1, 4]


def _part(study):
  r_KxX = _pearson(study)
  return {
    'rows': [
      {
        'blocks': num,
        'covariance_bytes': 1000 // num,
        'factor_bytes': 1000 // num + 600,
        'pearson': {'per_query': r_KxX[:, x].tolist()},
      }
      for x, num in enumerate(BLOCKS)
    ]
  }


class ClaimsTest(parameterized.TestCase):
  @parameterized.parameters(
    ([[0.9, 0.9]], 0.9, True),
    ([[0.85, 0.94]], 0.895, False),
    ([[0.8, 0.9], [1, 1]], 0.925, True),
  )
  def test_it_holds_from_its_bound_on(self, r_RxK, value, held):
    r_RxKxX = np.zeros((*np.shape(r_RxK), 3))
    r_RxKxX[..., 1] = r_RxK
    rungs = [ladder.Rung('d128', 1, None, None)]
    (found,) = sub_blocks.claimed(r_RxKxX, BLOCKS, rungs)
    self.assertAlmostEqual(found['value'], value)
    self.assertEqual((found['id'], found['held']), ('E6', held))
    self.assertEqual((found['seeds'], found['sizes']), ([1], ['d128']))
    low, high = found['interval']
    self.assertAlmostEqual(low, np.mean(r_RxK, axis=0).min())
    self.assertAlmostEqual(high, np.mean(r_RxK, axis=0).max())


class DrawTest(absltest.TestCase):
  def test_lines_are_of_queries_and_of_bytes_saved(self):
    r_RxKxX = 1 - np.random.default_rng(0).uniform(0.01, 0.1, (2, 5, 3))
    saved = sub_blocks.reduction(
      _part(tiny.open_study(None, pathlib.Path('x')))['rows']
    )
    fig = sub_blocks.draw([*'abcde'], BLOCKS, r_RxKxX, saved)
    left, right = fig.axes
    shown = [line.get_ydata() for line in left.get_lines()]
    np.testing.assert_allclose(shown, r_RxKxX.mean(axis=0))
    sums, factors = right.get_lines()
    np.testing.assert_allclose(sums.get_ydata(), [0, 50, 75])
    np.testing.assert_allclose(factors.get_ydata(), [0, 31.25, 46.875])


class RunTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    self.root = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    self.folder = self.root / 'sub_blocks'
    self.enterContext(
      mock.patch.object(compression, 'open_study', tiny.open_study)
    )
    parts = mock.patch.dict(compression_parts.PARTS, {'blocks': _part})
    self.enterContext(parts)

  def test_a_ladder_is_measured_once_and_averaged(self):
    config = _config(sizes=('s', 'l'), seeds=(0, 1))
    config.sub_blocks.sizes = ('s',)
    tiny.finish(config, self.root)
    sub_blocks.run(config, self.root)
    result = json.loads((self.folder / 'result.json').read_text())
    names = ('s_seed0', 's_seed1')
    wanted = [
      _pearson(tiny.open_study(None, self.root / name)) for name in names
    ]
    np.testing.assert_allclose(result['pearson'], wanted)
    (claim,) = result['claims']
    self.assertAlmostEqual(claim['value'], np.mean(wanted, axis=(0, 1))[1])
    self.assertEqual((claim['seeds'], claim['sizes']), ([0, 1], ['s']))
    self.assertEqual(result['queries'], ['a', 'b', 'c'])
    np.testing.assert_allclose(
      result['reduction']['covariance_bytes'], [0, 0.5, 0.75]
    )
    png = self.folder / 'sub_blocks.png'
    self.assertGreater(png.stat().st_size, 10_000)
    failing = {'blocks': mock.Mock(side_effect=AssertionError)}
    with mock.patch.dict(compression_parts.PARTS, failing):
      again = sub_blocks.run(config, self.root)
      self.assertEqual(again['claims'], result['claims'])
      config.compression.blocks.blocks = (1, 2)
      with self.assertRaisesRegex(ValueError, 's_seed0.json is of another run'):
        sub_blocks.run(config, self.root)

  def test_a_model_that_is_not_scored_is_named(self):
    config = _config(sizes=('s', 'l'), seeds=(0,))
    tiny.finish(config, self.root)
    (self.root / 'l_seed0' / 'scores' / 'manifest.json').unlink()
    with self.assertRaisesRegex(ValueError, 'l_seed0.*train_ladder to the end'):
      sub_blocks.run(config, self.root)

  def test_without_a_ladder_the_workdir_is_the_only_model(self):
    config = _config()
    config.sub_blocks.sizes = ('d128',)
    del config.ladder
    tiny.finish(config, self.root)
    result = sub_blocks.run(config, self.root)
    self.assertEqual(result['claims'][0]['sizes'], [])

  def test_blocks_that_nothing_can_be_said_of_are_refused(self):
    config = _config(sizes=('s',), seeds=(0,))
    tiny.finish(config, self.root)
    for blocks in ((2, 1), (1, 4), ()):
      config.compression.blocks.blocks = blocks
      with self.assertRaisesRegex(ValueError, 'expected 1 first.* and 2,'):
        sub_blocks.run(config, self.root)


if __name__ == '__main__':
  absltest.main()
