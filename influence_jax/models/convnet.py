"""A small convolutional network whose convolutions are dense layers of patches.

A convolution is a dense layer that sees a patch [3, 3, C] at every place of the
image, so taps sees it as one of H W positions with inputs 9 C, in the order of
a flax kernel [3, 3, C, O], and K-FAC is that of Grosse & Martens 2016 (arXiv
1602.01407): a layer's gradient is the sum over places.
"""

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from influence_jax.models import mlp

_SIDE = 3  # of a patch


class ConvNet(nn.Module):
  """`conv_0`, `conv_1`, ..., each activated and 2x2 mean pooling; `head`."""

  channels: tuple[int, ...]
  activation: Callable[[jax.Array], jax.Array]
  num_outputs: int
  dtype: str  # of the computation

  @nn.compact
  def __call__(self, x_BxHxWxC: jax.Array) -> jax.Array:
    param_dtype = jnp.promote_types(self.dtype, jnp.float32)
    dtypes = dict(dtype=self.dtype, param_dtype=param_dtype)
    h = x_BxHxWxC
    for i, width in enumerate(self.channels):
      h = nn.Dense(width, name=f'conv_{i}', **dtypes)(patches(h))
      h = nn.avg_pool(self.activation(h), (2, 2), (2, 2))
    h = h.reshape(len(h), -1)
    return nn.Dense(self.num_outputs, name='head', **dtypes)(h)


def make(
  channels: Sequence[int],
  num_outputs: int,
  activation: str = 'relu',
  dtype: str = 'float32',
) -> nn.Module:
  """A network from images [B, H, W, C] to outputs [B, num_outputs].

  Args:
    channels: of each convolution; after each, H and W are halved.
  """
  fn = mlp.activation_fn(activation)
  return ConvNet(tuple(channels), fn, num_outputs, dtype)


def patches(x_BxHxWxC: jax.Array) -> jax.Array:
  """[B, H, W, 9 C]: what surrounds each place, row by row; 0 off the image."""
  edge = _SIDE // 2
  padded = jnp.pad(x_BxHxWxC, ((0, 0), (edge, edge), (edge, edge), (0, 0)))
  H, W = x_BxHxWxC.shape[1:3]
  shifted = [
    padded[:, i : i + H, j : j + W] for i in range(_SIDE) for j in range(_SIDE)
  ]
  return jnp.concatenate(shifted, axis=-1)
