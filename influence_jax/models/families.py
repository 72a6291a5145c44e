"""Families of pretrained decoders: what their config.json says.

`config` reads config.json as Hugging Face's transformers 4 and 5 write it. What
it does not know it refuses: of a key that is left over nobody can say that it
does not change the numbers. Each family is a function that takes its keys out
of config.json and gives a decoder's; `tensors` has where its weights are.
"""

import re
from collections.abc import Iterable
from typing import Any

from influence_jax.models import decoder, rope

_SIZES = {  # our name: that in config.json
  'vocab_size': 'vocab_size',
  'width': 'hidden_size',
  'mlp_width': 'intermediate_size',
  'num_heads': 'num_attention_heads',
  'num_layers': 'num_hidden_layers',
  'max_len': 'max_position_embeddings',
}
_ACTIVATIONS = {  # theirs: ours
  'silu': 'silu',
  'gelu': 'gelu',
  'gelu_new': 'gelu_tanh',
  'gelu_pytorch_tanh': 'gelu_tanh',
}
_SCALINGS = {
  'linear': rope.Linear,
  'llama3': rope.Llama3,
  'yarn': rope.Yarn,
}
_INERT = re.compile(  # keys that do not change the logits
  r'_.*|(bos|eos|pad|sep)_token_id|(torch_)?dtype|transformers_version'
  r'|transformers\.js_config|architectures|use_cache|cache_implementation'
  r'|initializer_range|pretraining_tp|.*dropout(_prob)?|(resid|embd|attn)_pdrop'
  r'|summary_.*|task_specific_params|id2label|label2id|return_dict|n_ctx'
  r'|gradient_checkpointing|reorder_and_upcast_attn|is_(llama_config|decoder)'
  r'|router_aux_loss_coef|output_router_logits'
)


def config(config_json: dict[str, Any], **ways: Any) -> decoder.DecoderConfig:
  """The decoder of a config.json.

  Args:
    config_json: what is in the file.
    **ways: dtype, scan, remat.

  Raises:
    ValueError: an unknown family; a key is missing; a key is left over that is
      neither off (null, false) nor known to leave the logits alone.
  """
  left = {k: v for k, v in config_json.items() if not _INERT.fullmatch(k)}
  model_type = left.pop('model_type', None)
  if model_type not in FAMILIES:
    raise ValueError(
      f'model_type in config.json is {model_type!r}; there are {list(FAMILIES)}'
    )
  try:
    fields = FAMILIES[model_type](left)
  except KeyError as error:
    raise ValueError(
      f'config.json of model_type {model_type!r} has no {error}; expected the '
      'file as transformers writes it'
    ) from error
  left = {k: v for k, v in left.items() if v is not None and v is not False}
  if left:
    raise ValueError(
      f'config.json of model_type {model_type!r} has {left}, which nothing '
      'here implements; if it does not change the logits, take it out of the '
      'file'
    )
  return decoder.DecoderConfig(**fields, **ways)


def _llama(left: dict) -> dict:
  """What Llama and those made after it have."""
  sizes = {ours: left.pop(theirs) for ours, theirs in _SIZES.items()}
  num_heads = sizes['num_heads']
  head_dim = left.pop('head_dim', None) or sizes['width'] // num_heads
  bias = left.pop('attention_bias', False)
  return dict(
    **sizes,
    num_kv_heads=left.pop('num_key_value_heads', None) or num_heads,
    head_dim=head_dim,
    rope=_rope(_rope_keys(left), head_dim, sizes['max_len']),
    epsilon=left.pop('rms_norm_eps'),
    activation=_activation(left.pop('hidden_act', 'silu')),
    qkv_bias=bias,
    o_bias=bias,
    mlp_bias=left.pop('mlp_bias', False),
    tied=left.pop('tie_word_embeddings', False),
  )


def _mistral(left: dict) -> dict:
  window = left.pop('sliding_window', 4096)
  fields = _llama(left)
  slides = (window is not None,) * fields['num_layers']
  return {**fields, 'window': window, 'sliding': slides}


def _qwen(left: dict) -> dict:
  window, used = left.pop('sliding_window', None), 'use_sliding_window'
  window = window if left.pop(used, False) else None
  first = left.pop('max_window_layers', 28)
  num_layers = left['num_hidden_layers']
  slides = [window is not None and i >= first for i in range(num_layers)]
  slides = _sliding(left, slides)
  return {**_llama(left), 'window': window, 'sliding': slides}


def _qwen2(left: dict) -> dict:
  return {**_qwen(left), 'qkv_bias': True, 'o_bias': False}


def _qwen3(left: dict) -> dict:
  left.setdefault('head_dim', 128)
  return {**_qwen(left), 'qk_norm': 'head'}


def _olmo2(left: dict) -> dict:
  norms = dict(pre_norm=False, post_norm=True, qk_norm='width')
  return {**_llama(left), **norms}


def _olmoe(left: dict) -> dict:
  return {**_experts(left), **_llama(left), 'qk_norm': 'width'}


def _qwen3_moe(left: dict) -> dict:
  left['intermediate_size'] = left.pop('moe_intermediate_size')
  left['max_window_layers'] = 0  # all layers slide, if one does
  for key, only in (('mlp_only_layers', []), ('decoder_sparse_step', 1)):
    if left.get(key) == only:
      del left[key]
  return {**_experts(left), **_qwen(left), 'qk_norm': 'head'}


def _experts(left: dict) -> dict:
  if left.get('num_local_experts') is not None:  # transformers 5
    left['num_experts'] = left.pop('num_local_experts')
  return dict(
    num_experts=left.pop('num_experts'),
    num_routed=left.pop('num_experts_per_tok'),
    norm_routed=left.pop('norm_topk_prob', False),
  )


def _gemma(left: dict) -> dict:
  left['hidden_act'] = left.pop('hidden_activation')
  left.setdefault('tie_word_embeddings', True)
  window = left.pop('sliding_window')
  scale = left.pop('query_pre_attn_scalar') ** -0.5
  cap = left.pop('final_logit_softcapping', None)
  fields = _llama(left)
  return dict(
    **fields,
    window=window,
    norm_offset=1.0,
    post_norm=True,
    embedding_scale=fields['width'] ** 0.5,
    attention_scale=scale,
    logit_cap=cap,
  )


def _gemma2(left: dict) -> dict:
  slides = [i % 2 == 0 for i in range(left['num_hidden_layers'])]
  cap = left.pop('attn_logit_softcapping')
  slides = _sliding(left, slides)
  return {**_gemma(left), 'sliding': slides, 'attention_cap': cap}


def _gemma3(left: dict) -> dict:
  every = left.pop('sliding_window_pattern', 6)
  slides = [(i + 1) % every > 0 for i in range(left['num_hidden_layers'])]
  slides = _sliding(left, slides)
  local = {'rope_theta': left.pop('rope_local_base_freq', 1e4)}
  given = left.get('rope_parameters') or {}
  if 'full_attention' in given:  # transformers 5
    local = {**local, **given['sliding_attention']}
    left['rope_parameters'] = given['full_attention']
  left.setdefault('rope_theta', 1e6)
  fields = _gemma(left)
  local_rope = _rope(local, fields['head_dim'], fields['max_len'])
  ways = dict(sliding=slides, local_rope=local_rope, qk_norm='head')
  return {**fields, **ways}


def _gpt_neox(left: dict) -> dict:
  sizes = {ours: left.pop(theirs) for ours, theirs in _SIZES.items()}
  head_dim = sizes['width'] // sizes['num_heads']
  keys = {
    'partial_rotary_factor': left.pop('rotary_pct', 0.25),
    'rope_theta': left.pop('rotary_emb_base', 1e4),
    **_rope_keys(left),
  }
  bias = left.pop('attention_bias', True)
  return dict(
    **sizes,
    num_kv_heads=sizes['num_heads'],
    head_dim=head_dim,
    rope=_rope(keys, head_dim, sizes['max_len']),
    norm='layer',
    epsilon=left.pop('layer_norm_eps'),
    activation=_activation(left.pop('hidden_act')),
    gated=False,
    qkv_bias=bias,
    o_bias=bias,
    mlp_bias=True,
    parallel_residual=left.pop('use_parallel_residual', True),
    tied=left.pop('tie_word_embeddings', False),
  )


def _gpt2(left: dict) -> dict:
  width, num_heads = left.pop('n_embd'), left.pop('n_head')
  if not left.pop('scale_attn_weights', True):
    raise ValueError('scale_attn_weights is false; only true is implemented')
  return dict(
    vocab_size=left.pop('vocab_size'),
    width=width,
    mlp_width=left.pop('n_inner', None) or 4 * width,
    num_heads=num_heads,
    num_kv_heads=num_heads,
    head_dim=width // num_heads,
    num_layers=left.pop('n_layer'),
    max_len=left.pop('n_positions'),
    norm='layer',
    epsilon=left.pop('layer_norm_epsilon'),
    activation=_activation(left.pop('activation_function')),
    gated=False,
    qkv_bias=True,
    o_bias=True,
    mlp_bias=True,
    tied=left.pop('tie_word_embeddings', True),
  )


def _activation(name: str) -> str:
  if name not in _ACTIVATIONS:
    valid = list(_ACTIVATIONS)
    raise ValueError(f'the activation is {name!r}; there are {valid}')
  return _ACTIVATIONS[name]


def _sliding(left: dict, default: Iterable[bool]) -> tuple[bool, ...]:
  """Of each layer, whether it slides: by layer_types if they are there."""
  kinds = left.pop('layer_types', None)
  if kinds is None:
    return tuple(default)
  valid = ['full_attention', 'sliding_attention']
  if unknown := set(kinds) - set(valid):
    raise ValueError(f'layer_types has {sorted(unknown)}; there are {valid}')
  return tuple(kind == 'sliding_attention' for kind in kinds)


def _rope_keys(left: dict) -> dict:
  """Of transformers 4 beside each other, of 5 together in rope_parameters."""
  keys = {}
  if 'rope_theta' in left:
    keys['rope_theta'] = left.pop('rope_theta')
  scaling = left.pop('rope_scaling', None) or left.pop('rope_parameters', None)
  return {**keys, **(scaling or {})}


def _rope(keys: dict, head_dim: int, max_len: int) -> rope.Rope:
  keys = {k: v for k, v in keys.items() if v is not None}
  base = keys.pop('rope_theta', 1e4)
  width = int(head_dim * keys.pop('partial_rotary_factor', 1.0))
  kind = keys.pop('type', 'default')
  kind = keys.pop('rope_type', kind)
  if kind == 'default' and not keys:
    return rope.Rope(base, width)
  if kind not in _SCALINGS:
    valid = ['default', *_SCALINGS]
    raise ValueError(f'rope scaling is {kind!r} with {keys}; there are {valid}')
  if kind != 'linear':
    old = keys.pop('original_max_position_embeddings', max_len)
    keys['original_len'] = old
  try:
    return rope.Rope(base, width, _SCALINGS[kind](**keys))
  except TypeError as error:
    raise ValueError(f'rope scaling {kind!r} has {keys}: {error}') from error


FAMILIES = {  # by the model_type of config.json
  'llama': _llama,
  'mistral': _mistral,
  'qwen2': _qwen2,
  'qwen3': _qwen3,
  'qwen3_moe': _qwen3_moe,
  'olmo2': _olmo2,
  'olmoe': _olmoe,
  'gemma2': _gemma2,
  'gemma3_text': _gemma3,
  'gpt_neox': _gpt_neox,
  'gpt2': _gpt2,
}
