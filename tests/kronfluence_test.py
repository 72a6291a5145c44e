"""EK-FAC on pretrained decoders against kronfluence's on transformers' models.

kronfluence 1.0.1 has, of a module with gradients g_n[O, I] of what the task
calls the loss of row n (module/linear.py, factor/eigen.py, factor/config.py),

    A = sum a a^T / sum of mask        S = sum ds ds^T / sum of mask
    Lambda = sum_n (Q_S^T g_n Q_A)^2 / number of rows
    damping = 0.1 mean(Lambda)
    score(q, n) = <Q_S [Q_S^T g_q Q_A / (Lambda + damping)] Q_A^T, g_n>

and divides by no number of sequences or positions after that. So its numbers
are this library's (types.py) as they stand, with no factor between them, if

* its losses are sums over positions in nats (a mean over a sequence or a batch
  would change each g_n);
* its measurement is the query's loss, -f: f would turn the sign round;
* its attention mask is the mask of the loss. It multiplies a, but not ds, and
  divides both sums; without one padding is in A and in the count. ds is zero
  at padding to the right, so its S is ours here, but would not be if positions
  inside a sequence did not count: those are in its S, and not in ours.

A fused query_key_value is one layer to it and three to us: make.py splits it.
Its scores are [K, N], its matrices transposed. Eigenvectors are not compared:
signs are free. A and S are, since their scale drops out of the scores.
"""

import functools
import json
import pathlib
import re

import jax
import numpy as np
import safetensors.numpy
from absl.testing import absltest, parameterized

from influence_jax import (
  attribution,
  contraction,
  curvature,
  fit,
  gradients,
  influence,
  losses,
  pretrained,
  sharding,
  taps,
  types,
)
from influence_jax.models import decoder

_HERE = pathlib.Path(__file__).parent
_CASES = {'llama': False, 'gpt_neox': True}  # is it scanned
_BATCH = 20
_BOUND = 1e-5  # transformers casts to float32 inside


def _read(name):
  return safetensors.numpy.load_file(
    _HERE / 'kronfluence' / f'{name}.safetensors'
  )


def _batch(kind):
  arrays = _read('data')
  fields = (arrays[f'{kind}_{key}'] for key in ('inputs', 'targets', 'mask'))
  batch = types.Batch(*fields, None)
  return batch._replace(ids=np.arange(len(batch.inputs), dtype=np.int32))


def _error(got, wanted):
  """max |difference| / max |wanted|."""
  return np.abs(got - wanted).max() / np.abs(wanted).max()


def _by_name(values, layers):
  """{'blocks_0/mlp/up': value}, scanned or not."""
  return {
    re.sub(r'^blocks/(.*)\[(\d+)\]$', r'blocks_\2/\1', name): x
    for name, x in attribution.by_layer(values, layers).items()
  }


@functools.cache
def _ours(name):
  """({layer: scores [K, N]}, {layer: factors})."""
  config, params = pretrained.load(
    _HERE / 'families' / name, dtype='float64', scan=_CASES[name]
  )
  net = decoder.Decoder(config)

  def apply_fn(params, inputs):
    return net.apply({'params': params}, inputs)

  train, queries = _batch('train'), _batch('query')
  found = taps.find_layers(apply_fn, params, train.inputs, r'/(mlp|attn)/')
  layers = found.layers
  model = types.Model(apply_fn, losses.softmax_cross_entropy, layers)
  parts = [
    types.Batch(*(x[i : i + _BATCH] for x in train))
    for i in range(0, len(train.ids), _BATCH)
  ]
  ekfac = curvature.make('ekfac')
  factors = fit.fit(
    ekfac, model, params, len(parts), parts.__getitem__, jax.random.key(0),
    mesh=sharding.make_mesh(data=1), targets='data', quiet=True,
  ).factors  # fmt: skip

  @jax.jit
  def solve(params, factors, queries):
    g_KxIxO = gradients.layer_gradients(model, params, queries)
    damping = influence.damping_of(ekfac, layers, factors, relative=0.1)
    return contraction.whole(
      influence.precondition(ekfac, layers, factors, g_KxIxO, damping)
    )

  solved = solve(params, factors, queries)
  pairwise = jax.jit(functools.partial(contraction.pairwise, model))
  scores = [_by_name(pairwise(params, solved, part), layers) for part in parts]
  scores = {
    layer: np.concatenate([part[layer] for part in scores]).T
    for layer in scores[0]
  }
  return scores, _by_name(factors, layers)


class KronfluenceTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.enter_context(jax.enable_x64(True))

  @parameterized.parameters(('llama', 14), ('gpt_neox', 12))
  def test_scores_of_every_layer_agree(self, name, num_layers):
    scores, _ = _ours(name)
    wanted = _read(name)
    self.assertLen(scores, num_layers)
    for layer, scores_KxN in scores.items():
      with self.subTest(layer):
        self.assertEqual(scores_KxN.dtype, np.float64)
        self.assertLess(_error(scores_KxN, wanted[f'scores/{layer}']), _BOUND)

  @parameterized.product(name=[*_CASES], pattern=['/mlp/', '/(mlp|attn)/'])
  def test_totals_agree(self, name, pattern):
    scores, _ = _ours(name)
    wanted = _read(name)
    layers = [layer for layer in scores if re.search(pattern, layer)]
    got_KxN = sum(scores[layer] for layer in layers)
    wanted_KxN = sum(wanted[f'scores/{layer}'] for layer in layers)
    self.assertEqual(got_KxN.shape, (4, 40))
    self.assertLess(_error(got_KxN, wanted_KxN), _BOUND)

  @parameterized.parameters(*_CASES)
  def test_factors_agree(self, name):
    _, factors = _ours(name)
    wanted = _read(name)
    for layer, found in factors.items():
      got = {
        'L_A': np.sort(found['L_A']),
        'L_S': np.sort(found['L_S']),
        'Lambda_mean': np.mean(found['Lambda']),
      }
      for key, x in got.items():
        with self.subTest(f'{key} of {layer}'):
          self.assertLess(_error(x, wanted[f'{key}/{layer}']), _BOUND)

  def test_data_is_padded_and_queries_have_prompts(self):
    train, queries = _batch('train'), _batch('query')
    lengths = train.mask.sum(1)
    self.assertEqual({*lengths}, {11, 12, 13, 14, 15})
    self.assertTrue((queries.mask[:, 0] == 0).all())
    self.assertTrue((queries.mask.sum(1) >= 3).all())

  def test_versions_are_written_down(self):
    versions = json.loads((_HERE / 'kronfluence/versions.json').read_text())
    self.assertEqual(versions['kronfluence'], '1.0.1')


if __name__ == '__main__':
  absltest.main()
