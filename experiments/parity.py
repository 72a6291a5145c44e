"""This library's factors and scores against an independent implementation's.

    python -m experiments.parity --case=DIR --scope=mlp --strategy=ekfac

A case is a folder with config.json, weights.npz and data.npz (a small
transformer, training sequences, queries; every position counts) and, if there
is one, the reference reference_{scope}.npz. Prints a line a quantity (Pearson,
Spearman, max |difference| / max |reference|) and writes what this library got
to --out under the reference's names and on its scale: its scores are of the
query's loss, its gradients are O x I, and its K-FAC is per position (our
eigenvalues are T times larger, our scores T times smaller). Seconds on a CPU.
"""

import functools
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from scipy import stats

from experiments import parity_case
from influence_jax import (
  attribution,
  contraction,
  curvature,
  fit,
  gradients,
  influence,
  losses,
  lowrank,
  sharding,
  taps,
  types,
)
from influence_jax.models import transformer

_CASE = flags.DEFINE_string('case', None, 'folder of the case', required=True)
SCOPES = {'mlp': r'/mlp/', 'all': r'/(mlp|attn)/'}
_SCOPE = flags.DEFINE_enum('scope', 'mlp', [*SCOPES], 'which dense layers')
_FISHER = flags.DEFINE_enum(
  'fisher', 'empirical', ['empirical', 'sampled'], 'targets of the data, or own'
)
_STRATEGY = flags.DEFINE_list(
  'strategy', ['ekfac', 'kfac', 'diagonal', 'identity'], 'approximations'
)
_DTYPE = flags.DEFINE_enum(
  'dtype', 'float32', ['float32', 'float64'], 'of everything'
)
_SCAN = flags.DEFINE_bool('scan', False, 'blocks under nn.scan')
_OUT = flags.DEFINE_string('out', None, '.npz file for the results')
_BATCH, _RANK, _NUM_TOKENWISE = 32, 32, 4


def compute(
  case: pathlib.Path,
  scope: str,
  strategies: list[str],
  dtype: str,
  *,
  targets: str = 'data',
  scan: bool = False,
) -> dict[str, np.ndarray]:
  """{name as in the reference: value on the reference's scale}."""
  config, params = parity_case.load_parity(case, dtype=dtype, scan=scan)
  net = transformer.Transformer(config)

  def apply_fn(params, inputs):
    return net.apply({'params': params}, inputs)

  train, queries = parity_case.load_batches(case)
  found = taps.find_layers(apply_fn, params, train.inputs[:1], SCOPES[scope])
  model = types.Model(apply_fn, losses.softmax_cross_entropy, found.layers)
  batches = [
    types.Batch(*(x[i : i + _BATCH] for x in train))
    for i in range(0, len(train.ids), _BATCH)
  ]
  g_KxIxO = jax.jit(functools.partial(gradients.layer_gradients, model))(
    params, queries
  )
  score, result = jax.jit(functools.partial(_score, model)), {}
  for name in strategies:
    approximation = curvature.make(name)
    factors = fit.fit(
      approximation, model, params, len(batches), batches.__getitem__,
      jax.random.key(0), mesh=sharding.make_mesh(data=1), targets=targets,
    ).factors  # fmt: skip
    own_scale = {'relative': None, 'absolute': 0.0}  # the reference's: G itself
    damping = influence.damping_of(
      approximation, model.layers, factors,
      **(own_scale if name == 'identity' else {}),
    )  # fmt: skip
    solved, truncated = _solve(
      approximation, model.layers, factors, g_KxIxO, damping
    )
    own = jax.jit(
      functools.partial(influence.self_influence, approximation, model)
    )
    parts = []
    for batch in batches:
      part = score(params, solved, truncated, batch)
      self_B = attribution.total(
        own(params, factors, damping, batch), model.layers
      )
      parts.append(jax.device_get({**part, 'self': self_B}))
    # The reference's K-FAC is per position, this project's per sequence.
    scale = queries.mask.shape[1] if name == 'kfac' else 1
    for key in parts[0]:
      axis = {'self': 0, 'pairwise_modules': 2}.get(key, 1)  # of sequences
      whole = np.concatenate([part[key] for part in parts], axis)
      result[f'{name}.{key}'] = scale * whole
    if name == 'ekfac':
      result |= _factors(model.layers, factors)
  return result


def _solve(approximation, layers, factors, g_KxIxO, damping):
  """(whole queries, those of the reference's plain rank)."""
  solve = functools.partial(
    influence.precondition, approximation, layers, factors, g_KxIxO, damping
  )
  truncated = lowrank.truncate(
    approximation, layers, factors, solve(rotated=True), _RANK,
    weighted=False, method='exact',
  )  # fmt: skip
  return contraction.whole(solve()), truncated


def _score(model, params, solved, truncated, batch) -> dict[str, jax.Array]:
  """One batch's scores under the reference's names."""
  full = contraction.pairwise(model, params, solved, batch)
  low = contraction.pairwise(model, params, truncated, batch)
  first = jax.tree.map(lambda P: P[..., :_NUM_TOKENWISE], solved)
  tokens_BxTxK = contraction.tokenwise(model, params, first, batch)
  by_layer = attribution.by_layer(full, model.layers)
  return {
    'pairwise': attribution.total(full, model.layers).T,
    'pairwise_modules': jnp.stack([*by_layer.values()]).mT,
    f'pairwise_lr{_RANK}_fullsvd': attribution.total(low, model.layers).T,
    'pairwise_tokens': jnp.moveaxis(tokens_BxTxK, -1, 0),
  }


def _factors(layers, factors):
  """A, S, Lambda and the eigenvalues of A and S; matrices are O x I."""
  parts = {
    key: attribution.by_layer({p: f[key] for p, f in factors.items()}, layers)
    for key in ('L_A', 'Q_A', 'L_S', 'Q_S', 'Lambda')
  }
  names = [*parts['Lambda']]
  result = {
    'module_names': np.array([_reference_name(name) for name in names]),
    'ekfac.lambda_mean': np.array([parts['Lambda'][n].mean() for n in names]),
  }
  for name in names:
    L_A, Q_A, L_S, Q_S, Lambda = (np.asarray(parts[k][name]) for k in parts)
    prefix = f'factors.{_reference_name(name)}'
    result |= {
      f'{prefix}.A': Q_A * L_A @ Q_A.T,
      f'{prefix}.S': Q_S * L_S @ Q_S.T,
      f'{prefix}.lambda': Lambda.T,
      f'{prefix}.A_eigenvalues': L_A,
      f'{prefix}.S_eigenvalues': L_S,
    }
  return result


def _reference_name(name: str) -> str:
  """'blocks_0/mlp/fc_in' or 'blocks/mlp/fc_in[0]' as 'blocks.0.mlp.fc_in'."""
  name = re.sub(r'^blocks/(.*)\[(\d+)\]$', r'blocks_\2/\1', name)
  return name.replace('blocks_', 'blocks.').replace('/', '.')


def compare(
  got: dict[str, np.ndarray], reference: dict[str, np.ndarray]
) -> list[tuple]:
  """(name, Pearson, Spearman, max |difference| / max |reference|) of each."""
  rows = []
  for name in sorted(got.keys() & reference.keys() - {'module_names'}):
    ours, theirs = np.ravel(got[name]), np.ravel(reference[name])
    if ours.shape != theirs.shape:
      raise ValueError(
        f'{name} has shape {got[name].shape}, the reference '
        f'{reference[name].shape}: is it of another case or scope?'
      )
    error = np.abs(ours - theirs).max() / np.abs(theirs).max()
    pearson = stats.pearsonr(ours, theirs).statistic
    spearman = stats.spearmanr(ours, theirs).statistic
    rows.append((name, float(pearson), float(spearman), float(error)))
  return rows


def main(_):
  jax.config.update('jax_enable_x64', _DTYPE.value == 'float64')
  case = pathlib.Path(_CASE.value)
  got = compute(
    case, _SCOPE.value, _STRATEGY.value, _DTYPE.value,
    targets='data' if _FISHER.value == 'empirical' else 'model',
    scan=_SCAN.value,
  )  # fmt: skip
  path = case / f'reference_{_SCOPE.value}.npz'
  if path.exists():
    with np.load(path, allow_pickle=False) as file:
      rows = compare(got, dict(file))
    print(f'{"quantity":44} {"Pearson":>13} {"Spearman":>13} {"max diff":>9}')
    for name, pearson, spearman, error in rows:
      print(f'{name:44} {pearson:13.10f} {spearman:13.10f} {error:9.2e}')
  else:
    print(f'no reference {path}: nothing to compare with')
  if _OUT.value:
    np.savez(_OUT.value, **got)
    print(f'wrote {_OUT.value}')


if __name__ == '__main__':
  app.run(main)
