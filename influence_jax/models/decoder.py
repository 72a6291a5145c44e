"""The decoder of pretrained language models, one for all their families.

    h = embedding_scale tok_emb[x] (+ pos_emb)
    h += attn_post_norm(attn(attn_norm(h)));  h += mlp_post_norm(mlp(...(h)))
    logits = cap(final_norm(h) lm_head)

`families.py` says which family has which of these norms and caps; without its
switches this is Llama. Every projection is its own `nn.Dense`, so taps reach
it: `attn/q`, `k`, `v`, `o` and `mlp/gate`, `up`, `down`. A tied head is the
embedding used again and no dense layer: taps leave it out. With experts `mlp`
is `moe.Moe`.

Blocks are `blocks_0`, ... or, under `scan`, one `blocks` with a leading axis L.
Norms, rotations and softmax are float32 or wider. Parameters are initialised
float32 or wider; narrower ones (`pretrained.load`) are used as they are.

Letters beside those of `types`: H = J M heads, J of keys and values and M that
share each; d a head's width; r the pairs that are turned; S kinds of layers,
0 those that see all positions before and 1 those that see a window of them.
"""

import dataclasses
import inspect
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from influence_jax.models import lora as lora_lib
from influence_jax.models import moe
from influence_jax.models import rope as rope_lib

_CHOICES = {
  'norm': ('rms', 'layer'),
  'qk_norm': ('none', 'head', 'width'),
  'activation': ('silu', 'gelu', 'gelu_tanh'),
  'dtype': ('float32', 'bfloat16', 'float64'),
}


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
  """Sizes and ways of a decoder; says what does not fit when made."""

  vocab_size: int  # V
  width: int  # D
  mlp_width: int  # F
  num_heads: int  # H
  num_kv_heads: int  # J
  head_dim: int  # d
  num_layers: int  # L
  max_len: int  # the longest T
  rope: rope_lib.Rope | None = None  # None: learned positions
  local_rope: rope_lib.Rope | None = None  # of sliding layers; None: `rope`
  window: int | None = None  # positions, its own too, that a sliding layer sees
  sliding: tuple[bool, ...] = ()  # of each layer; (): none slides
  norm: str = 'rms'
  epsilon: float = 1e-6  # added to the variance or the mean square
  norm_offset: float = 0.0  # added to the norms' scales: 1 for Gemma
  pre_norm: bool = True
  post_norm: bool = False  # of what attention and MLP add to h
  qk_norm: str = 'none'  # of each head, or of all of q and all of k
  activation: str = 'silu'
  gated: bool = True  # down(activation(gate) up), not down(activation(up))
  num_experts: int = 0  # E, each an MLP of mlp_width; 0: one MLP, no router
  num_routed: int = 0  # k of them that a position goes to
  norm_routed: bool = False  # the weights of these k sum to 1
  qkv_bias: bool = False
  o_bias: bool = False
  mlp_bias: bool = False
  parallel_residual: bool = False  # attention and MLP see the same h
  tied: bool = False  # the head is the embedding
  embedding_scale: float = 1.0
  attention_scale: float | None = None  # None: head_dim ** -0.5
  attention_cap: float | None = None  # x -> cap tanh(x / cap), before softmax
  logit_cap: float | None = None
  lora: lora_lib.Lora | None = None  # beside the dense layers that it finds
  dtype: str = 'float32'  # of the computation
  scan: bool = False  # one compiled block for all layers
  remat: bool = False  # activations are computed again in the backward pass

  def __post_init__(self):
    for name, valid in _CHOICES.items():
      if getattr(self, name) not in valid:
        raise ValueError(
          f'{name} is {getattr(self, name)!r}; there are {valid}'
        )
    if self.num_heads % self.num_kv_heads:
      raise ValueError(
        f'num_heads {self.num_heads} is no multiple of num_kv_heads '
        f'{self.num_kv_heads}'
      )
    if not min(1, self.num_experts) <= self.num_routed <= self.num_experts:
      raise ValueError(
        f'num_routed is {self.num_routed} of num_experts {self.num_experts}; '
        'expected 1 to all of them, or both 0'
      )
    if len(self.sliding) not in (0, self.num_layers):
      raise ValueError(
        f'sliding says it of {len(self.sliding)} layers; expected of all '
        f'{self.num_layers}'
      )
    if any(self.sliding) and not self.window:
      raise ValueError(f'layers slide, but window is {self.window}')
    if self.rope and self.rope.width > self.head_dim:
      raise ValueError(
        f'rope turns {self.rope.width} coordinates of a head of {self.head_dim}'
      )
    if self.dtype == 'float64' and not jax.config.jax_enable_x64:
      raise ValueError("dtype 'float64' needs jax_enable_x64; turn it on first")


class Positions(NamedTuple):
  """What the layers of each kind know of positions."""

  seen: jax.Array  # [S, T, T] bool: the row's position sees the column's
  cos: jax.Array | None  # [S, T, r] float32 or wider; None: learned
  sin: jax.Array | None


def _wide(dtype: str) -> jnp.dtype:
  return jnp.promote_types(dtype, jnp.float32)


def _dense(config: DecoderConfig, width: int, name: str, bias: bool):
  dtypes = {'dtype': config.dtype, 'param_dtype': _wide(config.dtype)}
  dense = nn.Dense(width, bias, name=name, **dtypes)
  return lora_lib.adapt(dense, config.lora)


def _cap(x: jax.Array, cap: float | None) -> jax.Array:
  return x if cap is None else cap * jnp.tanh(x / cap)


class Norm(nn.Module):
  """RMSNorm or LayerNorm of the last axis."""

  config: DecoderConfig

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    c = self.config
    shape, dtype = (1,) * (x.ndim - 1) + x.shape[-1:], _wide(c.dtype)

    def param(name, value):
      init = nn.initializers.constant(value)
      return self.param(name, init, x.shape[-1:], dtype).reshape(shape)

    y = x.astype(dtype)
    if c.norm == 'layer':
      y -= y.mean(-1, keepdims=True)
    y *= jax.lax.rsqrt(jnp.square(y).mean(-1, keepdims=True) + c.epsilon)
    y *= c.norm_offset + param('scale', 1 - c.norm_offset)
    if c.norm == 'layer':
      y += param('bias', 0)
    return y.astype(c.dtype)


class Attention(nn.Module):
  """Causal self-attention; heads are contiguous slices of q, k, v."""

  config: DecoderConfig

  @nn.compact
  def __call__(self, x_BxTxD: jax.Array, positions: Positions) -> jax.Array:
    c = self.config
    B, T, D = x_BxTxD.shape
    J, M = c.num_kv_heads, c.num_heads // c.num_kv_heads

    def split(name, num_heads):
      y = _dense(c, num_heads * c.head_dim, name, c.qkv_bias)(x_BxTxD)
      if c.qk_norm == 'width' and name != 'v':
        y = Norm(c, name=f'{name}_norm')(y)
      y = y.reshape(B, T, num_heads, c.head_dim)
      if c.qk_norm == 'head' and name != 'v':
        y = Norm(c, name=f'{name}_norm')(y)
      if c.rope and name != 'v':
        y = rope_lib.rotate(y, positions.cos, positions.sin)
      return y

    q_BxTxJxMxd = split('q', J * M).reshape(B, T, J, M, c.head_dim)
    k_BxTxJxd, v_BxTxJxd = split('k', J), split('v', J)
    s_BxJxMxTxT = jnp.einsum(
      'bqjmd,bkjd->bjmqk',
      q_BxTxJxMxd * (c.attention_scale or c.head_dim**-0.5),
      k_BxTxJxd,
      preferred_element_type=_wide(c.dtype),
    )
    s_BxJxMxTxT = _cap(s_BxJxMxTxT, c.attention_cap)
    seen_1x1x1xTxT = positions.seen[None, None, None]
    s_BxJxMxTxT = jnp.where(seen_1x1x1xTxT, s_BxJxMxTxT, -jnp.inf)
    p_BxJxMxTxT = jax.nn.softmax(s_BxJxMxTxT).astype(c.dtype)
    y_BxTxJxMxd = jnp.einsum('bjmqk,bkjd->bqjmd', p_BxJxMxTxT, v_BxTxJxd)
    return _dense(c, D, 'o', c.o_bias)(y_BxTxJxMxd.reshape(B, T, -1))


class Mlp(nn.Module):
  config: DecoderConfig

  @nn.compact
  def __call__(
    self, x_BxTxD: jax.Array, routed_BxT: jax.Array | None = None
  ) -> jax.Array:
    """`routed_BxT` is read by taps: of an expert, the positions that count."""
    c = self.config
    activate = {
      'silu': jax.nn.silu,
      'gelu': lambda x: jax.nn.gelu(x, approximate=False),
      'gelu_tanh': lambda x: jax.nn.gelu(x, approximate=True),
    }[c.activation]
    if c.gated:
      gate_BxTxF = _dense(c, c.mlp_width, 'gate', c.mlp_bias)(x_BxTxD)
      up_BxTxF = _dense(c, c.mlp_width, 'up', c.mlp_bias)(x_BxTxD)
      h_BxTxF = activate(gate_BxTxF) * up_BxTxF
    else:
      h_BxTxF = activate(_dense(c, c.mlp_width, 'up', c.mlp_bias)(x_BxTxD))
    return _dense(c, c.width, 'down', c.mlp_bias)(h_BxTxF)


class Block(nn.Module):
  config: DecoderConfig

  @nn.compact
  def __call__(
    self, h_BxTxD: jax.Array, positions: Positions, kind: jax.Array
  ) -> tuple[jax.Array, None]:
    """A carry and nothing to stack, as nn.scan wants it."""
    c = self.config

    def norm(name, x_BxTxD, there):
      return Norm(c, name=name)(x_BxTxD) if there else x_BxTxD

    of_kind = jax.tree.map(lambda x: x[kind], positions)
    x_BxTxD = norm('attn_norm', h_BxTxD, c.pre_norm)
    attn_BxTxD = Attention(c, name='attn')(x_BxTxD, of_kind)
    attn_BxTxD = norm('attn_post_norm', attn_BxTxD, c.post_norm)
    x_BxTxD = h_BxTxD if c.parallel_residual else h_BxTxD + attn_BxTxD
    x_BxTxD = norm('mlp_norm', x_BxTxD, c.pre_norm)
    if c.num_experts:
      mlp_BxTxD = moe.Moe(c, _dense, Mlp, name='mlp')(x_BxTxD)
    else:
      mlp_BxTxD = Mlp(c, name='mlp')(x_BxTxD)
    mlp_BxTxD = norm('mlp_post_norm', mlp_BxTxD, c.post_norm)
    return h_BxTxD + attn_BxTxD + mlp_BxTxD, None


class Decoder(nn.Module):
  config: DecoderConfig

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
    h_BxTxD = embed(tokens_BxT) * c.embedding_scale
    if c.rope is None:
      learned = nn.Embed(c.max_len, c.width, name='pos_emb', **dtypes)
      h_BxTxD += learned(jnp.arange(T)[None])
    h_BxTxD = self._blocks(h_BxTxD)
    h_BxTxD = Norm(c, name='final_norm')(h_BxTxD)
    if c.tied:
      logits_BxTxV = embed.attend(h_BxTxD)
    else:
      logits_BxTxV = _dense(c, c.vocab_size, 'lm_head', False)(h_BxTxD)
    return _cap(logits_BxTxV, c.logit_cap)

  def _blocks(self, h_BxTxD: jax.Array) -> jax.Array:
    c = self.config
    positions = _positions(c, h_BxTxD.shape[1])
    kinds = [int(slides) for slides in c.sliding] or [0] * c.num_layers
    block = nn.remat(Block, prevent_cse=not c.scan) if c.remat else Block
    if c.scan:
      block = nn.scan(
        block,
        {'params': 0},
        split_rngs={'params': True},
        in_axes=(nn.broadcast, 0),
        length=c.num_layers,
      )
      return block(c, name='blocks')(h_BxTxD, positions, jnp.array(kinds))[0]
    for i, kind in enumerate(kinds):
      h_BxTxD, _ = block(c, name=f'blocks_{i}')(h_BxTxD, positions, kind)
    return h_BxTxD


def _positions(config: DecoderConfig, T: int) -> Positions:
  c = config
  seen_TxT = jnp.tril(jnp.ones((T, T), bool))
  seen, ropes = [seen_TxT], [c.rope]
  if any(c.sliding):
    seen.append(seen_TxT & ~jnp.tril(seen_TxT, -c.window))
    ropes.append(c.local_rope or c.rope)
  if c.rope is None:
    return Positions(jnp.stack(seen), None, None)
  tables = [rope_lib.tables(rope, T, _wide(c.dtype)) for rope in ropes]
  cos, sin = (jnp.stack(x) for x in zip(*tables, strict=True))
  return Positions(jnp.stack(seen), cos, sin)


def make(**config) -> nn.Module:
  """The decoder of `DecoderConfig(**config)`."""
  return Decoder(DecoderConfig(**config))


make.__signature__ = inspect.signature(DecoderConfig)  # names the keys
