"""Trains a small network on a regression table or on images.

  python -m experiments.train_net --config=configs/net_concrete.py \
    --workdir=runs/net_concrete

SGD with momentum; the loss of a batch is its mean over rows, weight decay adds
weight_decay / 2 ||theta||^2 of all parameters to it. The training set is in
memory and an epoch is one jitted scan over its batches, in an order drawn anew.

Writes WORKDIR/train/ (checkpoints), config.json and metrics.jsonl: every
`eval_every` epochs a line with the loss in nats a row (of a squared error 1/2
of it) and, of classes, the accuracy on each part. The same command again goes
on from the last checkpoint. Sections read: data, model, train, and loss, its
name in `losses`; `load`, for studies, reads layers too.
"""

import dataclasses
import os
import pathlib
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import tqdm
from absl import logging
from ml_collections import ConfigDict

from experiments import common
from influence_jax import losses, models, store, taps, types
from influence_jax.data import images, regression
from influence_jax.data import splits as splits_lib

_LOSSES = {
  name: getattr(losses, name)
  for name in ('softmax_cross_entropy', 'squared_error', 'bernoulli')
}
_SCHEDULES = ('constant', 'cosine')


@dataclasses.dataclass(frozen=True)
class TrainConfig:
  """How to train."""

  batch_size: int  # the last batch of an epoch has the rows that are left
  num_epochs: int
  learning_rate: float
  schedule: str  # 'constant', or 'cosine' to 0 at the last step
  momentum: float
  weight_decay: float  # of all parameters
  seed: int  # of parameters and of the order of rows
  eval_every: int  # epochs between checkpoints and lines of metrics

  def __post_init__(self):
    for name in ('batch_size', 'num_epochs', 'eval_every'):
      if (value := getattr(self, name)) < 1:
        raise ValueError(f'{name} is {value!r}, expected at least 1')
    if self.schedule not in _SCHEDULES:
      raise ValueError(
        f'schedule is {self.schedule!r}, expected one of {_SCHEDULES}'
      )


class TrainState(NamedTuple):
  epoch: jax.Array  # () int32, epochs that are done
  params: types.PyTree
  opt_state: types.PyTree


class Net(NamedTuple):
  """A trained network for studies."""

  model: types.Model
  params: types.PyTree  # numpy, of the config's dtype
  splits: splits_lib.Splits


def run(
  config: ConfigDict, workdir: str | os.PathLike, quiet: bool = False
) -> dict:
  """Trains what is left to train; returns the last line of the metrics."""
  workdir = pathlib.Path(workdir)
  train = common.build('train', TrainConfig, config.train)
  splits = load_data(config)
  net, loss = _net(config, splits)
  meta = _meta(config, splits)
  found = store.latest(workdir / 'train')
  if found:
    store.check(found.meta, meta, f'the checkpoint in {workdir / "train"}')
  common.save_config(config, workdir)
  with jax.enable_x64(config.model.dtype == 'float64'):
    batches = -(-len(splits.train.inputs) // train.batch_size)
    optimizer = make_optimizer(train, train.num_epochs * batches)

    def start(rng):
      params = net.init(rng, splits.train.inputs[:1])['params']
      return TrainState(jnp.int32(0), params, optimizer.init(params))

    rng = jax.random.key(train.seed)
    state = jax.jit(start)(rng)
    if found:
      state = store.like(state, found.tree)
    epoch_fn = make_epoch(net.apply, loss, optimizer, train.batch_size)
    evaluate = make_evaluate(net.apply, loss, train.batch_size)
    log = common.open_log(workdir / 'metrics.jsonl', int(state.epoch))
    record = found.meta['metrics'] if found else {}
    first, last = int(state.epoch) + 1, train.num_epochs
    data = jax.device_put(splits.train)
    for epoch in tqdm.trange(first, last + 1, desc='train', disable=quiet):
      state = epoch_fn(state, jax.random.fold_in(rng, epoch), data)
      if epoch % train.eval_every and epoch != last:
        continue
      record = {'step': epoch, **_describe(evaluate, state.params, splits)}
      if not np.isfinite(record['train_loss']):
        raise ValueError(
          f'epoch {epoch}: the loss is {record["train_loss"]}; lower '
          'learning_rate. No state was saved after this'
        )
      log(record)
      kept = {**meta, 'metrics': record, 'commit': common.commit()}
      store.save(workdir / 'train', epoch, state, kept)
  logging.info('train: %s', record)
  return record


def load(config: ConfigDict, workdir: str | os.PathLike) -> Net:
  """What `run` left in `workdir`, with the layers of config.layers tapped.

  Raises:
    ValueError: it is unfinished, damaged or of another config; or of float64
      where JAX has none.
  """
  directory = pathlib.Path(workdir) / 'train'
  wide = jnp.result_type(float) == jnp.float64
  if config.model.dtype == 'float64' and not wide:
    raise ValueError(
      'model.dtype is float64: load and use it with jax.enable_x64(True)'
    )
  splits = load_data(config)
  checkpoint = store.load(directory)
  store.check(checkpoint.meta, _meta(config, splits), f'the net in {directory}')
  if checkpoint.step != config.train.num_epochs:
    raise ValueError(
      f'{directory} is at epoch {checkpoint.step} of '
      f'{config.train.num_epochs}: run experiments.train_net to its end'
    )
  net, loss = _net(config, splits)
  params = checkpoint.tree['params']

  def apply_fn(params, inputs):
    return net.apply({'params': params}, inputs)

  found = taps.find_layers(
    apply_fn, params, splits.train.inputs[:1], config.layers
  )
  return Net(types.Model(apply_fn, loss, found.layers), params, splits)


def load_data(config: ConfigDict) -> splits_lib.Splits:
  """What section data describes."""
  modules = dict.fromkeys(regression.NAMES, regression)
  modules |= dict.fromkeys(images.NAMES, images)
  if config.data.name not in modules:
    raise ValueError(
      f'config.data.name is {config.data.name!r}, expected one of {[*modules]}'
    )
  data_dir = os.path.expanduser(config.data.data_dir)
  hparams = ConfigDict({**config.data.to_dict(), 'data_dir': data_dir})
  return common.build('data', modules[config.data.name].load, hparams)


def make_optimizer(
  config: TrainConfig, num_steps: int
) -> optax.GradientTransformation:
  """SGD whose momentum is a decaying sum of gradients, weight decay in them."""
  rate = config.learning_rate
  if config.schedule == 'cosine':
    rate = optax.cosine_decay_schedule(rate, num_steps)
  return optax.chain(
    optax.add_decayed_weights(config.weight_decay),
    optax.sgd(rate, config.momentum),
  )


def make_epoch(
  apply_fn: Callable,
  loss: losses.Loss,
  optimizer: optax.GradientTransformation,
  batch_size: int,
) -> Callable:
  """Jitted (state, rng, data) -> state after every row was seen once."""

  def loss_fn(params, batch):
    outputs = apply_fn({'params': params}, batch.inputs)
    loss_B = loss.per_sequence(outputs, batch.targets, batch.mask)
    return loss_B.sum() / batch.mask.sum()

  def step(carried, batch):
    params, opt_state = carried
    grads = jax.grad(loss_fn)(params, batch)
    updates, opt_state = optimizer.update(grads, opt_state, params)
    return (optax.apply_updates(params, updates), opt_state), None

  def epoch(state, rng, data):
    rows = jax.random.permutation(rng, len(data.inputs))
    batches = _batches(data, rows, batch_size)
    carried = state.params, state.opt_state
    return TrainState(state.epoch + 1, *jax.lax.scan(step, carried, batches)[0])

  return jax.jit(epoch, donate_argnums=0)


def make_evaluate(
  apply_fn: Callable, loss: losses.Loss, batch_size: int
) -> Callable:
  """Jitted (params, data) -> {'loss': mean a row, 'accuracy' if of classes}."""

  def sums(params, batch):
    outputs = apply_fn({'params': params}, batch.inputs)
    loss_B = loss.per_sequence(outputs, batch.targets, batch.mask)
    found = {'loss': loss_B.sum()}
    if loss is losses.softmax_cross_entropy:
      right_B = outputs.argmax(-1) == batch.targets
      found['accuracy'] = (right_B * batch.mask).sum()
    return found

  def evaluate(params, data):
    batches = _batches(data, jnp.arange(len(data.inputs)), batch_size)
    found = jax.lax.map(lambda batch: sums(params, batch), batches)
    return {key: x.sum() / data.mask.sum() for key, x in found.items()}

  return jax.jit(evaluate)


def _batches(data: types.Batch, rows, batch_size: int) -> types.Batch:
  """[S, B, ...] of the rows in this order, the last batch padded, mask 0."""
  padding = -len(rows) % batch_size
  rows_SxB = jnp.pad(rows, (0, padding)).reshape(-1, batch_size)
  counts = jnp.arange(rows_SxB.size).reshape(rows_SxB.shape) < len(rows)
  batches = jax.tree.map(lambda x: jnp.asarray(x)[rows_SxB], data)
  return batches._replace(mask=batches.mask * counts)


def _describe(evaluate, params, splits) -> dict[str, float]:
  return {
    f'{part}_{key}': float(x)
    for part, data in splits._asdict().items()
    if data is not None
    for key, x in evaluate(params, data).items()
  }


def _net(
  config: ConfigDict, splits: splits_lib.Splits
) -> tuple[nn.Module, losses.Loss]:
  """The config's; ValueError where they do not fit the targets."""
  if config.loss not in _LOSSES:
    raise ValueError(
      f'config.loss is {config.loss!r}, expected one of {[*_LOSSES]}'
    )
  net = common.build('model', models.make, config.model)
  targets, num_outputs = splits.train.targets, config.model.num_outputs
  if config.loss == 'softmax_cross_entropy':
    fits = targets.ndim == 1 and targets.max() < num_outputs
  else:
    fits = targets.shape[1:] == (num_outputs,)
  if not fits:
    raise ValueError(
      f'{config.loss} of {num_outputs} outputs does not fit targets '
      f'{targets.dtype} {targets.shape}: expected classes [N] below '
      'model.num_outputs of softmax_cross_entropy, values [N, num_outputs] of '
      'other losses'
    )
  return net, _LOSSES[config.loss]


def _meta(config: ConfigDict, splits: splits_lib.Splits) -> dict:
  sections = {s: config[s].to_dict() for s in ('data', 'model', 'train')}
  return {
    'kind': 'train_net',
    'config': {**sections, 'loss': config.loss},
    'data': store.fingerprint(splits._asdict()),
  }


if __name__ == '__main__':
  common.main(run)
