import functools

import jax
import jax.numpy as jnp
import numpy as np
import testing
from absl.testing import absltest, parameterized

from influence_jax import models, taps, types
from influence_jax.models import decoder, rope, transformer

_SIZES = dict(
  vocab_size=7, width=8, mlp_width=10, num_heads=4, num_kv_heads=2,
  head_dim=4, num_layers=2, max_len=8, rope=rope.Rope(100.0, 4),
)  # fmt: skip
_SLIDING = dict(window=3, sliding=(True, False), local_rope=rope.Rope(20.0, 4))
_MLP = ['mlp/gate', 'mlp/up', 'mlp/down']


def setUpModule():
  jax.config.update('jax_enable_x64', True)


def tearDownModule():
  jax.config.update('jax_enable_x64', False)


def _net(**changes):
  return decoder.make(**{**_SIZES, 'dtype': 'float64', **changes})


def _model(pattern='', **changes):
  """The model and parameters, the same numbers stacked or not."""
  scan = changes.pop('scan', False)
  tokens = jax.ShapeDtypeStruct((2, 8), jnp.int32)
  net = _net(**changes, scan=scan)
  model, params = testing.model_of(_net(**changes), tokens, pattern=pattern)
  if not scan:
    return model, params
  params = transformer.stack_params(params)

  def apply_fn(params, inputs):
    return net.apply({'params': params}, inputs)

  found = taps.find_layers(apply_fn, params, tokens, pattern)
  return types.Model(apply_fn, model.loss, found.layers), params


def _loss_and_gradient(model, params, batch):
  def loss_fn(params):
    outputs = model.apply_fn(params, batch.inputs)
    return model.loss.per_sequence(outputs, batch.targets, batch.mask).sum()

  return jax.jit(jax.value_and_grad(loss_fn))(params)


@functools.cache
def _of_sliding(**ways):
  return _loss_and_gradient(*_model(**_SLIDING, **ways), testing.batch(3))


def _tap_gradients(model, params, batch):
  """{path: g_NxIxO}: the gradient of each sequence, by taps."""

  def rule(a_BxTxI, ds_BxTxO, mask_BxT, factors):
    return {'g': jnp.einsum('bti,bto->bio', a_BxTxI, ds_BxTxO)}

  def init(layer):
    return {'g': jnp.zeros((len(batch.ids), layer.num_in, layer.num_out))}

  def loss_fn(params):
    outputs = model.apply_fn(params, batch.inputs)
    loss_B = model.loss.per_sequence(outputs, batch.targets, batch.mask)
    return loss_B.sum(), None

  @jax.jit
  def run(params):
    slots = taps.zeros(model.layers, init)
    return taps.layer_stats(
      loss_fn, params, model.layers, rule, slots, {}, batch.mask
    )[0]

  found = {path: x['g'] for path, x in run(params).items()}
  return testing.split_stacks(model, found)


class TapsTest(parameterized.TestCase):
  def test_the_projections_are_the_layers(self):
    model, _ = _model()
    sizes = dict(q=(8, 16), k=(8, 8), v=(8, 8), o=(16, 8))
    sizes = {f'attn/{name}': size for name, size in sizes.items()}
    sizes |= dict(zip(_MLP, [(8, 10), (8, 10), (10, 8)], strict=True))
    wanted = [
      (f'blocks_{i}/{name}', *size, False, ())
      for i in range(2)
      for name, size in sizes.items()
    ]
    wanted.append(('lm_head', 8, 7, False, ()))
    self.assertEqual([tuple(x) for x in model.layers.values()], wanted)

  def test_the_projections_of_a_stack_are_stacks(self):
    model, _ = _model(
      scan=True, remat=True, qk_norm='head', o_bias=True, mlp_bias=True
    )
    names = ['attn/q', 'attn/k', 'attn/v', 'attn/o', *_MLP]
    wanted = [(f'blocks/{name}', (2,)) for name in names] + [('lm_head', ())]
    found = [(x.path, x.stack) for x in model.layers.values()]
    self.assertEqual(found, wanted)
    biased = [x.path for x in model.layers.values() if x.has_bias]
    self.assertEqual(biased, [f'blocks/{name}' for name in ['attn/o', *_MLP]])

  @parameterized.parameters(True, False)
  def test_the_mlps_are_found_by_their_pattern(self, gated):
    model, _ = _model('/mlp/', gated=gated, post_norm=True)
    names = _MLP if gated else _MLP[1:]
    wanted = [f'blocks_{i}/{name}' for i in range(2) for name in names]
    self.assertEqual([*model.layers], wanted)

  def test_a_tied_head_is_no_layer(self):
    model, params = _model(tied=True)
    self.assertNotIn('lm_head', params)
    self.assertTrue(all(p.startswith('blocks_') for p in model.layers))
    tokens = jnp.zeros((1, 8), jnp.int32)
    with self.assertRaisesRegex(ValueError, "'head'.*are {'blocks_0/attn/q'"):
      taps.find_layers(model.apply_fn, params, tokens, 'head')

  @parameterized.parameters(
    dict(**_SLIDING, qkv_bias=True, tied=True),
    dict(**_SLIDING, scan=True, remat=True, o_bias=True, qk_norm='width'),
    dict(
      norm='layer',
      gated=False,
      parallel_residual=True,
      mlp_bias=True,
      logit_cap=3.0,
      num_layers=1,
    ),
  )
  def test_gradients_by_taps_are_those_of_autodiff(self, **changes):
    model, params = _model(**changes)
    batch = testing.batch(3)
    wanted = testing.loop_gradients(model, params, batch)
    found = _tap_gradients(model, params, batch)
    self.assertEqual(found.keys(), wanted.keys())
    for name, g_NxIxO in wanted.items():
      testing.assert_near(self, found[name], g_NxIxO, what=name)


class DecoderTest(parameterized.TestCase):
  @parameterized.parameters(
    {'scan': True}, {'remat': True}, {'scan': True, 'remat': True}
  )
  def test_every_way_of_running_has_the_same_loss_and_gradient(self, **ways):
    wanted, wanted_grads = _of_sliding()
    found, grads = _of_sliding(**ways)
    if ways.get('scan'):
      wanted_grads = transformer.stack_params(wanted_grads)
    testing.assert_near(self, found, wanted, 1e-12)
    near = functools.partial(testing.assert_near, self)
    jax.tree.map(near, grads, wanted_grads)

  @parameterized.parameters(
    ({}, 8),
    ({'window': 3, 'sliding': (True, True)}, 5),  # two layers, 2 back in each
    ({'window': 2, 'sliding': (True, True)}, 3),
    ({'window': 3, 'sliding': (False, True)}, 8),
    ({'num_layers': 1, 'window': 3, 'sliding': (True,)}, 3),
  )
  def test_a_logit_sees_its_window_of_tokens_before(self, changes, reach):
    model, params = _model(**changes)
    tokens = jnp.arange(7)[None]  # each position has an embedding of its own

    def sums_fn(embedding):
      tree = {**params, 'tok_emb': {'embedding': embedding}}
      return (model.apply_fn(tree, tokens)[0] ** 2).sum(-1)  # [T]

    embedding = params['tok_emb']['embedding']
    grad_TxVxD = jax.jit(jax.jacobian(sums_fn))(embedding)
    used_TxT = np.abs(grad_TxVxD).max(-1) > 0
    distance_TxT = np.arange(7)[:, None] - np.arange(7)[None]
    wanted = (distance_TxT >= 0) & (distance_TxT < reach)
    np.testing.assert_array_equal(used_TxT, wanted)

  def test_queries_share_the_keys_and_values_of_their_group(self):
    grouped, params = _model(num_layers=1)
    single, _ = _model(num_layers=1, num_kv_heads=4)
    attn = dict(params['blocks_0']['attn'])
    for name in 'kv':
      kernel = np.asarray(attn[name]['kernel']).reshape(8, 2, 4)
      attn[name] = {'kernel': kernel.repeat(2, 1).reshape(8, 16)}
    copied = {**params, 'blocks_0': {**params['blocks_0'], 'attn': attn}}
    tokens = testing.batch(2).inputs
    wanted = grouped.apply_fn(params, tokens)
    testing.assert_near(self, single.apply_fn(copied, tokens), wanted)

  def test_rotations_leave_only_distances(self):
    rng = np.random.default_rng(0)
    q, k = rng.normal(size=(2, 1, 1, 1, 6))
    cos, sin = rope.tables(rope.Rope(50.0, 4), 9, jnp.float64)
    q, k = (
      rope.rotate(jnp.tile(x, (1, 9, 1, 1)), cos, sin)[0, :, 0] for x in (q, k)
    )
    scores = np.asarray(q @ k.T)
    for distance in range(-8, 9):
      along = np.diagonal(scores, distance)
      testing.assert_near(self, along, np.full_like(along, along[0]))
    self.assertGreater(np.ptp(scores[0]), 0.1)

  def test_bfloat16_is_near_float32(self):
    changes = dict(**_SLIDING, scan=True)
    _, params = _model(**changes)
    params = jax.tree.map(lambda x: x.astype(jnp.float32), params)
    tokens = testing.batch(4).inputs
    wide = _net(**changes, dtype='float32')
    wide = jax.jit(wide.apply)({'params': params}, tokens)
    narrow = jax.jit(_net(**changes, dtype='bfloat16').apply)
    stored = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
    for tree in (params, stored):
      got = narrow({'params': tree}, tokens)
      self.assertEqual(got.dtype, jnp.bfloat16)
      error = jnp.linalg.norm(got - wide) / jnp.linalg.norm(wide)
      self.assertBetween(error, 1e-5, 0.05)  # 8 bits a number, 2 layers

  def test_softmax_and_norms_of_bfloat16_run_in_float32(self):
    net = _net(dtype='bfloat16', qk_norm='head')
    tokens = testing.batch(1).inputs
    shapes = jax.eval_shape(net.init, jax.random.key(0), tokens)
    lines = str(jax.make_jaxpr(net.apply)(shapes, tokens)).splitlines()
    for name in ('exp', 'rsqrt', 'cos', 'sin'):
      used = [x for x in lines if f' {name} ' in x or f' {name}[' in x]
      self.assertNotEmpty(used, name)
      self.assertEmpty([x for x in used if 'bf16' in x], name)

  def test_float64_is_float64_all_through(self):
    model, params = _model(**_SLIDING, scan=True, qk_norm='head', norm='layer')
    tokens = testing.batch(1).inputs
    text = str(jax.make_jaxpr(model.apply_fn)(params, tokens))
    self.assertNotRegex(text, r'f32\[\d+,')

  @parameterized.parameters(
    ({'num_kv_heads': 3}, 'num_heads 4 is no multiple of num_kv_heads 3'),
    ({'norm': 'batch'}, "norm is 'batch'; there are"),
    ({'activation': 'relu'}, "activation is 'relu'; there are"),
    ({'qk_norm': 'layer'}, "qk_norm is 'layer'; there are"),
    ({'dtype': 'float16'}, "dtype is 'float16'; there are"),
    ({'sliding': (True,), 'window': 3}, 'of 1 layers; expected of all 2'),
    ({'sliding': (True, False)}, 'layers slide, but window is None'),
    ({'rope': rope.Rope(1e4, 6)}, 'turns 6 coordinates of a head of 4'),
  )
  def test_what_does_not_fit_is_refused(self, change, message):
    with self.assertRaisesRegex(ValueError, message):
      _net(**change)

  def test_an_odd_number_of_coordinates_is_refused(self):
    with self.assertRaisesRegex(ValueError, '3 coordinates .* in pairs'):
      rope.Rope(1e4, 3)

  def test_too_long_a_sequence_is_refused(self):
    with self.assertRaisesRegex(ValueError, '9 positions, but max_len is 8'):
      _net().apply({'params': {}}, jnp.zeros((1, 9), int))

  def test_it_is_found_by_its_name(self):
    net = models.make('decoder', **_SIZES)
    self.assertEqual(net.config.mlp_width, 10)


if __name__ == '__main__':
  absltest.main()
