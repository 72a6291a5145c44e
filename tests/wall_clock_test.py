import pathlib
import tempfile
from unittest import mock

import jax
import numpy as np
import validate_pbrf_test
from absl.testing import absltest

from experiments import estimates, validation_task, wall_clock
from influence_jax import fit, store


def setUpModule():
  jax.config.update('jax_enable_x64', True)


def tearDownModule():
  jax.config.update('jax_enable_x64', False)


def _config(**section):
  config = validate_pbrf_test._config(
    methods=(
      dict(label='EK-FAC', curvature='ekfac'),
      dict(label='LiSSA', solver='lissa', at=(1, 20)),
    ),
    **section,
  )
  config.wall_clock = dict(measurements=(1, 3), claimed=3)
  return config


def _row(label, step, pearson, seconds, measurements=10):
  return dict(
    label=label, step=step, pearson=[pearson], seconds=seconds,
    measurements=measurements,
  )  # fmt: skip


class WallClockTest(absltest.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.folder = cls.enterClassContext(tempfile.TemporaryDirectory())
    cls.enterClassContext(
      mock.patch.object(
        validation_task, 'train_and_load', validate_pbrf_test._task
      )
    )
    cls.result = wall_clock.run(_config(), cls.folder)

  def test_a_number_of_measurements_is_the_mean_over_its_first_queries(self):
    for num in (1, 3):
      found = []
      for seed in (0, 1):
        folder = pathlib.Path(self.folder) / f'seed{seed}'
        files = sorted(folder.glob('responses_*.json'))
        parts = [store.read_json(path)['response'] for path in files]
        truth_KxM = np.concatenate(parts, 1)
        measured = store.read_json(folder / f'measurements_{num}.json')
        scores_KxM = measured['estimates'][0]['scores']
        self.assertLen(scores_KxM, num)
        found += [
          np.corrcoef(*pair)[0, 1]
          for pair in zip(scores_KxM, truth_KxM[:num], strict=True)
        ]
      (row,) = [
        row
        for row in self.result['rows']
        if (row['measurements'], row['label']) == (num, 'EK-FAC')
      ]
      self.assertAlmostEqual(row['pearson'][0], np.mean(found))

  def test_lissa_counts_from_where_it_agrees_as_ekfac_does(self):
    rows = [
      _row('EK-FAC', None, 0.5, 2.0),
      _row('LiSSA', 10, 0.4, 6.0),
      _row('LiSSA', 100, 0.6, 50.0),
      _row('LiSSA', 700, 0.7, 350.0),
      _row('EK-FAC', None, 0.5, 9.0, measurements=1),
      _row('LiSSA', 10, 0.9, 1.0, measurements=1),
    ]
    self.assertEqual(wall_clock.ratio(rows, 10), 25.0)
    rows[0]['pearson'] = [0.3]
    self.assertEqual(wall_clock.ratio(rows, 10), 3.0)
    rows[0]['pearson'] = [0.8]  # it never does
    self.assertEqual(wall_clock.ratio(rows, 10), 175.0)

  def test_a_fit_counts_for_those_who_need_it(self):
    one = dict(
      label='LiSSA', step=1, products=5, seconds=7.0,
      scores=[[1.0, 2.0, 4.0]],
    )  # fmt: skip
    truth = np.array([[1.0, 2.0, 3.0]])
    named = dict(measurements=1, truth=truth)
    kept_M = np.ones(3, bool)
    self.assertEqual(wall_clock._row(one, 9.0, kept_M, **named)['seconds'], 7.0)
    one['label'] = 'EK-FAC'
    got = wall_clock._row(one, 9.0, kept_M, **named)
    self.assertEqual(got['seconds'], 16.0)
    wanted = np.corrcoef(one['scores'][0], truth[0])[0, 1]
    np.testing.assert_allclose(got['pearson'], [wanted])

  def test_a_fit_is_timed_from_its_first_pass_to_its_factors(self):
    """That of two stages over three batches, each run twice."""
    task = validate_pbrf_test._task(_config(), pathlib.Path(self.folder))
    names, finish = [], fit.finish_stage

    def finish_stage(stage, layers, state):
      names.append(stage.name)
      self.assertEqual(float(state.counts.sequences.sum()), 18)
      return finish(stage, layers, state)

    clock = mock.Mock(side_effect=[0.0, 3.0, 10.0, 14.0])
    with (
      mock.patch.object(fit, 'finish_stage', finish_stage),
      mock.patch.object(wall_clock.time, 'perf_counter', clock),
    ):
      self.assertEqual(wall_clock.fit_seconds(task), 7.0)
    self.assertEqual(names, ['covariance'] * 2 + ['eigenvalue'] * 2)

  def test_the_claim_is_of_the_number_that_was_fixed(self):
    (claim,) = self.result['claims']
    self.assertEqual(claim['id'], 'E4 toy')
    self.assertEqual(claim['value'], wall_clock.ratio(self.result['rows'], 3))
    self.assertEqual(claim['seeds'], [0, 1])

  def test_a_second_run_solves_nothing_again(self):
    with mock.patch.object(estimates, 'compute', side_effect=AssertionError):
      again = wall_clock.run(_config(), self.folder)
    self.assertEqual(again['rows'], self.result['rows'])

  def test_more_measurements_than_queries_are_refused(self):
    with self.assertRaisesRegex(ValueError, 'num_queries is 2, expected'):
      wall_clock.run(_config(num_queries=2), self.folder)


if __name__ == '__main__':
  absltest.main()
