import json
import pathlib
import tempfile
from unittest import mock

import exact_ggn
import jax
import numpy as np
import testing
from absl.testing import absltest
from ml_collections import ConfigDict

from configs import solver_cost_language_model, solver_cost_small
from experiments import (
  estimates,
  solver_cost,
  solver_cost_figure,
  validation_task,
)
from influence_jax import curvature, solvers, types

METHODS = (
  dict(label='identity', curvature='identity'),
  dict(label='EK-FAC', curvature='ekfac'),
  dict(label='LiSSA', solver='lissa', at=(0, 5, 40)),
  dict(label='too far', solver='lissa', scale=1e3, at=(30,)),
  dict(label='EK-FAC-CG', solver='cg', at=(0, 2)),
  dict(label='exact', solver='cg', at=(100,)),
)


def setUpModule():
  jax.config.update('jax_enable_x64', True)


def tearDownModule():
  jax.config.update('jax_enable_x64', False)


def _config(folder, **section) -> ConfigDict:
  config = ConfigDict(dict(case=dict(folder=str(folder), layers='/mlp/')))
  config.validation = dict(
    task='toy', seed=0, num_points=9, num_queries=3, batch_size=5,
    dtype='float64', damping=('relative', 0.1), exact_residual=1e-9,
    methods=METHODS,
  )  # fmt: skip
  config.validation.update(section)
  return config


def _write_case(folder: pathlib.Path) -> None:
  """A transformer of one block (V 7, D 4, F 6), 12 sequences and 4 queries."""
  V, D, F, T = 7, 4, 6, 5
  rng = np.random.default_rng(0)
  model = dict(vocab=V, d_model=D, d_ff=F, n_head=2, n_layer=1, seq_len=T)
  (folder / 'config.json').write_text(json.dumps({'model': model}))
  block = 'blocks.0'
  shapes = {'tok_emb': (V, D), 'pos_emb': (T, D), 'lm_head.kernel': (D, V)}
  for name in ('ln_f', f'{block}.ln1', f'{block}.ln2'):
    shapes |= {f'{name}.scale': (D,), f'{name}.bias': (D,)}
  dense = {f'attn.{name}': (D, D) for name in 'qkvo'}
  dense |= {'mlp.fc_in': (D, F), 'mlp.fc_out': (F, D)}
  for name, shape in dense.items():
    shapes[f'{block}.{name}.kernel'] = shape
    shapes[f'{block}.{name}.bias'] = shape[1:]
  weights = {name: rng.normal(size=shape) for name, shape in shapes.items()}
  np.savez(folder / 'weights.npz', **weights)
  tokens = {'train': rng.integers(0, V, (12, T + 1))}
  tokens['query'] = rng.integers(0, V, (4, T + 1))
  data = {f'{kind}_x': x[:, :-1] for kind, x in tokens.items()}
  data |= {f'{kind}_y': x[:, 1:] for kind, x in tokens.items()}
  np.savez(folder / 'data.npz', **data)


def _rows_of(label, *steps) -> list[dict]:
  """Rows of (products, Pearson)."""
  return [
    {'label': label, 'step': step, 'products': products, 'pearson': [pearson]}
    for step, (products, pearson) in enumerate(steps)
  ]


class SolverCostTest(absltest.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.case = pathlib.Path(
      cls.enterClassContext(tempfile.TemporaryDirectory())
    )
    cls.workdir = pathlib.Path(
      cls.enterClassContext(tempfile.TemporaryDirectory())
    )
    cls.enterClassContext(testing.steps_made_once())
    _write_case(cls.case)
    cls.config = _config(cls.case)
    cls.result = solver_cost.run(cls.config, cls.workdir)

  def row(self, label, step=None):
    (found,) = [
      row
      for row in self.result['rows']
      if (row['label'], row['step']) == (label, step)
    ]
    return found

  def test_correlations_are_those_of_a_dense_solve(self):
    task = solver_cost.load(self.config, self.workdir)
    _, factors = validation_task.fitted(task, 'ekfac', 0)
    damping = {p: 0.1 * np.mean(x['Lambda']) for p, x in factors.items()}
    with np.load(self.case / 'data.npz') as data:
      x, y, query_x, query_y = (
        data[key] for key in ('train_x', 'train_y', 'query_x', 'query_y')
      )

    def rows(x, y):
      mask, ids = np.ones(x.shape), np.arange(len(x))
      return types.Batch(x, y, mask, ids)

    def gradients(batch):
      found = testing.loop_gradients(task.model, task.params, batch)
      return -exact_ggn.raveled(found)

    G_PxP = exact_ggn.matrix(task.model, task.params, rows(x, y))
    D_P = exact_ggn.diagonal(task.model.layers, damping)
    g_KxP = gradients(rows(query_x[:3], query_y[:3]))
    points = np.arange(9) * 12 // 9  # spread over the 12
    g_MxP = gradients(rows(x[points], y[points]))
    exact_KxM = g_KxP @ np.linalg.solve(G_PxP + np.diag(D_P), g_MxP.T)
    plain_KxM = g_KxP @ g_MxP.T
    wanted = [np.corrcoef(plain_KxM[k], exact_KxM[k])[0, 1] for k in range(3)]
    found = self.row('identity')
    testing.assert_near(self, found['pearson'][0], np.mean(wanted), 1e-8)
    self.assertLessEqual(found['pearson'][1], found['pearson'][0])
    kept = json.loads((self.workdir / 'solver_cost/exact.json').read_text())
    scores_KxM = kept['estimates'][-1]['scores']
    testing.assert_near(self, scores_KxM, exact_KxM, 1e-8)

  def test_the_exact_solution_is_converged_and_agrees_with_itself(self):
    row = self.row('exact', 100)
    self.assertLessEqual(row['residual'], 1e-9)
    np.testing.assert_allclose(row['pearson'], 1.0)
    np.testing.assert_allclose(row['spearman'], 1.0)

  def test_products_are_counted_for_each_right_hand_side(self):
    self.assertEqual(self.row('EK-FAC-CG', 2)['products'], 3 * 12)
    self.assertEqual(self.row('LiSSA', 40)['products'], 40 * 12 / 3)
    self.assertEqual(self.row('EK-FAC')['products'], 0)

  def test_a_solver_nears_the_exact_solution(self):
    for label, first, last in (('LiSSA', 0, 40), ('EK-FAC-CG', 0, 2)):
      self.assertLess(
        self.row(label, last)['residual'], self.row(label, first)['residual']
      )
    self.assertGreater(
      self.row('EK-FAC-CG', 2)['pearson'][0], self.row('EK-FAC')['pearson'][0]
    )

  def test_seconds_of_a_fit_are_those_of_approximations(self):
    self.assertGreater(self.row('EK-FAC')['fit_seconds'], 0)
    self.assertIsNone(self.row('LiSSA', 5)['fit_seconds'])

  def test_a_solver_that_diverges_is_reported(self):
    (found,) = self.result['diverged']
    self.assertEqual(found['label'], 'too far')

  def test_result_says_what_it_is_of(self):
    result = json.loads((self.workdir / 'result.json').read_text())
    self.assertEqual(
      [result[x] for x in ('num_train', 'num_points', 'num_queries')],
      [12, 9, 3],
    )
    self.assertEqual(
      result['layers'], ['blocks_0/mlp/fc_in', 'blocks_0/mlp/fc_out']
    )
    self.assertEqual(result['rows'], self.result['rows'])
    self.assertEqual([x['id'] for x in result['claims']], ['S1 toy'])

  def test_a_second_run_solves_nothing_again(self):
    with (
      mock.patch.object(validation_task, 'fitted', side_effect=AssertionError),
      mock.patch.object(estimates, 'compute', side_effect=AssertionError),
    ):
      again = solver_cost.run(self.config, self.workdir)
    self.assertEqual(again['rows'], self.result['rows'])

  def test_a_run_goes_on_at_the_method_that_is_missing(self):
    path = self.workdir / 'solver_cost' / 'EK-FAC.json'
    kept = path.read_text()
    path.unlink()
    compute = mock.Mock(return_value=json.loads(kept)['estimates'])
    with mock.patch.object(estimates, 'compute', compute):
      solver_cost.run(self.config, self.workdir)
    ((own, *_),) = [call.args for call in compute.call_args_list]
    self.assertEqual([x['label'] for x in own.validation.methods], ['EK-FAC'])
    path.write_text(kept)

  def test_what_is_there_of_another_damping_is_refused(self):
    with self.assertRaisesRegex(ValueError, 'damping'):
      solver_cost.run(
        _config(self.case, damping=('relative', 0.2)), self.workdir
      )

  def test_an_exact_solution_that_did_not_converge_is_refused(self):
    with self.assertRaisesRegex(ValueError, 'residual .* expected at most'):
      solver_cost.run(_config(self.case, exact_residual=1e-30), self.workdir)
    for residual in (float('nan'), 1.1e-3):
      with self.assertRaisesRegex(ValueError, 'it is no truth'):
        solver_cost._check_converged({'residual': residual}, 1e-3)

  def test_methods_without_one_exact_solver_are_refused(self):
    twice = dict(label='exact', curvature='ekfac')
    for methods in (METHODS[:-1], (*METHODS, twice), (twice,)):
      with self.assertRaisesRegex(ValueError, "one solver labelled 'exact'"):
        solver_cost.run(_config(self.case, methods=methods), self.workdir)

  def test_a_wrong_folder_is_a_clear_error(self):
    with self.assertRaisesRegex(ValueError, 'which has no config.json, '):
      solver_cost.load(_config(self.workdir), self.workdir)
    with self.assertRaisesRegex(ValueError, "folder is '', .*pass --config"):
      solver_cost.load(solver_cost_small.get_config(), self.workdir)

  def test_more_than_there_are_is_a_clear_error(self):
    with self.assertRaisesRegex(ValueError, 'num_queries is 5, expected 1 to'):
      solver_cost.load(_config(self.case, num_queries=5), self.workdir)
    with self.assertRaisesRegex(ValueError, 'num_points is 13, expected 1 to'):
      solver_cost.load(_config(self.case, num_points=13), self.workdir)

  def test_without_a_folder_the_task_is_the_workdirs_own(self):
    config = solver_cost_language_model.get_config()
    trained = mock.Mock(return_value='task')
    with mock.patch.object(validation_task, 'train_and_load', trained):
      self.assertEqual(solver_cost.load(config, self.workdir), 'task')
    trained.assert_called_once_with(config, self.workdir)

  def test_lines_are_of_products_and_of_seconds(self):
    products, seconds = solver_cost_figure.cost(self.result).axes
    lines = {x.get_label(): x for x in products.lines}
    rows = [self.row('LiSSA', step) for step in (5, 40)]  # 0 has no place
    np.testing.assert_allclose(
      lines['LiSSA'].get_xdata(), [x['products'] for x in rows]
    )
    np.testing.assert_allclose(
      lines['LiSSA'].get_ydata(), [x['pearson'][0] for x in rows]
    )
    self.assertNotIn('exact', lines)
    self.assertEqual(
      [x.get_text() for x in products.texts], ['identity', 'EK-FAC']
    )
    lines = {x.get_label(): x for x in seconds.lines}
    self.assertLen(lines['LiSSA'].get_xdata(), 3)

  def test_names_of_near_heights_are_kept_apart(self):
    found = solver_cost_figure._apart([0.59, 0.1, 0.588])
    np.testing.assert_allclose(found, [0.648, 0.1, 0.588])


class ClaimTest(absltest.TestCase):
  def claim(self, *rows):
    section = ConfigDict(dict(task='toy', damping=('relative', 0.1)))
    return solver_cost.claim(section, [x for row in rows for x in row])

  LISSA = _rows_of('LiSSA', (300, 0.7), (9000, 0.85), (20_000, 0.9))

  def test_it_is_of_the_first_step_that_reaches_it(self):
    found = self.claim(
      self.LISSA,
      _rows_of('EK-FAC-CG', (512, 0.5), (1000, 0.86), (2000, 0.99)),
      _rows_of('ASTRA', (0, 0.5), (900, 0.9)),
    )
    self.assertEqual((found['value'], found['held']), (10.0, True))
    self.assertEqual(found['id'], 'S1 toy')

  def test_other_methods_and_free_steps_do_not_count(self):
    found = self.claim(
      self.LISSA,
      _rows_of('CG', (10, 0.99)),
      _rows_of('EK-FAC', (0, 0.99)),
      _rows_of('ASTRA', (0, 0.99), (1000, 0.9)),
    )
    self.assertEqual((found['value'], found['held']), (9.0, False))

  def test_if_lissa_never_reaches_it_its_last_step_counts(self):
    found = self.claim(
      _rows_of('LiSSA', (300, 0.7), (30_000, 0.84)),
      _rows_of('ASTRA', (1000, 0.9)),
    )
    self.assertEqual((found['value'], found['held']), (30.0, True))
    self.assertRegex(found['statement'], 'at least')

  def test_if_no_other_reaches_it_the_claim_is_not_held(self):
    for lissa in (self.LISSA, []):
      found = self.claim(lissa, _rows_of('ASTRA', (1000, 0.8)))
      self.assertEqual((found['value'], found['held']), (0.0, False))
      self.assertRegex(found['statement'], '0: none of these')


class ConfigTest(absltest.TestCase):
  def test_the_shipped_configs_name_methods_that_there_are(self):
    for module in (solver_cost_small, solver_cost_language_model):
      section = module.get_config().validation
      for method in map(dict, section.methods):
        if 'curvature' in method:
          self.assertIn(method['curvature'], curvature.names())
          continue
        hparams = {x: method[x] for x in {*method} - {'label', 'at'}}
        solvers.make(hparams.pop('solver'), **hparams)
      labels = [x['label'] for x in section.methods]
      wanted = (solver_cost.EXACT, solver_cost.LISSA)
      for label in (*wanted, *solver_cost.PRECONDITIONED):
        self.assertEqual(labels.count(label), 1)

  def test_the_language_models_net_is_that_of_its_validation(self):
    ours = solver_cost_language_model.get_config()
    theirs = solver_cost_language_model.pbrf_language_model.get_config()
    self.assertIsNone(ours.case.folder)
    for name in ('data', 'model', 'train'):
      self.assertEqual(ours[name], theirs[name])
    for name in ('num_train', 'length'):
      self.assertEqual(ours.validation[name], theirs.validation[name])


if __name__ == '__main__':
  absltest.main()
