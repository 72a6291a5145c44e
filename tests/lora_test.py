import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import testing
from absl.testing import absltest, parameterized
from flax import traverse_util

from influence_jax import gradients, losses, taps, types
from influence_jax.models import decoder, lora, rope

_SIZES = dict(
  vocab_size=7, width=8, mlp_width=10, num_heads=2, num_kv_heads=1,
  head_dim=4, max_len=8, rope=rope.Rope(100.0, 4),
)  # fmt: skip
_LORA = lora.Lora(rank=3, alpha=4.5, layers=r'attn/q|mlp/(up|down)$|lm_head')
_ADAPTED = {  # I, O, in the order of the model
  'attn/q': (8, 8), 'mlp/up': (8, 10), 'mlp/down': (10, 8), 'lm_head': (8, 7),
}  # fmt: skip
_PAIRS = r'/lora_[ab]$'
_EXPERTS = dict(num_experts=3, num_routed=2)
_IN_EXPERTS = lora.Lora(rank=2, alpha=5.0, layers=r'/(router|experts/\w+)$')


def setUpModule():
  jax.config.update('jax_enable_x64', True)


def tearDownModule():
  jax.config.update('jax_enable_x64', False)


def _net(scan, has_lora=True):
  """One block, or two as a stack that is computed again."""
  return decoder.make(
    **_SIZES, num_layers=1 + scan, scan=scan, remat=scan, dtype='float64',
    o_bias=True, lora=_LORA if has_lora else None,
  )  # fmt: skip


@functools.cache
def _params(scan):
  """In general position: B is not 0."""
  return testing.model_of(_net(scan), jax.ShapeDtypeStruct((1, 8), int))[1]


@functools.cache
def _apply(scan, has_lora):
  net = _net(scan, has_lora)
  return jax.jit(lambda params, tokens: net.apply({'params': params}, tokens))


def _experts_net(has_lora=True):
  """Two blocks as a stack, their MLPs three experts; A and B in these."""
  return decoder.make(
    **_SIZES, **_EXPERTS, num_layers=2, scan=True, remat=True, dtype='float64',
    lora=_IN_EXPERTS if has_lora else None,
  )  # fmt: skip


def _model(scan, pattern):
  return _model_of(_net(scan), _params(scan), pattern)


def _model_of(net, params, pattern):
  def apply_fn(params, inputs):
    return net.apply({'params': params}, inputs)

  tokens = jax.ShapeDtypeStruct((2, 8), int)
  found = taps.find_layers(apply_fn, params, tokens, pattern)
  loss = losses.softmax_cross_entropy
  return types.Model(apply_fn, loss, found.layers)


class _One(nn.Module):
  """One dense layer, with LoRA if its path matches."""

  pattern: str
  dtype: str = 'float64'

  @nn.compact
  def __call__(self, x):
    wide = jnp.promote_types(self.dtype, jnp.float32)
    dense = nn.Dense(5, name='only', dtype=self.dtype, param_dtype=wide)
    return lora.adapt(dense, lora.Lora(2, 3.0, self.pattern))(x)


class LayerTest(parameterized.TestCase):
  def test_its_output_is_that_of_the_equation(self):
    rng = np.random.default_rng(0)
    x, W, b = (
      rng.normal(size=(3, 4)),
      rng.normal(size=(4, 5)),
      rng.normal(size=5),
    )
    A, B = rng.normal(size=(4, 2)), rng.normal(size=(2, 5))
    params = {
      'kernel': W,
      'bias': b,
      'lora_a': {'kernel': A},
      'lora_b': {'kernel': B},
    }
    found = _One('only').apply({'params': {'only': params}}, x)
    wanted = np.zeros((3, 5))
    for n, o in np.ndindex(3, 5):
      wanted[n, o] = b[o]
      for i in range(4):
        delta = sum(A[i, r] * B[r, o] for r in range(2))
        wanted[n, o] += x[n, i] * (W[i, o] + 3.0 / 2 * delta)
    testing.assert_near(self, found, wanted, 1e-12)

  def test_a_starts_gaussian_and_b_at_zero(self):
    x = np.zeros((1, 4000))
    params = _One('only').init(jax.random.key(0), x)['params']['only']
    self.assertEqual(
      jax.tree.map(jnp.shape, params),
      {
        'kernel': (4000, 5),
        'bias': (5,),
        'lora_a': {'kernel': (4000, 2)},
        'lora_b': {'kernel': (2, 5)},
      },
    )
    dtypes = {leaf.dtype for leaf in jax.tree.leaves(params)}
    self.assertEqual(dtypes, {jnp.dtype('float64')})
    self.assertFalse(params['lora_b']['kernel'].any())
    A = np.asarray(params['lora_a']['kernel']) * 4000**0.5
    # 8,000 draws: standard errors 0.011 of the mean, 0.016 and 0.055 of the
    # second and fourth moments, 1 and 3 of a Gaussian (1.8 of a uniform).
    self.assertLess(abs(A.mean()), 0.05)
    self.assertLess(abs((A**2).mean() - 1), 0.07)
    self.assertLess(abs((A**4).mean() - 3), 0.5)

  def test_where_the_pattern_does_not_match_it_is_a_dense_layer(self):
    params = _One('other').init(jax.random.key(0), np.zeros((1, 4)))['params']
    self.assertEqual(set(params['only']), {'kernel', 'bias'})

  def test_of_a_bfloat16_layer_a_and_b_are_kept_wide(self):
    net, x = _One('only', 'bfloat16'), jnp.ones((2, 4), jnp.bfloat16)
    params = net.init(jax.random.key(0), x)['params']
    dtypes = {leaf.dtype for leaf in jax.tree.leaves(params)}
    self.assertEqual(dtypes, {jnp.dtype('float32')})
    self.assertEqual(net.apply({'params': params}, x).dtype, jnp.bfloat16)

  def test_a_rank_of_none_is_refused(self):
    with self.assertRaisesRegex(ValueError, 'rank is 0, expected at least 1'):
      lora.Lora(0, 1.0, '')


class DecoderTest(parameterized.TestCase):
  @parameterized.parameters(('blocks_0', ()), ('blocks', (2,)))
  def test_a_and_b_are_found_by_taps(self, block, stack):
    model = _model(bool(stack), _PAIRS)
    wanted = []
    for name, (num_in, num_out) in _ADAPTED.items():
      name, own = (
        (name, ()) if name == 'lm_head' else (f'{block}/{name}', stack)
      )
      wanted.append((f'{name}/lora_a', num_in, 3, False, own))
      wanted.append((f'{name}/lora_b', 3, num_out, False, own))
    self.assertEqual([tuple(x) for x in model.layers.values()], wanted)

  def test_the_weights_below_are_found_without_a_and_b(self):
    found = _model(False, r'/mlp/\w+$').layers
    names = ('gate', 'up', 'down')
    self.assertEqual([*found], [f'blocks_0/mlp/{name}' for name in names])

  @parameterized.parameters(False, True)
  def test_gradients_by_taps_are_those_of_autodiff(self, scan):
    model, params = _model(scan, _PAIRS + r'|attn/[qo]$'), _params(scan)
    batch = testing.batch(3)
    wanted = testing.loop_gradients(model, params, batch)
    layer_gradients = functools.partial(gradients.layer_gradients, model)
    found = jax.jit(layer_gradients)(params, batch)
    found = testing.split_stacks(model, found)
    self.assertEqual(found.keys(), wanted.keys())
    self.assertLen(wanted, (1 + scan) * 8 + 2)
    for name, g_NxIxO in wanted.items():
      self.assertGreater(np.abs(g_NxIxO).max(), 0, name)
      testing.assert_near(self, found[name], g_NxIxO, what=name)

  @parameterized.parameters(False, True)
  def test_while_b_is_zero_the_logits_are_those_without_to_the_bit(self, scan):
    params, tokens = _params(scan), testing.batch(3).inputs
    wanted = _apply(scan, False)(_without(params), tokens)
    found = _apply(scan, True)(_with_b_zero(params), tokens)
    np.testing.assert_array_equal(found, wanted)
    moved = _apply(scan, True)(params, tokens)
    self.assertGreater(np.abs(moved - wanted).max(), 0.1)

  @parameterized.parameters(False, True)
  def test_merged_into_the_weights_the_logits_are_the_same(self, scan):
    params, tokens = _params(scan), testing.batch(3).inputs
    merged = lora.merge(params, _LORA)
    self.assertEqual(_shapes(merged), _shapes(_without(params)))
    found = _apply(scan, False)(merged, tokens)
    testing.assert_near(self, found, _apply(scan, True)(params, tokens))

  def test_what_is_below_keeps_its_paths_and_shapes(self):
    net = _net(True, has_lora=False)
    shapes = jax.eval_shape(
      net.init, jax.random.key(0), np.zeros((1, 8), np.int32)
    )['params']
    self.assertEqual(_shapes(_without(_params(True))), _shapes(shapes))

  def test_a_tree_is_joined_of_its_parts(self):
    params, others = _params(True), lora.only(_params(True))
    names = traverse_util.flatten_dict(others, sep='/')
    self.assertLen(names, 2 * len(_ADAPTED))
    self.assertTrue(all('/lora_' in name for name in names))
    halves = jax.tree.map(lambda x: x / 2, others)
    joined = lora.join(params, halves)
    self.assertEqual(_shapes(joined), _shapes(params))
    jax.tree.map(np.testing.assert_array_equal, lora.only(joined), halves)
    again = lora.join(_without(params), others)
    jax.tree.map(np.testing.assert_array_equal, again, params)


class ExpertsTest(absltest.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    tokens = jax.ShapeDtypeStruct((1, 8), int)
    _, cls.params = testing.model_of(_experts_net(), tokens)
    cls.model = _model_of(_experts_net(), cls.params, _PAIRS)
    cls.batch = testing.batch(4)
    cls.without = staticmethod(jax.jit(_experts_net(has_lora=False).apply))
    cls.adapted = staticmethod(jax.jit(_experts_net().apply))

  def test_of_each_expert_a_and_b_are_a_layer_each(self):
    sizes = dict(gate=(8, 10), up=(8, 10), down=(10, 8))
    sizes = {f'experts/{name}': size for name, size in sizes.items()}
    wanted = []
    for name, (num_in, num_out) in {'router': (8, 3), **sizes}.items():
      path, stack = f'blocks/mlp/{name}', (2,) if name == 'router' else (2, 3)
      wanted.append((f'{path}/lora_a', num_in, 2, False, stack))
      wanted.append((f'{path}/lora_b', 2, num_out, False, stack))
    self.assertEqual([tuple(x) for x in self.model.layers.values()], wanted)

  def test_the_model_starts_as_the_one_without_to_the_bit(self):
    net, tokens = _experts_net(), self.batch.inputs

    def start(rng):
      params = net.init(rng, tokens)['params']
      return lora.only(params)['blocks']['mlp']['experts']['up']

    up = jax.jit(start)(jax.random.key(0))
    A_6xIxR = np.reshape(up['lora_a']['kernel'], (6, 8, 2))
    self.assertLen(np.unique(A_6xIxR), A_6xIxR.size)  # each expert its own
    self.assertFalse(np.any(up['lora_b']['kernel']))
    plain = self.without({'params': _without(self.params)}, tokens)
    started = self.adapted({'params': _with_b_zero(self.params)}, tokens)
    np.testing.assert_array_equal(started, plain)

  def test_gradients_by_taps_are_those_of_autodiff(self):
    wanted = testing.loop_gradients(self.model, self.params, self.batch)
    layer_gradients = functools.partial(gradients.layer_gradients, self.model)
    found = jax.jit(layer_gradients)(self.params, self.batch)
    found = testing.split_stacks(self.model, found)
    self.assertEqual(found.keys(), wanted.keys())
    self.assertLen(wanted, 2 * 2 * (3 * 3 + 1))
    for name, g_NxIxO in wanted.items():
      self.assertGreater(np.abs(g_NxIxO).max(), 0, name)
      testing.assert_near(self, found[name], g_NxIxO, what=name)

  def test_a_and_b_of_an_expert_see_the_positions_that_are_routed_to_it(self):
    def loss_fn(params):
      outputs = self.model.apply_fn(params, self.batch.inputs)
      return outputs.sum(), None

    def rule(a_BxTxI, ds_BxTxO, mask_BxT, factors):
      del a_BxTxI, ds_BxTxO, factors
      return {'num': mask_BxT.sum()}

    layers, mask_BxT = self.model.layers, jnp.asarray(self.batch.mask, float)
    slots = taps.zeros(layers, lambda _: {'num': jnp.zeros(())})
    stats, _ = jax.jit(
      lambda params: taps.layer_stats(
        loss_fn, params, layers, rule, slots, {}, mask_BxT
      )
    )(self.params)
    for path, layer in layers.items():
      num = np.asarray(stats[path]['num'])
      self.assertEqual(num.shape, layer.stack)
      times = _EXPERTS['num_routed'] if '/experts/' in path else 1
      for num_of_block in num.reshape(2, -1).sum(-1):
        self.assertEqual(num_of_block, times * mask_BxT.sum(), path)

  def test_merged_into_the_weights_the_logits_are_the_same(self):
    tokens = self.batch.inputs
    merged = lora.merge(self.params, _IN_EXPERTS)
    self.assertEqual(_shapes(merged), _shapes(_without(self.params)))
    found = self.without({'params': merged}, tokens)
    wanted = self.adapted({'params': self.params}, tokens)
    testing.assert_near(self, found, wanted)
    unmerged = self.without({'params': _without(self.params)}, tokens)
    self.assertGreater(np.abs(unmerged - wanted).max(), 0.1)


def _with_b_zero(params):
  flat = traverse_util.flatten_dict(params, sep='/')
  zero = {
    path: 0 * x if path.endswith('lora_b/kernel') else x
    for path, x in flat.items()
  }
  return traverse_util.unflatten_dict(zero, sep='/')


def _without(params):
  flat = traverse_util.flatten_dict(params, sep='/')
  kept = {path: x for path, x in flat.items() if '/lora_' not in path}
  return traverse_util.unflatten_dict(kept, sep='/')


def _shapes(params):
  return jax.tree.map(jnp.shape, params)


if __name__ == '__main__':
  absltest.main()
