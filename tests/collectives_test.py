import functools

import jax
import jax.numpy as jnp
from absl.testing import absltest, parameterized
from jax.sharding import NamedSharding, PartitionSpec

from influence_jax import collectives, sharding

_SPLIT = PartitionSpec('data', 'model')
_RING = [(0, 1), (1, 2), (2, 3), (3, 0)]
_BYTES = 4 * 16 * 4  # of a device's part of a float32 array [8, 64]


@functools.cache
def _mesh():
  return sharding.make_mesh(2, 4)


def _shapes(shape, *spec, dtype=jnp.float32):
  where = NamedSharding(_mesh(), PartitionSpec(*spec))
  return jax.ShapeDtypeStruct(shape, dtype, sharding=where)


def _mapped(fn, out=_SPLIT, dtype=jnp.float32):
  """Collectives of fn, run on parts [4, 16] of one array."""
  whole = jax.shard_map(
    fn, mesh=_mesh(), in_specs=_SPLIT, out_specs=out, check_vma=False
  )
  x = jax.ShapeDtypeStruct((8, 64), dtype)
  return collectives.of(jax.jit(whole).lower(x).compile())


def _jitted(fn, *args, **options):
  return collectives.of(jax.jit(fn, **options).lower(*args).compile())


def _psum(x):
  return jax.lax.psum(jnp.sin(x), 'model')  # sin: none can be left out


def _scan(fn, x, length, **options):
  step = lambda carry, _: (fn(carry), None)  # noqa: E731
  return jax.lax.scan(step, x, None, length=length, **options)[0]


class ExplicitTest(parameterized.TestCase):
  """Programs whose collectives are written out, against counts by hand."""

  @parameterized.named_parameters(
    ('psum', lambda x: jax.lax.psum(x, 'model'), PartitionSpec('data'),
     'all-reduce', 4, (4, 16), _BYTES, 2 * 3 / 4 * _BYTES),
    ('psum_over_data', lambda x: jax.lax.psum(x, 'data'),
     PartitionSpec(None, 'model'), 'all-reduce', 2, (4, 16), _BYTES, _BYTES),
    ('psum_over_both', lambda x: jax.lax.psum(x, ('data', 'model')),
     PartitionSpec(), 'all-reduce', 8, (4, 16), _BYTES, 2 * 7 / 8 * _BYTES),
    ('all_gather', lambda x: jax.lax.all_gather(x, 'model', axis=1, tiled=True),
     PartitionSpec('data'), 'all-gather', 4, (4, 64), 4 * _BYTES, 3 * _BYTES),
    ('psum_scatter', lambda x: jax.lax.psum_scatter(
      x, 'model', scatter_dimension=1, tiled=True), _SPLIT,
     'reduce-scatter', 4, (4, 4), _BYTES, 3 / 4 * _BYTES),
    ('ppermute', lambda x: jax.lax.ppermute(x, 'model', _RING), _SPLIT,
     'collective-permute', 4, (4, 16), _BYTES, _BYTES),
    ('ppermute_of_two', lambda x: jax.lax.ppermute(x, 'model', [(0, 3)]),
     _SPLIT, 'collective-permute', 2, (4, 16), _BYTES, _BYTES),
  )  # fmt: skip
  def test_one(self, fn, out, kind, group_size, shape, nbytes, sent):
    (found,) = _mapped(fn, out)
    self.assertEqual(found.kind, kind)
    self.assertEqual(found.group_size, group_size)
    self.assertEqual(found.shapes, (shape,))
    self.assertEqual(found.dtypes, ('f32',))
    self.assertEqual(found.bytes, nbytes)
    self.assertEqual(found.times, 1)
    self.assertEqual(collectives.sent(found), sent)
    self.assertEqual(collectives.total([found]), {kind: sent})

  def test_all_to_all_is_one_of_all_its_parts(self):
    (found,) = _mapped(
      lambda x: jax.lax.all_to_all(x, 'model', 1, 0, tiled=True)
    )
    self.assertEqual(found.kind, 'all-to-all')
    self.assertEqual((found.group_size, found.bytes), (4, _BYTES))
    self.assertEqual(collectives.sent(found), 3 / 4 * _BYTES)

  def test_arrays_sent_together_are_summed(self):
    out = (PartitionSpec('data'), PartitionSpec())
    found = _mapped(
      lambda x: jax.lax.psum((x, x[0].astype(jnp.int32)), 'model'), out
    )
    shapes = [shape for x in found for shape in x.shapes]
    self.assertCountEqual(shapes, [(4, 16), (16,)])
    self.assertEqual(sum(x.bytes for x in found), _BYTES + 16 * 4)

  @parameterized.parameters(
    (jnp.int8, 's8', 1), (jnp.uint16, 'u16', 2), (jnp.int32, 's32', 4)
  )
  def test_bytes_follow_the_width_of_numbers(self, dtype, name, width):
    (found,) = _mapped(
      lambda x: jax.lax.psum(x, 'model'), PartitionSpec('data'), dtype
    )
    self.assertEqual(found.dtypes, (name,))
    self.assertEqual(found.bytes, 4 * 16 * width)

  def test_a_cpu_sends_bfloat16_as_float32(self):
    """Fails when XLA stops doing so; the module docstring says that it does."""
    (found,) = _mapped(
      lambda x: jax.lax.all_gather(x, 'model'), PartitionSpec('data'),
      jnp.bfloat16,
    )  # fmt: skip
    self.assertEqual(found.dtypes, ('f32',))
    self.assertEqual(found.bytes, 4 * _BYTES)


class TimesTest(parameterized.TestCase):
  def test_a_scan_runs_its_collective_as_often_as_it_is_long(self):
    (found,) = _mapped(lambda x: _scan(_psum, x, 5))
    self.assertEqual(found.times, 5)
    total = collectives.total([found])
    self.assertEqual(total, {'all-reduce': 5 * 1.5 * _BYTES})

  def test_nested_scans_multiply(self):
    def outer(x):
      return jax.lax.ppermute(_scan(_psum, x, 3), 'data', [(0, 1), (1, 0)])

    found = _mapped(lambda x: _psum(_scan(outer, x, 5)))
    times = sorted((x.kind, x.times) for x in found)
    expected = [
      ('all-reduce', 1), ('all-reduce', 15), ('collective-permute', 5),
    ]  # fmt: skip
    self.assertEqual(times, expected)

  @parameterized.parameters(1, 2, 3, 7)
  def test_unrolling_sends_as_much(self, unroll):
    found = _mapped(lambda x: _scan(_psum, x, 7, unroll=unroll))
    total = collectives.total(found)
    self.assertEqual(total, {'all-reduce': 7 * 1.5 * _BYTES})

  def test_a_loop_that_counts_by_three_from_two(self):
    def fn(x):
      step = lambda s: (s[0] + 3, _psum(s[1]))  # noqa: E731
      return jax.lax.while_loop(lambda s: s[0] < 11, step, (2, x))[1]

    (found,) = _mapped(fn)
    self.assertEqual(found.times, 3)

  @parameterized.named_parameters(
    ('of_values', lambda x: jax.lax.while_loop(
      lambda x: x[0, 0] < 9, _psum, x)),
    ('from_a_start_unknown_to_a_constant', lambda x: jax.lax.fori_loop(
      x[0, 0].astype(int), 9, lambda _, x: _psum(x), x)),
    ('around_a_known_one', lambda x: jax.lax.while_loop(
      lambda x: x[0, 0] < 9, lambda x: _scan(_psum, x, 3), x)),
  )  # fmt: skip
  def test_a_loop_of_unknown_length(self, fn):
    (found,) = _mapped(fn)
    self.assertIsNone(found.times)
    with self.assertRaisesRegex(ValueError, 'all-reduce of .*psum'):
      collectives.total([found])

  @parameterized.parameters(False, True)
  def test_the_branch_that_sends_most_counts(self, swap):
    branches = [_psum, lambda x: _psum(_psum(x)) + 1]
    if swap:
      branches.reverse()

    def either(x):
      return jax.lax.cond(x[0, 0] > 0, *branches, x)

    found = _mapped(lambda x: _scan(either, x, 6))
    self.assertEqual(sorted(x.times for x in found), [0, 6, 6])
    total = collectives.total(found)
    self.assertEqual(total, {'all-reduce': 12 * 1.5 * _BYTES})

  def test_a_branch_is_the_larger_by_what_its_loops_send(self):
    def once(x):
      return jax.lax.all_gather(x, 'model', axis=1, tiled=True)[:, 8:24]

    often = lambda x: _scan(_psum, x, 9)  # noqa: E731
    found = _mapped(lambda x: jax.lax.cond(x[0, 0] > 0, once, often, x))
    times = {x.kind: x.times for x in found}
    self.assertEqual(times, {'all-gather': 0, 'all-reduce': 9})


class PartitionedTest(parameterized.TestCase):
  """Programs that XLA partitions, where only one way is sensible."""

  @parameterized.parameters(('model', 4), ('data', 2), (('data', 'model'), 8))
  def test_a_contracted_dimension_is_summed_over_its_axis(self, axis, size):
    (found,) = _jitted(
      lambda a, b: jnp.einsum('ij,jk->ik', a, b),
      _shapes((16, 64), None, axis), _shapes((64, 32), axis),
    )  # fmt: skip
    self.assertEqual(found.kind, 'all-reduce')
    self.assertEqual(found.shapes, ((16, 32),))
    self.assertEqual((found.bytes, found.group_size), (16 * 32 * 4, size))
    self.assertIn('ij,jk->ik', found.op_name)

  def test_rows_of_a_product_stay_where_they_are(self):
    (found,) = _jitted(
      lambda a, b: jnp.einsum('ij,jk->ik', a, b),
      _shapes((16, 64), 'data', 'model'), _shapes((64, 32), 'model'),
    )  # fmt: skip
    self.assertEqual((found.kind, found.shapes), ('all-reduce', ((8, 32),)))
    self.assertEqual(found.group_size, 4)

  def test_a_split_factor_made_whole_is_seen_by_its_shape(self):
    whole = NamedSharding(_mesh(), PartitionSpec())
    (found,) = _jitted(
      lambda x: 2 * x, _shapes((48, 48), 'model'), out_shardings=whole
    )
    self.assertEqual((found.kind, found.shapes), ('all-gather', ((48, 48),)))
    self.assertEqual(collectives.sent(found), 3 / 4 * 48 * 48 * 4)

  def test_swapped_axes_are_paths_of_devices(self):
    """Device 4 i + j of data i, model j has part 2 j + i, whose number its new

    device has: 1 -> 2 -> 4 -> 1 and 3 -> 6 -> 5 -> 3; 0 and 7 keep theirs.
    """
    (found,) = _jitted(
      lambda x: 2 * x, _shapes((64, 64), ('model', 'data')),
      out_shardings=NamedSharding(_mesh(), PartitionSpec(('data', 'model'))),
    )  # fmt: skip
    self.assertEqual((found.kind, found.group_size), ('collective-permute', 3))
    self.assertEqual(collectives.sent(found), 8 * 64 * 4)

  @parameterized.parameters(8, 64)
  def test_covariances_send_as_much_for_any_batch(self, num_sequences):
    found = _jitted(
      lambda a: jnp.einsum('bti,btj->ij', a, a),
      _shapes((num_sequences, 5, 24), 'data'),
      out_shardings=NamedSharding(_mesh(), PartitionSpec()),
    )
    self.assertEqual(collectives.total(found), {'all-reduce': 24 * 24 * 4})

  def test_a_program_without_any(self):
    x = _shapes((16, 64), 'data', 'model')
    found = _jitted(lambda x: _scan(jnp.sin, x, 5), x)
    self.assertEqual(found, [])
    self.assertEqual(collectives.total(found), {})
    one = jax.ShapeDtypeStruct((16, 64), jnp.float32)
    self.assertEqual(_jitted(lambda x: x @ x.T, one), [])


_GPU = """HloModule jit_step, is_scheduled=true, num_partitions=8

FileNames
1 "a = all-reduce(b) {"

add.1 {
  x = bf16[] parameter(0)
  y = bf16[] parameter(1)
  ROOT add = bf16[] add(x, y)
}

%async_wrapped (async_param.1: u32[8]) -> u32[4] {
  %async_param.1 = u32[8]{0} parameter(0)
  ROOT %rs = u32[4]{0} reduce-scatter(u32[8]{0} %async_param.1), \
replica_groups=[4,2]<=[2,4]T(1,0), dimensions={0}, to_apply=%add.1
}, execution_thread="parallel"

%body (p.1: (s32[], bf16[8,4])) -> (s32[], bf16[8,4]) {
  %p.1 = (s32[], bf16[8,4]{1,0:T(8,128)(2,1)}) parameter(0)
  %ag-start.1 = (bf16[2,4]{1,0}, bf16[8,4]{1,0:T(8,128)(2,1)}) \
all-gather-start(%p.2), channel_id=1, replica_groups=[2,4]<=[8], \
dimensions={0}, metadata={op_name="ag \\"all-reduce(x)"}
  %ag-start.10 = ((f32[2]{0}, f8e4m3fn[3]{0}), (f32[4]{0}, f8e4m3fn[6]{0})) \
all-gather-start(%p.3, %p.4), channel_id=2, \
replica_groups=mesh['x'=2,'y'=4], device_ids=([4,2]T(1,0)) {'x'}
  %ag-done.1 = bf16[8,4]{1,0:T(8,128)(2,1)} all-gather-done(%ag-start.1)
  %ag-done.10 = (f32[4]{0}, f8e4m3fn[6]{0}) all-gather-done(\
((f32[2]{0}, f8e4m3fn[3]{0}), /*index=1*/(f32[4]{0}, f8e4m3fn[6]{0})) \
%ag-start.10)
  ROOT %tuple = (s32[], bf16[8,4]{1,0}) tuple(%c, %ag-done.1)
}

%condition (p.5: (s32[], bf16[8,4])) -> pred[] {
  %constant.1 = s32[] constant(77)
  ROOT %ar.1 = pred[3] all-reduce(%l), replica_groups={}, to_apply=%add.1
}

%called (p.6: u32[8]) -> u32[8] {
  ROOT %cp.1 = u32[8]{0} collective-permute(%p.6), \
source_target_pairs={{0,1},{1,0},{2,2}}
}

ENTRY %main (p: bf16[8,4]) -> (bf16[8,4], u32[4]) {
  %while.1 = (s32[], bf16[8,4]{1,0}) while((s32[], bf16[8,4]{1,0}) %t), \
condition=%condition, body=%body, \
backend_config="{\\"known_trip_count\\":{\\"n\\":\\"6\\"}}"
  %ar-start = bf16[5]{0} all-reduce-start(%p.7), \
replica_groups=mesh['x'=2,'y'=4] {'x','y':(1)2}, to_apply=%add.1
  %rs-start = ((u32[8]{0}), u32[4]{0}) async-start(u32[8]{0} %p.8), \
calls=%async_wrapped
  %rs-done = u32[4]{0} async-done(((u32[8]{0}), u32[4]{0}) %rs-start), \
calls=%async_wrapped
  %ar-done = bf16[5]{0} all-reduce-done(bf16[5]{0} %ar-start)
  %a2a-start = ((f16[4]{0}), f16[4]{0}) all-to-all-start(%p.9), \
replica_groups={{0,1,2},{3,4}}, calls=%called
  %a2a-done = f16[4]{0} all-to-all-done(%a2a-start)
  %cp-start = (f32[3]{0}, f32[3]{0}, u32[], u32[]) \
collective-permute-start(%p.10), source_target_pairs={{0,0},{1,1}}
  %cp-done = f32[3]{0} collective-permute-done(%cp-start)
  %call = u32[8]{0} call(%p.8), to_apply=%called, \
metadata={op_name="calls=%none"}
  %send = (f32[9], u32[], token[]) send(%p.9, %tok), is_host_transfer=true
  ROOT %f = bf16[] fusion(%ar-done), kind=kLoop, calls=%add.1
}
"""


class TextTest(parameterized.TestCase):
  def test_text_of_a_gpu(self):
    found = collectives.of_text(_GPU)
    rows = [(x.kind, x.shapes, x.bytes, x.group_size, x.times) for x in found]
    self.assertEqual(
      rows,
      [
        ('all-gather', ((8, 4),), 64, 4, 6),
        ('all-gather', ((4,), (6,)), 22, 2, 6),
        ('all-reduce', ((3,),), 3, 8, 7),
        ('all-reduce', ((5,),), 10, 4, 1),
        ('reduce-scatter', ((4,),), 32, 2, 1),
        ('all-to-all', ((4,),), 8, 3, 1),
        ('collective-permute', ((3,),), 12, 1, 1),
        ('collective-permute', ((8,),), 32, 2, 1),
      ],
    )
    self.assertEqual(found[0].op_name, r'ag \"all-reduce(x)')
    self.assertEqual(found[1].op_name, '')
    self.assertEqual(found[1].dtypes, ('f32', 'f8e4m3fn'))
    self.assertEqual(
      collectives.total(found),
      {
        'all-gather': 6 * (64 * 3 / 4 + 22 / 2),
        'all-reduce': 7 * 2 * 3 * 7 / 8 + 2 * 10 * 3 / 4,
        'reduce-scatter': 16, 'all-to-all': 8 * 2 / 3, 'collective-permute': 32,
      },
    )  # fmt: skip

  @parameterized.parameters(
    ('true_computation=%few, false_computation=%many',),
    ('branch_computations={%few, %none, %many}',),
    ('branch_computations={%many, %few}',),
  )
  def test_forms_of_a_conditional(self, attributes):
    text = f"""HloModule m, num_partitions=4
%none (a: f32[4]) -> f32[4] {{
  ROOT %a.1 = f32[4]{{0}} parameter(0)
}}
%few (a: f32[4]) -> f32[4] {{
  ROOT %b.1 = f32[4]{{0}} all-reduce(%a.1), replica_groups={{{{0,1,2,3}}}}
}}
%many (a: f32[4]) -> f32[4] {{
  ROOT %c.1 = f32[8]{{0}} all-reduce(%a.1), replica_groups={{{{0,1,2,3}}}}
}}
ENTRY %main (a: f32[4]) -> f32[4] {{
  ROOT %d = f32[4]{{0}} conditional(%i, %a, %a), {attributes}
}}
"""
    found = collectives.of_text(text)
    times = {x.shapes[0]: x.times for x in found}
    self.assertEqual(times, {(4,): 0, (8,): 1})

  @parameterized.parameters(
    ('f32[4] all-reduce(%p), replica_groups=new[2]', 'unknown devices.*new'),
    ('f32[4] all-reduce-start(%p), replica_groups={}', '^x begins'),
    ('(f32[4], u32[], token[]) send(%p)', 'send of x is not counted'),
    ('f32[4] collective-broadcast-start(%p)', 'not counted'),
  )
  def test_what_cannot_be_counted_raises(self, op, message):
    text = (
      f'HloModule m\nENTRY %e (p: f32[4]) -> f32[4] {{\n  ROOT %x = {op}\n}}\n'
    )
    with self.assertRaisesRegex(ValueError, message):
      collectives.of_text(text)

  def test_text_that_is_no_module_raises(self):
    with self.assertRaisesRegex(ValueError, 'no entry'):
      collectives.of_text('HloModule m\n')


if __name__ == '__main__':
  absltest.main()
