"""EK-FAC by kronfluence on transformers' own models: what the test compares to.

    python tests/kronfluence/make.py

It needs the extra `parity`; versions.json says what made the files. Models are
tests/families' llama and gpt_neox, computed in float64 (but for what
transformers casts to float32: rotations, Llama's norms). data.safetensors has
40 training sequences and 4 queries of random tokens, 12 to 16 long and padded,
as types.Batch wants them. A model's file has, for every linear layer of its
blocks under this library's path, pairwise scores [K, N], the eigenvalues of A
and S ascending and the mean of Lambda. All losses are sums over positions.

NeoX's query_key_value is split in three first, the same function: one fused
layer has one S of q, k and v together, which this library never forms.
"""

import json
import pathlib
import platform
import tempfile

import kronfluence
import numpy as np
import safetensors.numpy
import torch
import transformers
from kronfluence import arguments, task
from torch import nn
from torch.nn import functional as F
from torch.utils import data

HERE = pathlib.Path(__file__).parent
VOCAB, LONGEST, SHORTEST = 61, 16, 12
NUM = {'train': 40, 'query': 4}
_LLAMA = {
  'attn/q': 'self_attn.q_proj',
  'attn/k': 'self_attn.k_proj',
  'attn/v': 'self_attn.v_proj',
  'attn/o': 'self_attn.o_proj',
  'mlp/gate': 'mlp.gate_proj',
  'mlp/up': 'mlp.up_proj',
  'mlp/down': 'mlp.down_proj',
}
_NEOX = {
  'attn/q': 'attention.query_key_value.q',
  'attn/k': 'attention.query_key_value.k',
  'attn/v': 'attention.query_key_value.v',
  'attn/o': 'attention.dense',
  'mlp/up': 'mlp.dense_h_to_4h',
  'mlp/down': 'mlp.dense_4h_to_h',
}
CASES = {'llama': ('model', _LLAMA), 'gpt_neox': ('gpt_neox', _NEOX)}
_WIDE = dict.fromkeys(
  ['per_sample_gradient_dtype', 'lambda_dtype', 'activation_covariance_dtype',
   'gradient_covariance_dtype', 'eigendecomposition_dtype'], torch.float64
)  # fmt: skip
_WIDE_SCORES = dict.fromkeys(
  ['per_sample_gradient_dtype', 'precondition_dtype', 'score_dtype'],
  torch.float64,
)


class SplitQKV(nn.Module):
  """NeoX's query_key_value, [H, (q, k, v), d, D] head by head, as three."""

  def __init__(self, fused: nn.Linear, num_heads: int):
    super().__init__()
    self.num_heads = num_heads
    rows = torch.arange(fused.out_features).view(num_heads, 3, -1)
    for part, name in enumerate('qkv'):
      own = rows[:, part].flatten()
      layer = nn.Linear(fused.in_features, len(own), dtype=fused.weight.dtype)
      layer.weight.data = fused.weight.data[own]
      layer.bias.data = fused.bias.data[own]
      self.add_module(name, layer)

  def forward(self, x_BxTxD: torch.Tensor) -> torch.Tensor:
    parts = [
      layer(x_BxTxD).unflatten(-1, (self.num_heads, -1))
      for layer in (self.q, self.k, self.v)
    ]
    return torch.stack(parts, -2).flatten(-3)


class Task(task.Task):
  """Sums over positions; the mask of the covariances is the loss's own."""

  def __init__(self, names: list[str]):
    self.names = names

  def compute_train_loss(self, batch, model, sample=False):
    assert not sample  # use_empirical_fisher
    inputs_BxT, targets_BxT, mask_BxT, seen_BxT = batch
    logits_BxTxV = model(
      input_ids=inputs_BxT, attention_mask=seen_BxT, use_cache=False
    ).logits
    loss_N = F.cross_entropy(
      logits_BxTxV.flatten(0, 1), targets_BxT.flatten(), reduction='none'
    )
    return (loss_N * mask_BxT.flatten()).sum()

  def compute_measurement(self, batch, model):
    return self.compute_train_loss(batch, model)

  def get_influence_tracked_modules(self):
    return self.names

  def get_attention_mask(self, batch):
    return batch[2].long()  # counted in integers


def _arrays(num: int, rng: np.random.Generator, is_query: bool) -> dict:
  """inputs, targets [num, 15] int32; mask, and seen (no padding) float32."""
  tokens = rng.integers(1, VOCAB, (num, LONGEST))
  lengths = rng.integers(SHORTEST, LONGEST + 1, num)[:, None]
  prompts = rng.integers(4, 9, num)[:, None] if is_query else 1
  at = np.arange(LONGEST)
  tokens = np.where(at < lengths, tokens, 0).astype(np.int32)
  counts = (at < lengths) & (at >= prompts)
  return {
    'inputs': tokens[:, :-1],
    'targets': tokens[:, 1:],
    'mask': counts[:, 1:].astype(np.float32),
    'seen': (at < lengths)[:, 1:].astype(np.float32),
  }


def _dataset(arrays: dict) -> data.TensorDataset:
  inputs, targets, mask, seen = (torch.from_numpy(x) for x in arrays.values())
  return data.TensorDataset(
    inputs.long(), targets.long(), mask.double(), seen.long()
  )


def _model(name: str) -> nn.Module:
  model = transformers.AutoModelForCausalLM.from_pretrained(
    HERE.parent / 'families' / name, dtype=torch.float64,
    attn_implementation='sdpa',  # eager's softmax is float32
  ).eval()  # fmt: skip
  if name == 'gpt_neox':
    tokens = torch.arange(12)[None]
    before = model(tokens).logits
    for layer in model.gpt_neox.layers:
      attention = layer.attention
      attention.query_key_value = SplitQKV(
        attention.query_key_value, model.config.num_attention_heads
      )
    torch.testing.assert_close(model(tokens).logits, before)
  return model


def _results(name: str, train, queries) -> dict[str, np.ndarray]:
  """{'scores' or ... + '/' + path: array}."""
  model, (trunk, modules) = _model(name), CASES[name]
  paths = {
    f'{trunk}.layers.{i}.{theirs}': f'blocks_{i}/{ours}'
    for i in range(model.config.num_hidden_layers)
    for ours, theirs in modules.items()
  }
  own_task = Task([*paths])
  model = kronfluence.prepare_model(model, own_task)
  with tempfile.TemporaryDirectory() as folder:
    analyzer = kronfluence.Analyzer(
      name, model, own_task, cpu=True, disable_tqdm=True, output_dir=folder
    )
    analyzer.fit_all_factors(
      'ekfac', train, per_device_batch_size=8,
      factor_args=arguments.FactorArguments(
        strategy='ekfac', use_empirical_fisher=True, **_WIDE
      ),
    )  # fmt: skip
    analyzer.compute_pairwise_scores(
      'scores', 'ekfac', queries, train, per_device_query_batch_size=4,
      per_device_train_batch_size=8,
      score_args=arguments.ScoreArguments(
        damping_factor=None,  # 0.1 of the mean of Lambda
        compute_per_module_scores=True,
        **_WIDE_SCORES,
      ),
    )  # fmt: skip
    scores = analyzer.load_pairwise_scores('scores')
    factors = analyzer.load_all_factors('ekfac')
  found = {}
  for module, path in paths.items():
    Lambda = factors['lambda_matrix'][module]
    count = factors['num_lambda_processed'][module]
    found |= {
      f'scores/{path}': scores[module],
      f'L_A/{path}': factors['activation_eigenvalues'][module],
      f'L_S/{path}': factors['gradient_eigenvalues'][module],
      f'Lambda_mean/{path}': Lambda.mean() / count,
    }
  return {key: x.numpy() for key, x in found.items()}


def main():
  torch.set_num_threads(1)
  rng = np.random.default_rng(0)
  arrays = {kind: _arrays(n, rng, kind == 'query') for kind, n in NUM.items()}
  train, queries = (_dataset(x) for x in arrays.values())
  for name in CASES:
    found = _results(name, train, queries)
    assert all(x.dtype == np.float64 for x in found.values())
    safetensors.numpy.save_file(found, HERE / f'{name}.safetensors')
    print(name, len(found), found['scores/blocks_0/mlp/down'][:, :4])
  kept = {
    f'{kind}_{key}': np.ascontiguousarray(x)
    for kind, part in arrays.items()
    for key, x in part.items()
    if key != 'seen'
  }
  safetensors.numpy.save_file(kept, HERE / 'data.safetensors')
  versions = {
    'python': platform.python_version(),
    **{x.__name__: x.__version__ for x in (kronfluence, torch, transformers)},
  }
  (HERE / 'versions.json').write_text(json.dumps(versions, indent=2) + '\n')


if __name__ == '__main__':
  main()
