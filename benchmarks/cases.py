"""The shapes that are timed, their data and the fewest operations they need.

A case is a folder in the form of a parity case (config.json, weights.npz,
data.npz): a transformer with seeded random weights, Zipf-distributed tokens.

Operations, in multiplications plus additions, of matrix products alone. A layer
has I inputs (bias included) and O outputs; N T tokens are seen:

* pass: forward, and backward to the data but not to the weights, 2 x 2 N T
  (parameters in products + 2 T D L for attention), attention not taken as
  causal and its backward pass counted as its forward. (It is twice that, but
  neither side goes back beyond the first tapped layer: for `medium` the pass is
  6 % less than counted here, without the half of attention that is masked 8 %.)
* covariance: pass + N T (I (I + 1) + O (O + 1)) a layer: the products are
  symmetric.
* lambda, self_influence: pass + 2 N (T I O + R_A + R_S) a layer, where a side
  is rotated where that is cheaper: R_A = I^2 min(T, O), R_S = O^2 min(T, I).
* pairwise: pass + 2 N (T + Q) I O a layer: a sequence's gradient is formed
  once. Queries are left out: see `query_flop`.
* pairwise_rank32: the cheaper of that (queries multiplied out once) and pass +
  2 N T Q R (I + O + 1) a layer; tokens_rank32: the latter.

The eigendecomposition is float64 LAPACK: not counted.
"""

import dataclasses
import json
import pathlib

import numpy as np

STAGES = (
  *('covariance', 'eigendecomposition', 'lambda', 'pairwise'),
  *('pairwise_rank32', 'tokens_rank32', 'self_influence', 'end_to_end'),
)
RANK = 32


@dataclasses.dataclass(frozen=True)
class Case:
  """Sizes, and the batch sizes among which each side finds its best."""

  name: str
  d_model: int
  d_ff: int
  n_head: int
  n_layer: int
  seq_len: int  # T
  num_train: int  # N
  num_queries: int  # Q
  batches: tuple[int, ...]
  vocab: int = 256

  @property
  def layers(self) -> list[tuple[int, int]]:
    """(I, O) of the tapped layers: fc_in and fc_out of every block."""
    pair = [(self.d_model + 1, self.d_ff), (self.d_ff + 1, self.d_model)]
    return self.n_layer * pair


CASES = {
  case.name: case
  for case in (
    Case('tiny', 16, 48, 2, 2, 8, 32, 4, (8,)),
    Case('small', 64, 256, 4, 2, 64, 512, 16, (16, 64, 256)),
    Case('medium', 256, 1024, 4, 4, 128, 1024, 32, (16, 32, 64)),
    Case('large', 512, 2048, 8, 4, 256, 128, 32, (4, 8, 16, 32)),
  )
}


def write(case: Case, folder: pathlib.Path, seed: int = 0) -> pathlib.Path:
  """Writes the case's files unless they are there; returns its folder."""
  if (folder / 'config.json').exists():
    return folder
  folder.mkdir(parents=True, exist_ok=True)
  rng = np.random.default_rng(seed)
  np.savez(folder / 'weights.npz', **_weights(case, rng))
  num = {'train': case.num_train, 'query': case.num_queries}
  data = {}
  for kind, rows in num.items():
    tokens = _tokens(case, rng, rows)
    data |= {f'{kind}_x': tokens[:, :-1], f'{kind}_y': tokens[:, 1:]}
  np.savez(folder / 'data.npz', **data)
  names = ('d_model', 'n_layer', 'n_head', 'd_ff', 'vocab', 'seq_len')
  config = {'model': {name: getattr(case, name) for name in names}}
  config |= {'weights': f'random, seed {seed}'}
  (folder / 'config.json').write_text(json.dumps(config, indent=2))
  return folder


def flop(case: Case, stage: str) -> float | None:
  """Fewest operations of a stage; None if it is not matrix products."""
  N, T, Q = case.num_train, case.seq_len, case.num_queries
  passed = 2 * 2 * N * T * (_num_product(case) + 2 * T * _width(case))
  if stage == 'end_to_end':
    parts = ('covariance', 'lambda', 'pairwise')
    return sum(flop(case, part) for part in parts)
  layer_flop = {
    'covariance': lambda i, o: N * T * (i * (i + 1) + o * (o + 1)),
    'lambda': lambda i, o: 2 * N * _rotated(T, i, o),
    'self_influence': lambda i, o: 2 * N * _rotated(T, i, o),
    'pairwise': lambda i, o: 2 * N * (T + Q) * i * o,
    'tokens_rank32': lambda i, o: 2 * N * T * Q * RANK * (i + o + 1),
    'pairwise_rank32': lambda i, o: min(
      2 * N * T * Q * RANK * (i + o + 1),
      2 * N * (T + Q) * i * o + 2 * Q * RANK * i * o,
    ),
  }.get(stage)
  if layer_flop is None:
    return None
  return passed + sum(layer_flop(i, o) for i, o in case.layers)


def query_flop(case: Case) -> float:
  """Of the queries' gradients and their preconditioning: not in `flop`."""
  T, Q = case.seq_len, case.num_queries
  passed = 2 * 2 * Q * T * (_num_product(case) + 2 * T * _width(case))
  return passed + sum(
    2 * Q * (_rotated(T, i, o) + i * o * (i + o)) for i, o in case.layers
  )


def _rotated(T, i, o):
  """A sequence's gradient in the eigenbasis, in multiplications."""
  return T * i * o + i * i * min(T, o) + o * o * min(T, i)


def _num_product(case):
  block = 4 * case.d_model**2 + 2 * case.d_model * case.d_ff
  return case.n_layer * block + case.d_model * case.vocab


def _width(case):
  return case.n_layer * case.d_model


def _tokens(case, rng, rows):
  """A token is Zipf-distributed about the one before it, so order matters."""
  weights = 1 / np.arange(1, case.vocab + 1)
  shape = (rows, case.seq_len + 1)
  steps = rng.choice(case.vocab, shape, p=weights / weights.sum())
  again = rng.random(shape) < 0.5
  tokens = steps.copy()
  for t in range(1, shape[1]):
    follows = (tokens[:, t - 1] + steps[:, t]) % case.vocab
    tokens[:, t] = np.where(again[:, t], follows, steps[:, t])
  return tokens.astype(np.int32)


def _weights(case, rng):
  D, F, V = case.d_model, case.d_ff, case.vocab
  result = {}

  def normal(name, *shape, scale):
    result[name] = rng.normal(0, scale, shape).astype(np.float32)

  def dense(name, num_in, num_out):
    normal(f'{name}.kernel', num_in, num_out, scale=num_in**-0.5)
    normal(f'{name}.bias', num_out, scale=0.02)

  def layer_norm(name):
    result[f'{name}.scale'] = rng.normal(1, 0.05, D).astype(np.float32)
    normal(f'{name}.bias', D, scale=0.02)

  normal('tok_emb', V, D, scale=1.0)
  normal('pos_emb', case.seq_len, D, scale=0.1)
  for i in range(case.n_layer):
    layer_norm(f'blocks.{i}.ln1')
    layer_norm(f'blocks.{i}.ln2')
    for name in 'qkvo':
      dense(f'blocks.{i}.attn.{name}', D, D)
    dense(f'blocks.{i}.mlp.fc_in', D, F)
    dense(f'blocks.{i}.mlp.fc_out', F, D)
  layer_norm('ln_f')
  normal('lm_head.kernel', D, V, scale=D**-0.5)
  return result
