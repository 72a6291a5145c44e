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
  low_rank,
  score,
  sub_blocks,
  train,
)
from influence_jax.data import queries as queries_lib


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
    score.run(config, workdir)  # low_rank and sub_blocks want finished rungs
    scored = []

    def keep(study):
      scored.append(rank_scores(study))
      return scored[0]

    rank_scores = compression_parts.rank_scores
    with absltest.mock.patch.object(compression_parts, 'rank_scores', keep):
      result = compression.run(config, workdir)
    self.check_thin_binaries(config, workdir, scored[0], result['parts'])
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
    config.compression.queries.update(ids=('of none',))
    with self.assertRaisesRegex(ValueError, "ids has .'of none'., expected"):
      compression.run(config, workdir)

  def check_thin_binaries(self, config, workdir, scored, parts):
    """low_rank and sub_blocks, of the same model, find the same."""
    patch = absltest.mock.patch
    config = config.copy_and_resolve_references()
    names = [
      query.id for query in queries_lib.read_queries(config.score.queries)
    ]
    config.compression.queries.update(ids=tuple(names[::-1]))
    ids = [
      query.id for query in compression.open_study(config, workdir).queries
    ]
    self.assertEqual(ids[: len(names)], names[::-1])
    config.compression.queries.ids = ()
    config.low_rank = dict(sizes=(), shown=names[1])
    config.sub_blocks = dict(sizes=())
    with (
      patch.object(compression_parts, 'rank_scores', lambda study: scored),
      patch.object(low_rank, 'RANK', 8),
    ):
      found = low_rank.run(config, workdir)
    for row in parts['rank']['rows']:
      if row['method'] == 'randomised':
        r_KxX = found['pearson']['weighted' if row['weighted'] else 'plain'][0]
        x = config.compression.rank.ranks.index(row['rank'])
        got = [r_X[x] for r_X in r_KxX]
        self.assertEqual(got, row['pearson']['per_query'])
    np.testing.assert_allclose(  # rank 8 is the whole width
      found['scatter']['plain'], found['scatter']['exact'], 1e-3, 1e-5
    )
    made = {'blocks': lambda study: {'rows': parts['blocks']['rows']}}
    with (
      patch.dict(compression_parts.PARTS, made),
      patch.object(sub_blocks, 'BLOCKS', 4),
    ):
      found = sub_blocks.run(config, workdir)
    four = parts['blocks']['rows'][1]['pearson']
    self.assertAlmostEqual(found['claims'][0]['value'], four['mean'])


if __name__ == '__main__':
  absltest.main()
