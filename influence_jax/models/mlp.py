"""A multilayer perceptron for regression and classification."""

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

_ACTIVATIONS = {'tanh': jnp.tanh, 'relu': jax.nn.relu}


def activation_fn(name: str) -> Callable[[jax.Array], jax.Array]:
  """ValueError if there is none of that name."""
  if name not in _ACTIVATIONS:
    valid = list(_ACTIVATIONS)
    raise ValueError(f'activation is {name!r}; there are {valid}')
  return _ACTIVATIONS[name]


class MLP(nn.Module):
  """Dense layers `dense_0`, `dense_1`, ...; the last one gives the outputs."""

  widths: tuple[int, ...]  # hidden
  activation: Callable[[jax.Array], jax.Array]
  num_outputs: int
  dtype: str  # of the computation

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    param_dtype = jnp.promote_types(self.dtype, jnp.float32)
    h = x.reshape(len(x), -1) if x.ndim == 4 else x
    for i, width in enumerate((*self.widths, self.num_outputs)):
      if i:
        h = self.activation(h)
      h = nn.Dense(
        width, dtype=self.dtype, param_dtype=param_dtype, name=f'dense_{i}'
      )(h)
    return h


def make(
  widths: Sequence[int],
  num_outputs: int,
  activation: str = 'tanh',
  dtype: str = 'float32',
) -> nn.Module:
  """An MLP from [B, I] or images [B, H, W, C] to outputs [B, num_outputs]."""
  return MLP(tuple(widths), activation_fn(activation), num_outputs, dtype)
