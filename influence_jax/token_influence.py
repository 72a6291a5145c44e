"""Influence of single tokens of a sequence on a query, App. B of the paper.

With p = (G + damping)^-1 grad log p(query), a token's influence is how fast
something moves as the parameters go along p:

* an output token, its term of the loss reweighted by 1 + eps: the
  log-probability of that target (Eqs. 35-36). Summed over t it is the score.
* an input token, its embedding scaled by 1 + eps ("erased to 0" at eps = -1):
  the derivative of log p(sequence) by eps, <e_t, d log p / d e_t>
  (Eqs. 37-38). These sum to nothing in particular.

Departure: the paper takes finite differences between theta and theta + alpha p;
here both are exact directional derivatives (jvp), and the differences are kept
to be held against them. `contraction.tokenwise` (Eq. 31) splits a score by the
position at which it passes through the layers; here it is by what is predicted,
or by what is read.

Output token t is target t of a batch, input token t is input t, one to its
left. One query at a time: p is as large as the parameters. Functions are pure
and not jitted.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from influence_jax import layer_arrays, taps, types


def direction(
  params: types.PyTree,
  layers: dict[str, types.Layer],
  solved: dict[str, jax.Array],
) -> types.PyTree:
  """p of one query, shaped as params; 0 for parameters of no layer.

  To first order, a step along p makes the query's completion more likely:
  `solved` is of gradients of losses (see types), so p is minus it.

  Args:
    solved: (G + damping)^-1 g, {path: [*stack, I, O]}: one query's share of
      `influence.precondition`.

  Raises:
    ValueError: an array of `solved` is not that of one query.
  """
  return layer_arrays.to_params(
    params, layers, jax.tree.map(jnp.negative, solved)
  )


def output_tokens(
  model: types.Model,
  params: types.PyTree,
  direction: types.PyTree,
  batch: types.Batch,
) -> jax.Array:
  """Influence of every target token [B, T], in nats; the sum is the score.

  One forward pass with tangents. 0 where the mask is.
  """
  return _derivative(_log_p(model, batch), params, direction)


def input_tokens(
  model: types.Model,
  params: types.PyTree,
  direction: types.PyTree,
  batch: types.Batch,
  embedding: str,
) -> jax.Array:
  """Influence of every input token [B, T], in nats.

  One forward and backward pass with tangents. It is not masked: a token whose
  own target does not count (a prompt's) acts on later ones. In a causal model
  padding on the right acts on nothing and gets exactly 0.

  Args:
    embedding: searched (re.search) in the '/'-joined paths of nn.Embed's.

  Raises:
    ValueError: what matches is not one embedding of [B, T] tokens, used once.
  """
  return _derivative(_erasure(model, batch, embedding), params, direction)


def output_tokens_by_difference(
  model: types.Model,
  params: types.PyTree,
  direction: types.PyTree,
  batch: types.Batch,
  alpha: ArrayLike,
) -> jax.Array:
  """`output_tokens` up to O(alpha), by two forward passes (Eq. 36)."""
  return _difference(_log_p(model, batch), params, direction, alpha)


def input_tokens_by_difference(
  model: types.Model,
  params: types.PyTree,
  direction: types.PyTree,
  batch: types.Batch,
  embedding: str,
  alpha: ArrayLike,
) -> jax.Array:
  """`input_tokens` up to O(alpha), by two backward passes (Eq. 38)."""
  fn = _erasure(model, batch, embedding)
  return _difference(fn, params, direction, alpha)


def spread(values_T: ArrayLike) -> jax.Array:
  """||a||_2 / ||a||_1 over the last axis: 1 for one token, 1 / sqrt(T) for all.

  0 where all values are: nothing is concentrated there. It is free of scale.
  """
  size_T = jnp.abs(jnp.asarray(values_T))
  largest_1 = size_T.max(-1, keepdims=True)
  is_zero = largest_1 == 0
  size_T /= jnp.where(is_zero, 1, largest_1)  # else tiny squares are lost
  norms = jnp.sqrt(jnp.square(size_T).sum(-1)), size_T.sum(-1)
  return norms[0] / jnp.where(is_zero[..., 0], 1, norms[1])


def is_sparse(values_T: ArrayLike, threshold: float = 2 / 3) -> jax.Array:
  """Whether so few tokens hold the influence that it may well be an error.

  Sec. 5.3: the ratio is over 2/3. All zeros are not sparse.
  """
  return spread(values_T) > threshold


def _derivative(fn: Callable, params, direction) -> jax.Array:
  return jax.jvp(fn, (params,), (direction,))[1]


def _difference(fn: Callable, params, direction, alpha) -> jax.Array:
  moved = jax.tree.map(lambda x, p: x + alpha * p, params, direction)
  return (fn(moved) - fn(params)) / alpha


def _log_p(model: types.Model, batch: types.Batch) -> Callable:
  """params -> log-probability of every target [B, T], times its mask.

  Each position is handed to the loss as a sequence of one position: a loss is a
  sum over positions, and its own mask keeps padding, NaN or not, out. The
  gradient by the mask is the same, at the same cost, for losses linear in it;
  but it is in the mask's precision, leaves out the mask's weights and lets a
  NaN of the padding through.
  """

  def by_position(*row):
    return model.loss.per_sequence(*(x[:, None] for x in row))

  def log_p(params):
    outputs = model.apply_fn(params, batch.inputs)
    return -jax.vmap(by_position)(outputs, batch.targets, batch.mask)

  return log_p


def _erasure(model: types.Model, batch: types.Batch, embedding: str):
  """params -> d log p / d eps [B, T], by a factor 1 + eps on embeddings."""

  def log_p(eps_BxT, params):
    with taps.scaled_embedding(embedding, eps_BxT):
      outputs = model.apply_fn(params, batch.inputs)
    loss_B = model.loss.per_sequence(outputs, batch.targets, batch.mask)
    return -loss_B.sum()

  # As wide as can be, not as the mask: the result has the dtype of eps.
  eps_BxT = jnp.zeros(batch.mask.shape)
  return functools.partial(jax.grad(log_p), eps_BxT)
