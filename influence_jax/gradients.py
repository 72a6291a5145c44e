"""Per-sequence gradients: by vmap for any parameter, by taps where dense."""

import functools
import re
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import traverse_util

from influence_jax import layer_arrays, plain, taps, types

_HELD = 2**24  # numbers of plain gradients held at once; a sequence's at least


def sequence_gradients(
  model: types.Model, params: types.PyTree, batch: types.Batch, pattern: str
) -> dict[str, jax.Array]:
  """Gradients of every sequence's loss, {path: [B, ...]}: the plain road.

  Covers any parameter, dense or not; `pattern` is searched in '/'-joined paths
  (kernels and biases have their own). Memory is B times the parameters chosen.

  Raises:
    ValueError: no parameter matches.
  """
  flat = traverse_util.flatten_dict(params, sep='/')
  chosen = [path for path in flat if re.search(pattern, path)]
  if not chosen:
    raise ValueError(f'no parameter matches {pattern!r}; there are {[*flat]}')
  return _by_row(model, flat, batch, chosen)


def _by_row(model, flat, batch, paths) -> dict[str, jax.Array]:
  chosen = {path: flat[path] for path in paths}

  def loss_fn(chosen, *row):
    inputs, targets, mask = (x[None] for x in row)
    merged = traverse_util.unflatten_dict({**flat, **chosen}, sep='/')
    outputs = model.apply_fn(merged, inputs)
    return model.loss.per_sequence(outputs, targets, mask)[0]

  per_row = jax.vmap(jax.grad(loss_fn), in_axes=(None, 0, 0, 0))
  return per_row(chosen, batch.inputs, batch.targets, batch.mask)


def layer_gradients(
  model: types.Model, params: types.PyTree, batch: types.Batch
) -> dict[str, jax.Array]:
  """Gradients of every sequence's loss, {path: [*stack, B, I, O]}.

  By taps, those of plain layers by autodiff.

  Of a query's batch, whose mask is its completion, they are those of
  -f = -log p(completion | prompt); the sign of a score comes out right since a
  sequence's loss carries the same minus.
  """
  num_rows = len(batch.inputs)

  def init(layer):
    return {'g': jnp.zeros((num_rows, layer.num_in, layer.num_out))}

  stats = batch_stats(
    model, params, batch, _gradient_rule, init, {},
    lambda g_BxIxO, _: {'g': g_BxIxO},
  )  # fmt: skip
  return {path: x['g'] for path, x in stats.items()}


def batch_stats(
  model: types.Model,
  params: types.PyTree,
  batch: types.Batch,
  rule: Callable,
  init: Callable,
  factors: dict[str, types.Factors],
  plain_rule: Callable | None = None,
) -> dict[str, types.Stats]:
  """What `rule` makes of a batch's own loss; `init` gives the slots' shapes.

  Args:
    plain_rule: (g_BxIxO, factors) -> Stats with B in front, for plain layers,
      of some sequences at once; without it they are left out.
  """
  dense, others = plain.split(model.layers)
  found = {}
  if plain_rule and others:
    found = _plain_stats(model, params, others, batch, plain_rule, factors)
  if not dense:
    return found

  def loss_fn(params):
    outputs = model.apply_fn(params, batch.inputs)
    loss_B = model.loss.per_sequence(outputs, batch.targets, batch.mask)
    return loss_B.sum(), None

  slots = taps.zeros(dense, init)
  stats, _ = taps.layer_stats(
    loss_fn, params, dense, rule, slots, factors, batch.mask
  )
  return stats | found


def plain_sums(
  model: types.Model,
  params: types.PyTree,
  batch: types.Batch,
  rule: Callable,
  sums: dict[str, types.Stats],
) -> dict[str, types.Stats]:
  """`sums` of plain layers plus what `rule` makes of a batch's own loss.

  Args:
    rule: g_BxIxO -> Stats summed over B, some sequences at once.
  """
  layers = {path: model.layers[path] for path in sums}
  groups, gradient = _plain_groups(model, params, layers, batch)

  def add(sums, group):
    g = gradient(group)
    addend = {
      path: taps.over_stack(layer, rule)(g[path])
      for path, layer in layers.items()
    }
    return jax.tree.map(jnp.add, sums, addend), None

  return jax.lax.scan(add, sums, groups)[0]


def _plain_stats(model, params, layers, batch, rule, factors):
  groups, gradient = _plain_groups(model, params, layers, batch)

  def stats(group):
    g = gradient(group)
    return {
      path: taps.over_stack(layer, rule)(g[path], factors.get(path, {}))
      for path, layer in layers.items()
    }

  def join(layer, x):  # groups of [*stack, some sequences, ...]
    x = jnp.moveaxis(x, 0, len(layer.stack))
    return x.reshape(*layer.stack, -1, *x.shape[len(layer.stack) + 2 :])

  found = jax.lax.map(stats, groups)
  return {
    path: jax.tree.map(functools.partial(join, layer), found[path])
    for path, layer in layers.items()
  }


def _plain_groups(model, params, layers, batch) -> tuple[types.Batch, Callable]:
  """The batch as [groups, some sequences, ...] and

  group -> {path: [*stack, some sequences, I, O]}, their gradients.
  """
  flat = traverse_util.flatten_dict(params, sep='/')
  numbers = sum(flat[path].size for path in layers)
  num_rows = len(batch.inputs)
  size = max(
    n for n in range(1, num_rows + 1)
    if num_rows % n == 0 and (n == 1 or n * numbers <= _HELD)
  )  # fmt: skip
  groups = jax.tree.map(lambda x: x.reshape(-1, size, *x.shape[1:]), batch)
  dtype = jnp.result_type(float)  # float32 or wider, whatever the model's

  def gradient(group):
    found = _by_row(model, flat, group, layers)
    g = {
      path: found[path].reshape(size, *x.stack, x.num_in, -1).astype(dtype)
      for path, x in layers.items()
    }
    return layer_arrays.trail(layers, g)

  return groups, gradient


def _gradient_rule(a_BxTxI, ds_BxTxO, mask_BxT, factors):
  del mask_BxT, factors  # ds is zero where no loss depends on a position
  return {'g': jnp.einsum('bti,bto->bio', a_BxTxI, ds_BxTxO)}
