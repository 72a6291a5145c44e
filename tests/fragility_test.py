"""Cells on toy data, and claims of made-up cells."""

import json
import pathlib
import tempfile
from unittest import mock

import jax
import numpy as np
from absl.testing import absltest, parameterized
from ml_collections import ConfigDict

from configs import fragility_digits
from experiments import fragility, train_net, validate_pbrf
from influence_jax.data import images, splits


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


def _config(**grid) -> ConfigDict:
  c = fragility_digits.get_config()
  c.data.update(data_dir='nowhere', num_train=60, num_test=5)
  c.model.num_outputs = 3
  c.train.update(batch_size=20, num_epochs=40, learning_rate=0.3)
  c.validation.update(num_points=8, num_queries=3, batch_size=60)
  c.validation.response.update(points_at_once=4, points_a_file=8)
  c.leave_one_out.update(seeds=(0, 1), points_at_once=8, warm_epochs=2)
  c.fragility.update(grid)
  return c


def _made(own, damping, folder, origin):
  """Agreement that says which cell, scores and target it is of."""
  del folder, origin
  depth = len(own.model.widths)
  width = own.model.widths[0] if depth else 0
  base = 0.9 - 0.1 * depth + 0.01 * (width == 8) - own.train.weight_decay

  def of(label, target):
    value = base - 0.2 * (label == 'EK-FAC')
    if target == 'PBRF':
      value += 0.06 * depth
    if target == 'warm':
      value -= 0.05
    return {
      key: [value, value - 0.01, value + 0.01]
      for key in ('spearman', 'pearson')
    }

  return {
    'parameters': depth * width,
    'num_converged': 1,
    'ratio': {},
    'train': {},
    'noise': None,
    'agreement': {
      label: {target: of(label, target) for target in ('cold', 'warm', 'PBRF')}
      for label in ('EK-FAC', 'exact')
    },
    'seen': damping,
  }


class FragilityTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.enterContext(mock.patch.object(images, 'load', _load))
    folder = self.enterContext(tempfile.TemporaryDirectory())
    self.folder = pathlib.Path(folder)

  def made(self, **grid):
    with mock.patch.object(fragility, '_measured', _made):
      return fragility.run(_config(**grid), self.folder)

  def test_a_cell_a_depth_width_and_decay_each_in_its_workdir(self):
    result = self.made()
    self.assertLen(result['cells'], 4 * (1 + 3 * 3))
    (path,) = self.folder.glob('depth4_width128_decay0.001/cell.json')
    self.assertEqual(json.loads(path.read_text())['parameters'], 4 * 128)
    self.assertLen([*self.folder.glob('depth0_width0_*')], 4)
    self.assertTrue((self.folder / 'fragility.png').exists())
    for cell in result['cells']:
      self.assertEqual(cell['damping'], max(cell['decay'], 1e-3))
      self.assertEqual(cell['parameters'], cell['depth'] * cell['width'])
    with mock.patch.object(fragility, '_measured', side_effect=AssertionError):
      again = fragility.run(_config(), self.folder)
    self.assertEqual(again['cells'], result['cells'])

  def test_claims_are_of_the_best_width_at_the_fixed_decay(self):
    found = {
      x['id']: x for x in self.made(decays=(0.0, 0.25), decay=0.25)['claims']
    }
    self.assertAlmostEqual(found['F1 digits']['value'], 0.65)
    self.assertAlmostEqual(found['F2 digits']['value'], 0.3)
    self.assertAlmostEqual(found['F3 digits']['value'], 0.12 - 0.15)
    held = [found[f'F{i} digits']['held'] for i in (1, 2, 3)]
    self.assertEqual(held, [False, True, True])

  def test_best_is_over_widths_alone(self):
    cells = self.made()['cells']
    found = fragility.best(cells, 1, 1e-3, 'EK-FAC', 'warm')
    np.testing.assert_allclose(found[0], 0.8 + 0.01 - 1e-3 - 0.2 - 0.05)

  def test_a_grid_without_the_claims_cells_is_refused(self):
    for grid in ({'depths': (1, 2)}, {'depths': (0, 1)}, {'decay': 0.5}):
      with self.assertRaisesRegex(ValueError, 'claims are of those'):
        fragility.run(_config(**grid), self.folder)

  def test_a_net_before_measuring_is_that_of_its_cell(self):
    """One real cell of one hidden layer, one of none; scores and targets agree

    for logistic regression, which trains to its minimum.
    """
    found = {}
    for depth, width, most in ((0, 0, 10), (1, 3, 100)):
      config = _config(dense_up_to=most)
      spy = mock.patch.object(
        validate_pbrf, 'correlations', wraps=validate_pbrf.correlations
      )
      measure = mock.patch.object(
        fragility.estimates, 'compute', wraps=fragility.estimates.compute
      )
      with spy as called, measure as asked:
        cell = fragility._cell(config, depth, width, 0.05, self.folder)
      found[depth] = cell
      self.assertEqual(cell['num_converged'], 8)
      scores = [call.args[0] for call in called.call_args_list]
      truths = [call.args[1] for call in called.call_args_list]
      self.assertEqual(scores[-1].shape, (3, 8))
      cold, warm, response = (
        float((x * y).sum() / (x * x).sum())
        for x, y in zip(scores[-3:], truths[-3:], strict=True)
      )  # the last three are of the exact solution
      self.assertBetween(response, 0.8, 1.25)
      if not depth:
        self.assertBetween(cold, 0.8, 1.25)
        self.assertLess(warm, 0.8)  # 2 epochs are not enough
      (call,) = asked.call_args_list
      solver = 'dense' if depth else 'woodbury'
      exact = dict(call.args[0].validation.methods[-1])
      self.assertEqual(exact['solver'], solver)
      given = call.args[0].validation.response.preconditioner
      self.assertEqual(given, solver)
      name = f'depth{depth}_width{width}_decay0.05'
      config.model.widths = (width,) * depth
      config.train.weight_decay = 0.05
      net = train_net.load(config, self.folder / name)
      self.assertEqual(
        cell['parameters'], sum(x.size for x in jax.tree.leaves(net.params))
      )
    self.assertEqual(found[0]['parameters'], 4 * 3 + 3)
    self.assertEqual(found[1]['parameters'], 4 * 3 + 3 + 3 * 3 + 3)
    exact = found[0]['agreement']['exact']
    self.assertGreater(exact['cold']['pearson'][0], 0.98)
    self.assertGreater(exact['PBRF']['pearson'][0], 0.98)
    self.assertGreater(found[0]['noise']['spearman'][0], 0.9)
    for cell in found.values():
      for targets in cell['agreement'].values():
        self.assertCountEqual(targets, ['cold', 'warm', 'PBRF'])
        for one in targets.values():
          low, high = one['quartiles']
          self.assertLessEqual(low, high)


if __name__ == '__main__':
  absltest.main()
