"""Trains a language model: AdamW, linear warm-up, cosine decay to zero.

The loss of a batch is its mean per token that counts, in nats. A step is pure;
`train` runs steps, dispatching each before the metrics of the last are read, so
that the device never waits for the log.
"""

import dataclasses
import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import tqdm
from jax.sharding import Mesh

from influence_jax import losses, sharding, types


@dataclasses.dataclass(frozen=True)
class TrainConfig:
  """How to train; which data and which model is said elsewhere."""

  batch_tokens: int  # positions of a batch, padding included
  num_epochs: int
  learning_rate: float  # at the end of the warm-up
  warmup_steps: int  # at least 1
  weight_decay: float  # of kernels alone
  clip_norm: float  # global norm of the gradient
  seed: int  # of parameters and of the order of the data
  save_every: int  # steps

  def __post_init__(self):
    for name in ('batch_tokens', 'num_epochs', 'warmup_steps', 'save_every'):
      if getattr(self, name) < 1:
        value = getattr(self, name)
        raise ValueError(f'{name} is {value!r}, expected at least 1')


class TrainState(NamedTuple):
  step: jax.Array  # () int32, steps taken
  params: types.PyTree
  opt_state: types.PyTree


def make_schedule(config: TrainConfig, num_steps: int) -> optax.Schedule:
  """Learning rate of the step that follows `step` others."""
  if num_steps <= config.warmup_steps:
    raise ValueError(
      f'warmup_steps is {config.warmup_steps}, expected fewer than the '
      f'{num_steps} steps in all; warm up less or train for more epochs'
    )
  return optax.warmup_cosine_decay_schedule(
    init_value=config.learning_rate / config.warmup_steps,
    peak_value=config.learning_rate,
    warmup_steps=config.warmup_steps,
    decay_steps=num_steps,
  )


def make_optimizer(
  config: TrainConfig, schedule: optax.Schedule
) -> optax.GradientTransformation:
  return optax.chain(
    optax.clip_by_global_norm(config.clip_norm),
    optax.adamw(schedule, weight_decay=config.weight_decay, mask=_kernels),
  )


def start(
  model: nn.Module, optimizer: optax.GradientTransformation, rng: jax.Array
) -> TrainState:
  """Fresh parameters and no step taken."""

  def init(rng):
    params = model.init(rng, jnp.zeros((1, 1), jnp.int32))['params']
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))

  return jax.jit(init)(rng)  # one compilation; op by op, it takes seconds


def make_step(
  model: nn.Module,
  optimizer: optax.GradientTransformation,
  schedule: optax.Schedule,
  placed: Callable[[TrainState], TrainState] = lambda state: state,
) -> Callable[[TrainState, types.Batch], tuple[TrainState, dict]]:
  """(state, batch) -> (state, metrics), jitted; the old state is donated.

  Args:
    placed: says within jit where the new state lies.
  """

  def loss_fn(params, batch, num_tokens):
    logits = model.apply({'params': params}, batch.inputs)
    loss_B = losses.softmax_cross_entropy.per_sequence(
      logits, batch.targets, batch.mask
    )
    return loss_B.sum() / num_tokens

  def step_fn(state, batch):
    num_tokens = batch.mask.sum()
    loss, grads = jax.value_and_grad(loss_fn)(state.params, batch, num_tokens)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    metrics = {
      'loss': loss,  # nats a token, before the step
      'lr': schedule(state.step),
      'grad_norm': optax.tree.norm(grads),  # before it is clipped
      'tokens': num_tokens,
    }
    new = placed(TrainState(state.step + 1, params, opt_state))
    return new, metrics

  return jax.jit(step_fn, donate_argnums=0)


def train(
  step_fn: Callable[[TrainState, types.Batch], tuple[TrainState, dict]],
  state: TrainState,
  batches: Iterable[types.Batch],
  num_steps: int,
  *,
  mesh: Mesh,
  save_every: int,
  save: Callable[[TrainState], Any] = lambda state: None,
  log: Callable[[dict], Any] = lambda record: None,
  quiet: bool = False,
) -> TrainState:
  """The state after step `num_steps`; goes on from `state`, which is donated.

  Args:
    state: where it lies.
    batches: those of the steps to come, the next first.
    save: called every `save_every` steps and after the last, once all metrics
      so far are known to be finite.
    log: called with one record a step.

  Raises:
    ValueError: loss or gradient is not finite; names step and sequences.
  """
  first = int(state.step)
  bar = tqdm.tqdm(
    desc='train', initial=first, total=num_steps, disable=quiet, mininterval=1.0
  )
  finish = _finisher(log, bar)
  waiting, batches = None, iter(batches)
  for step in range(first + 1, num_steps + 1):
    batch = next(batches)
    state, metrics = step_fn(state, sharding.shard_batch(mesh, batch))
    if waiting:
      finish(*waiting)
    waiting = (step, batch, metrics)
    if step % save_every == 0 or step == num_steps:
      finish(*waiting)
      waiting = None
      save(state)
  bar.close()
  return state


def _finisher(log: Callable[[dict], Any], bar: tqdm.tqdm) -> Callable:
  """(step, batch, metrics) -> None: checks and logs a step that was taken."""
  last, smooth = time.perf_counter(), {}

  def finish(step: int, batch: types.Batch, metrics: dict) -> None:
    nonlocal last
    record = {'step': step, **{k: float(v) for k, v in metrics.items()}}
    if not np.isfinite([record['loss'], record['grad_norm']]).all():
      real = np.asarray(batch.mask).any(axis=1)
      raise ValueError(
        f'step {step}: loss {record["loss"]}, norm of the gradient '
        f'{record["grad_norm"]}, on sequences '
        f'{np.asarray(batch.ids)[real].tolist()}; lower learning_rate, or look '
        'at these sequences. No state was saved after this'
      )
    now = time.perf_counter()
    record['seconds'], last = now - last, now
    log(record)
    for name in ('loss', 'tokens', 'seconds'):
      before = smooth.get(name, record[name])
      smooth[name] = 0.95 * before + 0.05 * record[name]
    rate = f'{smooth["tokens"] / smooth["seconds"]:,.0f}'
    loss = f'{smooth["loss"]:.3f}'
    bar.set_postfix(loss=loss, tokens_per_s=rate, refresh=False)
    bar.update()

  return finish


def _kernels(params: types.PyTree) -> types.PyTree:
  """True where weight decay works: on the matrices of dense layers."""
  return jax.tree_util.tree_map_with_path(
    lambda path, _: path[-1].key == 'kernel', params
  )
