"""Losses of one sequence, and pseudo-targets drawn from the model.

A loss is the sum over a sequence's positions, in nats, so the log-probability
of a completion is `-per_sequence(outputs, targets, mask)` with the mask 1 at
the completion's tokens. `sample` draws the targets that make the Gauss-Newton
matrix a Fisher matrix (Grosse et al. 2023, Eq. 11): what a sequence draws hangs
on `rng` and its id alone, and what position t draws does not hang on the padded
length, so no choice of batches, buckets or restarts changes a draw.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

_BLOCK = 128  # tokens a block in the search for a sampled token


class Loss(NamedTuple):
  """What the model's outputs mean. Both are float32 or wider inside."""

  per_sequence: Callable[..., jax.Array]  # (outputs, targets, mask) -> loss_B
  sample: Callable[..., jax.Array]  # (rng, outputs, ids_B) -> targets


def _wide(x: jax.Array) -> jax.Array:
  """Float32 at least: sums over the vocabulary do not survive bfloat16."""
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _sum_masked(losses: jax.Array, mask: jax.Array) -> jax.Array:
  """Sums [B, T] or [B] over all axes but the first; padding adds nothing."""
  kept = jnp.where(mask > 0, losses * mask, 0)  # a NaN in padding stays there
  return kept.sum(range(1, kept.ndim))


def _draw(distribution: Any, rng: Any, ids_B: Any, like: Any) -> jax.Array:
  """Numbers in the shape of `like`, each sequence's from a key of its own.

  The bits of `jax.random` are those of a counter (jax_threefry_partitionable),
  so a longer sequence begins with the draws of a shorter one.
  """
  keys = jax.vmap(jax.random.fold_in, (None, 0))(rng, ids_B)
  draw = functools.partial(distribution, shape=like.shape[1:], dtype=like.dtype)
  return jax.vmap(draw)(keys)


def _cross_entropy(logits: Any, targets: Any, mask: Any) -> jax.Array:
  """Loss [B] of targets [B, T] or [B] under logits with a last axis V."""
  logits = _wide(logits)
  picked = jnp.take_along_axis(logits, targets[..., None], -1)[..., 0]
  return _sum_masked(jax.nn.logsumexp(logits, -1) - picked, mask)


def _invert_cdf(uniform: jax.Array, logits: jax.Array) -> jax.Array:
  """The first token whose cumulative probability reaches uniform, in (0, 1].

  First the block of tokens is found, then the token in it, so the vocabulary is
  read once and only a block's probabilities are ever accumulated. On CPU this
  costs little more than a logsumexp; Gumbel noise costs thirty times that.
  """
  ones = (1,) * (logits.ndim - 1)
  peak = logits.max(-1, keepdims=True)
  blocks = jax.lax.reduce_window(  # sums; the last block may be shorter
    jnp.exp(logits - peak),
    logits.dtype.type(0),
    jax.lax.add,
    window_dimensions=(*ones, _BLOCK),
    window_strides=(*ones, _BLOCK),
    padding=((0, 0),) * len(ones) + ((0, -logits.shape[-1] % _BLOCK),),
  )
  cdf = jnp.cumsum(blocks, -1)
  goal = uniform[..., None] * cdf[..., -1:]
  block = (cdf < goal).sum(-1, keepdims=True)
  before = jnp.take_along_axis(cdf, jnp.maximum(block - 1, 0), -1)
  goal -= jnp.where(block > 0, before, 0)
  tokens = block * _BLOCK + jnp.arange(_BLOCK).reshape(*ones, _BLOCK)
  inside = jnp.take_along_axis(
    logits, tokens, -1, mode='fill', fill_value=-jnp.inf
  )
  cdf = jnp.cumsum(jnp.exp(inside - peak), -1)
  # Rounding must not push the goal past the end, onto a token of no probability
  reached = cdf >= jnp.minimum(goal, cdf[..., -1:])
  return block[..., 0] * _BLOCK + reached.argmax(-1)


def _sample_tokens(rng: Any, logits: Any, ids_B: Any) -> jax.Array:
  """One token a position, int32 [B, T] or [B], by one uniform number each."""
  logits = _wide(jax.lax.stop_gradient(logits))
  uniform = _draw(jax.random.uniform, rng, ids_B, logits[..., 0])
  return _invert_cdf(1 - uniform, logits).astype(jnp.int32)


def _squared_error(outputs: Any, targets: Any, mask: Any) -> jax.Array:
  """1/2 ||y - yhat||^2: the nats of N(yhat, 1), its constant left out."""
  outputs = _wide(outputs)
  return _sum_masked(0.5 * jnp.square(targets - outputs).sum(-1), mask)


def _sample_normal(rng: Any, outputs: Any, ids_B: Any) -> jax.Array:
  """Values from N(outputs, 1)."""
  outputs = _wide(jax.lax.stop_gradient(outputs))
  return outputs + _draw(jax.random.normal, rng, ids_B, outputs)


def _bernoulli(outputs: Any, targets: Any, mask: Any) -> jax.Array:
  """-log p of targets 0 or 1 under logits of the same shape."""
  outputs = _wide(outputs)
  nats = jax.nn.softplus(outputs) - targets * outputs
  return _sum_masked(nats.sum(-1), mask)


def _sample_bernoulli(rng: Any, outputs: Any, ids_B: Any) -> jax.Array:
  outputs = _wide(jax.lax.stop_gradient(outputs))
  uniform = _draw(jax.random.uniform, rng, ids_B, outputs)
  return (uniform < jax.nn.sigmoid(outputs)).astype(outputs.dtype)


def bregman(
  loss: Loss, outputs: Any, anchors: Any, targets: Any, mask: Any
) -> jax.Array:
  """How far outputs are from `anchors` in the loss's own measure [B], Eq. 8.

  D = L(y) - L(y') - grad L(y')^T (y - y'), nats, a sum over positions. For a
  softmax KL(p' || p), for a squared error 1/2 ||y - y'||^2: targets drop out.
  It is small where all three terms are not: ask for float64.
  """

  def per_sequence(outputs):
    return loss.per_sequence(outputs, targets, mask)

  near_B, slope_B = jax.jvp(per_sequence, (anchors,), (outputs - anchors,))
  return per_sequence(outputs) - near_B - slope_B


# outputs: logits [B, T, V] or [B, V]; targets int32, mask [B, T] or [B]
softmax_cross_entropy = Loss(_cross_entropy, _sample_tokens)
# outputs, targets: [B, O]; mask [B]
squared_error = Loss(_squared_error, _sample_normal)
# outputs: logits [B, O]; targets 0 or 1 of the same shape; mask [B]
bernoulli = Loss(_bernoulli, _sample_bernoulli)
