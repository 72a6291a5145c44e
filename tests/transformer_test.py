import pathlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from experiments import parity_case
from influence_jax import losses, models
from influence_jax.models import transformer

_CASE = pathlib.Path(__file__).parents[2] / 'shared' / 'parity' / 'small'
_SIZES = dict(
  vocab_size=13, width=8, mlp_width=12, num_heads=2, num_layers=3, max_len=10
)


def _params(**ways):
  """Parameters that are no zeros or ones, in the form that `ways` make."""
  model = transformer.make(**_SIZES, **ways)
  shapes = jax.eval_shape(model.init, jax.random.key(0), _tokens())['params']
  rng = np.random.default_rng(1)
  return jax.tree.map(
    lambda s: jnp.asarray(0.5 * rng.normal(size=s.shape), s.dtype), shapes
  )


def _logits(model, params, tokens):
  return jax.jit(lambda p, x: model.apply({'params': p}, x))(params, tokens)


def _tokens(length=10):
  return jax.random.randint(jax.random.key(2), (4, length), 0, 13)


def _loss(model, params, tokens):
  logits = model.apply({'params': params}, tokens)
  loss_B = losses.softmax_cross_entropy.per_sequence(
    logits, jnp.roll(tokens, -1, 1), jnp.ones(tokens.shape)
  )
  return loss_B.sum(), logits


def _loss_and_gradient(model, params, tokens):
  loss_fn = jax.value_and_grad(lambda p: _loss(model, p, tokens), has_aux=True)
  return jax.jit(loss_fn)(params)


def _layer_norm(p, x):
  x = x - x.mean(-1, keepdims=True)
  return (
    x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * p['scale'] + p['bias']
  )


def _dense(p, x):
  return x @ p['kernel'] + p.get('bias', 0)


def _oracle(params, tokens):
  """Logits [T, V] of one sequence: numpy, a loop over heads and positions."""
  T = len(tokens)
  h = (
    params['tok_emb']['embedding'][tokens] + params['pos_emb']['embedding'][:T]
  )
  for i in range(_SIZES['num_layers']):
    p = params[f'blocks_{i}']
    x = _layer_norm(p['ln1'], h)
    q, k, v = (_dense(p['attn'][name], x) for name in 'qkv')
    y = np.zeros_like(v)
    for head in (slice(0, 4), slice(4, 8)):
      for t in range(T):
        weights = np.exp(k[: t + 1, head] @ q[t, head] / np.sqrt(4))
        y[t, head] = weights @ v[: t + 1, head] / weights.sum()
    h = h + _dense(p['attn']['o'], y)
    u = _dense(p['mlp']['fc_in'], _layer_norm(p['ln2'], h))
    u = u / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (u + 0.044715 * u**3)))
    h = h + _dense(p['mlp']['fc_out'], u)
  return _dense(params['lm_head'], _layer_norm(params['ln_f'], h))


class ParityTest(parameterized.TestCase):
  @parameterized.parameters({}, {'scan': True}, {'scan': True, 'remat': True})
  def test_it_is_the_model_that_pytorch_trained(self, **ways):
    if not _CASE.exists():
      self.skipTest(f'no parity case in {_CASE}')
    with (
      jax.enable_x64(True),
      np.load(_CASE / 'check.npz', allow_pickle=False) as check,
      np.load(_CASE / 'data.npz', allow_pickle=False) as data,
    ):
      config, params = parity_case.load_parity(_CASE, dtype='float64', **ways)
      model = transformer.Transformer(config)
      forward = jax.jit(lambda x: model.apply({'params': params}, x))
      logits = forward(data['query_x'])
      wanted = check['query_logits_first2_f64']
      np.testing.assert_allclose(logits[:2], wanted, rtol=1e-10, atol=1e-10)
      mask = jnp.ones(data['query_y'].shape)
      loss_B = losses.softmax_cross_entropy.per_sequence(
        logits, jnp.asarray(data['query_y']), mask
      )
      np.testing.assert_allclose(loss_B, check['query_loss_f64'], rtol=1e-10)


class TransformerTest(parameterized.TestCase):
  def test_it_computes_what_its_docstring_says(self):
    tokens = np.asarray(_tokens())
    with jax.enable_x64(True):
      params = _params(dtype='float64')
      model = transformer.make(**_SIZES, dtype='float64')
      logits = _logits(model, params, tokens)
    params = jax.tree.map(np.asarray, params)
    wanted = [_oracle(params, row) for row in tokens]
    np.testing.assert_allclose(logits, wanted, rtol=1e-11, atol=1e-11)

  def test_parameters_lie_where_taps_look_for_them(self):
    params = _params()
    self.assertEqual(
      params['blocks_2']['mlp']['fc_in']['kernel'].shape, (8, 12)
    )
    stacked = _params(scan=True)
    shape = stacked['blocks']['mlp']['fc_in']['kernel'].shape
    self.assertEqual(shape, (3, 8, 12))
    self.assertEqual(set(stacked['blocks']['attn']), {'q', 'k', 'v', 'o'})
    self.assertEqual(set(stacked['lm_head']), {'kernel'})

  def test_a_logit_sees_its_own_token_and_those_before(self):
    params = _params()
    tokens = jnp.arange(10)[None]  # each position has an embedding of its own

    def sums_fn(embedding):
      tree = {**params, 'tok_emb': {'embedding': embedding}}
      logits = transformer.make(**_SIZES).apply({'params': tree}, tokens)
      return (logits[0] ** 2).sum(-1)  # [T]

    embedding = params['tok_emb']['embedding']
    grad_TxVxD = jax.jit(jax.jacobian(sums_fn))(embedding)
    used_TxT = np.abs(grad_TxVxD).max(-1)[:, :10]
    np.testing.assert_array_equal(np.triu(used_TxT, 1), 0)
    self.assertGreater(used_TxT[np.tril_indices(10)].min(), 1e-6)

  @parameterized.parameters(
    {'scan': True}, {'remat': True}, {'scan': True, 'remat': True}
  )
  def test_every_way_of_running_has_the_same_loss_and_gradient(self, **ways):
    with jax.enable_x64(True):
      params = _params(dtype='float64')
      plain = transformer.make(**_SIZES, dtype='float64')
      model = transformer.make(**_SIZES, dtype='float64', **ways)
      (loss, _), grads = _loss_and_gradient(plain, params, _tokens())
      if ways.get('scan'):
        params = transformer.stack_params(params)
        grads = transformer.stack_params(grads)
      (got, _), got_grads = _loss_and_gradient(model, params, _tokens())
      np.testing.assert_allclose(got, loss, rtol=1e-12)
      jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12),
        got_grads,
        grads,
      )

  def test_stacking_and_unstacking_are_inverse(self):
    params = {
      f'blocks_{i}': {'mlp': {'kernel': jnp.full((2, 3), i)}}
      for i in range(11)  # blocks_10 comes after blocks_9
    }
    params['ln_f'] = {'scale': jnp.ones(3)}
    stacked = transformer.stack_params(params)
    self.assertEqual(list(stacked), ['ln_f', 'blocks'])
    kernel = stacked['blocks']['mlp']['kernel']
    np.testing.assert_array_equal(kernel[:, 0, 0], range(11))
    again = transformer.unstack_params(stacked)
    self.assertEqual(jax.tree.structure(again), jax.tree.structure(params))
    jax.tree.map(np.testing.assert_array_equal, again, params)

  def test_bfloat16_is_near_float32_and_keeps_float32_parameters(self):
    params = _params(dtype='bfloat16')
    self.assertEqual(
      {x.dtype for x in jax.tree.leaves(params)}, {jnp.dtype('float32')}
    )
    wide = transformer.make(**_SIZES)
    narrow = transformer.make(**_SIZES, dtype='bfloat16')
    logits = _logits(wide, params, _tokens())
    got = _logits(narrow, params, _tokens())
    self.assertEqual(got.dtype, jnp.bfloat16)
    error = jnp.linalg.norm(got - logits) / jnp.linalg.norm(logits)
    self.assertBetween(error, 1e-5, 0.03)  # 8 bits a number, 3 layers

  def test_softmax_and_layer_norm_of_bfloat16_run_in_float32(self):
    model = transformer.make(**_SIZES, dtype='bfloat16')
    text = str(
      jax.make_jaxpr(lambda p: model.apply({'params': p}, _tokens()))(_params())
    )
    self.assertEmpty(
      [x for x in text.splitlines() if 'bf16' in x and ' exp ' in x]
    )
    self.assertEmpty(
      [x for x in text.splitlines() if 'bf16' in x and ' rsqrt ' in x]
    )
    self.assertIn(' rsqrt ', text)

  @parameterized.parameters(False, True)
  def test_float64_is_float64_all_through(self, scan):
    with jax.enable_x64(True):
      model = transformer.make(**_SIZES, dtype='float64', scan=scan)
      params = _params(dtype='float64', scan=scan)
      self.assertEqual(
        {x.dtype for x in jax.tree.leaves(params)}, {jnp.dtype('float64')}
      )
      text = str(
        jax.make_jaxpr(lambda p: model.apply({'params': p}, _tokens()))(params)
      )
      self.assertNotRegex(text, r'f32\[\d+,')

  def test_padding_on_the_right_changes_nothing_before_it(self):
    model = transformer.make(**_SIZES)
    params, tokens = _params(), _tokens(6)
    padded = jnp.pad(tokens, ((0, 0), (0, 4)))
    short = _logits(model, params, tokens)
    long = _logits(model, params, padded)[:, :6]
    np.testing.assert_allclose(short, long, rtol=1e-5, atol=1e-5)

  @parameterized.parameters(
    ({'num_heads': 3}, 'width 8 is no multiple of num_heads 3'),
    ({'dtype': 'float16'}, "dtype is 'float16'; there are"),
    ({'dtype': 'float64'}, 'needs jax_enable_x64'),
  )
  def test_sizes_that_do_not_fit_are_refused(self, change, message):
    with self.assertRaisesRegex(ValueError, message):
      transformer.make(**{**_SIZES, **change})

  def test_too_long_a_sequence_is_refused(self):
    model = transformer.make(**_SIZES)
    with self.assertRaisesRegex(ValueError, '11 positions, but max_len is 10'):
      _logits(model, {}, jnp.zeros((1, 11), int))


class FindTest(absltest.TestCase):
  def test_a_model_is_found_by_its_name(self):
    model = models.make('transformer', **_SIZES)
    self.assertIsInstance(model, nn.Module)
    self.assertEqual(model.config.width, 8)

  def test_a_model_of_your_own_is_found_by_its_dotted_path(self):
    model = models.make('influence_jax.models.transformer', **_SIZES)
    self.assertEqual(model.config.mlp_width, 12)

  def test_an_unknown_model_lists_those_there_are(self):
    with self.assertRaisesRegex(ValueError, r"'gpt'.*'mlp'.*'transformer'"):
      models.make('gpt')
    with self.assertRaisesRegex(ValueError, "no model 'proj.mine'"):
      models.make('proj.mine')

  def test_a_misspelt_key_lists_the_right_ones(self):
    with self.assertRaisesRegex(ValueError, r"'widht'.*'width'.*'remat'"):
      models.make('transformer', **_SIZES, widht=3)
    with self.assertRaisesRegex(ValueError, "missing.*'vocab_size'"):
      models.make('transformer')


if __name__ == '__main__':
  absltest.main()
