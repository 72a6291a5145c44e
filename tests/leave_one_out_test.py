"""Leave-one-out against SGD and Newton by numpy, and train_net less a row."""

import pathlib
import tempfile
from unittest import mock

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import testing
from absl.testing import absltest, parameterized
from ml_collections import ConfigDict

from configs import decomposition_digits
from experiments import leave_one_out, train_net, validation_task
from influence_jax.data import images, splits

_NUM = 10


def setUpModule():
  jax.config.update('jax_enable_x64', True)


def tearDownModule():
  jax.config.update('jax_enable_x64', False)


def _load(data_dir, *, name, num_train, num_test, seed, without=None):
  """Random images of three classes in place of digits."""
  del data_dir, name
  rng = np.random.default_rng(seed)

  def part(num):
    inputs = rng.normal(size=(num, 2, 2, 1)).astype(np.float32)
    return splits.batch(inputs, rng.integers(0, 3, num).astype(np.int32))

  train, test = part(num_train), part(num_test)
  if without is not None:
    train = jax.tree.map(lambda x: np.delete(x, without, 0), train)
  return splits.Splits(train, test)


def _config(**train) -> ConfigDict:
  c = decomposition_digits.get_config()
  c.data.update(data_dir='nowhere', num_train=_NUM, num_test=5)
  c.model.update(widths=(), num_outputs=3)
  c.train.update(
    batch_size=4, num_epochs=3, learning_rate=0.2, weight_decay=0.05, seed=7,
    eval_every=3,
  )  # fmt: skip
  c.train.update(train)
  c.validation.update(num_points=3, num_queries=2, batch_size=4)
  c.leave_one_out.update(seeds=(7, 1), points_at_once=2)
  c.leave_one_out.minimum.update(tolerance=1e-10, max_steps=200)
  return c


def _softmax(logits):
  shares = np.exp(logits - logits.max(-1, keepdims=True))
  return shares / shares.sum(-1, keepdims=True)


def _with_one(batch):
  """Inputs flat, the bias's 1 last; one-hot targets."""
  flat = np.asarray(batch.inputs, float).reshape(len(batch.ids), -1)
  return np.concatenate([flat, np.ones((len(flat), 1))], 1), np.eye(3)[
    np.asarray(batch.targets)
  ]


def _log_p(theta_IxO, queries):
  a_KxI, y_KxO = _with_one(queries)
  return (np.log(_softmax(a_KxI @ theta_IxO)) * y_KxO).sum(-1)


def _theta(params):
  layer = params['dense_0']
  return np.concatenate([layer['kernel'], layer['bias'][None]])


class LeaveOneOutTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.enterContext(mock.patch.object(images, 'load', _load))
    folder = self.enterContext(tempfile.TemporaryDirectory())
    self.folder = pathlib.Path(folder)

  def task(self, config):
    return validation_task.train_and_load(config, self.folder / 'net')

  def sgd(self, config, theta, epochs, seed, left):
    """By numpy loops, from theta, the row `left` there but without a loss."""
    rows = _load(**config.data).train
    a_NxI, y_NxO = _with_one(rows)
    trace, train, step = 0 * theta, config.train, 0
    for epoch in epochs:
      key = jax.random.fold_in(jax.random.key(seed), epoch)
      order = np.asarray(jax.random.permutation(key, _NUM))
      for at in (order[:4], order[4:8], order[8:]):
        away = _softmax(a_NxI[at] @ theta) - y_NxO[at]
        away[at == left] = 0
        slope = a_NxI[at].T @ away / len(at) + train.weight_decay * theta
        trace = train.momentum * trace + slope
        rate = train.learning_rate
        if train.schedule == 'cosine':
          rate *= (1 + np.cos(np.pi * step / (3 * len(epochs)))) / 2
        theta, step = theta - rate * trace, step + 1
    return theta

  @parameterized.parameters('constant', 'cosine')
  def test_cold_and_warm_are_sgd_without_the_row_by_numpy(self, schedule):
    config = _config(schedule=schedule)
    task = self.task(config)
    net = train_net.models.make(**config.model)
    cold = leave_one_out.cold(config, task, self.folder, {})
    warm = leave_one_out.warm(config, task, 2, self.folder, {})
    self.assertEqual(cold.shape, (2, 2, 3))

    def change(theta, epochs, seed, z):
      ends = (self.sgd(config, theta, epochs, seed, left) for left in (z, None))
      without, whole = (_log_p(end, task.queries) for end in ends)
      return without - whole

    for m, z in enumerate(task.points.ids[:, 0]):
      for s, seed in enumerate((7, 1)):
        rows = _load(**config.data).train
        params = net.init(jax.random.key(seed), rows.inputs[:1])['params']
        wanted = change(_theta(params), (1, 2, 3), seed, z)
        testing.assert_near(self, cold[s, :, m], wanted)
      wanted = change(_theta(task.params), (4, 5), 7, z)
      testing.assert_near(self, warm[:, m], wanted)

  def test_cold_is_train_net_on_the_data_without_the_row(self):
    """A full batch has no order. Weights 1 / N in place of 1 / (N - 1): the

    rate of the smaller data is less by that factor, and its decay is more.
    """
    config = _config(batch_size=_NUM, num_epochs=4)
    config.model.widths = (3,)
    task = self.task(config)
    cold = leave_one_out.cold(config, task, self.folder, {})
    z = int(task.points.ids[1, 0])
    share = (_NUM - 1) / _NUM
    smaller = _config(
      batch_size=_NUM, num_epochs=4, learning_rate=0.2 * share,
      weight_decay=0.05 / share,
    )  # fmt: skip
    smaller.model.widths = (3,)

    def without(*args, **kwargs):
      return _load(*args, **kwargs, without=z)

    with mock.patch.object(images, 'load', without):
      train_net.run(smaller, self.folder / 'smaller', quiet=True)
      params = train_net.load(smaller, self.folder / 'smaller').params
    f_K = leave_one_out._measure(task, params)
    wanted = f_K - leave_one_out._measure(task, task.params)
    self.assertGreater(np.abs(wanted).max(), 1e-3)
    testing.assert_near(self, cold[0, :, 1], wanted)

  def test_chunks_are_compiled_once_kept_and_change_nothing(self):
    config, traced = _config(), []
    task = self.task(config)

    def apply_fn(params, inputs):
      traced.append(1)
      return task.model.apply_fn(params, inputs)

    counted = task._replace(model=task.model._replace(apply_fn=apply_fn))
    found, counts = [], []
    for size in (1, 2, 3):
      config.leave_one_out.points_at_once = size
      traced.clear()
      own = self.folder / f'{size}'
      found.append(leave_one_out.cold(config, counted, own, {}))
      counts.append(len(traced))
      self.assertLen([*own.glob('cold_seed1/*')], -(-3 // size))
    testing.assert_near(self, found[0], found[2])
    testing.assert_near(self, found[1], found[2])
    self.assertEqual(counts[0], counts[2])  # three chunks and one
    traced.clear()
    again = leave_one_out.cold(config, counted, own, {})
    np.testing.assert_array_equal(again, found[2])
    self.assertEmpty(traced)
    with self.assertRaisesRegex(ValueError, 'another run'):
      leave_one_out.cold(config, counted, own, {'new': 1})

  @parameterized.parameters(0.0, 0.3)
  def test_minimum_is_that_of_newtons_method_by_numpy(self, proximity):
    config = _config()
    task = self.task(config)
    found = leave_one_out.minimum(config, task, proximity, self.folder, {})
    first = _theta(task.params)
    a_NxI, y_NxO = _with_one(_load(**config.data).train)

    def newton(left):
      theta = first
      keep_N = np.arange(_NUM) != left
      for _ in range(30):
        p_NxO = _softmax(a_NxI @ theta)
        slope = a_NxI.T @ ((p_NxO - y_NxO) * keep_N[:, None]) / _NUM
        slope += 0.05 * theta + proximity * (theta - first)
        H = np.zeros((theta.size, theta.size))
        for a_I, p_O in zip(a_NxI[keep_N], p_NxO[keep_N], strict=True):
          h_OxO = np.diag(p_O) - np.outer(p_O, p_O)
          H += np.kron(np.outer(a_I, a_I), h_OxO) / _NUM
        H += (0.05 + proximity) * np.eye(len(H))
        theta = theta - np.linalg.solve(H, slope.ravel()).reshape(theta.shape)
      self.assertLess(np.abs(slope).max(), 1e-12)
      return _log_p(theta, task.queries)

    for m, z in enumerate(task.points.ids[:, 0]):
      wanted = newton(z) - newton(None)
      testing.assert_near(self, found['change'][:, m], wanted, rtol=1e-8)
    self.assertLessEqual(found['ratio'].max(), 1e-10)
    self.assertLess(found['steps'].max(), 200)

  def test_ratio_is_of_the_gradient_and_a_points_push(self):
    config = _config()
    task = self.task(config)
    rows = leave_one_out._rows(task)
    points = jax.tree.map(lambda x: x[:, 0], task.points)
    flat, unravel = jax.flatten_util.ravel_pytree(
      jax.tree.map(jnp.asarray, task.params)
    )

    def losses(flat, batch):
      outputs = task.model.apply_fn(unravel(flat), batch.inputs)
      log_p = outputs - jax.nn.logsumexp(outputs, -1, keepdims=True)
      return -log_p[np.arange(len(batch.ids)), batch.targets]

    def everything(task, params):
      return jax.flatten_util.ravel_pytree(params)[0]

    left_P = np.array([-1, 4], np.int32)
    with mock.patch.object(leave_one_out, '_measure', everything):
      find = leave_one_out._minimising(task, 1e-10, 2)
      found = find(task.params, rows, points, (0.05, 0.4), left_P)
    pushes = jax.jacobian(losses)(flat, points) / _NUM
    scale = np.sqrt((pushes**2).sum(1).mean())
    for left, theta, ratio in zip(
      left_P, found['f'], found['ratio'], strict=True
    ):
      slopes = jax.jacobian(losses)(theta, rows)[rows.ids != left]
      slope = slopes.sum(0) / _NUM + 0.05 * theta + 0.4 * (theta - flat)
      np.testing.assert_allclose(ratio, np.linalg.norm(slope) / scale)
    np.testing.assert_array_equal(found['steps'], 2)

  def test_much_proximity_gives_the_linear_answer(self):
    config = _config()
    task = self.task(config)
    found = leave_one_out.minimum(config, task, 1e4, self.folder, {})
    slopes = [
      jax.tree.leaves(leave_one_out._slope(task.model, task.params, point))
      for batch in (task.queries, jax.tree.map(lambda x: x[:, 0], task.points))
      for point in (
        jax.tree.map(lambda x, i=i: x[i], batch) for i in range(len(batch.ids))
      )
    ]
    vectors = np.stack([np.concatenate([x.ravel() for x in s]) for s in slopes])
    grad_f_KxP, grad_log_p_MxP = -vectors[:2], -vectors[2:]
    wanted = -1 / _NUM * grad_f_KxP @ grad_log_p_MxP.T / 1e4
    testing.assert_near(self, found['change'], wanted, rtol=1e-3)

  def test_a_point_is_as_far_from_its_minimum_as_the_worse_of_its_two(self):
    config = _config()
    config.leave_one_out.points_at_once = 2
    task = self.task(config)

    def lanes(left_P):
      """The second chunk has one point: its last lane is nobody's."""
      ratios = {-1: 5.0, **{int(z): 4.0 + 2 * m for m, z in enumerate(ids_M)}}
      return {
        'f': np.stack([2.0 * left_P, 3.0 * left_P], 1),
        'ratio': np.array([ratios[int(left)] for left in left_P]),
      }

    ids_M = task.points.ids[:, 0]
    found = leave_one_out._in_chunks(config, task, lanes, self.folder, {})
    wanted = [2.0 * (ids_M + 1), 3.0 * (ids_M + 1)]
    np.testing.assert_array_equal(found['change'], wanted)
    np.testing.assert_array_equal(found['ratio'], [5, 6, 8])

  def test_what_is_not_finite_is_refused_and_not_kept(self):
    config = _config()
    task = self.task(config)
    config.train.learning_rate = 1e200
    with self.assertRaisesRegex(ValueError, 'learning_rate'):
      leave_one_out.warm(config, task, 3, self.folder, {})
    self.assertEmpty([*self.folder.glob('warm/*')])


if __name__ == '__main__':
  absltest.main()
