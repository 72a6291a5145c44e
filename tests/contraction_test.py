import functools
import math
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import testing
from absl.testing import absltest, parameterized

from influence_jax import attribution, contraction

_NUM_QUERIES, _RANK = 6, 2
_ROADS = (None, 'gradient', 'tokens')


def setUpModule():
  jax.config.update('jax_enable_x64', True)


def tearDownModule():
  jax.config.update('jax_enable_x64', False)


def _batch():
  """Ends in noise that is padding; the last row is nothing else."""
  batch = testing.deep_batch()
  batch.mask[-1] = 0
  return batch


@functools.cache
def _low_rank(scan):
  rng = np.random.default_rng(1)
  return {
    path: {
      'U': rng.normal(size=(*x.stack, _NUM_QUERIES, x.num_in, _RANK)),
      'V': rng.normal(size=(*x.stack, _NUM_QUERIES, _RANK, x.num_out)),
    }
    for path, x in testing.deep(scan)[0].layers.items()
  }


@functools.cache
def _solved(scan):
  """Preconditioned gradients as they come from `influence.precondition`."""
  rng = np.random.default_rng(2)
  return {
    path: rng.normal(size=(*x.stack, _NUM_QUERIES, x.num_in, x.num_out))
    for path, x in testing.deep(scan)[0].layers.items()
  }


def _queries(low, scan):
  return _low_rank(scan) if low else contraction.whole(_solved(scan))


@functools.cache
def _matrices(low, scan):
  """{name: P_KxIxO}, a stack taken apart."""
  per_path = _solved(scan)
  if low:
    per_path = {
      path: np.einsum('...kir,...kro->...kio', x['U'], x['V'])
      for path, x in _low_rank(scan).items()
    }
  return testing.split_stacks(testing.deep(scan)[0], per_path)


def _run(fn, low, scan=False, **static):
  """What a contraction makes of the batch; traced anew each time."""
  model, params = testing.deep(scan)
  run = jax.jit(functools.partial(fn, model, **static))
  return jax.device_get(run(params, _queries(low, scan), _batch()))


@functools.cache
def _wanted(low, scan=False):
  """{name: scores_BxK} from one jax.grad a sequence."""
  g = testing.loop_gradients(*testing.deep(scan), _batch())
  return {
    name: np.einsum('bio,kio->bk', g[name], P)
    for name, P in _matrices(low, scan).items()
  }


@functools.cache
def _wanted_by_position(low):
  """Scores [B, T, K], position by position."""
  model, params = testing.deep()
  arrays = testing.explicit_arrays(model, params, _batch())
  result_BxTxK = np.zeros((6, 5, _NUM_QUERIES))
  for path, (a, ds) in arrays.items():
    for b, t, k in np.ndindex(result_BxTxK.shape):
      P_IxO = _matrices(low, False)[path][k]
      result_BxTxK[b, t, k] += a[b, t] @ P_IxO @ ds[b, t]
  return result_BxTxK


def _equations(jaxpr, times=1):
  """(equation, how often it runs) of a jaxpr, those of loops included."""
  for eqn in jaxpr.eqns:
    inner = [
      getattr(x, 'jaxpr', x)
      for x in jax.tree.leaves(
        tuple(eqn.params.values()),
        is_leaf=lambda x: hasattr(getattr(x, 'jaxpr', x), 'eqns'),
      )
      if hasattr(getattr(x, 'jaxpr', x), 'eqns')
    ]
    yield eqn, times
    for x in inner:
      yield from _equations(x, times * eqn.params.get('length', 1))


def _operations(jaxpr):
  """Multiplications and additions of products, and those one by one."""
  total = 0
  for eqn, times in _equations(jaxpr):
    out = math.prod(eqn.outvars[0].aval.shape)
    into = math.prod(eqn.invars[0].aval.shape) if eqn.invars else 0
    if eqn.primitive.name == 'dot_general':
      (axes, _), _ = eqn.params['dimension_numbers']
      inner = math.prod(eqn.invars[0].aval.shape[n] for n in axes)
      total += times * 2 * out * inner
    elif eqn.primitive.name == 'mul':
      total += times * out
    elif eqn.primitive.name == 'reduce_sum':
      total += times * into
  return total


def _shapes(I, O, K, R):  # noqa: E741
  """One layer's queries without numbers; R = 0: whole."""
  if not R:
    return {'P': jax.ShapeDtypeStruct((I, O, K), float)}
  return {
    'U': jax.ShapeDtypeStruct((K, I, R), float),
    'V': jax.ShapeDtypeStruct((K, R, O), float),
  }


class PairwiseTest(parameterized.TestCase):
  def check(self, got, low, scan=False):
    model, _ = testing.deep(scan)
    found = testing.split_stacks(model, got)
    self.assertCountEqual(found, _wanted(low, scan))
    for name, wanted_BxK in _wanted(low, scan).items():
      testing.assert_near(self, found[name], wanted_BxK, what=name)

  @parameterized.product(scan=(False, True), only=_ROADS)
  def test_every_road_is_the_gradients_times_u_v(self, scan, only):
    self.check(_run(contraction.pairwise, True, scan, only=only), True, scan)

  @parameterized.product(scan=(False, True), only=(None, 'gradient'))
  def test_whole_queries_are_multiplied_by_the_gradients(self, scan, only):
    self.check(_run(contraction.pairwise, False, scan, only=only), False, scan)

  @parameterized.product(low=(False, True), scan=(False, True))
  def test_a_row_of_padding_scores_nothing(self, low, scan):
    for path, x in _run(contraction.pairwise, low, scan).items():
      np.testing.assert_array_equal(x[..., -1, :], 0, path)

  def taken(self, only):
    """[(I, O, road)] in which order the layers took them."""
    found = []

    def noting(name, fn):
      def noted(a_BxTxI, ds_BxTxO, one):
        found.append((a_BxTxI.shape[-1], ds_BxTxO.shape[-1], name))
        return fn(a_BxTxI, ds_BxTxO, one)

      return noted

    roads = {k: noting(k, fn) for k, fn in contraction._ROADS.items()}
    with mock.patch.object(contraction, '_ROADS', roads):
      _run(contraction.pairwise, True, only=only)
    return sorted(found)

  @parameterized.parameters('gradient', 'tokens')
  def test_only_is_the_road_of_every_layer(self, only):
    shapes = [(4, 3), (5, 4), (5, 4), (6, 4)]
    self.assertEqual(self.taken(only), [(*x, only) for x in shapes])

  def test_else_each_layer_takes_its_own(self):
    def road(num_in, num_out, shape, one):
      self.assertEqual(shape, (6, 5))
      self.assertEqual(one['U'].shape, (_NUM_QUERIES, num_in, _RANK))
      self.assertEqual(one['V'].shape, (_NUM_QUERIES, _RANK, num_out))
      return 'tokens' if (num_in, num_out) == (5, 4) else 'gradient'

    with mock.patch.object(contraction, 'road', road):
      taken = self.taken(None)
    self.assertEqual(
      [x for *_, x in taken], ['gradient', 'tokens', 'tokens', 'gradient']
    )

  @parameterized.product(
    low=(False, True),
    name=('_GROUP', '_HELD', '_MOST', '_BLOCK', '_TOKENS_BLOCK'),
    size=(1, 2, 4, 50),
  )
  def test_how_much_is_done_at_once_changes_nothing(self, low, name, size):
    """Of 6 rows and 6 queries: 4 is not a divisor; 50 numbers are 2 of 24."""
    with mock.patch.multiple(contraction, **{'_HELD': 1, name: size}):
      for only in ('gradient', 'tokens') if low else (None,):
        self.check(_run(contraction.pairwise, low, only=only), low)

  def test_batches_split_over_devices_score_the_same(self):
    model, params = testing.deep()
    batch = jax.tree.map(
      lambda x: np.concatenate([x, x[:2]]), _batch()
    )  # 8 rows, of which the last are the first
    mesh = testing.mesh(8)
    split = jax.sharding.NamedSharding(mesh, jax.P('data'))
    same = jax.sharding.NamedSharding(mesh, jax.P())
    for only in ('gradient', 'tokens'):
      run = jax.jit(
        functools.partial(contraction.pairwise, model, only=only),
        in_shardings=(same, same, split),
      )
      with mock.patch.multiple(contraction, _HELD=50, _LEAST=1, _BLOCK=2):
        scores = run(params, _low_rank(False), batch)
      for path, wanted_BxK in _wanted(True).items():
        testing.assert_near(self, scores[path][:6], wanted_BxK, what=path)
        testing.assert_near(self, scores[path][6:], wanted_BxK[:2], what=path)


class RoadTest(parameterized.TestCase):
  @parameterized.parameters(
    # I, O, K, R, B, T
    (64, 64, 2, 1, 8, 4, 'tokens'),
    (64, 64, 2, 1, 8, 1, 'tokens'),
    (257, 1024, 1, 32, 32, 16, 'tokens'),
    (257, 1024, 32, 32, 32, 128, 'gradient'),
    (64, 64, 64, 32, 16, 4, 'gradient'),
    (64, 64, 16, 12, 32, 4, 'tokens'),  # rows and positions
    (64, 64, 16, 12, 4, 32, 'gradient'),  # are not the same
    (64, 64, 2, 0, 8, 4, 'gradient'),  # whole: there is no other
  )
  def test_it_is_the_one_with_fewer_operations(self, I, O, K, R, B, T, wanted):  # noqa: E741
    one = _shapes(I, O, K, R)
    self.assertEqual(contraction.road(I, O, (B, T), one), wanted)
    if not R:
      return
    counted = self.counted(I, O, K, R, B, T)
    self.assertEqual(min(counted, key=counted.get), wanted)

  def counted(self, I, O, K, R, B, T):  # noqa: E741
    """Operations by road, read off what is traced."""
    tokens = [jax.ShapeDtypeStruct((B, T, n), float) for n in (I, O)]
    return {
      name: _operations(jax.make_jaxpr(fn)(*tokens, _shapes(I, O, K, R)).jaxpr)
      for name, fn in contraction._ROADS.items()
      if R or name == 'gradient'
    }

  @parameterized.parameters(
    (257, 1024, 32, 32, 32, 128),
    (1025, 256, 64, 16, 8, 64),  # two blocks of queries
    (64, 48, 3, 2, 4, 5),
    (48, 64, 24, 0, 4, 5),
    (2049, 4096, 8, 0, 32, 16),
    (2049, 4096, 64, 8, 32, 16),  # four groups of rows
    (1025, 4096, 37, 8, 31, 16),  # parts that do not divide
  )
  def test_operations_are_those_that_are_traced(self, I, O, K, R, B, T):  # noqa: E741
    formula = contraction.flop(I, O, T, B, K, R)
    counted = self.counted(I, O, K, R, B, T)
    self.assertCountEqual(formula, counted)
    for name, wanted in counted.items():
      testing.assert_near(self, formula[name], wanted, 0.01, name)

  def test_many_sequences_make_multiplying_out_worth_it(self):
    one = _shapes(64, 64, 16, 8)
    roads = [contraction.road(64, 64, (B, 8), one) for B in (1, 2, 4, 8, 64)]
    self.assertEqual(roads[0], 'tokens')
    self.assertEqual(roads[-1], 'gradient')
    self.assertEqual(roads, sorted(roads, reverse=True))  # flips once


class MemoryTest(parameterized.TestCase):
  def sizes(self, low, scan, only, num_queries):
    """(sizes of all that is computed, of what is given), numbers."""
    model, params = testing.transformer(scan)
    batch = testing.batch(num_rows=2)
    queries = {
      path: jax.tree.map(
        lambda x, stack=x.stack: jax.ShapeDtypeStruct(
          (*stack, *x.shape), x.dtype
        ),
        _shapes(x.num_in, x.num_out, num_queries, low),
      )
      for path, x in model.layers.items()
    }
    fn = functools.partial(contraction.pairwise, model, only=only)
    jaxpr = jax.make_jaxpr(fn)(params, queries, batch).jaxpr
    computed = [
      math.prod(x.aval.shape)
      for eqn, _ in _equations(jaxpr)
      for x in eqn.outvars
    ]
    return computed, [x.size for x in jax.tree.leaves(queries)]

  @parameterized.product(scan=(False, True), only=('gradient', 'tokens'))
  def test_queries_of_low_rank_are_never_multiplied_out_together(
    self, scan, only
  ):
    """512 queries of 7 x 10 and 11 x 6, two rows of 8 positions.

    One layer's U V would be 35,840 numbers, all layers' 138,752; a layer's
    projected tokens of all queries 24,576.
    """
    computed, _ = self.sizes(3, scan, only, 512)
    one_layers, all_scores = 512 * 11 * 3, 2 * 2 * 512
    block, by_position = 16 * 11 * 10, 2 * 8 * 512
    self.assertLessEqual(
      max(computed), max(one_layers, all_scores, block, by_position)
    )

  @parameterized.parameters(False, True)
  def test_whole_queries_are_not_copied_but_for_a_layers(self, scan):
    computed, given = self.sizes(0, scan, None, 512)
    self.assertLessEqual(max(computed), 512 * 7 * 10)
    self.assertLess(max(computed), sum(given) / 3)

  @parameterized.parameters(
    (0, 5, '_GROUP', 0), (2, 5, '_HELD', 5), (2, 40, '_HELD', 14)
  )
  def test_the_batchs_gradients_are_formed_a_group_at_a_time(
    self, rank, num, name, multiplied_out
  ):
    tokens = [jax.ShapeDtypeStruct((24, 4, n), float) for n in (20, 30)]
    one = _shapes(20, 30, num, rank)
    for rows in (1, 3, 8):
      held = {'_LEAST': 1, name: rows * 600 + 1}
      with mock.patch.multiple(contraction, **held):
        fn = functools.partial(contraction._by_gradient)
        jaxpr = jax.make_jaxpr(fn)(*tokens, one).jaxpr
      gradients = [
        eqn.outvars[0].aval.shape
        for eqn, _ in _equations(jaxpr)
        if eqn.outvars[0].aval.shape[-2:] in ((20, 30), (30, 20))
      ]
      self.assertIn(rows * 600, [math.prod(x) for x in gradients])
      self.assertLessEqual(
        max(math.prod(x) for x in gradients), max(rows, multiplied_out) * 600
      )


class PartsTest(parameterized.TestCase):
  @parameterized.parameters(
    (12, 12, 12), (12, 100, 12), (12, 11, 6), (12, 5, 4), (12, 1, 1),
    (12, 0, 1), (7, 6, 4), (1, 4, 1),
  )  # fmt: skip
  def test_parts_are_even_and_no_larger_than_allowed(self, num, size, wanted):
    seen = []

    def fn(x, y):
      seen.append((len(x), len(y)))
      return (x * y).sum(1)

    x, y = np.random.default_rng(0).normal(size=(2, num, 3))
    got = contraction._in_parts(fn, size, jnp.asarray(x), jnp.asarray(y))
    self.assertEqual(set(seen), {(wanted, wanted)})
    testing.assert_near(self, got, (x * y).sum(1), 1e-12)


class TokenwiseTest(parameterized.TestCase):
  @parameterized.parameters(False, True)
  def test_a_positions_score_is_what_passes_through_the_layers_there(self, low):
    got_BxTxK = _run(contraction.tokenwise, low)
    testing.assert_near(self, got_BxTxK, _wanted_by_position(low))

  @parameterized.product(low=(False, True), scan=(False, True))
  def test_positions_add_up_to_the_score(self, low, scan):
    wanted_BxK = sum(_wanted(low, scan).values())
    got_BxK = _run(contraction.tokenwise, low, scan).sum(1)
    testing.assert_near(self, got_BxK, wanted_BxK)
    scores = _run(contraction.pairwise, low, scan)
    total_BxK = attribution.total(scores, testing.deep(scan)[0].layers)
    testing.assert_near(self, got_BxK, total_BxK, 1e-12)

  @parameterized.parameters(False, True)
  def test_padding_scores_nothing(self, low):
    scores_BxTxK = _run(contraction.tokenwise, low, True)
    mask = _batch().mask > 0
    np.testing.assert_array_equal(scores_BxTxK[~mask], 0)
    self.assertTrue((scores_BxTxK[mask] != 0).all())

  @parameterized.parameters(1, 4)
  def test_how_many_queries_are_projected_at_once_changes_nothing(self, size):
    with mock.patch.object(contraction, '_TOKENS_BLOCK', size):
      got_BxTxK = _run(contraction.tokenwise, True)
    testing.assert_near(self, got_BxTxK, _wanted_by_position(True))


class QueriesTest(parameterized.TestCase):
  @parameterized.product(low=(False, True), scan=(False, True))
  def test_they_are_counted(self, low, scan):
    queries = jax.tree.map(jnp.asarray, _queries(low, scan))
    self.assertEqual(contraction.num_queries(queries), _NUM_QUERIES)
    reordered = dict(reversed(queries.items()))
    self.assertEqual(contraction.num_queries(reordered), _NUM_QUERIES)


if __name__ == '__main__':
  absltest.main()
