"""Fine-tunes a pretrained language model on text of your own: LoRA, or all.

  python -m experiments.finetune --checkpoint=PATH --corpus='DIR/*.jsonl' \
    --workdir=W

--checkpoint (or --smollm2) and --corpus are those of experiments.influence;
--config is configs/finetune.py unless given. A share of the documents is held
out.

Writes WORKDIR/finetune/ (what is trained, of LoRA A and B alone, and its
optimizer), metrics.jsonl (one line a step, as experiments.train) and
finetune.json (loss of the held-out documents before and after). The checkpoint
stays as it is. The same command again goes on from the last step saved, and
returns at once when all are taken. experiments.influence, fit_curvature and
score with the same config and workdir are then of the fine-tuned model.
Sections read: checkpoint, data, finetune.
"""

import dataclasses
import functools
import itertools
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import rich
from absl import logging
from ml_collections import ConfigDict

from experiments import (
  common,
  corpus,
  finetuned,
  held_out,
  influence,
  trained,
)
from influence_jax import processes, store, training, types
from influence_jax.data import batches as batches_lib
from influence_jax.data import sequences as sequences_lib
from influence_jax.data import splits
from influence_jax.models import lora


class Tuned(NamedTuple):
  """A network whose parameters are those trained: the frozen ones stay."""

  net: nn.Module
  frozen: types.PyTree  # {} if all are trained

  def init(self, rng: jax.Array, tokens_BxT: jax.Array) -> types.PyTree:
    """A and B."""
    return {'params': lora.only(self.net.init(rng, tokens_BxT)['params'])}

  def apply(self, variables: types.PyTree, tokens_BxT: jax.Array) -> jax.Array:
    params = lora.join(self.frozen, variables['params'])
    return self.net.apply({'params': params}, tokens_BxT)


def run(
  config: ConfigDict, workdir: str | os.PathLike, quiet: bool = False
) -> None:
  workdir = pathlib.Path(workdir)
  directory, result = workdir / 'finetune', workdir / 'finetune.json'
  hparams = finetuned.hparams(config)
  corpus.open_source(config.data)  # may refuse: before the weights are read
  base = finetuned.base(config)
  ours = trained.load(base, workdir)
  sequences = ours.corpus.sequences
  rows, held_rows = split(sequences, hparams.held_out, hparams.seed)
  mesh = common.mesh(config)
  plan_fn = functools.partial(plan, sequences, rows, hparams)
  num_steps = len(plan_fn(0)) * hparams.num_epochs
  schedule = training.make_schedule(hparams, num_steps)
  optimizer = training.make_optimizer(hparams, schedule)
  net = finetuned.network(config, trained.network(base))
  tuned = Tuned(net, ours.params if hparams.lora else {})
  start_fn = functools.partial(_start, tuned, ours, optimizer, hparams.seed)
  shapes = jax.eval_shape(start_fn)
  _check_found(shapes.params, hparams.layers, ours)
  meta = finetuned.meta(config, ours.params_fingerprint)
  meta |= {'data': sequences.fingerprint, 'num_steps': num_steps}
  found = store.latest(directory)
  if found:
    store.check(found.meta, meta, f'the fine-tuning in {directory}')
  common.save_config(config, workdir)
  if found and found.step == num_steps and processes.agreed(result.exists()):
    logging.info('finetune: all %d steps are taken', num_steps)
    return
  loss_fn = functools.partial(
    held_out.loss,
    config,
    batch_tokens=config.finetune.batch_tokens,
    held_out=_part(sequences, held_rows),
    limit=None,
  )
  before = loss_fn(ours=ours)  # a full fine-tuning gives these arrays away
  state = store.like(shapes, found.tree) if found else start_fn()
  num_trained = sum(x.size for x in jax.tree.leaves(shapes.params))
  first = int(state.step)
  logging.info(
    'finetune: %d parameters, step %d of %d', num_trained, first, num_steps
  )
  state = training.train(
    make_step(tuned, optimizer, schedule, config, mesh),
    common.place(config, mesh, state),
    _batches(sequences, plan_fn, first, mesh),
    num_steps,
    mesh=mesh,
    save_every=hparams.save_every,
    save=functools.partial(_save, directory, meta),
    log=common.open_log(workdir / 'metrics.jsonl', first),
    quiet=quiet,
  )
  after = loss_fn(ours=_with_params(ours, tuned, state.params))
  held = {'before': before, 'after': after, 'sequences': len(held_rows)}
  _report(config, result, held, num_trained)


def split(
  sequences: sequences_lib.Sequences, share: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
  """Numbers of the sequences to train on, and of those held out.

  `share` is of the documents, at least one; all of a document is in one part.
  """
  document_N = sequences.records['document']
  documents = np.unique(document_N)
  num_held = max(1, round(share * len(documents)))
  num_train = len(documents) - num_held
  _, held, _ = splits.draw(len(documents), num_train, num_held, seed)
  is_held_N = np.isin(document_N, documents[held])
  return np.flatnonzero(~is_held_N), np.flatnonzero(is_held_N)


def plan(
  sequences: sequences_lib.Sequences,
  rows: np.ndarray,
  hparams: training.TrainConfig,
  epoch: int,
) -> list[batches_lib.BatchSpec]:
  """An epoch's batches of the sequences `rows`, in an order drawn anew."""
  specs = batches_lib.training_plan(
    _part(sequences, rows),
    hparams.batch_tokens,
    hparams.seed,
    epoch,
  )
  return [spec._replace(rows=rows[spec.rows]) for spec in specs]


def make_step(
  tuned: Tuned,
  optimizer: optax.GradientTransformation,
  schedule: optax.Schedule,
  config: ConfigDict,
  mesh: jax.sharding.Mesh,
) -> Callable[[training.TrainState, types.Batch], tuple]:
  """`training.make_step` of what is trained; no other gradient is formed.

  Of `config` the section mesh is read.
  """
  placed = common.placed(config, mesh)

  @functools.partial(jax.jit, donate_argnums=1)
  def step_fn(frozen, state, batch):  # closed over, they would be constants
    model = tuned._replace(frozen=frozen)
    step = training.make_step(model, optimizer, schedule, placed)
    return step(state, batch)

  return functools.partial(step_fn, common.place(config, mesh, tuned.frozen))


def _check_found(params, pattern, ours) -> None:
  if not jax.tree.leaves(params):
    raise ValueError(
      f'config.finetune.layers is {pattern!r}, which finds no dense layer; '
      f'they are {[*ours.model.layers]}'
    )


def _batches(sequences, plan_fn, first, mesh) -> Iterator[types.Batch]:
  """Of all epochs, from batch `first` on."""
  specs = itertools.chain.from_iterable(map(plan_fn, itertools.count()))
  for spec in itertools.islice(specs, first, None):
    yield common.get_batch(mesh, sequences, spec)


def _save(directory, meta, state: training.TrainState) -> None:
  commit = {'commit': common.commit()}
  store.save(directory, int(state.step), state, {**meta, **commit})


def _report(config, path, held, num_trained) -> None:
  rich.print(
    f'held-out loss, nats a token: {held["before"]:.4f} before, '
    f'{held["after"]:.4f} after'
  )
  source = common.provenance('experiments.finetune', config)
  found = {'held_out': held, 'parameters': num_trained, **source}
  store.write_json(path, found)


def _start(tuned, ours, optimizer, seed) -> training.TrainState:
  if tuned.frozen:
    return training.start(tuned, optimizer, jax.random.key(seed))
  opt_state = jax.jit(optimizer.init)(ours.params)
  return training.TrainState(jnp.zeros((), jnp.int32), ours.params, opt_state)


def _part(sequences, rows) -> sequences_lib.Sequences:
  """The sequences `rows`, numbered anew."""
  return dataclasses.replace(sequences, records=sequences.records[rows])


def _with_params(ours, tuned, params) -> trained.Trained:
  def apply_fn(params, tokens_BxT):
    return tuned.net.apply({'params': params}, tokens_BxT)

  model = ours.model._replace(apply_fn=apply_fn)
  return ours._replace(model=model, params=lora.join(tuned.frozen, params))


if __name__ == '__main__':
  influence.add_default_config('finetune')
  common.main(lambda config, workdir: run(influence.fill(config), workdir))
