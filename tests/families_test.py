import dataclasses
import functools
import json
import math
import pathlib
import shutil
import tempfile
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from experiments import families as binary
from influence_jax import pretrained
from influence_jax.models import decoder, families, rope

_FOLDER = pathlib.Path(__file__).parent / 'families'
_CASES = sorted(path.parent.name for path in _FOLDER.glob('*/expected.npz'))
_SCANNED = [
  'gemma2', 'gemma3_text', 'gpt2', 'gpt_neox', 'olmoe', 'qwen2_sliding',
]  # fmt: skip
_PROMPT = 12  # tokens; transformers went on by itself from there
_OLD = {  # the fixture's config.json as transformers 4 wrote it: changed keys
  'llama': {'rope_theta': 1e4, 'rope_scaling': None, 'torch_dtype': 'float32'},
  'llama_linear': {
    'rope_theta': 100.0,
    'rope_scaling': {'type': 'linear', 'factor': 3.0},
  },
  'llama_llama3': {
    'rope_theta': 100.0,
    'rope_scaling': {
      'rope_type': 'llama3',
      'factor': 8.0,
      'low_freq_factor': 1.0,
      'high_freq_factor': 4.0,
      'original_max_position_embeddings': 32,
    },
  },
  'qwen2_sliding': {'rope_theta': 1e4, 'layer_types': None},
  'olmoe': {'rope_theta': 1e4, 'rope_scaling': None},
  'qwen3_moe': {
    'rope_theta': 1e4,
    'num_local_experts': None,
    'num_experts': 5,
    'max_window_layers': 1,
  },
  'gpt_neox': {'rotary_pct': 0.5, 'rotary_emb_base': 100},
  'gemma2': {'rope_theta': 1e4, 'layer_types': None, 'tie_word_embeddings': 1},
  'gemma3_text': {
    'rope_theta': 1e3,
    'rope_local_base_freq': 50.0,
    'rope_scaling': {'rope_type': 'linear', 'factor': 2.0},
    'layer_types': None,
    'sliding_window_pattern': 2,
  },
}
_PUBLISHED = {  # keys of config.json on the hub, and the number of parameters
  'SmolLM2-135M': (134_515_008, {
    'model_type': 'llama', 'vocab_size': 49152, 'hidden_size': 576,
    'intermediate_size': 1536, 'num_attention_heads': 9,
    'num_key_value_heads': 3, 'num_hidden_layers': 30,
    'max_position_embeddings': 8192, 'rms_norm_eps': 1e-5,
    'hidden_act': 'silu', 'rope_theta': 100000, 'rope_scaling': None,
    'rope_interleaved': False, 'is_llama_config': True,
    'tie_word_embeddings': True, 'pretraining_tp': 1,
    'transformers.js_config': {'dtype': 'q4'},
  }),
  'Qwen2.5-0.5B': (494_032_768, {
    'model_type': 'qwen2', 'vocab_size': 151936, 'hidden_size': 896,
    'intermediate_size': 4864, 'num_attention_heads': 14,
    'num_key_value_heads': 2, 'num_hidden_layers': 24,
    'max_position_embeddings': 32768, 'rms_norm_eps': 1e-6,
    'hidden_act': 'silu', 'rope_theta': 1e6, 'tie_word_embeddings': True,
    'use_sliding_window': False, 'sliding_window': 32768,
    'max_window_layers': 24,
  }),
  'Qwen3-30B-A3B': (30_532_122_624, {
    'model_type': 'qwen3_moe', 'vocab_size': 151936, 'hidden_size': 2048,
    'intermediate_size': 6144, 'num_attention_heads': 32,
    'num_key_value_heads': 4, 'num_hidden_layers': 48, 'head_dim': 128,
    'max_position_embeddings': 40960, 'rms_norm_eps': 1e-6,
    'hidden_act': 'silu', 'rope_theta': 1e6, 'rope_scaling': None,
    'use_sliding_window': False, 'sliding_window': None,
    'max_window_layers': 48, 'decoder_sparse_step': 1, 'mlp_only_layers': [],
    'moe_intermediate_size': 768, 'num_experts': 128, 'num_experts_per_tok': 8,
    'norm_topk_prob': True, 'router_aux_loss_coef': 0.001,
    'output_router_logits': False, 'tie_word_embeddings': False,
  }),
  'OLMoE-1B-7B': (6_919_161_856, {
    'model_type': 'olmoe', 'vocab_size': 50304, 'hidden_size': 2048,
    'intermediate_size': 1024, 'num_attention_heads': 16,
    'num_key_value_heads': 16, 'num_hidden_layers': 16,
    'max_position_embeddings': 4096, 'rms_norm_eps': 1e-5,
    'hidden_act': 'silu', 'rope_theta': 10000.0, 'rope_scaling': None,
    'clip_qkv': None, 'num_experts': 64, 'num_experts_per_tok': 8,
    'norm_topk_prob': False, 'router_aux_loss_coef': 0.01,
    'output_router_logits': False, 'tie_word_embeddings': False,
  }),
  'pythia-160m': (162_322_944, {
    'model_type': 'gpt_neox', 'vocab_size': 50304, 'hidden_size': 768,
    'intermediate_size': 3072, 'num_attention_heads': 12,
    'num_hidden_layers': 12, 'max_position_embeddings': 2048,
    'layer_norm_eps': 1e-5, 'hidden_act': 'gelu', 'rotary_pct': 0.25,
    'rotary_emb_base': 10000, 'use_parallel_residual': True,
    'tie_word_embeddings': False,
  }),
  'gpt2': (124_439_808, {
    'model_type': 'gpt2', 'vocab_size': 50257, 'n_embd': 768, 'n_head': 12,
    'n_layer': 12, 'n_positions': 1024, 'n_ctx': 1024,
    'layer_norm_epsilon': 1e-5, 'activation_function': 'gelu_new',
    'resid_pdrop': 0.1, 'summary_type': 'cls_index',
  }),
  'gemma-2-2b': (2_614_341_888, {
    'model_type': 'gemma2', 'vocab_size': 256000, 'hidden_size': 2304,
    'intermediate_size': 9216, 'num_attention_heads': 8,
    'num_key_value_heads': 4, 'num_hidden_layers': 26, 'head_dim': 256,
    'max_position_embeddings': 8192, 'rms_norm_eps': 1e-6,
    'hidden_act': 'gelu_pytorch_tanh',
    'hidden_activation': 'gelu_pytorch_tanh', 'query_pre_attn_scalar': 256,
    'sliding_window': 4096, 'attn_logit_softcapping': 50.0,
    'final_logit_softcapping': 30.0, 'cache_implementation': 'hybrid',
  }),
}  # fmt: skip


def _json(name):
  return json.loads((_FOLDER / name / 'config.json').read_text())


def _expected(name):
  with np.load(_FOLDER / name / 'expected.npz', allow_pickle=False) as file:
    return file['tokens'], file['logits']


@functools.cache
def _logits_fn(name, scan=False):
  config, params = pretrained.load(_FOLDER / name, scan=scan)
  net = decoder.Decoder(config)
  return functools.partial(
    jax.jit(lambda params, x: net.apply({'params': params}, x)), params
  )


class ParityTest(parameterized.TestCase):
  def test_every_family_is_compared(self):
    types = {_json(name)['model_type'] for name in _CASES}
    self.assertEqual(types, set(families.FAMILIES))

  @parameterized.parameters(
    *[(name, False) for name in _CASES], *[(name, True) for name in _SCANNED]
  )
  def test_logits_are_those_of_transformers(self, name, scan):
    tokens, wanted = _expected(name)
    got = _logits_fn(name, scan)(tokens)
    self.assertEqual(got.dtype, jnp.float32)
    error = np.abs(got - wanted).max()
    self.assertLess(error, 1e-4)

  @parameterized.parameters(*_CASES)
  def test_greedy_continuations_are_those_of_transformers(self, name):
    tokens, _ = _expected(name)
    found = tokens.copy()
    found[:, _PROMPT:] = 0
    for t in range(_PROMPT, tokens.shape[1]):
      found[:, t] = _logits_fn(name)(found)[:, t - 1].argmax(-1)
    np.testing.assert_array_equal(found, tokens)


class ResultTest(absltest.TestCase):
  def test_the_binary_finds_a_logit_and_a_token_that_differ(self):
    root = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    shutil.copy(_FOLDER / 'versions.json', root)
    for name in 'logit', 'token':
      shutil.copytree(_FOLDER / 'llama_linear', root / name)
    tokens, logits = _expected('llama_linear')
    one = np.zeros_like(logits)
    one[1, 3, 5] = 0.25
    np.savez(
      root / 'logit' / 'expected.npz', tokens=tokens, logits=logits + one
    )
    other = tokens.copy()
    other[1, -1] = (other[1, -1] + 1) % 61
    np.savez(root / 'token' / 'expected.npz', tokens=other, logits=logits)
    self.enterContext(mock.patch.object(binary, 'FOLDER', root))
    binary.run(root / 'workdir')
    result = json.loads((root / 'workdir' / 'families.json').read_text())
    self.assertEqual(result['made_with']['transformers'], '5.24.0')
    logit, token = result['cases']
    self.assertEqual((logit['case'], logit['model_type']), ('logit', 'llama'))
    self.assertTrue(logit['same_greedy_tokens'])
    self.assertFalse(token['same_greedy_tokens'])
    self.assertEqual([*logit['largest_difference']], ['float32', 'float64'])
    for difference in logit['largest_difference'].values():
      self.assertAlmostEqual(difference, 0.25, delta=1e-4)
    wide = token['largest_difference']['float64']
    self.assertGreater(wide, 0.01)

  def test_every_checkpoint_has_a_small_figure_in_results_and_docs(self):
    root = _FOLDER.parents[1]
    result = json.loads((root / 'results' / 'families.json').read_text())
    found = {case['case']: case for case in result['cases']}
    self.assertEqual(sorted(found), _CASES)
    docs = (root / 'docs' / 'pretrained.md').read_text()
    for name, case in found.items():
      self.assertEqual(case['model_type'], _json(name)['model_type'])
      self.assertTrue(case['same_greedy_tokens'], name)
      for dtype, difference in case['largest_difference'].items():
        self.assertLess(difference, 1e-4, (name, dtype))
      figure = f'{case["largest_difference"]["float32"]:.1e}'
      row = rf'\| `{case["model_type"]}` \| `{name}` \|.*\| {figure} \|'
      self.assertRegex(docs, row)


class ConfigTest(parameterized.TestCase):
  @parameterized.parameters(*_OLD)
  def test_transformers_4_says_the_same(self, name):
    new, changes = _json(name), _OLD[name]
    old = {k: v for k, v in new.items() if k != 'rope_parameters'} | changes
    self.assertEqual(families.config(old), families.config(new))

  @parameterized.parameters(*_PUBLISHED)
  def test_a_published_model_has_as_many_parameters_as_published(self, name):
    wanted, config_json = _PUBLISHED[name]
    net = decoder.Decoder(families.config(config_json, scan=True))
    shapes = jax.eval_shape(
      net.init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32)
    )
    found = sum(math.prod(x.shape) for x in jax.tree.leaves(shapes['params']))
    self.assertEqual(found, wanted)

  def test_what_may_be_left_out_has_the_familys_default(self):
    left_out = {
      'llama': ['num_key_value_heads', 'head_dim', 'rope_parameters'],
      'qwen3': ['head_dim'],
      'gemma3_text': ['rope_parameters', 'tie_word_embeddings'],
      'gpt2': ['tie_word_embeddings', 'n_inner'],
      'gpt_neox': ['rope_parameters', 'use_parallel_residual'],
    }
    found = {}
    for name, keys in left_out.items():
      kept = {k: v for k, v in _json(name).items() if k not in keys}
      found[name] = families.config(kept)
    llama = found['llama']
    self.assertEqual((llama.num_kv_heads, llama.head_dim), (4, 4))
    self.assertEqual(llama.rope, rope.Rope(1e4, 4))
    self.assertFalse(llama.tied)
    self.assertEqual(found['qwen3'].head_dim, 128)
    self.assertTrue(found['gemma3_text'].tied)
    self.assertEqual(found['gemma3_text'].rope, rope.Rope(1e6, 8))
    self.assertEqual(found['gemma3_text'].local_rope, rope.Rope(1e4, 8))
    self.assertTrue(found['gpt2'].tied)
    self.assertEqual(found['gpt2'].mlp_width, 64)
    self.assertEqual(found['gpt_neox'].rope, rope.Rope(1e4, 2))
    self.assertTrue(found['gpt_neox'].parallel_residual)

  def test_the_ways_of_running_are_ours(self):
    found = families.config(_json('qwen2'), dtype='bfloat16', scan=True)
    plain = families.config(_json('qwen2'))
    ways = dict(dtype='bfloat16', scan=True)
    self.assertEqual(found, dataclasses.replace(plain, **ways))

  def test_mistral_without_a_window_sees_all(self):
    found = families.config({**_json('mistral'), 'sliding_window': None})
    self.assertEqual((found.window, any(found.sliding)), (None, False))

  @parameterized.parameters(
    ({'model_type': 'mamba'}, r"'mamba'; there are \['llama', .*'gpt2'"),
    ({'model_type': None}, 'None; there are'),
    ({'hidden_act': 'relu2'}, "'relu2'; there are .*'gelu_new'"),
    ({'quantization_config': {'bits': 4}}, "'quantization_config'.* nothing"),
    ({'clip_qkv': 8.0}, "'clip_qkv': 8.0.*take it out"),
    ({'rope_scaling': {'type': 'dynamic', 'factor': 2.0}}, "'dynamic'.*'yarn'"),
    ({'rope_scaling': {'rope_type': 'longrope'}}, 'longrope'),
    ({'rope_scaling': {'type': 'yarn', 'factor': 2.0, 'mscale': 1}}, 'mscale'),
    ({'rope_scaling': {'type': 'llama3', 'factor': 2.0}}, 'low_freq_factor'),
    ({'num_key_value_heads': 3}, 'num_heads 4 is no multiple of.* 3'),
    ({'head_dim': 5}, '5 coordinates .*pairs'),
  )
  def test_llama_refuses(self, changes, message):
    old = {k: v for k, v in _json('llama').items() if k != 'rope_parameters'}
    with self.assertRaisesRegex(ValueError, message):
      families.config({**old, **changes})

  @parameterized.parameters(
    ('gpt2', {'scale_attn_by_inverse_layer_idx': True}, 'inverse_layer_idx'),
    ('gpt2', {'scale_attn_weights': False}, 'scale_attn_weights is false'),
    ('olmoe', {'clip_qkv': 8.0}, 'clip_qkv'),
    ('olmoe', {'shared_expert_intermediate_size': 8}, 'shared_expert_inter'),
    ('olmoe', {'num_experts_per_tok': 6}, 'num_routed is 6 of num_experts 5'),
    ('olmoe', {'num_experts_per_tok': 0}, 'num_routed is 0 of num_experts 5'),
    ('qwen3_moe', {'num_local_experts': 0}, 'is 2 of num_experts 0'),
    ('qwen3_moe', {'mlp_only_layers': [1]}, "{'mlp_only_layers': \\[1\\]}"),
    ('qwen3_moe', {'decoder_sparse_step': 2}, "{'decoder_sparse_step': 2}"),
    ('gemma3_text', {'attn_logit_softcapping': 9.0}, 'attn_logit_softcapping'),
    ('gemma2', {'use_bidirectional_attention': True}, 'bidirectional'),
    ('gemma2', {'layer_types': ['chunked_attention'] * 2}, "'chunked_att"),
    ('gemma2', {'layer_types': ['full_attention']}, 'of 1 layers.* all 2'),
    ('qwen2', {'layer_types': ['sliding_attention'] * 2}, 'window is None'),
  )
  def test_what_would_change_the_logits_is_refused(self, name, changes, text):
    with self.assertRaisesRegex(ValueError, text):
      families.config({**_json(name), **changes})

  def test_of_qwen3_moe_all_layers_slide_or_none(self):
    changes = {'use_sliding_window': True, 'sliding_window': 5}
    found = families.config({**_json('qwen3_moe'), **changes})
    self.assertEqual((found.window, found.sliding), (5, (True, True)))
    self.assertFalse(any(families.config(_json('qwen3_moe')).sliding))

  def test_a_key_that_is_not_there_is_named(self):
    found = _json('qwen3')
    del found['rms_norm_eps']
    with self.assertRaisesRegex(ValueError, "'qwen3' has no 'rms_norm_eps'"):
      families.config(found)


if __name__ == '__main__':
  absltest.main()
