"""The network of encoder.py, as functions of arrays.

A BERT of post-LN blocks (Devlin et al. 2019) whose last states are averaged
over the tokens of a text, its two borders with them, and scaled to length 1
(Reimers and Gurevych 2019). Parameters are a flat dict, named as in the file.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class Config:
  """Sizes of the network, all from the package."""

  vocab_size: int  # V
  width: int  # D
  mlp_width: int  # F
  num_heads: int  # H
  num_layers: int  # L
  num_positions: int  # that have an embedding
  num_types: int  # of tokens; a text on its own is all of type 0
  epsilon: float  # of LayerNorm
  max_len: int  # the longest T, at which texts are cut


def shapes(config: Config) -> dict[str, tuple[int, ...]]:
  """{name in model.safetensors: shape}; matrices are [O, I]."""
  D, F = config.width, config.mlp_width
  layers = {'embeddings.LayerNorm': (D,)}
  for i in range(config.num_layers):
    name = f'encoder.layer.{i}'
    for it in ('self.query', 'self.key', 'self.value', 'output.dense'):
      layers[f'{name}.attention.{it}'] = (D, D)
    layers[f'{name}.attention.output.LayerNorm'] = (D,)
    layers[f'{name}.intermediate.dense'] = (F, D)
    layers[f'{name}.output.dense'] = (D, F)
    layers[f'{name}.output.LayerNorm'] = (D,)
  return {
    'embeddings.word_embeddings.weight': (config.vocab_size, D),
    'embeddings.position_embeddings.weight': (config.num_positions, D),
    'embeddings.token_type_embeddings.weight': (config.num_types, D),
    **{f'{name}.weight': shape for name, shape in layers.items()},
    **{f'{name}.bias': shape[:1] for name, shape in layers.items()},
  }


def encode(
  config: Config,
  params: dict[str, jax.Array],
  tokens_BxT: jax.Array,
  mask_BxT: jax.Array,
) -> jax.Array:
  """Rows of length 1, [B, D], in the dtype of `params`.

  Args:
    config: sizes.
    params: of `shapes(config)`.
    tokens_BxT: the borders of a text are tokens too.
    mask_BxT: bool, False at padding; True somewhere in each row.
  """
  T = tokens_BxT.shape[1]
  h_BxTxD = (
    params['embeddings.word_embeddings.weight'][tokens_BxT]
    + params['embeddings.position_embeddings.weight'][None, :T]
    + params['embeddings.token_type_embeddings.weight'][None, :1]
  )
  norm = functools.partial(_norm, params, epsilon=config.epsilon)
  h_BxTxD = norm('embeddings.LayerNorm', h_BxTxD)
  for i in range(config.num_layers):
    name = f'encoder.layer.{i}'
    attention = functools.partial(_attention, params, f'{name}.attention')
    h_BxTxD += attention(config.num_heads, h_BxTxD, mask_BxT)
    h_BxTxD = norm(f'{name}.attention.output.LayerNorm', h_BxTxD)
    y_BxTxF = _dense(params, f'{name}.intermediate.dense', h_BxTxD)
    y_BxTxF = jax.nn.gelu(y_BxTxF, approximate=False)
    h_BxTxD += _dense(params, f'{name}.output.dense', y_BxTxF)
    h_BxTxD = norm(f'{name}.output.LayerNorm', h_BxTxD)
  # The sum has the direction of the mean.
  sum_BxD = jnp.where(mask_BxT[..., None], h_BxTxD, 0).sum(axis=1)
  return sum_BxD / jnp.linalg.norm(sum_BxD, axis=1, keepdims=True)


def _attention(params, name, num_heads, x_BxTxD, mask_BxT) -> jax.Array:
  """Each token attends to all of its text; heads are slices of the width."""
  B, T, D = x_BxTxD.shape
  split = (B, T, num_heads, D // num_heads)  # d: width of a head
  q_BxTxHxd, k_BxTxHxd, v_BxTxHxd = (
    _dense(params, f'{name}.self.{it}', x_BxTxD).reshape(split)
    for it in ('query', 'key', 'value')
  )
  q_BxTxHxd *= split[-1] ** -0.5
  s_BxHxTxT = jnp.einsum('bqhd,bkhd->bhqk', q_BxTxHxd, k_BxTxHxd)
  s_BxHxTxT = jnp.where(mask_BxT[:, None, None], s_BxHxTxT, -jnp.inf)
  p_BxHxTxT = jax.nn.softmax(s_BxHxTxT)
  y_BxTxHxd = jnp.einsum('bhqk,bkhd->bqhd', p_BxHxTxT, v_BxTxHxd)
  return _dense(params, f'{name}.output.dense', y_BxTxHxd.reshape(B, T, D))


def _dense(params, name, x_BxTxI) -> jax.Array:
  y_BxTxO = jnp.einsum('bti,oi->bto', x_BxTxI, params[f'{name}.weight'])
  return y_BxTxO + params[f'{name}.bias'][None, None]


def _norm(params, name, x_BxTxD, *, epsilon) -> jax.Array:
  """LayerNorm."""
  x_BxTxD -= x_BxTxD.mean(axis=2, keepdims=True)
  x_BxTxD *= jax.lax.rsqrt(x_BxTxD.var(axis=2, keepdims=True) + epsilon)
  x_BxTxD *= params[f'{name}.weight'][None, None]
  return x_BxTxD + params[f'{name}.bias'][None, None]
