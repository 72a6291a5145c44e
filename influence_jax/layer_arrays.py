"""Parameters of the tapped layers as one array a layer, {path: [*stack, I, O]}.

A layer's array is its kernel with the bias as last row, as a gradient of taps
is. What a solver moves along, or a proximal response has moved by, is one such
dict, here called a vector. All functions take ONE vector; more are a vmap.
"""

import jax
import jax.numpy as jnp
from flax import traverse_util

from influence_jax import types

Vector = dict[str, jax.Array]


def to_params(
  params: types.PyTree, layers: dict[str, types.Layer], vector: Vector
) -> types.PyTree:
  """The vector laid out as params; 0 for parameters of no layer.

  Raises:
    ValueError: an array is not [*stack, I, O].
  """
  flat = traverse_util.flatten_dict(params, sep='/')
  laid = {path: jnp.zeros_like(x) for path, x in flat.items()}
  for path, layer in layers.items():
    for name, x in _parts(layer, jnp.asarray(vector[path])).items():
      like = flat[f'{path}/{name}']
      laid[f'{path}/{name}'] = x.reshape(like.shape).astype(like.dtype)
  return traverse_util.unflatten_dict(laid, sep='/')


def moved(
  params: types.PyTree, layers: dict[str, types.Layer], vector: Vector
) -> types.PyTree:
  """params + vector."""
  return jax.tree.map(jnp.add, params, to_params(params, layers, vector))


def zeros(layers: dict[str, types.Layer]) -> Vector:
  return {
    path: jnp.zeros((*layer.stack, layer.num_in, layer.num_out))
    for path, layer in layers.items()
  }


def lead(
  layers: dict[str, types.Layer], vectors_KxIxO: dict[str, jax.Array]
) -> dict[str, jax.Array]:
  """K vectors, [*stack, K, I, O] as influence and gradients have them, as

  [K, *stack, I, O]: K in front, for vmap.
  """
  return {
    path: jnp.moveaxis(x, len(layers[path].stack), 0)
    for path, x in vectors_KxIxO.items()
  }


def trail(
  layers: dict[str, types.Layer], vectors_Kx: dict[str, jax.Array]
) -> dict[str, jax.Array]:
  """The way back of `lead`."""
  return {
    path: jnp.moveaxis(x, 0, len(layers[path].stack))
    for path, x in vectors_Kx.items()
  }


def dot(x: Vector, y: Vector) -> jax.Array:
  return sum(jnp.vdot(x[path], y[path]) for path in x)


def norm(x: Vector) -> jax.Array:
  return jnp.sqrt(dot(x, x))


def add(x: Vector, y: Vector, factor: jax.Array | float = 1.0) -> Vector:
  """x + factor y."""
  return jax.tree.map(lambda x, y: x + factor * y, x, y)


def times(damping: dict[str, jax.Array], x: Vector) -> Vector:
  """Each layer's array times its number, {path: [*stack]}."""
  return {path: damping[path][..., None, None] * x[path] for path in x}


def _parts(layer: types.Layer, x_IxO: jax.Array) -> dict[str, jax.Array]:
  """The kernel's and the bias's share of a layer's array, stack in front."""
  expected = (*layer.stack, layer.num_in, layer.num_out)
  if x_IxO.shape != expected:
    raise ValueError(
      f'the array of {layer.path!r} has the shape {x_IxO.shape}, expected '
      f'{expected}, that of one vector: take one of [*stack, K, I, O], of '
      'these layers'
    )
  if not layer.has_bias:
    return {'kernel': x_IxO}
  return {'kernel': x_IxO[..., :-1, :], 'bias': x_IxO[..., -1, :]}
