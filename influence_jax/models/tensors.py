"""Where in a checkpoint a decoder's arrays are, family by family.

A family is a table {our module: theirs} and how its tensors are laid out: as
PyTorch's Linear [O, I], or otherwise where q, k and v are one tensor.
"""

import pathlib
import re
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from influence_jax.models import decoder


class Tensor(NamedTuple):
  """A tensor in a file, known by the file's header."""

  path: pathlib.Path  # of the file
  shape: tuple[int, ...]
  dtype: str  # as the file calls it
  read: Callable[[], np.ndarray]


class Source(NamedTuple):
  """Where in a checkpoint one of our arrays is."""

  names: tuple[str, ...]  # of the tensors: of experts one each, else one
  shape: tuple[int, ...]  # of each
  read: Callable[..., np.ndarray]  # our array of the tensors


class Table(NamedTuple):
  """How a family names and lays out its tensors."""

  modules: dict[str, str]  # {our module: theirs}, a layer's number left out
  prefix: str  # what a checkpoint without a head may leave out of names
  source: Callable  # (config, our module, leaf, shape) -> shape, read
  buffers: str = r'\.rotary_emb\.inv_freq$'  # constants in old checkpoints


def layout(model_type: str, names: Iterable[str]) -> str:
  """The key of `TABLES` for a checkpoint with tensors of these names."""
  fused = any(name.endswith('.experts.gate_up_proj') for name in names)
  return f'{model_type}/fused' if fused else model_type


def sources(
  layout: str,
  config: decoder.DecoderConfig,
  shapes: dict[str, tuple[int, ...]],
  bare: bool = False,
) -> dict[str, Source]:
  """{path: where it is}, for our arrays {path: shape}, unrolled.

  Args:
    layout: a key of `TABLES`.
    config: of `families.config`.
    shapes: the decoder's, '/'-joined, blocks as `blocks_0`, ...
    bare: the tensors' names have no `prefix`.
  """
  table, found = TABLES[layout], {}
  for path, shape in shapes.items():
    module, leaf = path.rsplit('/', 1)
    number = ''.join(re.findall(r'^blocks_(\d+)/', module))
    module = re.sub(r'^blocks_\d+/', 'blocks/', module)
    name = table.modules[module]
    if not name.endswith(_FUSED):
      name += '.bias' if leaf == 'bias' else '.weight'
    name = name.removeprefix(table.prefix) if bare else name
    apart = range(config.num_experts) if name.count('{}') == 2 else [None]
    names = tuple(name.format(number, expert) for expert in apart)
    found[path] = Source(names, *table.source(config, module, leaf, shape))
  return found


def tied_head(layout: str) -> str:
  """The tensor that a checkpoint with a tied head should not have, but may."""
  return TABLES[layout].modules['lm_head'] + '.weight'


def _linear(config, module, leaf, shape):
  """PyTorch's Linear is [O, I]."""
  del config, module
  return (
    (shape[::-1], np.transpose) if leaf == 'kernel' else (shape, np.asarray)
  )


def _interleaved(config, module, leaf, shape):
  """llama.cpp turns rows (2 n, 2 n + 1) of a head, `rope` (n, n + d / 2)."""
  part = _part(module)
  if part not in (0, 1):
    return _linear(config, module, leaf, shape)

  def read(x):
    pairs = x.reshape(-1, config.head_dim // 2, 2, x.shape[-1])
    return pairs.swapaxes(1, 2).reshape(x.shape).T

  return shape[::-1], read


def _conv1d(config, module, leaf, shape):
  """GPT-2's Conv1D is [I, O]; c_attn is q, k and v, one after the other."""
  if not module.startswith('blocks/'):
    return _linear(config, module, leaf, shape)
  part = _part(module)
  if part is None:
    return shape, np.asarray
  thirds = (*shape[:-1], 3 * shape[-1])
  return thirds, lambda x: np.split(x, 3, -1)[part]


def _fused_heads(config, module, leaf, shape):
  """NeoX's query_key_value is [H, (q, k, v), d, D]: head by head."""
  part = _part(module)
  if part is None:
    return _linear(config, module, leaf, shape)
  split = (config.num_heads, 3, config.head_dim)

  def read(x):
    heads = x.reshape(*split, *x.shape[1:])[:, part]
    return heads.reshape(-1, *x.shape[1:]).T

  return (3 * shape[-1], *shape[:-1]), read


def _experts(config, module, leaf, shape):
  """Experts' Linears one by one, ours stacked."""
  if '/experts/' not in module:
    return _linear(config, module, leaf, shape)
  one, read = _linear(config, module, leaf, shape[1:])
  return one, lambda *experts: np.stack([read(x) for x in experts])


def _fused_experts(config, module, leaf, shape):
  """Of all experts [E, O, I], and gate above up: [E, 2 F, D]."""
  if '/experts/' not in module:
    return _linear(config, module, leaf, shape)
  E, I, O = shape  # noqa: E741
  if module.endswith('/down'):
    return (E, O, I), lambda x: x.mT
  part = module.endswith('/up')
  return (E, 2 * O, I), lambda x: np.split(x, 2, 1)[part].mT


def _part(module: str) -> int | None:
  """Which of q, k, v it is."""
  names = ['blocks/attn/q', 'blocks/attn/k', 'blocks/attn/v']
  return names.index(module) if module in names else None


_LLAMA = {
  'tok_emb': 'model.embed_tokens',
  'blocks/attn_norm': 'model.layers.{}.input_layernorm',
  'blocks/attn/q': 'model.layers.{}.self_attn.q_proj',
  'blocks/attn/k': 'model.layers.{}.self_attn.k_proj',
  'blocks/attn/v': 'model.layers.{}.self_attn.v_proj',
  'blocks/attn/o': 'model.layers.{}.self_attn.o_proj',
  'blocks/mlp_norm': 'model.layers.{}.post_attention_layernorm',
  'blocks/mlp/gate': 'model.layers.{}.mlp.gate_proj',
  'blocks/mlp/up': 'model.layers.{}.mlp.up_proj',
  'blocks/mlp/down': 'model.layers.{}.mlp.down_proj',
  'final_norm': 'model.norm',
  'lm_head': 'lm_head',
}
_QK_NORMED = {
  **_LLAMA,
  'blocks/attn/q_norm': 'model.layers.{}.self_attn.q_norm',
  'blocks/attn/k_norm': 'model.layers.{}.self_attn.k_norm',
}
_POST_NORMED = {
  **_QK_NORMED,
  'blocks/attn_post_norm': 'model.layers.{}.post_attention_layernorm',
  'blocks/mlp_norm': 'model.layers.{}.pre_feedforward_layernorm',
  'blocks/mlp_post_norm': 'model.layers.{}.post_feedforward_layernorm',
}
_MOE = {
  **_QK_NORMED,
  'blocks/mlp/router': 'model.layers.{}.mlp.gate',
  'blocks/mlp/experts/gate': 'model.layers.{}.mlp.experts.{}.gate_proj',
  'blocks/mlp/experts/up': 'model.layers.{}.mlp.experts.{}.up_proj',
  'blocks/mlp/experts/down': 'model.layers.{}.mlp.experts.{}.down_proj',
}
_FUSED = ('.experts.gate_up_proj', '.experts.down_proj')  # whole names
_MOE_FUSED = {
  **_MOE,
  'blocks/mlp/experts/gate': 'model.layers.{}.mlp.experts.gate_up_proj',
  'blocks/mlp/experts/up': 'model.layers.{}.mlp.experts.gate_up_proj',
  'blocks/mlp/experts/down': 'model.layers.{}.mlp.experts.down_proj',
}
_GPT_NEOX = {
  'tok_emb': 'gpt_neox.embed_in',
  'blocks/attn_norm': 'gpt_neox.layers.{}.input_layernorm',
  'blocks/attn/q': 'gpt_neox.layers.{}.attention.query_key_value',
  'blocks/attn/k': 'gpt_neox.layers.{}.attention.query_key_value',
  'blocks/attn/v': 'gpt_neox.layers.{}.attention.query_key_value',
  'blocks/attn/o': 'gpt_neox.layers.{}.attention.dense',
  'blocks/mlp_norm': 'gpt_neox.layers.{}.post_attention_layernorm',
  'blocks/mlp/up': 'gpt_neox.layers.{}.mlp.dense_h_to_4h',
  'blocks/mlp/down': 'gpt_neox.layers.{}.mlp.dense_4h_to_h',
  'final_norm': 'gpt_neox.final_layer_norm',
  'lm_head': 'embed_out',
}
_GPT2 = {
  'tok_emb': 'transformer.wte',
  'pos_emb': 'transformer.wpe',
  'blocks/attn_norm': 'transformer.h.{}.ln_1',
  'blocks/attn/q': 'transformer.h.{}.attn.c_attn',
  'blocks/attn/k': 'transformer.h.{}.attn.c_attn',
  'blocks/attn/v': 'transformer.h.{}.attn.c_attn',
  'blocks/attn/o': 'transformer.h.{}.attn.c_proj',
  'blocks/mlp_norm': 'transformer.h.{}.ln_2',
  'blocks/mlp/up': 'transformer.h.{}.mlp.c_fc',
  'blocks/mlp/down': 'transformer.h.{}.mlp.c_proj',
  'final_norm': 'transformer.ln_f',
  'lm_head': 'lm_head',
}
_LLAMA_CPP = {
  'tok_emb': 'token_embd',
  'blocks/attn_norm': 'blk.{}.attn_norm',
  'blocks/attn/q': 'blk.{}.attn_q',
  'blocks/attn/k': 'blk.{}.attn_k',
  'blocks/attn/v': 'blk.{}.attn_v',
  'blocks/attn/o': 'blk.{}.attn_output',
  'blocks/mlp_norm': 'blk.{}.ffn_norm',
  'blocks/mlp/gate': 'blk.{}.ffn_gate',
  'blocks/mlp/up': 'blk.{}.ffn_up',
  'blocks/mlp/down': 'blk.{}.ffn_down',
  'final_norm': 'output_norm',
  'lm_head': 'output',
}
_NEOX_BUFFERS = r'\.attention\.((masked_)?bias|rotary_emb\.inv_freq)$'
_GPT2_BUFFERS = r'(^|\.)attn\.(masked_)?bias$'

TABLES = {  # by `layout`, or 'gguf/' and the architecture
  'llama': Table(_LLAMA, 'model.', _linear),
  'mistral': Table(_LLAMA, 'model.', _linear),
  'qwen2': Table(_LLAMA, 'model.', _linear),
  'qwen3': Table(_QK_NORMED, 'model.', _linear),
  'qwen3_moe': Table(_MOE, 'model.', _experts),
  'qwen3_moe/fused': Table(_MOE_FUSED, 'model.', _fused_experts),
  'olmo2': Table(_POST_NORMED, 'model.', _linear),
  'olmoe': Table(_MOE, 'model.', _experts),
  'olmoe/fused': Table(_MOE_FUSED, 'model.', _fused_experts),
  'gemma2': Table(_POST_NORMED, 'model.', _linear),
  'gemma3_text': Table(_POST_NORMED, 'model.', _linear),
  'gpt_neox': Table(_GPT_NEOX, 'gpt_neox.', _fused_heads, _NEOX_BUFFERS),
  'gpt2': Table(_GPT2, 'transformer.', _conv1d, _GPT2_BUFFERS),
  'gguf/llama': Table(_LLAMA_CPP, '', _interleaved),
}
