"""The parity cases' transformer in PyTorch, and its task for kronfluence."""

import json
import pathlib

import numpy as np
import torch
from kronfluence import task
from torch import nn
from torch.nn import functional as F


class Attention(nn.Module):
  def __init__(self, width: int, num_heads: int):
    super().__init__()
    self.num_heads = num_heads
    self.q, self.k, self.v, self.o = (nn.Linear(width, width) for _ in range(4))

  def forward(self, x_BxTxD: torch.Tensor) -> torch.Tensor:
    B, T, D = x_BxTxD.shape

    def split(x):
      return x.reshape(B, T, self.num_heads, -1).transpose(1, 2)

    q, k, v = (split(f(x_BxTxD)) for f in (self.q, self.k, self.v))
    y_BxHxTxd = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    return self.o(y_BxHxTxd.transpose(1, 2).reshape(B, T, D))


class Mlp(nn.Module):
  def __init__(self, width: int, mlp_width: int):
    super().__init__()
    self.fc_in = nn.Linear(width, mlp_width)
    self.fc_out = nn.Linear(mlp_width, width)

  def forward(self, x_BxTxD: torch.Tensor) -> torch.Tensor:
    return self.fc_out(F.gelu(self.fc_in(x_BxTxD), approximate='tanh'))


class Block(nn.Module):
  def __init__(self, width: int, mlp_width: int, num_heads: int):
    super().__init__()
    self.ln1, self.ln2 = (nn.LayerNorm(width, eps=1e-5) for _ in range(2))
    self.attn = Attention(width, num_heads)
    self.mlp = Mlp(width, mlp_width)

  def forward(self, h_BxTxD: torch.Tensor) -> torch.Tensor:
    h_BxTxD = h_BxTxD + self.attn(self.ln1(h_BxTxD))
    return h_BxTxD + self.mlp(self.ln2(h_BxTxD))


class Transformer(nn.Module):
  def __init__(self, model: dict):
    super().__init__()
    D, V = model['d_model'], model['vocab']
    self.tok_emb = nn.Embedding(V, D)
    self.pos_emb = nn.Embedding(model['seq_len'], D)
    self.blocks = nn.ModuleList(
      Block(D, model['d_ff'], model['n_head']) for _ in range(model['n_layer'])
    )
    self.ln_f = nn.LayerNorm(D, eps=1e-5)
    self.lm_head = nn.Linear(D, V, bias=False)

  def forward(self, tokens_BxT: torch.Tensor) -> torch.Tensor:
    h_BxTxD = self.tok_emb(tokens_BxT)
    h_BxTxD = h_BxTxD + self.pos_emb.weight[: tokens_BxT.shape[1]]
    for block in self.blocks:
      h_BxTxD = block(h_BxTxD)
    return self.lm_head(self.ln_f(h_BxTxD))


class Task(task.Task):
  """The loss is the sum over positions; the Fisher matrix is the true one."""

  def __init__(self, names: list[str]):
    self.names = names

  def compute_train_loss(self, batch, model, sample=False):
    tokens_BxT, targets_BxT = batch
    logits_NxV = model(tokens_BxT).flatten(0, 1)
    targets_N = targets_BxT.reshape(-1)
    if sample:
      with torch.no_grad():
        p_NxV = torch.softmax(logits_NxV.detach(), -1)
        targets_N = torch.multinomial(p_NxV, 1).flatten()
    return F.cross_entropy(logits_NxV, targets_N, reduction='sum')

  def compute_measurement(self, batch, model):
    return self.compute_train_loss(batch, model, sample=False)

  def get_influence_tracked_modules(self):
    return self.names


class Loader:
  """Batches that are slices: what kronfluence asks of a loader, no more.

  Cheaper than torch's DataLoader, which gathers a batch row by row.
  """

  def __init__(self, arrays: list[torch.Tensor], slices: list[slice]):
    self.arrays, self.slices = arrays, slices
    self.dataset = range(slices[-1].stop)

  def __len__(self):
    return len(self.slices)

  def __iter__(self):
    return (tuple(x[at] for x in self.arrays) for at in self.slices)


def load(folder: pathlib.Path) -> tuple[nn.Module, Task, dict]:
  """The model, its task and {'train' or 'query': [inputs, targets]}."""
  config = json.loads((folder / 'config.json').read_text())['model']
  model = Transformer(config)
  with np.load(folder / 'weights.npz', allow_pickle=False) as weights:
    model.load_state_dict(dict(_tensor(*item) for item in weights.items()))
  data = {}
  with np.load(folder / 'data.npz', allow_pickle=False) as arrays:
    for kind in ('train', 'query'):
      pair = (arrays[f'{kind}_x'], arrays[f'{kind}_y'])
      data[kind] = [torch.from_numpy(x.astype(np.int64)) for x in pair]
  names = [
    f'blocks.{i}.mlp.{name}'
    for i in range(config['n_layer'])
    for name in ('fc_in', 'fc_out')
  ]
  return model, Task(names), data


def _tensor(name, array):
  """kernel (in, out) as weight (out, in), as PyTorch names and lays it out."""
  if name in ('tok_emb', 'pos_emb'):
    return f'{name}.weight', torch.from_numpy(array)
  place, kind = name.rsplit('.', 1)
  if kind == 'kernel':
    return f'{place}.weight', torch.from_numpy(array.T.copy())
  kind = 'weight' if kind == 'scale' else kind
  return f'{place}.{kind}', torch.from_numpy(array)
