"""Taps: what a layer saw and how the loss reacts to it, without its storage.

Everything this project computes is a sum over sequences of a small function of
two arrays per dense layer: its inputs a[B, T, I] (a constant 1 appended where
there is a bias) and ds[B, T, O], the gradient of a scalar with respect to its
outputs. A tap is the identity on a layer's output whose backward pass hands a
and ds to a rule; the rule's value is the cotangent of the tap's slot. So
`jax.grad` with respect to slots IS the statistic: weight gradients are never
formed, and no per-token tensor outlives its layer.

Taps enter through flax's method interceptor. Slots, and factors that a rule
needs, ride in the parameters beside the kernel, so nn.scan slices and stacks
them and nn.remat replays them; the model's code is not touched.

A module whose call has an argument `routed_BxT` (an expert, `models.moe`) says
with it which positions the dense layers below it see: rules get a mask of those
alone. At the others its ds must be zero.

Departure from K-FAC's usual hooks: none in the numbers. A layer that a forward
pass uses more than once has a gradient that is a sum over its uses, which rules
for one use get wrong: such layers are found and left out, with the reason. So
are layers whose inputs are not the trailing axes.
"""

import contextlib
import functools
import inspect
import math
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jax.ad_checkpoint import checkpoint_name

from influence_jax import types

DENSE = (nn.Dense, nn.DenseGeneral)
_SLOT, _FACTORS = 'tap_slot', 'tap_factors'
_LOOPS = ('scan', 'while')


class Found(NamedTuple):
  layers: dict[str, types.Layer]  # in the model's order
  left_out: dict[str, str]  # path of a dense layer: why it is not tapped


def find_layers(
  apply_fn: Callable, params: types.PyTree, inputs: Any, pattern: str
) -> Found:
  """The dense layers whose path matches the regular expression `pattern`.

  Args:
    apply_fn: (params, inputs) -> outputs, not jitted.
    params: nested dict of arrays or their shapes.
    inputs: a batch of inputs or its shape.
    pattern: searched (re.search) in '/'-joined paths.

  Raises:
    ValueError: no layer matches; names those that there are.
  """
  seen, jaxpr = _trace(apply_fn, params, inputs)
  uses = dict.fromkeys(seen, 0)
  kernels = {
    path: jnp.shape(x)
    for path, x in traverse_util.flatten_dict(params, sep='/').items()
  }
  layers, left_out = {}, {}
  stacks = {
    path: kernels[f'{path}/kernel'][: -len(shape)]
    for path, (shape, _, _, _) in seen.items()
  }
  # One use has these axes: its output's, and a loop or vmap for each of stack.
  num_axes = {path: len(stacks[path]) + seen[path][3] for path in seen}
  _count_uses(jaxpr, uses, loops=0, num_axes=num_axes)
  for path, (shape, num_inputs, has_bias, _) in seen.items():
    if not re.search(pattern, path):
      left_out[path] = f'does not match {pattern!r}'
    elif num_inputs is None:
      left_out[path] = 'its inputs are not the trailing axes'
    elif kernels[f'{path}/kernel'] != stacks[path] + shape:
      left_out[path] = 'stacked along another axis than the first'
    elif uses[path] != 1:
      left_out[path] = 'used more than once in a forward pass'
    else:
      num_in = math.prod(shape[:num_inputs]) + has_bias
      num_out = math.prod(shape[num_inputs:])
      layers[path] = types.Layer(path, num_in, num_out, has_bias, stacks[path])
  if not layers:
    raise ValueError(
      f'no dense layer can be tapped for the pattern {pattern!r}; the dense '
      f'layers are {left_out or "none at all"}: change the pattern'
    )
  return Found(layers, left_out)


def positions(
  apply_fn: Callable, params: types.PyTree, layers: dict, inputs: Any
) -> dict[str, int]:
  """T of each layer, {path: T}: of a sequence (an image) it sees so many."""
  found = {}

  def note(call, args, kwargs, context):
    y = call(*args, **kwargs)
    path = '/'.join(context.module.path)
    if _is_dense_call(context) and path in layers:
      found[path] = y.size // (len(y) * layers[path].num_out)
    return y

  def forward(params, inputs):
    with nn.intercept_methods(note):
      return apply_fn(params, inputs)

  jax.eval_shape(forward, params, inputs)
  return found


def zeros(layers: dict, init: Callable) -> dict[str, types.Stats]:
  """{path: init(layer)} with the layer's stack axis in front."""
  return {
    path: jax.tree.map(
      lambda x, stack=layer.stack: jnp.zeros((*stack, *x.shape), x.dtype),
      jax.eval_shape(lambda layer=layer: init(layer)),
    )
    for path, layer in layers.items()
  }


def over_stack(layer: types.Layer, fn: Callable) -> Callable:
  """`fn` of one layer's arrays, mapped over its stack axes if it has any."""
  for _ in layer.stack:
    fn = jax.vmap(fn)
  return fn


def layer_stats(
  loss_fn: Callable,
  params: types.PyTree,
  layers: dict[str, types.Layer],
  rule: Callable,
  slots: dict[str, types.Stats],
  factors: dict[str, types.Factors],
  mask_BxT: jax.Array,
) -> tuple[dict[str, types.Stats], Any]:
  """What `rule` makes of every layer's a and ds on one batch, and aux.

  Call it inside the function that is jitted.

  Args:
    loss_fn: params -> (scalar, aux); must call the model outside of any jit.
    params: nested dict.
    layers: of `find_layers`.
    rule: (a_BxTxI, ds_BxTxO, mask_BxT, factors) -> Stats, for one layer.
    slots: shapes of the results, stack axis in front; values are not read.
    factors: {path: what the rule wants to see}, stack axis in front.
    mask_BxT: handed to the rule, times `routed_BxT` if there is one. Of a loss
      of one position a row it is [B]: a row that counts does so at all
      positions that a layer sees of it.

  Raises:
    ValueError: a layer was not reached (its model call is jitted within).
  """

  def tapped_loss(slots):
    reached = set()
    with nn.intercept_methods(_interceptor(layers, rule, mask_BxT, reached)):
      result = loss_fn(_with_taps(params, slots, factors))
    if reached != layers.keys():
      raise ValueError(
        f'taps did not reach {sorted(layers.keys() - reached)}: expected '
        'loss_fn to call the model directly; take any jax.jit out of it'
      )
    return result

  return jax.grad(tapped_loss, has_aux=True)(slots)


@contextlib.contextmanager
def scaled_embedding(pattern: str, eps_BxT: jax.Array) -> Iterator[None]:
  """Within it, the embedding that `pattern` finds is scaled by 1 + eps.

  Open it inside the function being traced, around one call of the model.

  Raises:
    ValueError: what matches is not one embedding of [B, T] tokens, used once.
  """
  uses = []

  def intercept(call, args, kwargs, context):
    y = call(*args, **kwargs)
    # A tied head is `attend`, another method: the token is not its input.
    is_lookup = context.method_name == '__call__'
    if not (isinstance(context.module, nn.Embed) and is_lookup):
      return y
    path, shape = '/'.join(context.module.path), y.shape[:-1]
    uses.append((path, shape))
    if not re.search(pattern, path) or shape != eps_BxT.shape:
      return y
    # Sums over the width are as wide as eps, whatever the model computes in.
    return (y * (1 + eps_BxT[..., None])).astype(y.dtype)

  with nn.intercept_methods(intercept):
    yield
  reached = [use for use in uses if re.search(pattern, use[0])]
  if [tokens for _, tokens in reached] != [eps_BxT.shape]:
    raise ValueError(
      f'{pattern!r} should match one embedding, used once, of tokens '
      f'{eps_BxT.shape}; it matches {reached} of the uses {uses}: change the '
      'pattern, or take any jax.jit out of apply_fn'
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _tap(rule, layer, y, slot, x, factors, mask_BxT, routed_BxT):
  del rule, layer, slot, x, factors, mask_BxT, routed_BxT
  return y


def _tap_forward(rule, layer, y, slot, x, factors, mask_BxT, routed_BxT):
  del rule, layer, slot
  return y, (x, factors, mask_BxT, routed_BxT)


def _tap_backward(rule, layer, residuals, dy):
  x, factors, mask_BxT, routed_BxT = residuals
  # Statistics are float32, or float64 under x64, whatever the model's dtype.
  dtype = jnp.result_type(float)
  num_features = layer.num_in - layer.has_bias
  a_BxTxI = x.reshape(x.shape[0], -1, num_features).astype(dtype)
  if layer.has_bias:
    a_BxTxI = jnp.pad(a_BxTxI, ((0, 0), (0, 0), (0, 1)), constant_values=1)
  ds_BxTxO = dy.reshape(dy.shape[0], -1, layer.num_out).astype(dtype)
  if mask_BxT.ndim == 1:
    mask_BxT = jnp.repeat(mask_BxT[:, None], a_BxTxI.shape[1], axis=1)
  mask_BxT = mask_BxT.reshape(mask_BxT.shape[0], -1).astype(dtype)
  if mask_BxT.shape != a_BxTxI.shape[:2]:
    raise ValueError(
      f'layer {layer.path} sees [sequences, positions] '
      f'{a_BxTxI.shape[:2]}, the mask has {mask_BxT.shape}: give a mask '
      'of the positions that the layer sees'
    )
  if routed_BxT is not None:
    mask_BxT = mask_BxT * routed_BxT
  stats = rule(a_BxTxI, ds_BxTxO, mask_BxT, factors)
  return dy, stats, None, None, None, None


_tap.defvjp(_tap_forward, _tap_backward)


def _interceptor(layers, rule, mask_BxT, reached):
  routed = [None]  # of the modules around a call, the innermost last

  def intercept(call, args, kwargs, context):
    own_BxT = _routed(context, args, kwargs)
    routed.append(routed[-1] if own_BxT is None else own_BxT)
    y = call(*args, **kwargs)
    routed.pop()
    path = '/'.join(context.module.path)
    if not _is_dense_call(context) or path not in layers:
      return y
    slot = context.module.get_variable('params', _SLOT)
    if slot is None:  # another call in loss_fn, with parameters of its own
      return y
    reached.add(path)
    factors = context.module.get_variable('params', _FACTORS)
    x = args[0] if args else kwargs['inputs']
    return _tap(rule, layers[path], y, slot, x, factors, mask_BxT, routed[-1])

  return intercept


def _routed(context, args, kwargs) -> jax.Array | None:
  if context.method_name != '__call__':
    return None
  signature = inspect.signature(context.module.__call__)
  return signature.bind(*args, **kwargs).arguments.get('routed_BxT')


def _is_dense_call(context) -> bool:
  return isinstance(context.module, DENSE) and context.method_name == '__call__'


def _with_taps(params, slots, factors):
  flat = traverse_util.flatten_dict(params, sep='/')
  for path in slots:
    flat[f'{path}/{_SLOT}'] = slots[path]
    flat[f'{path}/{_FACTORS}'] = factors.get(path, {})
  return traverse_util.unflatten_dict(flat, sep='/')


def _trace(apply_fn, params, inputs):
  """{path: (kernel shape, input axes, bias, output axes)} and the jaxpr."""
  seen = {}

  def note(call, args, kwargs, context):
    y = call(*args, **kwargs)
    if not _is_dense_call(context):
      return y
    module, path = context.module, '/'.join(context.module.path)
    if not path:
      raise ValueError('the model is one dense layer: put it in a module')
    shape = module.get_variable('params', 'kernel').shape
    x = args[0] if args else kwargs['inputs']
    num_inputs = _num_input_axes(module, x)
    seen[path] = (shape, num_inputs, module.use_bias, y.ndim)
    return checkpoint_name(y, _use_name(path))

  def forward(params, inputs):  # the interceptor is opened inside the trace
    with nn.intercept_methods(note):
      return apply_fn(params, inputs)

  return seen, jax.make_jaxpr(forward)(params, inputs).jaxpr


def _use_name(path):
  return f'tap:{path}'


def _num_input_axes(module, x) -> int | None:
  if isinstance(module, nn.Dense):
    return 1
  axis = (module.axis,) if isinstance(module.axis, int) else tuple(module.axis)
  axes = [a % x.ndim for a in axis]
  trailing = axes == list(range(x.ndim - len(axes), x.ndim))
  num_batch_dims = np.size(module.batch_dims)  # 0 is the first axis, () is none
  return len(axes) if trailing and not num_batch_dims else None


def _count_uses(jaxpr, uses, loops, num_axes):
  """Counts applications of a kernel; a loop or vmap that shares it is many."""
  names = {_use_name(path): path for path in uses}
  for eqn in jaxpr.eqns:
    path = names.get(eqn.params.get('name'))
    if eqn.primitive.name == 'name' and path is not None:
      axes = loops + eqn.outvars[0].aval.ndim
      uses[path] += 1 if axes <= num_axes[path] else 2
    for param in jax.tree.leaves(tuple(eqn.params.values()), is_leaf=_is_jaxpr):
      if _is_jaxpr(param):
        inner = getattr(param, 'jaxpr', param)
        inner_loops = loops + (eqn.primitive.name in _LOOPS)
        _count_uses(inner, uses, inner_loops, num_axes)


def _is_jaxpr(x) -> bool:
  return hasattr(x, 'eqns') or hasattr(getattr(x, 'jaxpr', None), 'eqns')
