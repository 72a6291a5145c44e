"""Tiny models, and oracles made from the definitions by another route.

Oracles see per-sequence gradients of jax.grad and explicit forward passes in
numpy; they share no code with taps or curvature.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from influence_jax import losses, sharding, taps, types
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


def rows(batch: types.Batch, at) -> types.Batch:
  return types.Batch(*(x[at] for x in batch))


def mesh(num_devices: int = 1):
  return sharding.make_mesh(data=num_devices)


def loop_gradients(model, params, batch) -> dict[str, np.ndarray]:
  """{name of a layer: g_NxIxO}, one jax.grad a sequence, bias as last input.

  A stack is taken apart: 'blocks/mlp/fc_in' becomes 'blocks/mlp/fc_in[0]', ...
  """

  @jax.jit
  def grad_of(params, row):
    def loss_fn(params):
      outputs = model.apply_fn(params, row.inputs[None])
      targets, mask = row.targets[None], row.mask[None]
      return model.loss.per_sequence(outputs, targets, mask).sum()

    return jax.grad(loss_fn)(params)

  per_row = [
    grad_of(params, types.Batch(*(x[n] for x in batch)))
    for n in range(len(batch.inputs))
  ]
  found = {}
  for path, layer in model.layers.items():
    for at in np.ndindex(*layer.stack):
      name = path + ''.join(f'[{i}]' for i in at)
      found[name] = np.stack([_matrix(g, layer, at) for g in per_row])
  return found


def explicit_arrays(model, params, batch) -> dict[str, tuple]:
  """{path: (a_BxTxI, ds_BxTxO)} of an unrolled model, by a bump of the outputs.

  Layer outputs get zero arrays added, whose gradients are ds; inputs are noted.
  """
  import flax.linen as nn

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
