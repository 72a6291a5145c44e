"""Tiny models, and oracles made from the definitions by another route.

Oracles see per-sequence gradients of jax.grad and explicit forward passes in
numpy; they share no code with taps or curvature.
"""

import functools
import re
from unittest import mock

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from influence_jax import fit, fit_step, losses, sharding, taps, types
from influence_jax.models import transformer as transformer_lib

VOCAB = 7
PATTERN = r'/mlp/'


@functools.cache
def transformer(
  scan: bool = False,
  remat: bool = False,
  dtype: str = 'float64',
  pattern: str = PATTERN,
) -> tuple[types.Model, types.PyTree]:
  """A transformer of two blocks (V 7, D 6, F 10) and its parameters.

  Equal for every way of running it, up to the layout of `stack_params`.
  """
  sizes = dict(vocab_size=VOCAB, width=6, mlp_width=10, num_heads=2)
  net = transformer_lib.make(
    **sizes, num_layers=2, max_len=8, scan=scan, remat=remat,
    dtype=dtype,
  )  # fmt: skip
  plain = transformer_lib.make(**sizes, num_layers=2, max_len=8, dtype=dtype)
  tokens = jnp.zeros((1, 8), jnp.int32)
  shapes = jax.eval_shape(plain.init, jax.random.key(0), tokens)['params']
  params = _random_like(shapes)
  if scan:
    params = transformer_lib.stack_params(params)

  def apply_fn(params, inputs):
    return net.apply({'params': params}, inputs)

  found = taps.find_layers(apply_fn, params, tokens, pattern)
  loss = losses.softmax_cross_entropy
  return types.Model(apply_fn, loss, found.layers), params


def batch(num_rows: int = 6, length: int = 8, seed: int = 0) -> types.Batch:
  """Rows of 3 to `length` positions, right-padded with token 0."""
  rng = np.random.default_rng(seed)
  tokens = rng.integers(0, VOCAB, (num_rows, length + 1))
  lengths = rng.integers(3, length + 1, num_rows)
  mask = np.arange(length) < lengths[:, None]
  return types.Batch(
    inputs=np.where(mask, tokens[:, :-1], 0).astype(np.int32),
    targets=np.where(mask, tokens[:, 1:], 0).astype(np.int32),
    mask=mask.astype(np.float32),
    ids=np.arange(num_rows, dtype=np.int32),
  )


class Deep(nn.Module):
  """Four dense layers, two of them a stack, and a causal mean of positions."""

  scan: bool

  @nn.compact
  def __call__(self, x_BxTxI):
    h_BxTxD = nn.Dense(4, name='first', param_dtype=float)(x_BxTxI)
    if self.scan:
      scanned = nn.scan(
        _Mix, {'params': 0}, split_rngs={'params': True}, length=2
      )
      h_BxTxD, _ = scanned(name='blocks')(h_BxTxD)
    else:
      for i in range(2):
        h_BxTxD, _ = _Mix(name=f'blocks_{i}')(h_BxTxD)
    return nn.Dense(3, use_bias=False, name='last', param_dtype=float)(h_BxTxD)


class _Mix(nn.Module):
  @nn.compact
  def __call__(self, h_BxTxD):
    past_TxT = np.tril(np.ones((h_BxTxD.shape[1],) * 2))
    past_TxT /= past_TxT.sum(1, keepdims=True)
    h_BxTxD = jnp.einsum('ts,bsd->btd', past_TxT, jnp.tanh(h_BxTxD))
    return nn.Dense(4, name='mix', param_dtype=float)(h_BxTxD), None


@functools.cache
def deep(scan: bool = False) -> tuple[types.Model, types.PyTree]:
  """`Deep` with a softmax of three classes: compiles in a fraction of the time

  of a transformer, with all that is awkward but attention.
  """
  inputs = jax.ShapeDtypeStruct((1, 2, 5), float)
  model, params = model_of(Deep(scan=False), inputs)
  if not scan:
    return model, params
  params = transformer_lib.stack_params(params)
  net = Deep(scan=True)

  def apply_fn(params, inputs):
    return net.apply({'params': params}, inputs)

  found = taps.find_layers(apply_fn, params, inputs, '')
  return model._replace(apply_fn=apply_fn, layers=found.layers), params


def deep_batch(num_rows: int = 6, length: int = 5, seed: int = 0):
  """Rows of 2 to `length` positions for `deep`; noise stands in the padding."""
  rng = np.random.default_rng(seed)
  lengths = rng.integers(2, length + 1, num_rows)
  mask = np.arange(length) < lengths[:, None]
  return types.Batch(
    inputs=rng.normal(size=(num_rows, length, 5)),
    targets=rng.integers(0, 3, (num_rows, length)).astype(np.int32),
    mask=mask.astype(np.float64),
    ids=np.arange(num_rows, dtype=np.int32),
  )


def model_of(
  net: nn.Module,
  inputs,
  loss: losses.Loss = losses.softmax_cross_entropy,
  pattern: str = '',
) -> tuple[types.Model, types.PyTree]:
  """The model of a flax module, and random parameters of it."""

  def apply_fn(params, inputs):
    return net.apply({'params': params}, inputs)

  shapes = jax.eval_shape(net.init, jax.random.key(0), inputs)['params']
  found = taps.find_layers(apply_fn, shapes, inputs, pattern)
  return types.Model(apply_fn, loss, found.layers), _random_like(shapes)


def rows(batch: types.Batch, at) -> types.Batch:
  return types.Batch(*(x[at] for x in batch))


def mesh(num_devices: int = 1):
  return sharding.make_mesh(data=num_devices)


def loop_gradients(model, params, batch) -> dict[str, np.ndarray]:
  """{name of a layer: g_NxIxO}, one jax.grad a sequence, bias as last input.

  A stack is taken apart: 'blocks/mlp/fc_in' becomes 'blocks/mlp/fc_in[0]', ...
  """
  per_row = row_gradients(model, params, batch)
  found = {}
  for path, layer in model.layers.items():
    for at in np.ndindex(*layer.stack):
      name = path + ''.join(f'[{i}]' for i in at)
      found[name] = np.stack([_matrix(g, layer, at) for g in per_row])
  return found


def row_gradients(model, params, batch) -> list[types.PyTree]:
  """The gradient of each sequence's loss: one jax.grad a sequence."""

  @jax.jit
  def grad_of(params, row):
    def loss_fn(params):
      outputs = model.apply_fn(params, row.inputs[None])
      targets, mask = row.targets[None], row.mask[None]
      return model.loss.per_sequence(outputs, targets, mask).sum()

    return jax.grad(loss_fn)(params)

  return [
    grad_of(params, types.Batch(*(x[n] for x in batch)))
    for n in range(len(batch.inputs))
  ]


def explicit_arrays(model, params, batch) -> dict[str, tuple]:
  """{path: (a_BxTxI, ds_BxTxO)} of an unrolled model, by a bump of the outputs.

  Layer outputs get zero arrays added, whose gradients are ds; inputs are noted.
  """
  noted = {}

  def forward(bumps):
    def note(call, args, kwargs, context):
      y = call(*args, **kwargs)
      path = '/'.join(context.module.path)
      if path not in model.layers or context.method_name != '__call__':
        return y
      noted[path] = args[0]
      return y + bumps[path]

    with nn.intercept_methods(note):
      outputs = model.apply_fn(params, batch.inputs)
    loss_B = model.loss.per_sequence(outputs, batch.targets, batch.mask)
    return loss_B.sum(), dict(noted)

  shape = np.shape(batch.mask)
  bumps = {
    path: jnp.zeros((*shape, layer.num_out))
    for path, layer in model.layers.items()
  }
  ds, inputs = jax.jit(jax.grad(forward, has_aux=True))(bumps)
  found = {}
  for path, layer in model.layers.items():
    a = np.asarray(inputs[path], np.float64)
    if layer.has_bias:
      a = np.concatenate([a, np.ones((*a.shape[:-1], 1))], -1)
    found[path] = (a, np.asarray(ds[path], np.float64))
  return found


def split_stacks(model, per_path: dict) -> dict[str, np.ndarray]:
  """{name: array} of {path: [*stack, ...]}, named as in `loop_gradients`."""
  return {
    path + ''.join(f'[{i}]' for i in at): np.asarray(per_path[path])[at]
    for path, layer in model.layers.items()
    for at in np.ndindex(*layer.stack)
  }


def unrolled_names(per_name: dict) -> dict:
  """'blocks/mlp/fc_in[0]' is called 'blocks_0/mlp/fc_in'; others as before."""
  return {
    re.sub(r'^blocks/(.*)\[(\d+)\]$', r'blocks_\2/\1', name): x
    for name, x in per_name.items()
  }


def factors_of(
  curvature: types.Curvature, layers: dict, arrays: dict, mask
) -> dict[str, types.Factors]:
  """What the curvature's stages make of {path: (a, ds)}, stack axes in front.

  No model and no pass over data: for tests of what is done with factors.
  """
  counts = types.Counts(
    jnp.asarray(float(mask.any(1).sum())), jnp.asarray(float(mask.sum()))
  )

  def of_slice(a_BxTxI, ds_BxTxO):
    factors = {}
    for stage in curvature.stages:
      sums = jax.jit(stage.tap)(a_BxTxI, ds_BxTxO, mask, factors)
      factors = stage.finish(factors, sums, counts)
    return factors

  found = {}
  for path, layer in layers.items():
    a, ds = arrays[path]
    slices = [of_slice(a[at], ds[at]) for at in np.ndindex(*layer.stack)]
    found[path] = jax.tree.map(
      lambda *x, stack=layer.stack: np.stack(x).reshape((*stack, *x[0].shape)),
      *slices,
    )
  return found


def rotated(curvature, layers: dict, factors: dict, P_KxIxO: dict) -> dict:
  """{path: [*stack, K, I, O]} in the eigenbasis."""

  def one_layer(one_factors, P_KxIxO):
    return jax.vmap(lambda P_IxO: curvature.rotate(one_factors, P_IxO))(P_KxIxO)

  return {
    path: taps.over_stack(layer, one_layer)(factors[path], P_KxIxO[path])
    for path, layer in layers.items()
  }


def random_arrays(layers: dict, num_rows: int = 8, length: int = 3):
  """({path: (a, ds)} with stack axes in front, mask): sequences that are long

  and short; `ds` is 0 and `a` noise in the padding.
  """
  rng = np.random.default_rng(5)
  mask = np.arange(length) < rng.integers(1, length + 1, num_rows)[:, None]
  arrays = {}
  for path, layer in layers.items():
    shape = (*layer.stack, num_rows, length)
    a = rng.normal(size=(*shape, layer.num_in))
    if layer.has_bias:
      a[..., -1] = 1
    ds = rng.normal(size=(*shape, layer.num_out)) * mask[..., None]
    arrays[path] = a, ds
  return arrays, mask.astype(float)


def independent_positions() -> tuple[dict, dict, np.ndarray]:
  """(layers, arrays, mask) where K-FAC is exact: 12 sequences of one position

  and 144 of two, each position any of 3 inputs with any of 4 gradients, whose
  signs make positions uncorrelated.
  """
  rng = np.random.default_rng(7)
  inputs, half = rng.normal(size=(3, 3)), rng.normal(size=(2, 2))
  signed = np.concatenate([half, -half])
  one = np.array([*np.ndindex(3, 4)])  # [12, 2]: which input, which gradient
  first, second = np.divmod(np.arange(144), 12)
  which = np.concatenate(
    [np.stack([one, one[::-1]], 1), np.stack([one[first], one[second]], 1)]
  )
  mask = np.ones((156, 2))
  mask[:12, 1] = 0
  a, ds = inputs[which[..., 0]], signed[which[..., 1]] * mask[..., None]
  layers = {'dense': types.Layer('dense', 3, 2, False)}
  return layers, {'dense': (a, ds)}, mask


def assert_near(test, got, wanted, rtol=1e-9, what=''):
  """max |difference| <= rtol max |wanted|: free of scale, strict at zero."""
  got, wanted = np.asarray(got), np.asarray(wanted)
  test.assertEqual(got.shape, wanted.shape, what)
  error = np.abs(got - wanted).max() / max(np.abs(wanted).max(), 1e-300)
  test.assertLessEqual(error, rtol, what)


def _matrix(gradient, layer, at):
  flat = traverse_util.flatten_dict(gradient, sep='/')
  kernel = np.asarray(flat[f'{layer.path}/kernel'])[at]
  kernel = kernel.reshape(-1, layer.num_out)
  if not layer.has_bias:
    return kernel
  bias = np.asarray(flat[f'{layer.path}/bias'])[at].reshape(1, -1)
  return np.concatenate([kernel, bias])


def _random_like(shapes):
  """Parameters in general position: no bias is 0 and no scale is 1.

  By numpy: compiling flax's initialisers takes longer than all else. The same
  numbers for every dtype.
  """
  rng = np.random.default_rng(0)
  flat = {
    path: (path[-1] == 'scale') + 0.4 * rng.normal(size=x.shape)
    for path, x in traverse_util.flatten_dict(shapes).items()
  }
  random = traverse_util.unflatten_dict(flat)
  return jax.tree.map(
    lambda x, like: jnp.asarray(x, like.dtype), random, shapes
  )


def fitted(
  curvature: types.Curvature,
  model: types.Model,
  params: types.PyTree,
  batches: list[types.Batch],
  *,
  targets: str = 'data',
  devices: int = 1,
  **ways,
) -> fit.FitState:
  """The state that `fit.fit` makes of a list of batches."""
  return fit.fit(
    curvature, model, params, len(batches), batches.__getitem__,
    jax.random.key(0), mesh=mesh(devices), targets=targets, quiet=True, **ways,
  )  # fmt: skip


def steps_made_once():
  """A patch of `fit`: fits of one model share their compiled steps.

  A step hangs on the model, a stage's tap, the mesh and the targets alone.
  """
  make_step, made = fit_step.make, {}

  def once(model, stage, mesh, targets):
    layers = tuple(model.layers.items())
    key = (model.apply_fn, model.loss, layers, stage.tap, mesh, targets)
    if key not in made:
      made[key] = make_step(model, stage, mesh, targets)
    return made[key]

  return mock.patch.object(fit_step, 'make', once)
