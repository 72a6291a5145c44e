"""Training against SGD by numpy loops, and what a workdir holds at the end."""

import json
import pathlib
import tempfile
from unittest import mock

import jax
import ml_collections
import numpy as np
from absl.testing import absltest, parameterized

from configs import net_concrete
from experiments import train_net
from influence_jax import store, types
from influence_jax.data import images, regression, splits

_NUM = {'train': 10, 'test': 6, 'validation': 3}


def _load(data_dir, *, name, num_train=10, num_test=6, seed=0):
  """Numbers in place of a table or of images."""
  rng = np.random.default_rng(seed)

  def part(num):
    if name == 'digits':
      inputs = rng.normal(size=(num, 4, 4, 1)).astype(np.float32)
      return splits.batch(inputs, rng.integers(0, 3, num).astype(np.int32))
    inputs = rng.normal(size=(num, 2)).astype(np.float32)
    return splits.batch(inputs, inputs.sum(1, keepdims=True) + 0.5)

  parts = [part(num) for num in _NUM.values()]
  return splits.Splits(*parts[: 2 if name == 'digits' else 3])


def _config(name='concrete') -> ml_collections.ConfigDict:
  """Linear regression, or a convolutional net of three classes."""
  c = net_concrete.get_config()
  c.data.data_dir = 'nowhere'
  c.model.widths = ()
  c.train.update(
    batch_size=4, num_epochs=3, learning_rate=0.1, weight_decay=0.01,
    eval_every=2,
  )  # fmt: skip
  if name == 'digits':
    c.data.name = 'digits'
    c.loss = 'softmax_cross_entropy'
    c.model = dict(
      name='convnet', channels=(2,), num_outputs=3, dtype='float32'
    )
  return c


class TrainNetTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    for module in (regression, images):
      self.enterContext(mock.patch.object(module, 'load', _load))
    directory = self.enterContext(tempfile.TemporaryDirectory())
    self.workdir = pathlib.Path(directory) / 'workdir'

  def run_net(self, config):
    return train_net.run(config, self.workdir, quiet=True)

  def load(self, config):
    with jax.enable_x64(config.model.dtype == 'float64'):
      return train_net.load(config, self.workdir)

  def metrics(self):
    text = (self.workdir / 'metrics.jsonl').read_text()
    return [json.loads(line) for line in text.splitlines()]

  @parameterized.parameters('constant', 'cosine')
  def test_steps_are_those_of_sgd_with_momentum_and_weight_decay(self, name):
    config = _config()
    config.train.schedule = name
    with jax.enable_x64(True):
      net = train_net.models.make(**config.model)
      data = _load('', name='concrete').train
      rng = jax.random.key(0)
      params = net.init(rng, data.inputs[:1])['params']['dense_0']
      orders = [
        np.asarray(jax.random.permutation(jax.random.fold_in(rng, epoch), 10))
        for epoch in (1, 2, 3)
      ]
    kernel, bias = (np.array(params[key]) for key in ('kernel', 'bias'))
    trace = [0 * kernel, 0 * bias]
    step = 0
    for order in orders:
      self.assertCountEqual(order, range(10))
      for rows in (order[:4], order[4:8], order[8:]):
        x, y = data.inputs[rows].astype(float), data.targets[rows]
        error = x @ kernel + bias - y
        gradients = [x.T @ error / len(rows), error.mean(0)]
        rate = 0.1
        if name == 'cosine':
          rate = 0.1 * (1 + np.cos(np.pi * step / 9)) / 2
        for i, theta in enumerate((kernel, bias)):
          trace[i] = 0.9 * trace[i] + gradients[i] + 0.01 * theta
        kernel, bias = kernel - rate * trace[0], bias - rate * trace[1]
        step += 1
    self.run_net(config)
    params = self.load(config).params['dense_0']
    self.assertEqual(params['kernel'].dtype, np.float64)
    np.testing.assert_allclose(params['kernel'], kernel, rtol=1e-9)
    np.testing.assert_allclose(params['bias'], bias, rtol=1e-9)

  def test_metrics_are_the_mean_loss_of_each_part(self):
    config = _config()
    last = self.run_net(config)
    self.assertEqual([x['step'] for x in self.metrics()], [2, 3])
    self.assertEqual(self.metrics()[-1], last)
    net = self.load(config)
    params = net.params['dense_0']
    self.assertCountEqual(last, ['step', *(f'{x}_loss' for x in _NUM)])
    for part in _NUM:
      batch = getattr(net.splits, part)
      error = batch.inputs @ params['kernel'] + params['bias'] - batch.targets
      wanted = 0.5 * (error**2).mean()
      np.testing.assert_allclose(last[f'{part}_loss'], wanted, rtol=1e-9)

  def test_classes_have_an_accuracy_too(self):
    config = _config('digits')
    last = self.run_net(config)
    net = self.load(config)
    for part in ('train', 'test'):
      batch = getattr(net.splits, part)
      logits = np.asarray(net.model.apply_fn(net.params, batch.inputs))
      right = logits.argmax(1) == batch.targets
      self.assertAlmostEqual(last[f'{part}_accuracy'], right.mean(), places=6)
      p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
      nats = -np.log(p[np.arange(len(p)), batch.targets])
      self.assertAlmostEqual(last[f'{part}_loss'], nats.mean(), places=5)
    self.assertNotIn('validation_loss', last)

  def test_it_learns(self):
    config = _config()
    config.train.update(num_epochs=200, weight_decay=0.0, eval_every=200)
    self.assertLess(self.run_net(config)['test_loss'], 1e-6)

  def test_a_loaded_model_is_tapped_where_layers_says(self):
    config = _config('digits')
    self.run_net(config)
    net = self.load(config)
    self.assertIsInstance(net.model, types.Model)
    self.assertEqual([*net.model.layers], ['conv_0', 'head'])
    self.assertEqual(net.params['head']['kernel'].dtype, np.float32)
    config.layers = 'conv'
    found = self.load(config).model.layers
    self.assertEqual([*found], ['conv_0'])

  def test_stopped_and_started_again_it_ends_with_the_same_bits(self):
    class Killed(Exception):
      pass

    config = _config()
    config.train.update(num_epochs=6, schedule='cosine')
    self.run_net(config)
    whole = store.load(self.workdir / 'train')
    wanted = self.metrics()
    self.workdir = self.workdir.with_name('killed')
    save = store.save

    def dies_after(*args):
      save(*args)
      raise Killed

    for epoch in (2, 4):
      with mock.patch.object(store, 'save', dies_after):
        with self.assertRaises(Killed):
          self.run_net(config)
      self.assertEqual(store.load(self.workdir / 'train').step, epoch)
    with self.assertRaisesRegex(ValueError, 'at epoch 4 of 6: run experim'):
      self.load(config)
    self.run_net(config)
    self.assertEqual(self.metrics(), wanted)
    found = store.load(self.workdir / 'train')
    self.assertEqual(*(store.fingerprint(x.tree) for x in (found, whole)))

  def test_the_same_command_again_trains_nothing(self):
    config = _config()
    last = self.run_net(config)
    with mock.patch.object(store, 'save') as save:
      self.assertEqual(self.run_net(config), last)
    save.assert_not_called()

  @parameterized.parameters('seed', 'data', 'loss')
  def test_a_workdir_of_another_run_is_refused(self, what):
    config = _config()
    self.run_net(config)
    if what == 'seed':
      config.train.seed = 1
    elif what == 'loss':
      config.loss = 'bernoulli'
    else:
      self.enterContext(mock.patch.dict(_NUM, {'test': 7}))
    for again in (self.load, self.run_net):
      with self.assertRaisesRegex(ValueError, f'of another run: .*{what}'):
        again(config)

  @parameterized.parameters(
    ('train', 'schedule', 'linear', "schedule is 'linear', .*'cosine'"),
    ('train', 'batch_size', 0, 'config.train: batch_size is 0'),
    ('train', 'rate', 0.1, 'config.train: .*rate.* keys are .*learning_rate'),
    ('data', 'name', 'yacht', "config.data.name is 'yacht', .*'mnist'"),
    ('data', 'size', 3, 'config.data: .*size'),
    ('model', 'num_outputs', 2, r'squared_error of 2 outputs .*\(10, 1\)'),
    (None, 'loss', 'hinge', "config.loss is 'hinge', .*'squared_error'"),
    (None, 'loss', 'softmax_cross_entropy', 'of 1 outputs does not fit'),
  )
  def test_a_wrong_config_says_what_is_wrong(
    self, section, key, value, message
  ):
    config = _config()
    with config.unlocked():
      (config[section] if section else config)[key] = value
    with self.assertRaisesRegex(ValueError, message):
      self.run_net(config)

  def test_classes_must_be_below_the_number_of_outputs(self):
    config = _config('digits')
    config.model.num_outputs = 2
    with self.assertRaisesRegex(ValueError, 'of 2 outputs .* expected classes'):
      self.run_net(config)

  def test_a_loss_that_is_not_finite_stops_it_and_saves_nothing(self):
    config = _config()
    config.train.update(learning_rate=1e200)
    with self.assertRaisesRegex(ValueError, 'epoch 2: the loss is (nan|inf)'):
      self.run_net(config)
    self.assertIsNone(store.latest(self.workdir / 'train'))

  def test_a_net_of_float64_is_not_loaded_in_single_precision(self):
    config = _config()
    self.run_net(config)
    with self.assertRaisesRegex(ValueError, 'dtype is float64: .*enable_x64'):
      train_net.load(config, self.workdir)

  def test_a_workdir_without_a_net_says_what_to_run(self):
    with self.assertRaisesRegex(ValueError, 'no checkpoint in .*run the comm'):
      self.load(_config())


if __name__ == '__main__':
  absltest.main()
