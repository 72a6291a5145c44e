"""The exact Gauss-Newton matrix of the tapped layers: products, and all of it.

G is the mean over sequences of J^T H J, J the derivative of a sequence's
outputs by the layers' parameters and H the Hessian of its loss by its outputs
(Eq. 6). A product with a vector is a pass forward with tangents, H, and a pass
backward: no row of J is ever formed. Nothing here is an approximation but
`root_rows`' and `dense`'s size: they are for models of some thousand
parameters.

Batches are [S, B, ...], S of them of one shape, and are run through one after
another: memory is one batch's. Vectors are of layer_arrays. Functions are pure
and not jitted; rows may be split over devices, jit adds up.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from influence_jax import layer_arrays, types


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
  fn: Callable[[types.Batch], types.PyTree], batches: types.Batch
) -> types.PyTree:
  """The sum of fn(batch) over the S batches."""
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


def root_rows(
  model: types.Model, params: types.PyTree, batches: types.Batch
) -> dict[str, jax.Array]:
  """Rows R with G = R^T R, {path: [rows, *stack, I, O]}: V a position.

  H = C C^T by its eigenvectors, so a position gives V rows of C^T J / sqrt(N).
  Memory is rows x parameters.
  """

  def of_batch(batch):
    outputs, push = _linearise(model, params, batch)
    pull = jax.linear_transpose(push, layer_arrays.zeros(model.layers))
    num = outputs.size // outputs.shape[-1]
    roots_PxVxV = jax.vmap(_root, in_axes=(None, 0, 0, 0))(
      model,
      outputs.reshape(num, -1),
      batch.targets.reshape(num, *batch.targets.shape[batch.mask.ndim :]),
      batch.mask.reshape(num),
    )

    def row(position, v):
      zero_PxV = jnp.zeros((num, outputs.shape[-1]), outputs.dtype)
      root_V = roots_PxVxV[position, :, v].astype(outputs.dtype)
      return pull(zero_PxV.at[position].set(root_V).reshape(outputs.shape))[0]

    places = jnp.indices((num, outputs.shape[-1])).reshape(2, -1)
    return jax.lax.map(lambda at: row(*at), tuple(places), batch_size=64)

  found = jax.lax.map(of_batch, batches)
  scale = jnp.sqrt(count(batches))
  return {p: x.reshape(-1, *x.shape[2:]) / scale for p, x in found.items()}


def dense(
  model: types.Model, params: types.PyTree, batches: types.Batch
) -> jax.Array:
  """G [P, P], parameters in the order of `jax.tree.leaves` of a vector."""
  rows = root_rows(model, params, batches)
  flat = [x.reshape(len(x), -1) for x in jax.tree.leaves(rows)]
  rows_RxP = jnp.concatenate(flat, axis=1)
  return rows_RxP.T @ rows_RxP


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


def _root(model, outputs_V, target, mask) -> jax.Array:
  """C [V, V] of one position, H = C C^T."""

  def loss(outputs_V):
    row = (x[None] for x in (outputs_V, target, mask))
    return model.loss.per_sequence(*row)[0]

  L_V, Q_VxV = jnp.linalg.eigh(jax.hessian(loss)(outputs_V))
  return Q_VxV * jnp.sqrt(jnp.maximum(L_V, 0))[None]
