"""Trains the language model of a config on its data.

  python -m experiments.train --config=configs/quickstart.py \
    --workdir=runs/quickstart

Writes WORKDIR/train/ (checkpoints: parameters and optimizer), config.json and
metrics.jsonl (one line a step: loss in nats a token, lr, grad_norm, tokens,
seconds). The same command again goes on from the last checkpoint, and returns
at once when all steps are taken. Sections read: data, model, train.
"""

import functools
import itertools
import os
import pathlib
from collections.abc import Callable, Iterator

import flax.linen as nn
import jax
from absl import logging
from ml_collections import ConfigDict

from experiments import common, corpus
from influence_jax import models, store, training, types
from influence_jax.data import batches as batches_lib
from influence_jax.data import sequences as sequences_lib


def run(
  config: ConfigDict, workdir: str | os.PathLike, quiet: bool = False
) -> tuple[nn.Module, types.PyTree]:
  """The model and its trained parameters; trains what is left to train."""
  directory = pathlib.Path(workdir) / 'train'
  train = common.build('train', training.TrainConfig, config.train)
  model = common.build('model', models.make, config.model)
  sequences = corpus.load(config.data, workdir).sequences
  sequences_lib.check_vocabulary(sequences, config.model.vocab_size)
  meta = {
    'kind': 'train',
    'config': {s: config[s].to_dict() for s in ('data', 'model', 'train')},
    'data': sequences.fingerprint,
  }
  found = store.latest(directory)
  if found:
    store.check(found.meta, meta, f'the checkpoint in {directory}')
  common.save_config(config, workdir)
  if found and found.step == found.meta['num_steps']:
    logging.info('train: all %d steps are taken', found.step)
    return model, found.tree['params']

  mesh = common.mesh(config)
  plan_fn = functools.partial(
    batches_lib.training_plan,
    sequences,
    train.batch_tokens,
    train.seed,
  )
  num_steps = len(plan_fn(0)) * train.num_epochs
  meta = {**meta, 'num_steps': num_steps}
  schedule = training.make_schedule(train, num_steps)
  optimizer = training.make_optimizer(train, schedule)
  rng = jax.random.key(train.seed)
  start_fn = functools.partial(training.start, model, optimizer, rng)
  if found:
    state = store.like(jax.eval_shape(start_fn), found.tree)
  else:
    state = start_fn()
  first = int(state.step)
  logging.info('train: step %d of %d is next', first + 1, num_steps)

  def save(state: training.TrainState) -> None:
    commit = {'commit': common.commit()}
    store.save(directory, int(state.step), state, {**meta, **commit})

  state = training.train(
    training.make_step(model, optimizer, schedule, common.placed(config, mesh)),
    common.place(config, mesh, state),
    _batches(plan_fn, sequences, first, mesh),
    num_steps,
    mesh=mesh,
    save_every=train.save_every,
    save=save,
    log=common.open_log(pathlib.Path(workdir) / 'metrics.jsonl', first),
    quiet=quiet,
  )
  return model, state.params


def _batches(
  plan_fn: Callable,
  sequences: sequences_lib.Sequences,
  first: int,
  mesh: jax.sharding.Mesh,
) -> Iterator[types.Batch]:
  """Batches of all epochs, one after another, without the `first` ones."""
  for epoch in itertools.count():
    plan = plan_fn(epoch)
    for spec in plan[first:]:
      yield common.get_batch(mesh, sequences, spec)
    first = max(first - len(plan), 0)


if __name__ == '__main__':
  common.main(run)
