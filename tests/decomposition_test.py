"""The chain on toy data: logistic regression's ends agree, claims add up."""

import json
import pathlib
import tempfile
from unittest import mock

import jax
import numpy as np
import testing
from absl.testing import absltest
from ml_collections import ConfigDict

from configs import decomposition_digits, decomposition_logistic
from experiments import (
  decomposition,
  estimates,
  train_net,
  validate_pbrf,
  validation_task,
)
from influence_jax import pbrf
from influence_jax.data import images, splits

_NUM, _NUM_POINTS, _NUM_QUERIES = 60, 8, 3


def setUpModule():
  jax.config.update('jax_enable_x64', True)


def tearDownModule():
  jax.config.update('jax_enable_x64', False)


def _load(data_dir, *, name, num_train, num_test, seed):
  """Images of three classes that overlap, in place of digits."""
  del data_dir, name
  rng = np.random.default_rng(seed)

  def part(num):
    targets = rng.integers(0, 3, num).astype(np.int32)
    inputs = 0.7 * np.eye(4)[targets] + 0.5 * rng.normal(size=(num, 4))
    inputs = inputs.reshape(num, 2, 2, 1).astype(np.float32)
    return splits.batch(inputs, targets)

  return splits.Splits(part(num_train), part(num_test))


def _small(c: ConfigDict) -> ConfigDict:
  c.data.update(data_dir='nowhere', num_train=_NUM, num_test=5)
  c.model.num_outputs = 3
  c.validation.update(
    num_points=_NUM_POINTS, num_queries=_NUM_QUERIES, batch_size=20
  )
  c.validation.response.update(points_at_once=4, points_a_file=8)
  c.leave_one_out.points_at_once = 8
  return c


def _logistic() -> ConfigDict:
  c = _small(decomposition_logistic.get_config())
  c.train.update(
    batch_size=_NUM, num_epochs=400, weight_decay=0.1, eval_every=400
  )
  c.decomposition.damping = 0.1
  c.validation.methods = tuple(
    method
    for method in map(dict, c.validation.methods)
    if method['label'] in ('exact', 'EK-FAC')
  )
  return c


def _net() -> ConfigDict:
  """Much damping, from a theta_s that is no minimum."""
  c = _small(decomposition_digits.get_config())
  c.model.widths = (3,)
  c.train.update(batch_size=20, num_epochs=4, weight_decay=0.05, eval_every=4)
  c.leave_one_out.update(seeds=(0, 1, 2))
  c.leave_one_out.minimum.update(tolerance=1e-7, max_steps=500)
  c.decomposition.damping = 50.0
  return c


class DecompositionTest(absltest.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.enterClassContext(mock.patch.object(images, 'load', _load))
    cls.folder = pathlib.Path(
      cls.enterClassContext(tempfile.TemporaryDirectory())
    )
    cls.logistic = decomposition.run(_logistic(), cls.folder / 'logistic')
    cls.net = decomposition.run(_net(), cls.folder / 'net')

  def gaps(self, result):
    return {row['name']: row['gap'] for row in result['rows']}

  def changes(self, config, name):
    task = validation_task.train_and_load(config, self.folder / name)
    return task, decomposition._changes(config, task, self.folder / name)[1]

  def test_logistic_regression_loses_nothing_but_by_linearisation(self):
    gaps = self.gaps(self.logistic)
    for name in ('warm start', 'non-convergence', decomposition.NOISE):
      self.assertLess(gaps[name], 1e-5, name)
    self.assertEqual(gaps['proximity'], 0)  # none beyond weight decay
    self.assertBetween(gaps['linearisation'], 1e-3, 0.15)
    found = {x['id']: x for x in self.logistic['claims']}
    self.assertSetEqual({*found}, {'D2 logistic', 'D3 logistic'})
    self.assertGreater(found['D2 logistic']['value'], 0.99)
    self.assertTrue(found['D2 logistic']['held'])
    largest = found['D3 logistic']
    self.assertEqual(largest['value'], gaps['linearisation'])
    self.assertEqual(largest['held'], gaps['linearisation'] < 0.01)
    for label in ('warm start', 'proximity', 'PBRF'):
      self.assertLess(self.logistic['ratio'][label]['max'], 1e-5)

  def test_exact_scores_have_the_sign_and_size_of_what_they_predict(self):
    task, changes = self.changes(_logistic(), 'logistic')
    theta = task.params['dense_0']

    def gradients(batch):
      """Of log-probabilities, [B, I O]."""
      flat = np.asarray(batch.inputs, float).reshape(len(batch.ids), -1)
      a_BxI = np.concatenate([flat, np.ones((len(flat), 1))], 1)
      p_BxO = np.exp(flat @ theta['kernel'] + theta['bias'])
      p_BxO /= p_BxO.sum(1, keepdims=True)
      away = np.eye(3)[np.asarray(batch.targets)] - p_BxO
      g = np.einsum('bi,bo->bio', a_BxI, away).reshape(len(flat), -1)
      return g, a_BxI, p_BxO

    rows = _load(**_logistic().data).train
    _, a_NxI, p_NxO = gradients(rows)
    G = sum(
      np.kron(np.outer(a, a), np.diag(p) - np.outer(p, p))
      for a, p in zip(a_NxI, p_NxO, strict=True)
    ) / _NUM  # fmt: skip
    g_MxP = gradients(jax.tree.map(lambda x: x[:, 0], task.points))[0]
    f_KxP = gradients(task.queries)[0]
    solved_PxM = np.linalg.solve(G + 0.1 * np.eye(len(G)), g_MxP.T)
    testing.assert_near(self, changes['exact'], -f_KxP @ solved_PxM / _NUM)
    self.assertLess(np.abs(changes['cold'] - changes['exact']).max(), 5e-3)

  def test_much_damping_makes_proximity_the_linear_answer(self):
    gaps = self.gaps(self.net)
    self.assertLess(gaps['non-convergence'], 0.02)
    self.assertLess(gaps['linearisation'], 0.02)
    self.assertGreater(gaps['warm start'], 0.02)
    self.assertGreater(gaps['proximity'], 0.5)

  def test_first_claim_is_of_the_rows(self):
    gaps = self.gaps(self.net)
    (found,) = self.net['claims']
    self.assertEqual(found['id'], 'D1 digits')
    first = gaps['warm start'] + gaps['proximity'] + gaps['non-convergence']
    last = gaps['linearisation'] + gaps['LiSSA']
    self.assertAlmostEqual(found['value'], first / last)
    self.assertEqual(found['seeds'], [0, 1, 2])

  def test_rows_are_of_neighbours(self):
    _, changes = self.changes(_net(), 'net')
    names = [decomposition.NOISE, *decomposition.GAPS, 'EK-FAC', 'LiSSA', 'CG']
    self.assertEqual([*self.gaps(self.net)], [*names, 'cold to exact'])
    neighbours = {
      'warm start': ('cold', 'warm start'),
      'proximity': ('warm start', 'proximity'),
      'non-convergence': ('proximity', 'PBRF'),
      'linearisation': ('PBRF', 'exact'),
      'EK-FAC': ('exact', 'EK-FAC'),
      'CG': ('exact', 'CG'),
      'cold to exact': ('cold', 'exact'),
    }
    for row in self.net['rows']:
      if row['name'] not in neighbours:
        continue
      x, y = (changes[label] for label in neighbours[row['name']])
      wanted = [np.corrcoef(x[k], y[k])[0, 1] for k in range(_NUM_QUERIES)]
      np.testing.assert_allclose(row['pearson'][0], np.mean(wanted))
      self.assertAlmostEqual(row['gap'], decomposition.gap(x, y))

  def test_noise_is_of_the_halves_of_the_seeds(self):
    found = []
    for seed in (0, 1, 2):
      (path,) = (self.folder / 'net').glob(f'cold_seed{seed}/points_*')
      found.append(json.loads(path.read_text())['change'])
    one, *others = np.array(found)
    gap = decomposition.gap(one, np.mean(others, 0))
    self.assertGreater(gap, 0.01)
    self.assertAlmostEqual(self.gaps(self.net)[decomposition.NOISE], gap)

  def test_gap_is_free_of_scale_and_order_and_bounded(self):
    x, y = np.array([[3.0, 0.0], [0.0, 4.0]]), np.array([[0.0, 5.0], [0.0, 0]])
    self.assertAlmostEqual(decomposition.gap(x, y), 2**0.5)
    self.assertAlmostEqual(decomposition.gap(x, -x), 2)
    self.assertEqual(decomposition.gap(x, x), 0)
    self.assertAlmostEqual(decomposition.gap(x, 0.9 * x), 0.1 / 0.905**0.5)
    self.assertAlmostEqual(
      decomposition.gap(7 * x, 7 * (x + y)), decomposition.gap(x + y, x)
    )

  def test_a_second_run_computes_nothing_again(self):
    fails = {'side_effect': AssertionError}
    with (
      mock.patch.object(pbrf, 'start', **fails),
      mock.patch.object(estimates, 'compute', **fails),
      mock.patch.object(train_net, '_batches', **fails),
      mock.patch.object(decomposition.leave_one_out, '_slope', **fails),
    ):
      again = decomposition.run(_net(), self.folder / 'net')
    self.assertEqual(again['rows'], self.net['rows'])
    self.assertTrue((self.folder / 'net' / 'decomposition.png').exists())

  def test_another_damping_in_the_same_workdir_is_refused(self):
    config = _net()
    config.decomposition.damping = 40.0
    with self.assertRaisesRegex(ValueError, 'damping is 50.0 there, 40.0'):
      decomposition.run(config, self.folder / 'net')

  def test_what_cannot_be_is_a_clear_error(self):
    config = _net()
    config.decomposition.damping = 0.01
    with self.assertRaisesRegex(ValueError, 'at least train.weight_decay'):
      decomposition.run(config, self.folder / 'other')
    config = _net()
    config.leave_one_out.seeds = (0,)
    with self.assertRaisesRegex(ValueError, 'expected two or more'):
      decomposition.run(config, self.folder / 'other')

  def test_correlations_are_over_points(self):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 4, 9))
    found = decomposition.pair('x', x, y)
    kept = np.ones(9, bool)
    wanted = validate_pbrf.correlations(x, y, kept)
    self.assertAlmostEqual(found['spearman'][0], np.mean(wanted['spearman']))


if __name__ == '__main__':
  absltest.main()
