"""The dense Gauss-Newton matrix by another route, and cases to hold it against.

One jax.jacrev of a sequence's outputs by the parameters as flax has them, one
jax.hessian of its loss, and numpy. Nothing of ggn or layer_arrays is called.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import testing
from flax import traverse_util

from influence_jax import losses, models, types

CASES = ['softmax', 'scan', 'squared', 'bernoulli']


@functools.cache
def case(name: str) -> tuple[types.Model, types.PyTree, list[types.Batch]]:
  """(model, params, three batches of four rows): the second batch has a blank

  row; noise stands wherever there is padding.
  """
  if name in ('softmax', 'scan'):
    batches = [testing.deep_batch(4, seed=seed) for seed in range(3)]
    batches[0].mask[0, 0] = 0  # a prompt
    batches[1].mask[2] = 0
    return *testing.deep(scan=name == 'scan'), batches
  loss = {'squared': losses.squared_error, 'bernoulli': losses.bernoulli}[name]
  net = models.make('mlp', widths=(3,), num_outputs=2, dtype='float64')
  like = jax.ShapeDtypeStruct((1, 4), float)
  batches = [features(seed) for seed in range(3)]
  batches[1].mask[2] = 0
  return *testing.model_of(net, like, loss), batches


def features(seed: int, num_rows: int = 4) -> types.Batch:
  rng = np.random.default_rng(seed)
  return types.Batch(
    inputs=rng.normal(size=(num_rows, 4)),
    targets=rng.integers(0, 2, (num_rows, 2)).astype(float),
    mask=np.ones(num_rows),
    ids=np.arange(num_rows, dtype=np.int32) + num_rows * seed,
  )


def joined(batches: list[types.Batch]) -> types.Batch:
  return types.Batch(*(np.concatenate(x) for x in zip(*batches, strict=True)))


def jacobians(model, params, batch) -> tuple[np.ndarray, np.ndarray]:
  """(J [N, Y, P], H [N, Y, Y]) of the N sequences that count, Y their outputs.

  P is in the order of sorted paths; a layer's [*stack, I, O] is raveled.
  """
  jacobian_of, hessian_of = _derivatives(model.apply_fn, model.loss)
  J_NxYxP, H_NxYxY = [], []
  counts = (batch.mask != 0).reshape(len(batch.mask), -1).any(1)
  for n in np.flatnonzero(counts):
    inputs, targets, mask = (x[n] for x in batch[:3])
    outputs, jacobian = jacobian_of(params, inputs)
    flat = traverse_util.flatten_dict(jacobian, sep='/')
    J_NxYxP.append(_columns(model.layers, flat, outputs.ndim))
    hessian = np.asarray(hessian_of(outputs, targets, mask))
    H_NxYxY.append(hessian.reshape(outputs.size, outputs.size))
  return np.stack(J_NxYxP), np.stack(H_NxYxY)


def matrix(model, params, batch) -> np.ndarray:
  """G [P, P], the mean over the sequences that count."""
  J_NxYxP, H_NxYxY = jacobians(model, params, batch)
  pairs = zip(J_NxYxP, H_NxYxY, strict=True)
  return sum(J.T @ H @ J for J, H in pairs) / len(J_NxYxP)


def diagonal(layers, damping) -> np.ndarray:
  """Damping {path: [*stack]} of every parameter, [P]."""
  return np.concatenate(
    [
      np.repeat(np.asarray(damping[path]), layer.num_in * layer.num_out)
      for path, layer in sorted(layers.items())
    ]
  )


def raveled(vectors_Kx: dict):
  """[K, P] of {path: [K, *stack, I, O]}; traced if they are."""
  flat = [jnp.reshape(x, (len(x), -1)) for _, x in sorted(vectors_Kx.items())]
  X_KxP = jnp.concatenate(flat, 1)
  return X_KxP if isinstance(X_KxP, jax.core.Tracer) else np.asarray(X_KxP)


def vectors(layers, X_KxP) -> dict:
  """The way back of `raveled`."""
  found, at = {}, 0
  for path, layer in sorted(layers.items()):
    shape = (*layer.stack, layer.num_in, layer.num_out)
    size = int(np.prod(shape))
    found[path] = jnp.reshape(X_KxP[:, at : at + size], (-1, *shape))
    at += size
  return found


def of_params(layers, tree) -> np.ndarray:
  """[P] of a tree shaped as params, such as a gradient."""
  flat = traverse_util.flatten_dict(tree, sep='/')
  return _columns(layers, flat, num_axes=0)[0]


def moved_params(layers, params, x_P) -> types.PyTree:
  """params + x, by numpy."""
  flat = traverse_util.flatten_dict(params, sep='/')
  moved = {name: np.array(x) for name, x in flat.items()}
  for path, layer in layers.items():
    step = np.asarray(vectors(layers, x_P[None])[path])[0]
    kernel = moved[f'{path}/kernel']
    num_rows = layer.num_in - layer.has_bias
    kernel += step[..., :num_rows, :].reshape(kernel.shape)
    if layer.has_bias:
      bias = moved[f'{path}/bias']
      bias += step[..., -1, :].reshape(bias.shape)
  return traverse_util.unflatten_dict(moved, sep='/')


@functools.cache
def _derivatives(apply_fn, loss):
  @jax.jit
  def jacobian_of(params, inputs):
    def outputs_of(params):
      return apply_fn(params, inputs[None])[0]

    return outputs_of(params), jax.jacrev(outputs_of)(params)

  @jax.jit
  @functools.partial(jax.hessian, argnums=0)
  def hessian_of(outputs, targets, mask):
    row = (x[None] for x in (outputs, targets, mask))
    return loss.per_sequence(*row)[0]

  return jacobian_of, hessian_of


def _columns(layers, jacobian, num_axes) -> np.ndarray:
  """[Y, P] of a jacobian by flax's kernels and biases."""
  found = []
  for path, layer in sorted(layers.items()):
    kernel = np.asarray(jacobian[f'{path}/kernel'])
    num = int(np.prod(kernel.shape[:num_axes]))
    kernel = kernel.reshape(num, *layer.stack, -1, layer.num_out)
    if layer.has_bias:
      bias = np.asarray(jacobian[f'{path}/bias'])
      bias = bias.reshape(num, *layer.stack, 1, layer.num_out)
      kernel = np.concatenate([kernel, bias], -2)
    found.append(kernel.reshape(num, -1))
  return np.concatenate(found, 1)
