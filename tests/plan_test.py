import contextlib
import io
import json
import pathlib
import tempfile
from unittest import mock

import numpy as np
import tiny_config
from absl.testing import absltest

from experiments import compared, plan, workload
from influence_jax import planner

_GIB = 2**30


class PlanTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    self.config = tiny_config.get_config()
    with self.config.unlocked():
      self.config.plan = dict(
        compare=True, num_sequences=(30, 50), num_queries=4
      )
    self.workdir = pathlib.Path(
      self.enterContext(tempfile.TemporaryDirectory())
    )

  def test_a_plan_is_made_before_anything_is_trained(self):
    with contextlib.redirect_stdout(io.StringIO()) as printed:
      plan.run(self.config, self.workdir)
    found = json.loads((self.workdir / 'plan.json').read_text())
    stages = [stage['stage'] for stage in found['stages']]
    self.assertEqual(
      stages,
      ['train', 'covariance', 'eigendecomposition', 'eigenvalue', 'solve']
      + ['scan', 'refine', 'solve at full rank'],
    )
    for stage in found['stages']:
      self.assertGreater(stage['seconds'], 0)
      self.assertGreater(sum(stage['device'].values()), 0)
    self.assertIn('eigenvalue', printed.getvalue())
    self.assertIn('train', printed.getvalue())
    self.assertEqual([p.name for p in self.workdir.iterdir()], ['plan.json'])

  def test_training_is_planned_for_all_its_epochs_if_there_is_any(self):
    def flop():
      (cost,) = plan.costs_of(self.config, self.workdir, ('train',))
      return sum(cost.flop.values())

    once = flop()
    self.config.train.num_epochs = 3
    self.assertEqual(flop(), 3 * once)
    del self.config.train
    self.assertEmpty(plan.costs_of(self.config, self.workdir, ('train',)))

  def test_a_scan_is_of_as_many_sequences_as_are_asked_for(self):
    def scan():
      found = plan.costs_of(self.config, self.workdir, ('score',))
      (cost,) = (cost for cost in found if cost.stage == 'scan')
      return cost

    self.config.plan.num_sequences = 0, 800  # 100 batches of 8
    self.config.score.num_top = 0
    whole = scan()
    self.config.score.num_sequences = 200
    part = scan()
    self.assertEqual(part.flop['pass'], whole.flop['pass'] / 4)
    self.assertEqual(whole.disk - part.disk, 4 * 2 * 600)  # of K and N

  def test_a_refinement_has_batches_of_its_own_size(self):
    self.config.score.refine_batch_tokens = 512  # a scan has 256
    found = plan.costs_of(self.config, self.workdir, ('score',))
    batches = {x.stage: x.step_args[-1].inputs.shape for x in found}
    self.assertEqual(batches['scan'], (8, 32))
    self.assertEqual(batches['refine'], (16, 32))

  def test_scores_without_top_sequences_end_with_the_scan(self):
    self.config.score.num_top = 0
    found = plan.costs_of(self.config, self.workdir, ('score',))
    self.assertEqual([cost.stage for cost in found], ['solve', 'scan'])

  def test_sequences_are_of_the_config_or_it_says_what_is_missing(self):
    found = workload.num_sequences(self.config, self.workdir)
    self.assertEqual(found, {16: 30, 32: 50})
    self.config.plan.num_sequences = (3,)
    with self.assertRaisesRegex(ValueError, r'\(3,\).*\[16, 32\]'):
      workload.num_sequences(self.config, self.workdir)
    del self.config.plan
    with self.assertRaisesRegex(ValueError, 'no corpus.*plan.num_sequences'):
      workload.num_sequences(self.config, self.workdir)

  def test_what_does_not_fit_is_refused_with_advice(self):
    kinds = {'parameters': 1 * _GIB, 'queries': 4 * _GIB, 'temporary': _GIB}
    cost = planner.Cost('scan', {}, kinds, disk=2**60)
    with mock.patch.object(plan, 'available', lambda: 5 * _GIB):
      with self.assertRaisesRegex(
        ValueError, 'scan needs 6 GiB.*5 GiB are available.*score.rank'
      ):
        plan.check([cost], self.workdir)
    with mock.patch.object(plan, 'available', lambda: 7 * _GIB):
      with self.assertRaisesRegex(ValueError, 'of disk.*score.matrix'):
        plan.check([cost], self.workdir)
      plan.check([cost._replace(disk=1)], self.workdir)

  def test_advice_is_about_what_takes_most(self):
    advice = {
      'temporary': 'batch_tokens', 'sums': 'ekfac_blocks',
      'factors': 'ekfac_blocks', 'parameters': 'smaller model',
      'optimizer': 'smaller model',
    }  # fmt: skip
    for kind, words in advice.items():
      cost = planner.Cost('x', {}, {'queries': _GIB, kind: 2**50})
      with self.assertRaisesRegex(ValueError, words):
        plan.check([cost], self.workdir)

  def test_a_run_is_measured_beside_its_prediction(self):
    model, params = plan.abstract_model(self.config)
    ours = mock.Mock(model=model, params=params)
    with contextlib.redirect_stdout(io.StringIO()):
      with compared.prediction(self.config, ours, self.workdir, 'fit') as found:
        taken = np.ones(2**27)  # 1 GiB
        del taken
    (kept,) = json.loads((self.workdir / 'plan_measured.json').read_text())
    most = kept['baseline_bytes'] + 0.9 * _GIB
    self.assertGreater(kept['measured']['bytes'], most)
    self.assertLess(kept['predicted']['bytes'], most)
    self.assertGreater(kept['measured']['seconds'], 0.1)
    self.assertEqual(found[0].stage, kept['stages'][0]['stage'])
    self.config.plan.compare = False
    with compared.prediction(self.config, ours, self.workdir, 'fit') as found:
      self.assertEmpty(found)

  def test_measurements_are_kept_beside_predictions(self):
    cost = planner.Cost('scan', {}, {'x': 50}, 50, seconds=4.0)
    measured = {'bytes': 330, 'seconds': 2.0}
    for _ in range(2):
      compared.compare(self.workdir, 'score', [cost, cost], 200, measured)
    path = self.workdir / 'plan_measured.json'
    first, second = json.loads(path.read_text())
    self.assertEqual(first, second)
    self.assertEqual(first['predicted'], {'bytes': 300, 'seconds': 8.0})
    self.assertEqual(first['ratio'], {'bytes': 1.1, 'seconds': 0.25})


if __name__ == '__main__':
  absltest.main()
