"""Tiny random checkpoints of every family, and what transformers makes of them.

    python tests/families/make.py [NAME ...]

It needs torch and transformers. Each folder gets config.json and safetensors as
transformers writes them (experts apart, or all in one if the folder's name says
'fused'), and expected.npz: tokens [2, 20], of which the last 8
are transformers' own greedy continuation (with its cache) of the 12 before, and
its logits [2, 20, 61] of all of them, float32. versions.json says what made it.
"""

import json
import pathlib
import platform
import shutil
import sys

import numpy as np
import torch
import transformers

HERE = pathlib.Path(__file__).parent
PROMPT, NEW = 12, 8
_LLAMA = dict(
  vocab_size=61,
  hidden_size=16,
  intermediate_size=24,
  num_attention_heads=4,
  num_key_value_heads=2,
  num_hidden_layers=2,
  max_position_embeddings=64,
  rms_norm_eps=0.03,  # large, so that it shows in the logits
)
_ROPE = {  # base 100: the eight pairs turn 0.2 to 10 times in 64 positions
  **_LLAMA,
  'num_hidden_layers': 1,
  'num_attention_heads': 2,
  'num_key_value_heads': 1,
  'head_dim': 16,
}
_LLAMA3 = dict(low_freq_factor=1.0, high_freq_factor=4.0)
_GEMMA = dict(head_dim=8, sliding_window=5, query_pre_attn_scalar=6)
_EXPERTS = dict(num_experts=5, num_experts_per_tok=2)
CASES = {
  'llama': ('llama', {**_LLAMA, 'head_dim': 8}),
  'llama_biased': ('llama', {
    **_LLAMA, 'num_hidden_layers': 1, 'attention_bias': True, 'mlp_bias': True,
    'tie_word_embeddings': True,
  }),
  'llama_linear': ('llama', {**_ROPE, 'rope_parameters': {
    'rope_type': 'linear', 'rope_theta': 100.0, 'factor': 3.0,
  }}),
  'llama_llama3': ('llama', {**_ROPE, 'rope_parameters': {
    'rope_type': 'llama3', 'rope_theta': 100.0, 'factor': 8.0, **_LLAMA3,
    'original_max_position_embeddings': 32,
  }}),
  'llama_yarn': ('llama', {**_ROPE, 'rope_parameters': {
    'rope_type': 'yarn', 'rope_theta': 100.0, 'factor': 4.0,
    'original_max_position_embeddings': 16, 'beta_fast': 2.0,
    'beta_slow': 0.25,
  }}),
  'mistral': ('mistral', {**_LLAMA, 'head_dim': 8, 'sliding_window': 5}),
  'qwen2': ('qwen2', {**_LLAMA, 'tie_word_embeddings': True}),
  'qwen2_sliding': ('qwen2', {
    **_LLAMA, 'use_sliding_window': True, 'sliding_window': 5,
    'max_window_layers': 1,
  }),
  'qwen3': ('qwen3', {**_LLAMA, 'head_dim': 8}),
  'olmo2': ('olmo2', _LLAMA),
  'gpt_neox': ('gpt_neox', {
    **_LLAMA, 'num_attention_heads': 2, 'layer_norm_eps': 0.03,
    'rope_parameters': {'rope_theta': 100.0, 'partial_rotary_factor': 0.5},
  }),
  'gpt_neox_serial': ('gpt_neox', {
    **_LLAMA, 'num_hidden_layers': 1, 'num_attention_heads': 2,
    'use_parallel_residual': False, 'attention_bias': False,
  }),
  'gpt2': ('gpt2', dict(
    vocab_size=61, n_embd=16, n_head=2, n_layer=2, n_positions=32,
    layer_norm_epsilon=0.03,
  )),
  'gemma2': ('gemma2', {
    **_LLAMA, **_GEMMA, 'final_logit_softcapping': 8.0,
    'attn_logit_softcapping': 3.0,
  }),
  'gemma3_text': ('gemma3_text', {
    **_LLAMA, **_GEMMA, 'num_hidden_layers': 3,
    'layer_types': [
      'sliding_attention', 'full_attention', 'sliding_attention',
    ],
    'rope_parameters': {
      'full_attention': {
        'rope_type': 'linear', 'rope_theta': 1e3, 'factor': 2.0,
      },
      'sliding_attention': {'rope_type': 'default', 'rope_theta': 50.0},
    },
  }),
  'olmoe': ('olmoe', {**_LLAMA, **_EXPERTS, 'intermediate_size': 12}),
  'olmoe_fused': ('olmoe', {
    **_LLAMA, **_EXPERTS, 'num_hidden_layers': 1, 'norm_topk_prob': True,
  }),
  'qwen3_moe': ('qwen3_moe', {
    **_LLAMA, **_EXPERTS, 'head_dim': 8, 'moe_intermediate_size': 12,
    'norm_topk_prob': True,
  }),
}  # fmt: skip


def _model(model_type, keys, seed):
  """Weights in general position: no bias is 0 and no norm's scale 1."""
  config = transformers.AutoConfig.for_model(
    model_type,
    **{k: v for k, v in keys.items() if not _foreign(model_type, k)},
    bos_token_id=None,
    eos_token_id=None,
    pad_token_id=None,
  )
  model = transformers.AutoModelForCausalLM.from_config(
    config, attn_implementation='eager', dtype=torch.float32
  )
  rng = torch.Generator().manual_seed(seed)
  with torch.no_grad():
    for name, x in model.named_parameters():
      noise = torch.randn(x.shape, generator=rng)
      if x.ndim > 1:  # experts are [E, O, I]
        is_table = 'emb' in name or 'wte' in name or 'wpe' in name
        rows = x.shape[0] if 'c_' in name else x.shape[-1]
        x.copy_(noise if is_table else 1.5 * noise / rows**0.5)
      else:
        # Norms' scales start at 1, Gemma's at 0; biases at 0.
        x.add_(0.3 * noise)
  return model.eval()


def _foreign(model_type, key):
  absent = ('num_key_value_heads', 'rms_norm_eps')
  return model_type == 'gpt_neox' and key in absent


def main():
  torch.set_num_threads(1)
  wanted = sys.argv[1:] or list(CASES)
  for seed, (name, (model_type, keys)) in enumerate(CASES.items()):
    if name not in wanted:
      continue
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    model = _model(model_type, keys, seed)
    size = '9KB' if name == 'llama' else '1GB'  # shards for one of them
    model.save_pretrained(
      folder, max_shard_size=size, save_original_format='fused' not in name
    )
    (folder / 'generation_config.json').unlink(missing_ok=True)
    prompt = torch.randint(
      0, 61, (2, PROMPT), generator=torch.Generator().manual_seed(100 + seed)
    )
    with torch.no_grad():
      tokens = model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=NEW,
        min_new_tokens=NEW,
        do_sample=False,
      )
      logits = model(tokens, use_cache=False).logits.numpy()
    assert tokens.shape == (2, PROMPT + NEW), tokens.shape
    np.savez_compressed(
      folder / 'expected.npz',
      tokens=tokens.numpy().astype(np.int32),
      logits=logits,
    )
    top = np.sort(logits, -1)
    margin = (top[..., -1] - top[..., -2])[:, PROMPT - 1 : -1].min()
    print(f'{name}: std of logits {logits.std():.2f}, margin {margin:.1e}')
  versions = {
    'python': platform.python_version(),
    'torch': torch.__version__,
    'transformers': transformers.__version__,
  }
  (HERE / 'versions.json').write_text(json.dumps(versions, indent=2) + '\n')


if __name__ == '__main__':
  main()
