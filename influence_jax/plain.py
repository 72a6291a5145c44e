"""Parameters that are no dense layer: embeddings, tied heads, norms.

The paper's influence is of MLPs; this is beside it, for those who ask. A plain
parameter's g[I, O] is its gradient of a whole sequence by autodiff, in which
the two uses of a tied head are summed. Its block of G is diag(D),

    D[I, O] = mean over sequences of g^2,

as in `curvature.diagonal`, whatever approximation the dense layers get. O is an
array's last axis and I the product of the others: a norm's scale [D] is 1 x D,
an embedding V x D. It has no positions, hence no scores by token.
"""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import traverse_util

from influence_jax import taps, types

_KEY = 'plain_D'  # of sums and factors: no approximation's own


def find(
  apply_fn: Callable, params: types.PyTree, inputs: Any, pattern: str
) -> dict[str, types.Plain]:
  """The parameters of no dense layer whose path `pattern` finds, in the

  model's order; arguments as those of `taps.find_layers`, but a path is the
  parameter's, as 'tok_emb/embedding'.

  Raises:
    ValueError: none matches, or one of a dense layer does.
  """
  dense, shapes = _trace(apply_fn, params, inputs)
  found = [path for path in shapes if re.search(pattern, path)]
  plain = [path for path in shapes if path.rpartition('/')[0] not in dense]
  if not found or not set(found) <= set(plain):
    raise ValueError(
      f'{pattern!r} should match parameters that are no dense layer, it '
      f'matches {found or "nothing"}; there are {plain}: change the pattern'
    )
  flat = traverse_util.flatten_dict(params, sep='/')
  wholes = {path: jnp.shape(flat[path]) for path in found}
  return {path: _layer(path, wholes[path], shapes[path]) for path in found}


def split(layers: dict[str, types.Layer]) -> tuple[dict, dict]:
  """The dense layers, and the plain ones."""
  plain = {p: x for p, x in layers.items() if isinstance(x, types.Plain)}
  return {p: x for p, x in layers.items() if p not in plain}, plain


def squares(g_BxIxO: jax.Array) -> types.Stats:
  """What a batch adds to the sums of D."""
  return {_KEY: (g_BxIxO**2).sum(0)}


def beside(curvature: types.Curvature) -> types.Curvature:
  """`curvature` for dense layers, diag(D) for plain ones.

  D is summed in the first stage. Where there is none G = I, of both.
  """
  if not curvature.stages:
    return curvature
  names = ('eigenvalues', 'rotate', 'unrotate', 'damped', 'unrotate_sides')
  either = {
    name: _either(getattr(_DIAGONAL, name), fn)
    for name in names
    if (fn := getattr(curvature, name)) is not None
  }
  stages = tuple(
    _stage(stage, sums=stage is curvature.stages[0])
    for stage in curvature.stages
  )
  return curvature._replace(stages=stages, **either)


_DIAGONAL = types.Curvature(
  stages=(),
  eigenvalues=lambda factors: factors[_KEY],
  unrotate_sides=lambda factors, x_RxI, y_RxO: (x_RxI, y_RxO),
)


def _either(plain_fn: Callable, dense_fn: Callable) -> Callable:
  def call(factors, *args):
    return (plain_fn if _KEY in factors else dense_fn)(factors, *args)

  return call


def _stage(stage: types.Stage, sums: bool) -> types.Stage:
  """Taps are of dense layers; `squares` takes a plain one's place."""

  def init(layer):
    if not isinstance(layer, types.Plain):
      return stage.init(layer)
    shape = layer.num_in, layer.num_out
    return {_KEY: jnp.zeros(shape)} if sums else {}

  def finish(factors, sums, counts):
    if _KEY in sums:
      return {_KEY: sums[_KEY] / counts.sequences}
    return factors if _KEY in factors else stage.finish(factors, sums, counts)

  return stage._replace(init=init, finish=finish)


def _trace(apply_fn, params, inputs) -> tuple[set[str], dict[str, tuple]]:
  """Paths of dense layers, and the shape of every parameter in its module."""
  dense, shapes = set(), {}

  def note(call, args, kwargs, context):
    y = call(*args, **kwargs)
    module, path = context.module, context.module.path
    if isinstance(module, taps.DENSE):
      dense.add('/'.join(path))
    for name, x in module.variables.get('params', {}).items():
      if not isinstance(x, Mapping):  # the innermost, without stacks, is first
        shapes.setdefault('/'.join((*path, name)), jnp.shape(x))
    return y

  def forward(params, inputs):
    with nn.intercept_methods(note):
      return apply_fn(params, inputs)

  jax.eval_shape(forward, params, inputs)
  return dense, shapes


def _layer(path: str, whole: tuple, shape: tuple) -> types.Plain:
  stack = whole[: len(whole) - len(shape)]
  if stack + shape != whole:
    raise ValueError(
      f'{path} {whole} is {shape} where it is used: expected a stack along '
      'the first axes; leave it out of the pattern'
    )
  num_out = shape[-1] if shape else 1
  return types.Plain(path, math.prod(shape) // num_out, num_out, False, stack)
