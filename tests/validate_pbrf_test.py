import pathlib
import tempfile
from unittest import mock

import jax
import numpy as np
import testing
from absl.testing import absltest
from ml_collections import ConfigDict

from experiments import estimates, responses, validate_pbrf, validation_task
from influence_jax import ggn, pbrf


def setUpModule():
  jax.config.update('jax_enable_x64', True)


def tearDownModule():
  jax.config.update('jax_enable_x64', False)


def _config(**section) -> ConfigDict:
  config = ConfigDict(
    dict(
      data={}, model={}, train=dict(seed=0), loss='softmax_cross_entropy',
      validation=dict(
        task='toy', seeds=(0, 1), seed=0, num_points=10, num_queries=3,
        batch_size=6, dtype='float64',
        dampings=(('absolute', 0.1), ('relative', 1.0)),
        claimed=('absolute', 0.1), bounds=dict(exact=0.95),
        response=dict(
          preconditioner='dense', epsilon_times_n=1e-3, tolerance=1e-7,
          max_steps=60, points_at_once=3, points_a_file=8,
        ),
        methods=(
          dict(label='gradient dot product', curvature='identity'),
          dict(label='EK-FAC', curvature='ekfac'),
          dict(label='LiSSA', solver='lissa', at=(1, 20)),
          dict(label='too far', solver='lissa', scale=100.0, at=(50,)),
          dict(label='exact', solver='dense', at=(0,)),
        ),
      ),
    )
  )  # fmt: skip
  config.validation.update(section)
  return config


def _task(config, workdir) -> validation_task.Task:
  """Other points for another seed of training, of one toy model."""
  model, params = testing.deep()
  workdir.mkdir(parents=True, exist_ok=True)
  batches = [testing.deep_batch(6, seed=s) for s in range(3)]
  rows = jax.tree.map(lambda *x: np.concatenate(x), *batches)
  first = config.train.seed
  points = testing.rows(rows, np.arange(first, first + 10))
  return validation_task.Task(
    model, params, ggn.stack(batches),
    jax.tree.map(lambda x: x[:, None], points), testing.deep_batch(3, seed=9),
  )  # fmt: skip


class ValidatePbrfTest(absltest.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.folder = cls.enterClassContext(tempfile.TemporaryDirectory())
    cls.enterClassContext(
      mock.patch.object(validation_task, 'train_and_load', _task)
    )
    cls.result = validate_pbrf.run(_config(), cls.folder)

  def row(self, damping, label, step=None):
    (found,) = [
      row
      for row in self.result['rows']
      if (row['damping'], row['label'], row['step']) == (damping, label, step)
    ]
    return found

  def test_exact_solution_agrees_with_responses_to_a_small_push(self):
    for damping in ('absolute 0.1', 'relative 1'):
      row = self.row(damping, 'exact', 0)
      self.assertGreater(row['pearson'][0], 0.999)
      self.assertLess(row['residual'], 1e-9)
      self.assertGreater(
        row['pearson'][0], self.row(damping, 'EK-FAC')['pearson'][0]
      )

  def test_responses_have_the_size_and_sign_that_scores_predict(self):
    task = _task(_config(), pathlib.Path(self.folder) / 'seed0')
    folder = pathlib.Path(self.folder) / 'seed0' / 'absolute_0.1'
    files = sorted(folder.glob('responses_*.json'))
    self.assertLen(files, 2)  # 8 points and 2
    found = [responses.parts.store.read_json(path) for path in files]
    response_KxM = np.concatenate([x['response'] for x in found], 1)
    scores = responses.parts.store.read_json(folder / 'estimates.json')
    exact = scores['estimates'][-1]
    epsilon = 1e-3 / int(ggn.count(task.batches))
    testing.assert_near(
      self, response_KxM, epsilon * np.array(exact['scores']), rtol=1e-3
    )

  def test_every_point_converged_and_is_counted(self):
    for seed in self.result['seeds']:
      for row in seed['points']:
        self.assertEqual(row['num_points'], 10)
        self.assertEqual(row['num_converged'], 10)
        self.assertLessEqual(row['ratio']['max'], 1e-7)

  def test_a_solver_that_diverges_is_reported(self):
    (found,) = self.result['seeds'][0]['points'][0]['diverged']
    self.assertEqual(found['label'], 'too far')
    self.assertRegex(found['diverged'], 'diverged at step')

  def test_claims_are_of_the_damping_that_was_fixed(self):
    found = {x['id']: x for x in self.result['claims']}
    self.assertSetEqual({*found}, {f'E{i} toy' for i in (1, 2, 3)})
    exact = self.row('absolute 0.1', 'exact', 0)['pearson'][0]
    self.assertAlmostEqual(found['E1 toy']['value'], exact)
    ekfac, dot, lissa = (
      self.row('absolute 0.1', *key)['pearson'][0]
      for key in (('EK-FAC',), ('gradient dot product',), ('LiSSA', 20))
    )
    self.assertAlmostEqual(found['E2 toy']['value'], ekfac - dot)
    self.assertAlmostEqual(found['E3 toy']['value'], ekfac - lissa)
    self.assertEqual(found['E1 toy']['seeds'], [0, 1])

  def test_a_second_run_solves_nothing_again(self):
    with (
      mock.patch.object(pbrf, 'start', side_effect=AssertionError),
      mock.patch.object(estimates, 'compute', side_effect=AssertionError),
    ):
      again = validate_pbrf.run(_config(), self.folder)
    self.assertEqual(again['rows'], self.result['rows'])

  def test_what_is_there_of_another_config_is_refused(self):
    with self.assertRaisesRegex(ValueError, 'num_points'):
      validate_pbrf.run(_config(num_points=9), self.folder)

  def test_points_that_did_not_converge_are_left_out(self):
    rng = np.random.default_rng(0)
    scores, truth = rng.normal(size=(2, 2, 6))
    truth[:, 4:] = 1e9
    kept = np.array([True] * 4 + [False] * 2)
    found = validate_pbrf.correlations(scores, truth, kept)
    wanted = [np.corrcoef(scores[k, :4], truth[k, :4])[0, 1] for k in (0, 1)]
    np.testing.assert_allclose(found['pearson'], wanted)

  def test_a_damping_without_responses_has_no_correlations(self):
    def none(config, task, fitted, damping, folder, origin):
      del config, task, fitted, damping, origin
      is_far = folder.name == 'absolute_0.1'
      ratio = np.full(10, 1.0 if is_far else 0.0)
      return {'response': np.eye(3, 10), 'ratio': ratio}

    folder = self.enterContext(tempfile.TemporaryDirectory())
    methods = (
      _config().validation.methods[:1] + _config().validation.methods[-1:]
    )
    config = _config(seeds=(0,), methods=methods)
    with mock.patch.object(responses, 'compute', none):
      result = validate_pbrf.run(config, folder)
      self.assertEqual({x['damping'] for x in result['rows']}, {'relative 1'})
      self.assertEqual(result['seeds'][0]['points'][0]['num_converged'], 0)
      self.assertEmpty(result['claims'])
      config.validation.dampings = config.validation.dampings[:1]
      with self.assertRaisesRegex(ValueError, 'at no damping 3 responses'):
        validate_pbrf.run(config, folder)

  def test_too_many_points_is_a_clear_error(self):
    with self.assertRaisesRegex(ValueError, 'num_points is 7, expected 1 to 6'):
      validation_task._draw(
        np.random.default_rng(0), testing.deep_batch(6), 7, 'num_points'
      )


if __name__ == '__main__':
  absltest.main()
