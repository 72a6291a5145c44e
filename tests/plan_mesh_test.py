import functools
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import jax
from absl.testing import absltest, parameterized

from configs import plan_52b
from experiments import plan_mesh
from influence_jax import collectives, hardware, planner, products, sharding

_ROOT = pathlib.Path(__file__).resolve().parents[1]
_TOY = dict(
  vocab_size=96, width=32, mlp_width=128, num_heads=2, num_kv_heads=2,
  head_dim=16, num_layers=2, max_len=24,
)  # fmt: skip
_HOSTS = 4  # devices of a host in the forms below


def _config(data=1, **changes):
  """A toy of the 52B config: two of its layers, with all widths apart."""
  c = plan_52b.get_config()
  c.decoder.update(_TOY)
  c.decoder.rope.width = 16
  c.curvature = dict(name='ekfac', eigh='float64')
  c.score.update(num_queries=16, rank=4)
  c.plan.update(rows=2, length=24)
  c.mesh.fsdp = False
  c.update(changes)
  return c


@functools.cache
def _cost(stage, data, model, fsdp=False, rows=2):
  c = _config()
  c.mesh.fsdp, c.plan.rows, c.plan.steps = fsdp, rows, (stage,)
  return plan_mesh.costs_of(c, data, model)[0]


@functools.cache
def _record(stage, data, model, **options):
  peaks = hardware.HARDWARE['h100']
  cost = _cost(stage, data, model, **options)
  return plan_mesh.record(cost, _config(), data, model, peaks)


def _whole_factor(shape):
  """Whether an array is as large as A, S, g or the queries of a layer."""
  I, O, K, R = 32, 128, 16, 4  # noqa: E741
  wholes = [(I, I), (O, O), (I, O), (O, I), (I, O, K), (O, I, K)]
  wholes += [(K, I, R), (K, R, O), (K, O, R), (K, R, I)]
  shape = [n for n in shape if n > 1]
  return any(sorted(shape[-len(w):]) == sorted(w) for w in wholes)  # fmt: skip


class ScalingTest(parameterized.TestCase):
  """Numbers of a device, from the compiled programs."""

  @parameterized.parameters('covariance', 'eigenvalue', 'scan')
  def test_flop_of_a_device_stay_when_data_and_the_batch_grow(self, stage):
    one, eight = (_record(stage, n, 1)['flop'] for n in (1, 8))
    for kind in ('model', 'statistics'):
      self.assertGreater(one[kind], 0)
      self.assertAlmostEqual(eight[kind] / one[kind], 1, delta=0.01)

  @parameterized.parameters((8, 1), (4, 2), (2, 4))
  def test_flop_are_those_counted_in_the_jaxpr(self, data, model):
    # Where rows alone are split nothing is done twice; what a product of K / 4
    # queries costs XLA, and what is done alike by `model`, is let be a tenth
    for stage in ('covariance', 'eigenvalue', 'scan'):
      found = _record(stage, data, model)
      ratio = sum(found['flop'].values()) / found['counted_flop']
      self.assertBetween(ratio, 0.99, 1.01 if model == 1 else 1.1, stage)

  @parameterized.parameters('covariance', 'eigenvalue')
  def test_what_a_fit_sends_over_data_is_no_matter_of_the_batch(self, stage):
    few = _record(stage, 8, 1)['sent_bytes']
    many = _record(stage, 8, 1, rows=6)['sent_bytes']
    self.assertEqual(few, many)
    self.assertLess(sum(many.values()), 1024)  # flags and the loss

  @parameterized.parameters('covariance', 'eigenvalue')
  def test_a_fit_over_data_waits_for_all_once_a_batch(self, stage):
    (found,) = collectives.of(_cost(stage, 8, 1).step)
    self.assertEqual((found.kind, found.times), ('all-reduce', 1))

  def test_covariances_send_tokens_once_and_are_sent_nowhere(self):
    c = _config()
    c.plan.steps, c.decoder.mlp_width = ('covariance',), 512  # of two blocks
    (cost,) = plan_mesh.costs_of(c, 2, 2)
    found = [
      (x.kind, x.shapes, x.times)
      for x in collectives.of(cost.step)
      if 'shard_map' in x.op_name and 'psum' not in x.op_name
    ]
    tokens = ('all-gather', ((2, 24, 512),), 2)  # up's outputs, down's inputs
    self.assertEqual(found, [tokens, tokens])

  def test_with_fsdp_parameters_are_sent_and_no_more(self):
    few = _record('covariance', 8, 1, fsdp=True)['sent_bytes']
    many = _record('covariance', 8, 1, fsdp=True, rows=6)['sent_bytes']
    self.assertGreater(few['all-gather'], 2 * 2 * 32 * 128 * 2)
    # Of a batch token ids and masks alone, no vector of a token
    more = (many['all-gather'] - few['all-gather']) / (8 * 4 * 24)
    self.assertBetween(more, 0, 32)

  @parameterized.parameters((8, 1), (4, 2), (2, 4))
  def test_a_scan_sends_no_whole_factor_and_no_queries(self, data, model):
    found = collectives.of(_cost('scan', data, model).step)
    for x in found:
      for shape in x.shapes:
        self.assertFalse(_whole_factor(shape), x)

  @parameterized.parameters((8, 1), (4, 2), (2, 4))
  def test_a_device_holds_its_part_of_factors_and_queries(self, data, model):
    mesh = data, model
    for stage, kind in (('covariance', 'sums'), ('scan', 'queries')):
      whole, mine = (_cost(stage, *m).device[kind] for m in ((1, 1), mesh))
      self.assertAlmostEqual(mine * model / whole, 1, delta=0.01)
    whole, mine = (
      _cost('eigenvalue', *m).device['factors'] for m in ((1, 1), mesh)
    )
    # Eigenvalues, [L, I] and [L, O], are small and lie whole
    self.assertBetween(mine * model / whole, 1, 1 + 0.02 * model)

  def test_no_array_is_made(self):
    before = len(jax.live_arrays())
    c = _config()
    c.plan.steps = ('covariance',)
    plan_mesh.costs_of(c, 2, 1)
    self.assertLessEqual(len(jax.live_arrays()) - before, 2)  # keys of rngs

  def test_the_largest_model_is_made_of_shapes(self):
    # 52 billion parameters and 292 GB of sums: nothing here may hold them
    c = plan_52b.get_config()
    _, params = plan_mesh.abstract(c, sharding.make_mesh(4, 2))
    sizes = [x.size for x in jax.tree.leaves(params)]
    self.assertAlmostEqual(sum(sizes) / 52e9, 1, delta=0.02)
    self.assertAlmostEqual(
      planner.nbytes(params) * 8 / (2 * sum(sizes)), 1, delta=0.001
    )


_PROGRAM = """HloModule m, num_partitions=8
%body (p: (s32[], f32[4,8])) -> (s32[], f32[4,8]) {
  %p = (s32[], f32[4,8]) parameter(0)
  %x = f32[4,8]{1,0} get-tuple-element(%p), index=1
  %w = f32[8,8]{1,0} constant(0)
  %y = f32[4,8]{1,0} dot(%x, %w), lhs_contracting_dims={1}, rhs_contracting_dims={0}, metadata={op_name="a/shard_map/b"}
  %r = f32[4,8]{1,0} all-reduce(%y), channel_id=1, replica_groups=GROUPS, to_apply=%add
  ROOT %t = (s32[], f32[4,8]) tuple(%i, %r)
}

%condition (p: (s32[], f32[4,8])) -> pred[] {
  ROOT %c = pred[] constant(false)
}

ENTRY %main (p: (s32[], f32[4,8])) -> (s32[], f32[4,8]) {
  %p.1 = (s32[], f32[4,8]) parameter(0)
  ROOT %loop = (s32[], f32[4,8]) while(%p.1), condition=%condition, body=%body, backend_config={"known_trip_count":{"n":"5"}}
}
"""  # noqa: E501


class ProgramTest(parameterized.TestCase):
  """HLO text by hand."""

  def _text(self, groups='{{0,1},{2,3},{4,5},{6,7}}'):
    text = _PROGRAM.replace('GROUPS', groups)
    return text.replace(', to_apply=%add', '')

  def test_products_in_a_loop_count_as_often_as_it_runs(self):
    found = products.of_text(self._text())
    self.assertEqual(found, {'a/shard_map/b': 5 * 2 * 4 * 8 * 8})

  def test_products_in_a_loop_of_unknown_length_raise(self):
    text = self._text().replace('known_trip_count', 'x')
    with self.assertRaisesRegex(ValueError, 'no known length'):
      products.of_text(text)

  @parameterized.parameters(
    ('{{0,1},{2,3},{4,5},{6,7}}', False),
    ('{{0,4},{1,5},{2,6},{3,7}}', True),
    ('[2,4]<=[8]', False),
    ('[2,4]<=[4,2]T(1,0)', True),
    ('[4,2]<=[2,4]T(1,0)', True),
    ("mesh['data'=2,'model'=4] {'model'}", False),
    ("mesh['data'=2,'model'=4] {'data'}", True),
    ('{}', True),
  )
  def test_what_leaves_a_host_is_told_by_its_groups(self, groups, leaves):
    found = hardware.between_hosts(self._text(groups), _HOSTS)
    self.assertLen(found, int(leaves))


class BinaryTest(absltest.TestCase):
  def test_a_mesh_is_planned_on_emulated_devices(self):
    with tempfile.TemporaryDirectory() as folder:
      folder = pathlib.Path(folder)
      env = {k: v for k, v in os.environ.items() if k != 'XLA_FLAGS'}
      command = [
        sys.executable, '-m', 'experiments.plan_mesh',
        '--config=configs/plan_52b.py', f'--workdir={folder}',
        '--mesh=2x1,4x4',
        *(f'--config.decoder.{k}={n}' for k, n in _TOY.items()),
        '--config.decoder.rope.width=16', '--config.plan.length=24',
      ]  # fmt: skip
      done = subprocess.run(
        command, env=env, cwd=_ROOT, capture_output=True, text=True
      )
      self.assertEqual(done.returncode, 0, done.stderr[-2000:])
      found = json.loads((folder / 'plan_mesh.json').read_text())
      named = [(x['mesh'], x['step']) for x in found['steps']]
      steps = 'covariance', 'eigenvalue', 'scan'
      self.assertEqual(named, [(m, s) for m in ('2x1', '4x4') for s in steps])
      four = found['steps'][-1]
      self.assertGreater(sum(four['between_hosts_bytes'].values()), 0)
      self.assertEqual(four['run']['sequences'], 10_000_000)
      self.assertIn('covariance', done.stdout)

  def test_too_few_devices_say_so(self):
    with self.assertRaisesRegex(ValueError, 'wants 16 devices and 8'):
      plan_mesh.plan_meshes(_config(), 'unused', [(4, 4)], 'h100')

  def test_a_mesh_that_is_none_says_so(self):
    with self.assertRaisesRegex(ValueError, 'DATAxMODEL'):
      plan_mesh.meshes(['8'])


if __name__ == '__main__':
  absltest.main()
