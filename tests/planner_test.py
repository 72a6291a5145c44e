"""The plan against formulas by hand, and against what real steps allocate."""

import functools
import resource

import jax
import jax.numpy as jnp
import numpy as np
import testing
from absl.testing import absltest, parameterized

from influence_jax import (
  calibration,
  contraction,
  costs,
  curvature,
  fit,
  fit_step,
  linalg,
  losses,
  planner,
  scan,
  sharding,
  taps,
  training,
  types,
)
from influence_jax.models import transformer as transformer_lib

_V, _D, _F, _L, _T, _B = 11, 12, 20, 2, 8, 3
_LAYERS = _L * [(_D + 1, _F), (_F + 1, _D)]
_FORWARD = 2 * _L * (4 * _D**2 + 2 * _D * _F + 2 * _T * _D) + 2 * _D * _V
_TRAIN = training.TrainConfig(
  batch_tokens=_B * _T, num_epochs=1, learning_rate=0.1, warmup_steps=2,
  weight_decay=0.1, clip_norm=1.0, seed=0, save_every=5,
)  # fmt: skip


def _net(scanned=False, V=_V, D=_D, F=_F, H=2, L=_L, T=_T):
  return transformer_lib.make(
    vocab_size=V, width=D, mlp_width=F, num_heads=H, num_layers=L, max_len=T,
    scan=scanned,
  )  # fmt: skip


@functools.cache
def _transformer(scanned=False, V=_V, D=_D, F=_F, H=2, L=_L, T=_T):
  """A model of MLP layers and the shapes of its parameters."""
  net = _net(scanned, V, D, F, H, L, T)
  inputs = jax.ShapeDtypeStruct((1, T), np.int32)
  params = jax.eval_shape(net.init, jax.random.key(0), inputs)['params']

  def apply_fn(params, inputs):
    return net.apply({'params': params}, inputs)

  layers = taps.find_layers(apply_fn, params, inputs, '/mlp/').layers
  return types.Model(apply_fn, losses.softmax_cross_entropy, layers), params


@functools.cache
def _over(scanned=False, shapes=(((_B, _T), 5),)):
  return planner.passes(*_transformer(scanned), dict(shapes))


def _real(tree):
  return jax.tree.map(lambda x: jnp.ones(x.shape, x.dtype), tree)


class PlannerTest(parameterized.TestCase):
  def test_a_product_is_counted_as_often_as_its_loop_runs(self):
    def step(x, unused):
      return jax.lax.cond(x.sum() > 0, lambda x: x @ x, lambda x: x, x), unused

    def looped(x):
      return jax.vmap(lambda x: jax.lax.scan(step, x, None, 7)[0])(x)

    def unrolled(x):
      for _ in range(7):
        x = jnp.einsum('bij,bjk->bik', x, x)
      return x

    x = jax.ShapeDtypeStruct((3, 5, 5), np.float32)
    self.assertEqual(planner.flop(unrolled, x), 7 * 3 * 2 * 5**3)
    self.assertEqual(planner.flop(lambda x: looped(x[:1]), x), 7 * 2 * 5**3)

  @parameterized.parameters(False, True)
  def test_a_pass_is_that_of_the_formula(self, scanned):
    dense = 4 * _D**2 + 2 * _D * _F
    forward = 2 * _B * _T * (_L * dense + _D * _V + 2 * _L * _T * _D)
    # Backward: the whole last block, and of the first one fc_out
    backward = 2 * _B * _T * (_D * _V + dense + 4 * _T * _D + _D * _F)
    if scanned:  # a loop goes back through all of every block
      backward += 2 * _B * _T * (dense + 4 * _T * _D - _D * _F)
    found = _over(scanned).flop[_B, _T]
    self.assertEqual(found, forward + backward)

  @parameterized.parameters(False, True)
  def test_training_is_three_forward_passes(self, scanned):
    """Each product of the forward pass has two in the backward pass."""
    over = _over(scanned)
    cost = costs.train_cost(_net(scanned), _TRAIN, over, mesh=testing.mesh())
    self.assertEqual(cost.stage, 'train')
    self.assertEqual(cost.step_flop, 3 * _B * _T * _FORWARD)
    self.assertEqual(sum(cost.flop.values()), 5 * cost.step_flop)
    self.assertEqual(cost.flop['pass'], 5 * over.flop[_B, _T])

  def test_bytes_of_training_are_parameters_twice_again_for_the_optimizer(self):
    cost = costs.train_cost(_net(), _TRAIN, _over(), mesh=testing.mesh())
    block = 4 * (_D**2 + _D) + 2 * _D * _F + _F + _D + 4 * _D
    num = 2 * _V * _D + _T * _D + _L * block + 2 * _D
    counts = 3  # steps: of the state, of Adam, of the schedule
    self.assertEqual(cost.device['parameters'], 4 * num)
    self.assertEqual(cost.device['optimizer'], 4 * (2 * num + counts))
    self.assertEqual(cost.host, 4 * (3 * num + counts))
    self.assertEqual(cost.disk, 3 * cost.host)

  @parameterized.parameters(1, 2)
  def test_the_step_of_training_is_the_one_that_runs_on_the_mesh(self, num):
    mesh, rows = testing.mesh(num), 4
    over = planner.passes(*_transformer(), {(rows, _T): 5})
    cost = costs.train_cost(_net(), _TRAIN, over, mesh=mesh)
    schedule = training.make_schedule(_TRAIN, 5)
    optimizer = training.make_optimizer(_TRAIN, schedule)
    state = training.start(_net(), optimizer, jax.random.key(0))
    real = training.make_step(_net(), optimizer, schedule).lower(
      sharding.replicate(mesh, state),
      sharding.shard_batch(mesh, _real(planner.batch_of((rows, _T)))),
    )
    predicted, found = (
      x.memory_analysis() for x in (cost.step, real.compile())
    )
    for name in ('argument', 'output', 'alias', 'temp'):
      name = f'{name}_size_in_bytes'
      self.assertEqual(getattr(predicted, name), getattr(found, name), name)
    self.assertGreater(found.alias_size_in_bytes, 0)  # the state is donated

  def test_layers_of_a_fit_are_those_of_the_formula(self):
    found = costs.fit_costs(
      curvature.make('ekfac'), _over(), mesh=testing.mesh()
    )
    by_stage = {cost.stage: cost.flop for cost in found}
    covariance = sum(2 * _B * _T * (i * i + o * o) for i, o in _LAYERS)
    # T is less than I and O: tokens are rotated
    rotated = sum(2 * _B * _T * (i * i + o * o + i * o) for i, o in _LAYERS)
    self.assertEqual(by_stage['covariance']['layers'], 5 * covariance)
    self.assertEqual(by_stage['eigenvalue']['layers'], 5 * rotated)
    cubes = sum(i**3 + o**3 for i, o in _LAYERS)
    self.assertEqual(
      by_stage['eigendecomposition'], {'eigh': planner.EIGH * cubes}
    )

  def test_a_symmetric_product_is_counted_by_half(self):
    x = jax.ShapeDtypeStruct((2, 5, 600), np.float32)
    products = 3 * 300**2  # of 4 blocks
    self.assertEqual(planner.flop(linalg.upper_gram, x), 2 * 10 * products)

  @parameterized.parameters((None, 4), (2, 1), (2, 96))
  def test_layers_of_a_scan_are_those_of_the_cheapest_road(self, rank, num):
    model, _ = _transformer()
    queries = costs.queries_of(model.layers, num, rank)
    cost = costs.scan_cost(_over(), queries, mesh=testing.mesh())
    r = rank or 0
    roads = {
      'gradient': lambda i, o: 2 * i * o * (_B * (_T + num) + num * r),
      'tokens': lambda i, o: 2 * _B * _T * num * r * (i + o),
    }  # fmt: skip
    taken = scan.roads(model.layers, queries, (_B, _T))
    expected = sum(
      roads[taken[path]](x.num_in, x.num_out)
      for path, x in model.layers.items()
    )
    self.assertEqual(cost.flop['layers'], 5 * expected)
    self.assertEqual(
      set(taken.values()), {'tokens' if num == 1 else 'gradient'}
    )

  def test_a_compiler_counts_the_same(self):
    """XLA counts elementwise operations, too: they are few in a wide model."""
    model, params = _transformer(V=256, D=128, F=512, T=64)
    over = planner.passes(model, params, {(4, 64): 1})
    queries = costs.queries_of(model.layers, 8, None)
    cost = costs.scan_cost(over, queries, mesh=testing.mesh())
    theirs = cost.step.cost_analysis()['flops']
    self.assertBetween(theirs / cost.step_flop, 0.99, 1.05)

  @parameterized.product(
    name=['ekfac', 'ekfac_blocks', 'kfac', 'kfac_tikhonov', 'diagonal'],
    scanned=[False, True],
  )
  def test_bytes_of_factors_are_those_of_real_ones(self, name, scanned):
    model, _ = _transformer(scanned)
    made = curvature.make(name)
    arrays, mask = testing.random_arrays(model.layers)
    real = testing.factors_of(made, model.layers, arrays, mask)
    predicted, _ = costs.factors_of(made, model.layers)
    jax.tree.map(
      lambda x, y: self.assertEqual((x.shape, x.dtype), (y.shape, y.dtype)),
      predicted, real,
    )  # fmt: skip
    size = sum(x.nbytes for x in jax.tree.leaves(real))
    self.assertEqual(planner.nbytes(predicted), size)
    self.assertGreater(size, 0)

  @parameterized.parameters(None, 2)
  def test_bytes_of_queries_are_those_of_real_ones(self, rank):
    model, _ = _transformer(True)
    found = costs.queries_of(model.layers, 3, rank)
    for path, x in model.layers.items():
      numbers = x.num_in * x.num_out
      if rank:
        numbers = rank * (x.num_in + x.num_out)
      self.assertEqual(planner.nbytes(found[path]), 4 * _L * 3 * numbers)
    self.assertEqual(contraction.num_queries(found), 3)

  def test_temporary_bytes_are_those_of_the_real_step_of_the_largest(self):
    model, params = _transformer()
    shapes = (((_B, _T), 5), ((2 * _B, _T // 2), 9), ((_B, _T // 2), 9))
    made = curvature.make('kfac')
    cost = costs.fit_costs(made, _over(False, shapes), mesh=testing.mesh())[0]
    state = fit.start(made, model.layers)
    step = fit_step.make(model, made.stages[0], testing.mesh(), 'model')

    def memory(shape):
      return (
        step.lower(
          _real(params), state.factors, jax.random.key(0),
          _real(planner.batch_of(shape)), state.counts, state.sums,
        ).compile().memory_analysis()
      )  # fmt: skip

    found = memory((_B, _T))
    beside = found.output_size_in_bytes - found.alias_size_in_bytes
    predicted = cost.device['temporary'] - beside
    self.assertEqual(predicted, found.temp_size_in_bytes)
    self.assertNotEqual(predicted, memory((_B, _T // 2)).temp_size_in_bytes)
    given = sum(cost.device.values()) - cost.device['temporary']
    given -= 4 * _B * _T  # targets: the model's own are taken
    self.assertEqual(given, found.argument_size_in_bytes)

  def test_more_of_anything_costs_more(self):
    model, params = _transformer()

    def cost(num=4, rank=2, rows=_B, batches=5):
      over = planner.passes(model, params, {(rows, _T): batches})
      queries = costs.queries_of(model.layers, num, rank)
      return costs.scan_cost(over, queries, mesh=testing.mesh())

    def size(cost):
      return sum(cost.device.values())

    base = cost()
    for more in (cost(num=40), cost(rank=4), cost(rows=9)):
      self.assertGreater(sum(more.flop.values()), sum(base.flop.values()))
      self.assertGreater(size(more), size(base))
    longer = cost(batches=50)
    self.assertEqual(longer.flop['pass'], 10 * base.flop['pass'])
    self.assertEqual(size(longer), size(base))

  def test_a_52b_model_is_planned_without_its_arrays(self):
    D, F, L, T, R = 8192, 32768, 64, 512, 32
    model, params = _transformer(True, V=65536, D=D, F=F, H=64, L=L, T=T)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    queries = costs.queries_of(model.layers, 100, R)
    over = planner.passes(model, params, {(1, T): 10})
    cost = costs.scan_cost(over, queries, mesh=testing.mesh())
    factors, sizes = costs.factors_of(curvature.make('ekfac'), model.layers)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    self.assertLess(grown, 2**20)  # KiB: less than a GiB of 200
    sides = [D + 1, F, F + 1, D]
    self.assertCountEqual(sizes, L * sides)
    numbers = sum(n * n + n for n in sides) + 2 + (D + 1) * F + (F + 1) * D
    self.assertEqual(planner.nbytes(factors), 4 * L * numbers)
    self.assertEqual(cost.device['queries'], 4 * L * 100 * R * sum(sides))
    num_params = 52e9
    self.assertBetween(planner.nbytes(params) / 4 / num_params, 0.98, 1.02)
    passed = 2 * 2 * 10 * T * num_params
    self.assertBetween(cost.flop['pass'] / passed, 0.95, 1.05)

  def test_large_steps_are_not_timed(self):
    model, params = _transformer()
    queries = costs.queries_of(model.layers, 4, 2)
    cost = costs.scan_cost(_over(), queries, mesh=testing.mesh())
    rates = calibration.calibrate(
      [cost, cost._replace(stage='x', step_flop=1e15)]
    )
    self.assertCountEqual(rates, ['matmul', 'eigh', 'scan'])
    self.assertLess(rates['scan'], rates['matmul'])

  def test_the_peak_is_that_of_the_largest_stage_and_all_programs(self):
    small = planner.Cost('a', {}, {'x': 5, 'y': 6}, num_programs=2, program=90)
    large = planner.Cost('b', {}, {'x': 50}, 7, num_programs=3, program=10)
    host = planner.Cost('eigendecomposition', {}, {'x': 8}, 9)
    found = planner.peak([small, large, host], 1000)
    self.assertEqual(found, 1000 + 5 * 10 + 57)

  def test_seconds_are_operations_by_rate_and_compilation(self):
    cost = planner.Cost(
      'scan', {'pass': 6.0, 'eigh': 8.0}, {}, compile_seconds=5
    )
    rates = {'scan': 2.0, 'eigh': 4.0, 'matmul': 100.0}
    self.assertEqual(calibration.predict(cost, rates).seconds, 3 + 2 + 5)
    other = calibration.predict(cost._replace(stage='refine'), rates)
    self.assertEqual(other.seconds, 6 / 50 + 2 + 5)


if __name__ == '__main__':
  absltest.main()
