"""Reads a parity case: weights and sizes of a model trained in PyTorch."""

import json
import pathlib

import numpy as np

from influence_jax import types
from influence_jax.models import transformer


def load_parity(
  case_dir: str | pathlib.Path, **ways
) -> tuple[transformer.TransformerConfig, types.PyTree]:
  """The config and the (unrolled) parameters of the case in `case_dir`.

  Args:
    case_dir: folder with config.json and weights.npz.
    **ways: dtype, scan, remat of the config; scan stacks the parameters.
  """
  case_dir = pathlib.Path(case_dir)
  model = json.loads((case_dir / 'config.json').read_text())['model']
  config = transformer.TransformerConfig(
    vocab_size=model['vocab'],
    width=model['d_model'],
    mlp_width=model['d_ff'],
    num_heads=model['n_head'],
    num_layers=model['n_layer'],
    max_len=model['seq_len'],
    **ways,
  )
  dtype = 'float64' if config.dtype == 'float64' else 'float32'
  params = {}
  with np.load(case_dir / 'weights.npz', allow_pickle=False) as weights:
    for name, array in weights.items():
      _put(params, _path(name), array.astype(dtype))
  return config, transformer.stack_params(params) if config.scan else params


def load_batches(
  case_dir: str | pathlib.Path,
) -> tuple[types.Batch, types.Batch]:
  """All training sequences and all queries; every position counts."""
  with np.load(pathlib.Path(case_dir) / 'data.npz', allow_pickle=False) as data:
    return tuple(
      types.Batch(
        inputs=data[f'{kind}_x'],
        targets=data[f'{kind}_y'],
        mask=np.ones(data[f'{kind}_x'].shape, np.float32),
        ids=np.arange(len(data[f'{kind}_x']), dtype=np.int32),
      )
      for kind in ('train', 'query')
    )


def _path(name: str) -> list[str]:
  """blocks.0.attn.q.kernel is at blocks_0/attn/q/kernel, as flax names it."""
  if name in ('tok_emb', 'pos_emb'):
    return [name, 'embedding']
  return name.replace('blocks.', 'blocks_').split('.')


def _put(tree: dict, path: list[str], array: np.ndarray) -> None:
  for name in path[:-1]:
    tree = tree.setdefault(name, {})
  tree[path[-1]] = array
