"""The exact Gauss-Newton matrix of the tapped layers: products, and all of it.

G is the mean over sequences of J^T H J, J the derivative of a sequence's
outputs by the layers' parameters and H the Hessian of its loss by its outputs
(Eq. 6). A product with a vector is a pass forward with tangents, H, and a pass
backward: no row of J is ever formed. `root` forms all of them, one by one, and
`dense` G itself: they are for few outputs, and `dense` for models of some
thousand parameters.

Batches are [S, B, ...], S of them of one shape, and are run through one after
another: memory is one batch's. Vectors are of layer_arrays. Functions are pure
and not jitted; rows may be split over devices, jit adds up.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from influence_jax import layer_arrays, taps, types


def stack(batches: list[types.Batch]) -> types.Batch:
  """[S, B, ...] of S batches of one shape."""
  return jax.tree.map(lambda *x: np.stack(x), *batches)


def batched(rows: types.Batch, size: int) -> types.Batch:
  """[S, B, ...] of rows [N, ...], the last batch filled up with mask 0."""
  padding = -len(rows.mask) % size

  def cut(x):
    x = np.asarray(x)
    x = np.concatenate([x, np.zeros((padding, *x.shape[1:]), x.dtype)])
    return x.reshape(-1, size, *x.shape[1:])

  return types.Batch(*map(cut, rows))


def count(batches: types.Batch) -> jax.Array:
  """Sequences that are not padding, in all batches."""
  mask = batches.mask
  return (mask != 0).any(tuple(range(2, mask.ndim))).sum()


def over_batches(
  fn: Callable[[types.PyTree], types.PyTree], batches: types.PyTree
) -> types.PyTree:
  """The sum of fn(batch) over the S batches, and what else is [S, ...]."""
  first = jax.tree.map(lambda x: x[0], batches)
  zero = jax.tree.map(
    lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(fn, first)
  )

  def step(total, batch):
    return jax.tree.map(jnp.add, total, fn(batch)), None

  return jax.lax.scan(step, zero, batches)[0]


def product(
  model: types.Model,
  params: types.PyTree,
  batch: types.Batch,
  vector: layer_arrays.Vector,
) -> layer_arrays.Vector:
  """Sum over a batch's sequences of G_z x; under vmap one linearisation."""
  outputs, push = _linearise(model, params, batch)
  pull = jax.linear_transpose(push, vector)
  hessian = _hessian(model, batch, outputs)
  return pull(hessian(push(vector)))[0]


def mean_product(
  model: types.Model,
  params: types.PyTree,
  batches: types.Batch,
  vector: layer_arrays.Vector,
) -> layer_arrays.Vector:
  """G x of all batches."""
  total = over_batches(lambda b: product(model, params, b, vector), batches)
  return jax.tree.map(lambda x: x / count(batches), total)


def along(
  model: types.Model,
  params: types.PyTree,
  batch: types.Batch,
  vector: layer_arrays.Vector,
) -> jax.Array:
  """Sum over a batch's sequences of x^T G_z x: one pass forward."""
  outputs, push = _linearise(model, params, batch)
  tangents = push(vector)
  return jnp.vdot(tangents, _hessian(model, batch, outputs)(tangents))


def root(
  model: types.Model, params: types.PyTree, batches: types.Batch
) -> dict[str, types.Factors]:
  """R of G = R^T R, a layer in one of two forms. With N rows of data, each of

  Y outputs (V a position), R has J = N Y rows, the gradients by the layer of
  C^T outputs / sqrt(N), H = C C^T:

    {'g': [J, *stack, I, O]}
    {'a': [N, I], 'ds': [N, Y, O]}, row (n, y) is a_n ds_ny^T

  the second where a layer sees one position of a row. It takes Y passes
  backward over the data.
  """
  layers, first = model.layers, jax.tree.map(lambda x: x[0], batches)
  seen = taps.positions(model.apply_fn, params, layers, first.inputs)
  B = len(first.inputs)

  def init(layer):
    if seen[layer.path] == 1:
      return {
        'a': jnp.zeros((B, layer.num_in)), 'ds': jnp.zeros((B, layer.num_out))
      }  # fmt: skip
    return {'g': jnp.zeros((B, layer.num_in, layer.num_out))}

  def of_batch(batch):
    roots_BxTxVxV = _roots(model, batch, model.apply_fn(params, batch.inputs))

    def pull(place):
      t, v = place
      along_BxTxV = jnp.zeros(roots_BxTxVxV.shape[:3])
      along_BxTxV = along_BxTxV.at[:, t].set(roots_BxTxVxV[:, t, :, v])

      def loss_fn(params):
        outputs = model.apply_fn(params, batch.inputs)
        return jnp.vdot(along_BxTxV, outputs.reshape(along_BxTxV.shape)), None

      slots = taps.zeros(layers, init)
      return taps.layer_stats(
        loss_fn, params, layers, _gradient, slots, {}, batch.mask
      )[0]

    places = jnp.indices(roots_BxTxVxV.shape[1:3]).reshape(2, -1)
    return jax.lax.map(pull, tuple(places))

  found = jax.lax.map(of_batch, batches)
  scale = jnp.sqrt(count(batches))
  return {path: _rows(layers[path], x, scale) for path, x in found.items()}


def root_rows(
  model: types.Model, params: types.PyTree, batches: types.Batch
) -> dict[str, jax.Array]:
  """`root` multiplied out, {path: [J, *stack, I, O]}: J x parameters."""
  return {
    path: x['g'] if 'g' in x else _outer(x['a'][:, None], x['ds'])
    for path, x in root(model, params, batches).items()
  }


def dense(
  model: types.Model, params: types.PyTree, batches: types.Batch
) -> jax.Array:
  """G [P, P], parameters in the order of `jax.tree.leaves` of a vector.

  By the rows of its root or, where they are more than its columns, by products.
  """
  zero_P, unravel = ravel_pytree(layer_arrays.zeros(model.layers))
  outputs = jax.eval_shape(
    jax.vmap(model.apply_fn, (None, 0)), params, batches.inputs
  )
  if outputs.size > zero_P.size:

    def column(p):
      x = unravel(zero_P.at[p].set(1))
      return ravel_pytree(mean_product(model, params, batches, x))[0]

    return jax.lax.map(column, jnp.arange(zero_P.size), batch_size=64)
  rows = root_rows(model, params, batches)
  flat = [x.reshape(len(x), -1) for x in jax.tree.leaves(rows)]
  rows_JxP = jnp.concatenate(flat, axis=1)
  return rows_JxP.T @ rows_JxP


def _linearise(model, params, batch) -> tuple[jax.Array, Callable]:
  """Outputs, and how they move with the layers' parameters."""

  def outputs_of(vector):
    moved = layer_arrays.moved(params, model.layers, vector)
    return model.apply_fn(moved, batch.inputs)

  return jax.linearize(outputs_of, layer_arrays.zeros(model.layers))


def _hessian(model, batch, outputs) -> Callable:
  """Product with the Hessian of the batch's loss by its outputs."""

  def total(outputs):
    loss_B = model.loss.per_sequence(outputs, batch.targets, batch.mask)
    return loss_B.sum()

  return jax.linearize(jax.grad(total), outputs)[1]


def _roots(model, batch, outputs) -> jax.Array:
  """C [B, T, V, V] of every position, H = C C^T."""
  positions = batch.mask.size // len(batch.mask)

  def loss(outputs_V, target, mask):
    row = (x[None] for x in (outputs_V, target, mask))
    return model.loss.per_sequence(*row)[0]

  def one(*position):
    L_V, Q_VxV = jnp.linalg.eigh(jax.hessian(loss)(*position))
    return Q_VxV * jnp.sqrt(jnp.maximum(L_V, 0))[None]

  num, axes = batch.mask.size, batch.mask.ndim
  flat = (x.reshape(num, *x.shape[axes:]) for x in (batch.targets, batch.mask))
  roots = jax.vmap(one)(outputs.reshape(num, -1), *flat)
  return roots.reshape(len(batch.mask), positions, *roots.shape[1:])


def _gradient(a_BxTxI, ds_BxTxO, mask_BxT, factors):
  """Of every row; its two sides where it is of one position."""
  del mask_BxT, factors
  if a_BxTxI.shape[1] == 1:
    return {'a': a_BxTxI[:, 0], 'ds': ds_BxTxO[:, 0]}
  return {'g': jnp.einsum('bti,bto->bio', a_BxTxI, ds_BxTxO)}


def _outer(a, ds):
  """[J, I, O] of [N, Y, I] and [N, Y, O]."""
  g = a[..., :, None] * ds[..., None, :]
  return g.reshape(-1, *g.shape[-2:])


def _rows(layer, found, scale) -> types.Factors:
  """Of all batches: sides and gradients [S, Y, *stack, B, ...] row by row."""
  if 'a' in found and not layer.stack:
    ds_NxYxO = jnp.moveaxis(found['ds'], 1, 2) / scale
    return {
      'a': found['a'][:, 0].reshape(-1, layer.num_in),
      'ds': ds_NxYxO.reshape(-1, *ds_NxYxO.shape[2:]),
    }
  g = found.get('g')
  if g is None:
    g = found['a'][..., :, None] * found['ds'][..., None, :]
  g = jnp.moveaxis(g, 2 + len(layer.stack), 1) / scale  # [S, B, Y, ...]
  return {'g': g.reshape(-1, *g.shape[3:])}
