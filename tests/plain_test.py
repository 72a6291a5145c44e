"""Embeddings, tied heads and norms beside dense layers."""

import functools
import json
from unittest import mock

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import testing
import tiny_config
from absl.testing import absltest, parameterized
from flax import traverse_util

from experiments import plan, refine
from influence_jax import (
  attribution,
  contraction,
  gradients,
  influence,
  lowrank,
  plain,
  scan,
  taps,
  types,
)
from influence_jax import curvature as curvatures
from influence_jax.models import decoder, rope, transformer

_TIED = dict(
  vocab_size=7, width=6, mlp_width=5, num_heads=2, num_kv_heads=1, head_dim=4,
  num_layers=2, max_len=8, rope=rope.Rope(100.0, 4), tied=True,
  dtype='float64',
)  # fmt: skip
_PATTERN = 'emb|norm|ln'


def setUpModule():
  jax.config.update('jax_enable_x64', True)


def tearDownModule():
  jax.config.update('jax_enable_x64', False)


class _Small(nn.Module):
  """A tied embedding around two blocks: compiles sooner than a decoder."""

  scan: bool

  @nn.compact
  def __call__(self, tokens_BxT):
    embed = nn.Embed(7, 4, name='tok_emb', param_dtype=float)
    h_BxTxD = embed(tokens_BxT)
    if self.scan:
      scanned = nn.scan(
        _Block, {'params': 0}, split_rngs={'params': True}, length=2
      )
      h_BxTxD, _ = scanned(name='blocks')(h_BxTxD)
    else:
      for i in range(2):
        h_BxTxD, _ = _Block(name=f'blocks_{i}')(h_BxTxD)
    h_BxTxD = nn.LayerNorm(name='final_norm', param_dtype=float)(h_BxTxD)
    return embed.attend(h_BxTxD)


class _Block(nn.Module):
  @nn.compact
  def __call__(self, h_BxTxD):
    x_BxTxD = nn.LayerNorm(name='norm', param_dtype=float)(h_BxTxD)
    x_BxTxD = jnp.tanh(x_BxTxD.cumsum(1))
    return h_BxTxD + nn.Dense(4, name='mlp', param_dtype=float)(x_BxTxD), None


@functools.cache
def _dense(name, scan=False):
  """A model of whose layers the MLPs are, and its parameters."""
  if name == 'transformer':
    return testing.transformer()
  tokens = jax.ShapeDtypeStruct((2, 8), jnp.int32)
  make_fn = {'tied': functools.partial(decoder.make, **_TIED), 'small': _Small}
  net = make_fn[name](scan=False)
  model, params = testing.model_of(net, tokens, pattern='/mlp')
  if not scan:
    return model, params
  params = transformer.stack_params(params)
  net = make_fn[name](scan=True)

  def apply_fn(params, inputs):
    return net.apply({'params': params}, inputs)

  found = taps.find_layers(apply_fn, params, tokens, '/mlp')
  return types.Model(apply_fn, model.loss, found.layers), params


@functools.cache
def _model(name, scan=False):
  """The same with plain layers, too."""
  model, params = _dense(name, scan)
  tokens = np.zeros((2, 8), int)
  found = plain.find(model.apply_fn, params, tokens, _PATTERN)
  return model._replace(layers=model.layers | found), params


def _batch(seed=0):
  """Eight sequences, the last of which is padding."""
  batch = testing.batch(8, seed=seed)
  batch.mask[-1] = 0
  return batch


def _few_at_once(model, num):
  """A patch: memory for the gradients of `num` sequences."""
  plains = plain.split(model.layers)[1].values()
  size = sum(np.prod((*x.stack, x.num_in, x.num_out)) for x in plains)
  return mock.patch.object(gradients, '_HELD', num * size)


def _gradients_by_row(name, scan, batch):
  """{path: [*stack, B, I, O]} by jax.grad of one sequence's loss, unrolled."""
  rows = testing.row_gradients(*_dense(name), batch)
  if scan:
    rows = [*map(transformer.stack_params, rows)]
  rows = [traverse_util.flatten_dict(tree, sep='/') for tree in rows]
  found = {}
  for path, layer in _model(name, scan)[0].layers.items():
    shape = *layer.stack, -1, layer.num_out
    names = (path,) if path in rows[0] else (f'{path}/kernel', f'{path}/bias')
    parts = [
      np.stack([np.reshape(row[x], shape) for row in rows], len(layer.stack))
      for x in names
      if x in rows[0]
    ]
    found[path] = np.concatenate(parts, -2)
  return found


@functools.cache
def _rows(seed=0):
  """The gradients of the small model's scan on a batch."""
  return _gradients_by_row('small', True, _batch(seed))


@functools.cache
def _fitted():
  """(curvature, dense factors alone, factors, damping) of the small scan."""
  curvature, (model, params) = (
    curvatures.make('ekfac'),
    _model('small', scan=True),
  )

  def fit(model):
    return testing.fitted(
      curvature, model, params, [_batch(), _batch(3)], targets='model',
      devices=2,
    ).factors  # fmt: skip

  alone = fit(_dense('small', scan=True)[0])
  with _few_at_once(model, 2):  # of a device's four
    factors = fit(model)
  damping_of = functools.partial(influence.damping_of, curvature, model.layers)
  return curvature, alone, factors, jax.jit(damping_of)(factors)


class FindTest(absltest.TestCase):
  def test_a_stack_is_a_stack_and_a_vector_is_one_row(self):
    found = plain.split(_model('tied', scan=True)[0].layers)[1]
    norm = (1, 6, False, (2,))
    wanted = {
      'tok_emb/embedding': (7, 6, False, ()),
      'blocks/attn_norm/scale': norm,
      'blocks/mlp_norm/scale': norm,
      'final_norm/scale': (1, 6, False, ()),
    }
    self.assertEqual({p: tuple(x)[1:] for p, x in found.items()}, wanted)
    self.assertEqual([*found], [*wanted])
    self.assertEqual([x.path for x in found.values()], [*wanted])

  def test_what_is_dense_or_not_there_is_refused_by_name(self):
    model, params = _dense('tied')
    find = functools.partial(plain.find, model.apply_fn, params)
    for pattern, got in (
      ('conv', 'nothing'),
      ('emb|blocks_0/mlp/up', "'blocks_0/mlp/up/kernel'"),
      ('attn/k', "'blocks_0/attn/k/kernel'"),
    ):
      with self.assertRaisesRegex(ValueError, f'{got}.*there are.*tok_emb'):
        find(np.zeros((2, 8), int), pattern)

  def test_a_config_asks_for_them(self):
    config = tiny_config.get_config()
    dense = plan.abstract_model(config)[0].layers
    config.plain = 'tok_emb|ln_f'
    layers = plan.abstract_model(config)[0].layers
    plains = ['tok_emb/embedding', 'ln_f/scale', 'ln_f/bias']
    self.assertCountEqual(layers, [*dense, *plains])
    self.assertEqual([*layers][: len(dense)], [*dense])
    self.assertEqual(json.dumps(layers | dense), json.dumps(layers))
    self.assertTrue(all(len(x) == 5 for x in layers.values()))  # as ever
    config.plain = '/mlp/'
    with self.assertRaisesRegex(ValueError, 'mlp/fc_in/kernel'):
      plan.abstract_model(config)


class GradientsTest(parameterized.TestCase):
  @parameterized.parameters(
    ('transformer', False, 0.5, 8), ('tied', False, 5, 2), ('tied', True, 8, 1)
  )
  def test_they_are_those_of_one_sequence_at_a_time(
    self, name, scanned, num, groups
  ):
    model, params = _model(name, scanned)
    run = functools.partial(gradients.layer_gradients, model)
    with _few_at_once(model, num):
      jaxpr = jax.make_jaxpr(run)(params, _batch())
      found = jax.jit(run)(params, _batch())
    loops = [x for x in jaxpr.eqns if x.primitive.name == 'scan']
    self.assertIn(groups, [x.params['length'] for x in loops])
    self.assertCountEqual(found, model.layers)
    for path, g in _gradients_by_row(name, scanned, _batch()).items():
      testing.assert_near(self, found[path], g, what=path)


class FitTest(absltest.TestCase):
  def test_D_is_the_mean_square_of_sequences_gradients(self):
    model, params = _model('small', scan=True)
    rng = jax.random.fold_in(jax.random.key(0), 0)  # of the first stage

    @jax.jit
    def drawn(params, batch):
      outputs = model.apply_fn(params, batch.inputs)
      return model.loss.sample(rng, outputs, batch.ids)

    sums = 0
    for batch in (_batch(), _batch(3)):
      batch = batch._replace(targets=np.asarray(drawn(params, batch)))
      found = _gradients_by_row('small', True, batch)
      squares = {p: (g**2).sum(-3) for p, g in found.items()}
      sums = jax.tree.map(np.add, sums, squares) if sums else squares
    for path in plain.split(model.layers)[1]:
      (D,) = _fitted()[2][path].values()
      testing.assert_near(self, D, sums[path] / 14, what=path)

  def test_the_dense_layers_factors_are_what_they_were(self):
    _, alone, factors, _ = _fitted()
    for path, one in alone.items():
      for key, x in one.items():
        np.testing.assert_array_equal(factors[path][key], x, key)

  def test_without_a_stage_the_block_is_the_identity(self):
    model, params = _model('small', scan=True)
    curvature = curvatures.make('identity')
    factors = testing.fitted(curvature, model, params, [_batch()]).factors
    damping = influence.damping_of(curvature, model.layers, factors)
    for path, layer in model.layers.items():
      np.testing.assert_allclose(damping[path], np.full(layer.stack, 0.1))


def _dense_block(one, shape):
  """G + damping, [I O, I O], of one layer or slice."""
  if 'Lambda' in one:
    Q = np.kron(one['Q_A'], one['Q_S'])
    G = Q @ np.diag(np.ravel(one['Lambda'])) @ Q.T
    mean = one['Lambda'].mean()
  else:
    (D,) = one.values()
    assert D.shape == shape
    G, mean = np.diag(np.ravel(D)), D.mean()
  return G + 0.1 * mean * np.eye(len(G))


@functools.cache
def _oracle():
  """Scores {path: [*stack, K, B]} by matrices; queries are _batch(1)."""
  _, _, factors, _ = _fitted()
  found = {}
  for path, layer in _model('small', scan=True)[0].layers.items():
    found[path] = np.empty((*layer.stack, 8, 8))
    for at in np.ndindex(*layer.stack):
      one = {key: np.asarray(x)[at] for key, x in factors[path].items()}
      G = _dense_block(one, (layer.num_in, layer.num_out))
      g_K, g_B = (_rows(seed)[path][at].reshape(8, -1) for seed in (1, 0))
      found[path][at] = g_K @ np.linalg.solve(G, g_B.T)
  return found


@functools.cache
def _queries():
  """{road: the queries of `_batch(1)`}."""
  curvature, _, factors, damping = _fitted()
  model, params = _model('small', scan=True)

  @jax.jit
  def solve(params, factors, batch):
    g_KxIxO = gradients.layer_gradients(model, params, batch)
    given = curvature, model.layers, factors
    solved = influence.precondition(*given, g_KxIxO, damping)
    rotated = influence.precondition(*given, g_KxIxO, damping, rotated=True)
    return {
      'whole': contraction.whole(solved),
      'full rank': lowrank.truncate(*given, rotated, 9, method='exact'),
      'rank 2': lowrank.truncate(*given, rotated, 2, method='exact'),
    }

  return solve(params, factors, _batch(1))


class ScoresTest(absltest.TestCase):
  def test_they_are_those_of_a_dense_solve(self):
    model, params = _model('small', scan=True)
    queries = _queries()['full rank']
    with _few_at_once(model, 4):
      run = functools.partial(contraction.pairwise, model)
      found = jax.jit(run)(params, queries, _batch())
    for path, wanted in _oracle().items():
      got = np.swapaxes(found[path], -1, -2)
      testing.assert_near(self, got, wanted, what=path)
    roads = scan.roads(model.layers, queries, (8, 8))
    for path in plain.split(model.layers)[1]:
      self.assertEqual(roads[path], 'gradient')

  def test_a_scan_adds_all_layers_up(self):
    model, params = _model('small', scan=True)
    mesh, step = testing.mesh(), scan.make_step(model, testing.mesh())
    queries = _queries()['whole']
    ((_, found),) = scan.scan(step, params, queries, [_batch()], mesh)
    total = sum(x.reshape(-1, 8, 8).sum(0) for x in _oracle().values())
    testing.assert_near(self, found, total)

  def test_truncation_leaves_vectors_whole(self):
    queries = _queries()['rank 2']
    embedding = queries['tok_emb/embedding']
    self.assertEqual(embedding['U'].shape, (8, 7, 2))
    for path in ('final_norm/bias', 'blocks/norm/scale'):
      P = np.asarray(queries[path]['U'] @ queries[path]['V'])
      wanted = np.moveaxis(_queries()['whole'][path]['P'], -1, -3)
      testing.assert_near(self, P, wanted, what=path)

  def test_self_influence_is_that_of_a_dense_solve(self):
    model, params = _model('small', scan=True)
    curvature, _, factors, damping = _fitted()
    path = 'blocks/norm/scale'
    one = model._replace(layers={path: model.layers[path]})
    run = functools.partial(influence.self_influence, curvature, one)
    found = jax.jit(run)(params, factors, damping, _batch(1))[path]
    for n, g_BxIxO in enumerate(_rows(1)[path]):
      (D,) = (np.asarray(x[n]) for x in factors[path].values())
      g_BxP, G = g_BxIxO.reshape(8, -1), _dense_block({'D': D}, (1, 4))
      wanted = np.diag(g_BxP @ np.linalg.solve(G, g_BxP.T))
      testing.assert_near(self, found[n], wanted)

  def test_details_have_all_layers_and_the_dense_ones_tokens(self):
    model, params = _model('small', scan=True)
    query = contraction.take(_queries()['whole'], [4])

    @jax.jit
    def run(*args):
      by_token = contraction.tokenwise(model, *args)
      return *refine._details(model, *args), by_token

    tokens_BxT, layers_BxL, by_token = run(params, query, _batch())
    by_layer = attribution.by_layer(_oracle(), model.layers)
    wanted = np.stack([x[4] for x in by_layer.values()], 1)
    self.assertEqual([*by_layer], attribution.layer_names(model.layers))
    testing.assert_near(self, layers_BxL, wanted)
    dense = plain.split(model.layers)[0]
    share = sum(_oracle()[path].sum(0)[4] for path in dense)
    testing.assert_near(self, tokens_BxT.sum(1), share)
    testing.assert_near(self, by_token[..., 0], tokens_BxT)


if __name__ == '__main__':
  absltest.main()
