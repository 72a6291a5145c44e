"""Retraining without a point, many points at once: what influence predicts.

Every function gives changes of f, a query's log-probability in nats, [K, M]:
f(theta without z) - f(theta with all), where both thetas come of the same
procedure. score * epsilon with epsilon = -1 / N predicts them.

A point that is left out keeps its place in the order of rows and counts in the
number that the loss of its batch is divided by, but its loss is 0. So the other
rows of that batch weigh what they weighed before, and what is minimised is

  J_z(theta) = 1/N sum_{i != z} L(z_i, theta) + weight_decay / 2 ||theta||^2,

that of epsilon = -1/N. Dividing by the rows that are left would moreover weaken
the weight decay against the loss by (N - 1) / N, which moves f by as much as a
point does, by the same for all points. The last batch of an epoch, if it is
smaller, is divided by its own rows, as in experiments.train_net.

Three procedures:

  cold     SGD from the first parameters of a seed, as experiments.train_net
  warm     the same SGD from theta_s, its momentum 0 at first and its schedule
           begun anew, for some epochs in the order of those after the last
  minimum  L-BFGS on J_z from theta_s, to where the gradient is small

Points are left out `points_at_once` at a time by vmap, together with a lane in
which none is; each such chunk is a file: a run that was stopped goes on with
the next. Sections read: leave_one_out, train, model.
"""

import functools
import pathlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tqdm
from ml_collections import ConfigDict

from experiments import common, parts, train_net, validation_task
from influence_jax import losses, models, types

_NONE = -1  # the id of no row


def cold(
  config: ConfigDict,
  task: validation_task.Task,
  folder: pathlib.Path,
  origin: dict,
) -> np.ndarray:
  """[S, K, M] of leave_one_out.seeds, each of first parameters and order."""
  init = common.build('model', models.make, config.model).init
  num_epochs = config.train.num_epochs
  retrain = _retraining(config, task, num_epochs)
  inputs = _rows(task).inputs[:1]
  found = []
  for seed in config.leave_one_out.seeds:
    rng = jax.random.key(seed)
    params = jax.jit(init)(rng, inputs)['params']
    one = functools.partial(retrain, params, _keys(rng, 0, num_epochs))
    own = folder / f'cold_seed{seed}'
    found.append(_in_chunks(config, task, one, own, origin)['change'])
  return np.stack(found)


def warm(
  config: ConfigDict,
  task: validation_task.Task,
  num_epochs: int,
  folder: pathlib.Path,
  origin: dict,
) -> np.ndarray:
  """[K, M]: `num_epochs` more from theta_s, in the order of train.seed."""
  rng = jax.random.key(config.train.seed)
  keys = _keys(rng, config.train.num_epochs, num_epochs)
  retrain = _retraining(config, task, num_epochs)
  one = functools.partial(retrain, task.params, keys)
  origin = {**origin, 'warm_epochs': num_epochs}
  return _in_chunks(config, task, one, folder / 'warm', origin)['change']


def minimum(
  config: ConfigDict,
  task: validation_task.Task,
  proximity: float,
  folder: pathlib.Path,
  origin: dict,
) -> dict[str, np.ndarray]:
  """Of the minima of J_z + proximity / 2 ||theta - theta_s||^2 that L-BFGS

  finds from theta_s, with all parameters free: `change` [K, M]; `ratio` [M] of
  the gradient's norm there over the root mean square of what leaving out a
  point adds to it, ||grad L(z)|| / N; `steps` [M]. Both are the larger of the
  point's and of those with no point left out, whose f is taken off: how far
  theta_s is from a minimum is common to the two and cancels. Stops at
  leave_one_out.minimum's tolerance of the ratio, or at its max_steps.
  """
  hparams = config.leave_one_out.minimum.to_dict()
  data, points = _rows(task), jax.tree.map(lambda x: x[:, 0], task.points)
  find = _minimising(task, **hparams)
  terms = config.train.weight_decay, proximity
  one = functools.partial(find, task.params, data, points, terms)
  origin = {**origin, 'proximity': proximity}
  return _in_chunks(config, task, one, folder, origin)


def _retraining(config, task, num_epochs) -> Callable:
  """Jitted (params, keys of the epochs, left_P) -> {'f': [P, K]}."""
  train = common.build('train', train_net.TrainConfig, config.train)
  data = jax.tree.map(jnp.asarray, _rows(task))
  steps = num_epochs * -(-len(data.ids) // train.batch_size)
  optimizer = train_net.make_optimizer(train, steps)
  epoch_fn = train_net.make_epoch(
    lambda variables, inputs: task.model.apply_fn(variables['params'], inputs),
    _kept(task.model.loss), optimizer, train.batch_size,
  )  # fmt: skip

  def one(params, keys, data, left):
    targets = data.targets, _keep(data, left)
    kept = data._replace(targets=targets)
    first = train_net.TrainState(jnp.int32(0), params, optimizer.init(params))
    state, _ = jax.lax.scan(
      lambda state, key: (epoch_fn(state, key, kept), None), first, keys
    )
    return {'f': _measure(task, state.params)}

  all_at_once = jax.jit(jax.vmap(one, in_axes=(None, None, None, 0)))
  return lambda params, keys, left_P: all_at_once(params, keys, data, left_P)


def _minimising(task, tolerance, max_steps) -> Callable:
  """Jitted (params, data, points, (decay, proximity), left_P) -> {'f', 'ratio',

  'steps'}.
  """
  model, solver = task.model, optax.lbfgs(memory_size=20)

  def one(params, data, points, terms, left):
    decay, proximity = terms

    def objective(theta):
      outputs = model.apply_fn(theta, data.inputs)
      mask = data.mask * _keep(data, left)
      loss_N = model.loss.per_sequence(outputs, data.targets, mask)
      away = jax.tree.map(jnp.subtract, theta, params)
      squares = decay * _square(theta) + proximity * _square(away)
      return loss_N.sum() / data.mask.sum() + squares / 2

    pushes_M = jax.vmap(lambda point: _square(_slope(model, params, point)))
    push = jnp.sqrt(pushes_M(points).mean()) / data.mask.sum()
    evaluate = optax.value_and_grad_from_state(objective)

    def ratio(state):
      return jnp.sqrt(_square(optax.tree.get(state, 'grad'))) / push

    def goes_on(carried):
      _, state, steps = carried
      far = (steps == 0) | (ratio(state) > tolerance)
      return far & (steps < max_steps)

    def step(carried):
      theta, state, steps = carried
      value, grad = evaluate(theta, state=state)
      updates, state = solver.update(
        grad, state, theta, value=value, grad=grad, value_fn=objective
      )
      return optax.apply_updates(theta, updates), state, steps + 1

    first = params, solver.init(params), jnp.zeros((), jnp.int32)
    theta, state, steps = jax.lax.while_loop(goes_on, step, first)
    return {'f': _measure(task, theta), 'ratio': ratio(state), 'steps': steps}

  return jax.jit(jax.vmap(one, in_axes=(None, None, None, None, 0)))


def _in_chunks(config, task, fn, folder, origin) -> dict[str, np.ndarray]:
  """`change` [K, M] and whatever else fn(left_P) gives of a lane, [M]."""
  ids_M, size = task.points.ids[:, 0], config.leave_one_out.points_at_once

  def chunk(ids):
    left_P = np.full(size + 1, _NONE, np.int32)
    left_P[1 : 1 + len(ids)] = ids
    lanes = {
      key: np.asarray(x)[: 1 + len(ids)] for key, x in fn(left_P).items()
    }
    f_PxK = lanes.pop('f')
    worst = {key: np.maximum(x[1:], x[0]) for key, x in lanes.items()}
    found = {'change': (f_PxK[1:] - f_PxK[0]).T, **worst}
    if not np.isfinite(found['change']).all():
      raise ValueError(
        f'{folder}: retraining without rows {ids} gave values that are not '
        'finite; lower train.learning_rate'
      )
    return {key: x.tolist() for key, x in found.items()}

  found = []
  for first in tqdm.trange(0, len(ids_M), size, desc=folder.name):
    path, ids = folder / f'points_{first:04d}.json', ids_M[first : first + size]
    found.append(parts.part(path, origin, functools.partial(chunk, ids)))
  keys = [key for key in found[0] if isinstance(found[0][key], list)]
  return {
    key: np.concatenate([np.array(x[key]) for x in found], -1) for key in keys
  }


def _rows(task) -> types.Batch:
  """[N, ...] of task.batches, without their padding."""
  kept = np.asarray(task.batches.mask).reshape(-1) > 0
  return jax.tree.map(
    lambda x: np.asarray(x).reshape(-1, *x.shape[2:])[kept], task.batches
  )


def _keep(data, left) -> jax.Array:
  """[N]: 0 for the row `left`, else 1."""
  return (data.ids != left).astype(data.mask.dtype)


def _kept(loss: losses.Loss) -> losses.Loss:
  """With targets (targets, keep_B): a row that is not kept has loss 0.

  A mask would say that there is no such row: train_net divides by its sum.
  """

  def per_sequence(outputs, targets, mask):
    targets, keep_B = targets
    return loss.per_sequence(outputs, targets, mask * keep_B)

  return loss._replace(per_sequence=per_sequence)


def _keys(rng, done: int, num_epochs: int) -> jax.Array:
  """The keys by which train_net orders the rows of the epochs after `done`."""
  epochs = done + 1 + jnp.arange(num_epochs)
  return jax.vmap(functools.partial(jax.random.fold_in, rng))(epochs)


def _measure(task, params) -> jax.Array:
  """f_K."""
  queries = task.queries
  outputs = task.model.apply_fn(params, queries.inputs)
  return -task.model.loss.per_sequence(outputs, queries.targets, queries.mask)


def _slope(model, params, point) -> types.PyTree:
  """grad L(z)."""

  def loss_fn(params):
    row = jax.tree.map(lambda x: x[None], point)
    outputs = model.apply_fn(params, row.inputs)
    return model.loss.per_sequence(outputs, row.targets, row.mask).sum()

  return jax.grad(loss_fn)(params)


def _square(tree) -> jax.Array:
  return sum(jnp.vdot(x, x) for x in jax.tree.leaves(tree))
