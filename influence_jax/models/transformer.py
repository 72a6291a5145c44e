"""A decoder-only transformer: pre-LN, learned positions, untied head.

    h = tok_emb[x] + pos_emb
    h += o(attention(q, k, v of LN1(h)));  h += fc_out(gelu(fc_in(LN2(h))))
    logits = lm_head(LN_f(h))

Every projection is its own `nn.Dense`, so taps reach it. Parameters are float32
whatever the computation's dtype (float64 where that is float64); softmax and
the statistics of LayerNorm are float32 or wider. Blocks are `blocks_0`, ... or,
under `scan`, one `blocks` with a leading axis L; `stack_params` and
`unstack_params` lead from one form to the other.
"""

import dataclasses
import inspect
import operator
import re

import flax.linen as nn
import jax
import jax.numpy as jnp

from influence_jax import types

_DTYPES = ('float32', 'bfloat16', 'float64')


@dataclasses.dataclass(frozen=True)
class TransformerConfig:
  """Sizes and ways of a transformer; says what does not fit when made."""

  vocab_size: int  # V
  width: int  # D
  mlp_width: int  # F
  num_heads: int  # H
  num_layers: int  # L
  max_len: int  # the longest T
  dtype: str = 'float32'  # of the computation
  scan: bool = False  # one compiled block for all layers
  remat: bool = False  # activations are computed again in the backward pass

  def __post_init__(self):
    if self.width % self.num_heads:
      raise ValueError(
        f'width {self.width} is no multiple of num_heads {self.num_heads}'
      )
    if self.dtype not in _DTYPES:
      raise ValueError(f'dtype is {self.dtype!r}; there are {_DTYPES}')
    if self.dtype == 'float64' and not jax.config.jax_enable_x64:
      raise ValueError("dtype 'float64' needs jax_enable_x64; turn it on first")


def _wide(dtype: str) -> jnp.dtype:
  return jnp.promote_types(dtype, jnp.float32)


def _dense(
  config: TransformerConfig, width: int, name: str, use_bias: bool = True
) -> nn.Module:
  dtypes = {'dtype': config.dtype, 'param_dtype': _wide(config.dtype)}
  return nn.Dense(width, use_bias, name=name, **dtypes)


def _layer_norm(config: TransformerConfig, name: str) -> nn.Module:
  return nn.LayerNorm(
    epsilon=1e-5,
    use_fast_variance=False,  # E[x^2] - E[x]^2 cancels
    dtype=config.dtype,
    param_dtype=_wide(config.dtype),
    name=name,
  )


class Attention(nn.Module):
  """Causal self-attention; heads are contiguous slices of the width."""

  config: TransformerConfig

  @nn.compact
  def __call__(self, x_BxTxD: jax.Array) -> jax.Array:
    c = self.config
    B, T, D = x_BxTxD.shape
    split = (B, T, c.num_heads, D // c.num_heads)  # d: width of a head
    q_BxTxHxd = _dense(c, D, 'q')(x_BxTxD).reshape(split)
    k_BxTxHxd = _dense(c, D, 'k')(x_BxTxD).reshape(split)
    v_BxTxHxd = _dense(c, D, 'v')(x_BxTxD).reshape(split)
    s_BxHxTxT = jnp.einsum(
      'bqhd,bkhd->bhqk',
      q_BxTxHxd * split[-1] ** -0.5,
      k_BxTxHxd,
      preferred_element_type=_wide(c.dtype),
    )
    past_1x1xTxT = jnp.tril(jnp.ones((1, 1, T, T), bool))
    s_BxHxTxT = jnp.where(past_1x1xTxT, s_BxHxTxT, -jnp.inf)
    p_BxHxTxT = jax.nn.softmax(s_BxHxTxT).astype(c.dtype)
    y_BxTxHxd = jnp.einsum('bhqk,bkhd->bqhd', p_BxHxTxT, v_BxTxHxd)
    return _dense(c, D, 'o')(y_BxTxHxd.reshape(B, T, D))


class Mlp(nn.Module):
  config: TransformerConfig

  @nn.compact
  def __call__(self, x_BxTxD: jax.Array) -> jax.Array:
    h_BxTxF = _dense(self.config, self.config.mlp_width, 'fc_in')(x_BxTxD)
    h_BxTxF = jax.nn.gelu(h_BxTxF, approximate=True)
    return _dense(self.config, self.config.width, 'fc_out')(h_BxTxF)


class Block(nn.Module):
  config: TransformerConfig

  @nn.compact
  def __call__(self, h_BxTxD: jax.Array) -> tuple[jax.Array, None]:
    c = self.config
    h_BxTxD += Attention(c, name='attn')(_layer_norm(c, 'ln1')(h_BxTxD))
    h_BxTxD += Mlp(c, name='mlp')(_layer_norm(c, 'ln2')(h_BxTxD))
    return h_BxTxD, None  # a carry and nothing to stack, as nn.scan wants it


class Transformer(nn.Module):
  config: TransformerConfig

  @nn.compact
  def __call__(self, tokens_BxT: jax.Array) -> jax.Array:
    """Logits [B, T, V] in the computation's dtype."""
    c = self.config
    T = tokens_BxT.shape[1]
    if T > c.max_len:
      raise ValueError(
        f'{T} positions, but max_len is {c.max_len}; cut the sequences'
      )
    dtypes = {'dtype': c.dtype, 'param_dtype': _wide(c.dtype)}
    embed = nn.Embed(c.vocab_size, c.width, name='tok_emb', **dtypes)
    position = nn.Embed(c.max_len, c.width, name='pos_emb', **dtypes)
    h_BxTxD = embed(tokens_BxT) + position(jnp.arange(T)[None])
    h_BxTxD = self._blocks(h_BxTxD)
    h_BxTxD = _layer_norm(c, 'ln_f')(h_BxTxD)
    return _dense(c, c.vocab_size, 'lm_head', use_bias=False)(h_BxTxD)

  def _blocks(self, h_BxTxD: jax.Array) -> jax.Array:
    c = self.config
    block = nn.remat(Block, prevent_cse=not c.scan) if c.remat else Block
    if c.scan:
      block = nn.scan(
        block, {'params': 0}, split_rngs={'params': True}, length=c.num_layers
      )
      return block(c, name='blocks')(h_BxTxD)[0]
    for i in range(c.num_layers):
      h_BxTxD, _ = block(c, name=f'blocks_{i}')(h_BxTxD)
    return h_BxTxD


def make(**config) -> nn.Module:
  """The transformer of `TransformerConfig(**config)`."""
  return Transformer(TransformerConfig(**config))


make.__signature__ = inspect.signature(TransformerConfig)  # names the keys


def stack_params(params: types.PyTree) -> types.PyTree:
  """`blocks_0`, `blocks_1`, ... as one `blocks` with a leading axis L."""
  names = [name for name in params if re.fullmatch(r'blocks_\d+', name)]
  names.sort(key=lambda name: int(name.removeprefix('blocks_')))
  rest = {name: params[name] for name in params if name not in names}
  blocks = [params[name] for name in names]
  stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *blocks)
  return {**rest, 'blocks': stacked}


def unstack_params(params: types.PyTree) -> types.PyTree:
  """The inverse of `stack_params`."""
  blocks = params['blocks']
  tree = {name: params[name] for name in params if name != 'blocks'}
  for i in range(len(jax.tree.leaves(blocks)[0])):
    tree[f'blocks_{i}'] = jax.tree.map(operator.itemgetter(i), blocks)
  return tree
