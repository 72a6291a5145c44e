"""Influence of sequences on queries: definition, sign and scale as in types.

score(q, z) = sum over layers of <(G + damping)^-1 g_q, g_z>, where g is the
gradient of a loss in nats: both of Eq. 25's minus signs are in the two losses.
The queries' side is here, the sequences' side in `contraction`.
Functions are pure and not jitted; each sees one batch.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from influence_jax import gradients, taps, types


def damping_of(
  curvature: types.Curvature,
  layers: dict[str, types.Layer],
  factors: dict[str, types.Factors],
  *,
  relative: float | None = 0.1,
  absolute: float | None = None,
) -> dict[str, jax.Array]:
  """Damping of every layer, {path: [*stack]}, in the unit of G's eigenvalues.

  Args:
    relative: multiple of the layer's mean eigenvalue (the paper's: 0.1).
    absolute: the same number for all layers; give one of the two.

  Raises:
    ValueError: both or neither are given, or the number is negative.
  """
  if (relative is None) == (absolute is None):
    raise ValueError(
      'damping is either relative or absolute: expected one of them, got '
      f'relative={relative} and absolute={absolute}'
    )
  if (number := relative if absolute is None else absolute) < 0:
    raise ValueError(f'damping must not be negative, got {number}')

  def one(layer_factors, unused):
    del unused  # gives the stack's length where there are no factors
    mean = jnp.mean(curvature.eigenvalues(layer_factors))
    return relative * mean if absolute is None else jnp.full_like(mean, number)

  return {
    path: taps.over_stack(layer, one)(factors[path], jnp.zeros(layer.stack))
    for path, layer in layers.items()
  }


def precondition(
  curvature: types.Curvature,
  layers: dict[str, types.Layer],
  factors: dict[str, types.Factors],
  gradients_KxIxO: dict[str, jax.Array],
  damping: dict[str, jax.Array],
  *,
  rotated: bool = False,
) -> dict[str, jax.Array]:
  """(G + damping)^-1 g of every query, {path: [*stack, K, I, O]} (Eq. 21).

  Args:
    rotated: left in the eigenbasis, as `lowrank.truncate` wants it.
  """
  back = _stay if rotated else curvature.unrotate
  return {
    path: taps.over_stack(layer, _preconditioner(curvature, back))(
      factors[path], damping[path], gradients_KxIxO[path]
    )
    for path, layer in layers.items()
  }


def precondition_one(
  curvature: types.Curvature,
  layers: dict[str, types.Layer],
  factors: dict[str, types.Factors],
  vector: dict[str, jax.Array],
  damping: dict[str, jax.Array],
) -> dict[str, jax.Array]:
  """`precondition` of one vector, {path: [*stack, I, O]}."""
  axis = {path: len(layer.stack) for path, layer in layers.items()}
  one = {path: jnp.expand_dims(x, axis[path]) for path, x in vector.items()}
  solved = precondition(curvature, layers, factors, one, damping)
  return {path: x.squeeze(axis[path]) for path, x in solved.items()}


def self_influence(
  curvature: types.Curvature,
  model: types.Model,
  params: types.PyTree,
  factors: dict[str, types.Factors],
  damping: dict[str, jax.Array],
  batch: types.Batch,
) -> dict[str, jax.Array]:
  """g^T (G + damping)^-1 g of each sequence by layer, {path: [*stack, B]}."""

  def rule(a_BxTxI, ds_BxTxO, mask_BxT, given):
    del mask_BxT
    damped_IxO = _damped(curvature, given['factors'], given['damping'])
    rotate = curvature.rotate_tokens or functools.partial(_late, curvature)
    *tokens, rest = rotate(given['factors'], a_BxTxI, ds_BxTxO)

    def one(tokens):
      g_IxO = rest(jnp.einsum('ti,to->io', *tokens))
      return (g_IxO**2 / damped_IxO).sum()

    return {'self': jax.lax.map(one, tuple(tokens))}

  def plain_rule(g_BxIxO, given):
    damped_IxO = _damped(curvature, given['factors'], given['damping'])
    return {'self': jax.vmap(lambda g: (g**2 / damped_IxO).sum())(g_BxIxO)}

  given = {
    path: {'factors': factors[path], 'damping': damping[path]}
    for path in model.layers
  }
  stats = gradients.batch_stats(
    model, params, batch, rule,
    lambda layer: {'self': jnp.zeros(len(batch.inputs))}, given, plain_rule,
  )  # fmt: skip
  return {path: x['self'] for path, x in stats.items()}


def _damped(curvature, factors, damping):
  return curvature.damped(factors, curvature.eigenvalues(factors), damping)


def _late(curvature, factors, a_BxTxI, ds_BxTxO):
  return a_BxTxI, ds_BxTxO, functools.partial(curvature.rotate, factors)


def _stay(factors, rotated_IxO):
  del factors
  return rotated_IxO


def _preconditioner(curvature: types.Curvature, back: Callable) -> Callable:
  def solve(factors, damping, g_KxIxO):
    damped_IxO = _damped(curvature, factors, damping)

    def one(g_IxO):
      return back(factors, curvature.rotate(factors, g_IxO) / damped_IxO)

    return jax.vmap(one)(g_KxIxO)

  return solve
