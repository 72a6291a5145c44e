"""One result on any mesh: factors, scores and tops of one device's run."""

import functools

import jax
import numpy as np
import testing
from absl.testing import absltest, parameterized

from influence_jax import (
  costs,
  curvature,
  fit,
  planner,
  scan,
  sharding,
  topk,
)
from influence_jax.models import transformer as transformer_lib

_MESHES = ((8, 1), (4, 2), (2, 4), (1, 8), (3, 2))
_KEYS = ('L_A', 'L_S', 'Lambda')


def setUpModule():
  jax.config.update('jax_enable_x64', True)
  jax.config.update('jax_disable_most_optimizations', True)  # compiles sooner


def tearDownModule():
  jax.config.update('jax_disable_most_optimizations', False)
  jax.config.update('jax_enable_x64', False)


@functools.cache
def _model(dtype='float64'):
  """Three stacked blocks; widths that 2, 4 and 8 divide, but for biases."""
  net = transformer_lib.make(
    vocab_size=16, width=8, mlp_width=24, num_heads=2, num_layers=3, max_len=8,
    dtype=dtype, scan=True, remat=True,
  )  # fmt: skip
  inputs = jax.ShapeDtypeStruct((1, 8), np.int32)
  return testing.model_of(net, inputs, pattern='mlp')


def _batches() -> list:
  """Rows that no axis divides: 6 + 6 + 1."""
  rows = [testing.batch(6, seed=0), testing.batch(6, seed=1)]
  rows += [testing.batch(1, seed=2)]
  return [
    x._replace(ids=np.arange(len(x.ids), dtype=np.int32) + 6 * n)
    for n, x in enumerate(rows)
  ]


@functools.cache
def _fitted(shape, fsdp=True, dtype='float64'):
  mesh = sharding.make_mesh(*shape)
  model, params = _model(dtype)
  placed = sharding.put(params, sharding.of_params(mesh, params, fsdp=fsdp))
  batches = _batches()
  state = fit.fit(
    curvature.make('ekfac'), model, placed, len(batches), batches.__getitem__,
    jax.random.key(0), mesh=mesh, quiet=True,
  )  # fmt: skip
  return state.factors


def _queries(rank, num=5):
  """Not solved: any array of their shape will do."""
  rng = np.random.default_rng(0)

  def one(layer):
    I, O = layer.num_in, layer.num_out  # noqa: E741
    if rank is None:
      return {'P': rng.normal(size=(*layer.stack, I, O, num))}
    return {
      'U': rng.normal(size=(*layer.stack, num, I, rank)),
      'V': rng.normal(size=(*layer.stack, num, rank, O)),
    }

  return {path: one(layer) for path, layer in _model()[0].layers.items()}


def _scanned(shape, rank, dtype='float64'):
  mesh = sharding.make_mesh(*shape)
  model, params = _model(dtype)
  placed = sharding.put(params, sharding.of_params(mesh, params, fsdp=True))
  step = scan.make_step(model, mesh)
  summary, scores = topk.start(5, 4), []
  for ids, scores_KxB in scan.scan(
    step, placed, _queries(rank), _batches(), mesh
  ):
    summary = topk.update(summary, ids, scores_KxB)
    scores.append(scores_KxB)
  return np.concatenate(scores, 1), topk.top(summary)[0]


class MeshTest(parameterized.TestCase):
  @parameterized.parameters(*_MESHES)
  def test_factors(self, *shape):
    for path, wanted in _fitted((1, 1)).items():
      for key in _KEYS:
        got = np.asarray(_fitted(shape)[path][key])
        testing.assert_near(self, got, np.asarray(wanted[key]))

  @parameterized.product(shape=_MESHES, rank=(None, 2))
  def test_scores_and_tops(self, shape, rank):
    (wanted, wanted_ids), (got, ids) = (
      _scanned((1, 1), rank),
      _scanned(shape, rank),
    )
    testing.assert_near(self, got, wanted)
    np.testing.assert_array_equal(ids, wanted_ids)
    self.assertEqual(wanted.shape, (5, 13))

  @parameterized.parameters((4, 2), (1, 8))
  def test_float32(self, *shape):
    """Not Lambda: of eigenvalues that are near, vectors turn with rounding."""
    with jax.enable_x64(False):
      fitted, scanned = (
        [fn(at, dtype='float32') for at in ((1, 1), shape)]
        for fn in (_fitted, functools.partial(_scanned, rank=2))
      )
    for path, wanted in fitted[0].items():
      for key in _KEYS[:2]:
        got = fitted[1][path][key]
        self.assertEqual(got.dtype, np.float32)
        testing.assert_near(self, got, wanted[key], 1e-5)
    (wanted, wanted_ids), (got, ids) = scanned
    testing.assert_near(self, got, wanted, 1e-5)
    np.testing.assert_array_equal(ids, wanted_ids)

  @parameterized.parameters(*_MESHES[1:4])
  def test_bytes_of_a_device_are_those_of_the_compiled_steps(self, *shape):
    mesh = sharding.make_mesh(*shape)
    model, params = _model()
    shapes = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), params
    )
    placed = sharding.put(shapes, sharding.of_params(mesh, shapes, fsdp=True))
    over = planner.passes(model, placed, {(8, 8): 1})
    queries = costs.queries_of(model.layers, 5, 2)
    found = costs.fit_costs(
      curvature.make('ekfac'), over, mesh=mesh, targets='data'
    )
    found = [x for x in found if x.step] + [
      costs.scan_cost(over, queries, mesh=mesh)
    ]
    self.assertLen(found, 3)
    for cost in found:
      if cost.stage == 'scan':
        parameters, queries, batch = cost.step_args
        used = parameters, queries, batch[:3]  # no step sees the ids
      else:
        parameters, factors, _, batch, counts, sums = cost.step_args
        bases = [
          x for one in factors.values() for k, x in one.items() if 'Q' in k
        ]
        used = parameters, bases, batch[:3], counts, sums
      self.assertEqual(
        planner.nbytes(used),
        cost.step.memory_analysis().argument_size_in_bytes,
        cost.stage,
      )

  def test_matrices_are_split_over_model_and_parameters_over_both(self):
    mesh = sharding.make_mesh(4, 2)
    model, params = _model()
    names = {
      jax.tree_util.keystr(path, simple=True, separator='/'): x.spec
      for path, x in jax.tree_util.tree_leaves_with_path(
        sharding.of_params(mesh, params, fsdp=True)
      )
    }
    spec = jax.sharding.PartitionSpec
    self.assertEqual(
      names['blocks/mlp/fc_in/kernel'], spec(None, 'data', 'model')
    )
    self.assertEqual(
      names['blocks/mlp/fc_out/kernel'], spec(None, 'model', 'data')
    )
    self.assertEqual(names['tok_emb/embedding'], spec('model', 'data'))
    self.assertEqual(names['blocks/mlp/fc_in/bias'], spec(None, None))
    placed = sharding.of_layers(mesh, model.layers, _fitted((4, 2)))
    one = placed['blocks/mlp/fc_in']  # 9 x 24
    self.assertEqual(one['Q_S'].spec, spec(None, None, 'model'))
    self.assertEqual(one['Q_A'].spec, spec(None, None, None))
    self.assertEqual(one['Lambda'].spec, spec(None, None, 'model'))
    self.assertEqual(one['L_S'].spec, spec(None, None))

  def test_rules_of_a_config_come_first(self):
    mesh = sharding.make_mesh(4, 2)
    rules = (('fc_in/kernel$', (None, 'data')), *sharding.RULES)
    found = sharding.of_params(mesh, _model()[1], fsdp=True, rules=rules)
    mlp = found['blocks']['mlp']
    spec = jax.sharding.PartitionSpec
    self.assertEqual(mlp['fc_in']['kernel'].spec, spec(None, None, 'data'))
    self.assertEqual(mlp['fc_out']['kernel'].spec, spec(None, 'model', 'data'))


if __name__ == '__main__':
  absltest.main()
