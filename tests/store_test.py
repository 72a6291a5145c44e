import collections
import json
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from unittest import mock

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from absl import logging
from absl.testing import absltest, parameterized

from influence_jax import store

Pair = collections.namedtuple('Pair', 'first second')

_WRITER = """
import itertools, sys
import numpy as np
from influence_jax import store
for step in itertools.count(1):
  store.save(sys.argv[1], step, {'x': np.full(100_000, step)}, {'step': step})
  print(step, flush=True)
"""


def _tree():
  rng = np.random.default_rng(0)
  return {
    'blocks/mlp/fc_in': {'Q_A': rng.normal(size=(3, 4)), 'none': {}},
    'blocks': {'mlp': {'fc_in': jnp.arange(6).reshape(2, 3)}},
    'narrow': rng.normal(size=7).astype(ml_dtypes.bfloat16),
    'pair': Pair((jnp.float32(1.5), np.int8(3)), np.array([True, False])),
    'odd numbers': np.array([np.nan, -0.0, np.inf, 5e-324]),
    'cursor': 12,
    'empty': {},
  }


class StoreTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.dir = pathlib.Path(tempfile.mkdtemp())
    self.addCleanup(shutil.rmtree, self.dir)

  def save(self, *steps):
    for step in steps:
      store.save(self.dir, step, {'x': np.full(3, step)}, {'n': step})

  def biggest_file(self, step):
    folder = self.dir / f'step_{step:08d}' / 'checkpoint'
    files = [path for path in folder.rglob('*') if path.is_file()]
    return max(files, key=lambda path: path.stat().st_size)

  def test_a_tree_comes_back_bit_for_bit(self):
    tree = _tree()
    store.save(self.dir, 7, tree, {'kind': 'test'})
    found = store.load(self.dir)
    self.assertEqual((found.step, found.meta), (7, {'kind': 'test'}))
    self.assertEqual(set(found.tree), set(tree))
    self.assertEqual(found.tree['blocks/mlp/fc_in']['none'], {})
    self.assertEqual(found.tree['empty'], {})
    again = store.like(tree, found.tree)
    self.assertEqual(jax.tree.structure(again), jax.tree.structure(tree))
    for ours, theirs in zip(
      jax.tree.leaves(tree), jax.tree.leaves(again), strict=True
    ):
      ours = np.asarray(ours)
      self.assertIs(type(theirs), np.ndarray)
      self.assertEqual((ours.dtype, ours.shape), (theirs.dtype, theirs.shape))
      self.assertEqual(ours.tobytes(), theirs.tobytes())

  def test_float64_jax_arrays_come_back_as_float64(self):
    with jax.enable_x64(True):
      x = jnp.arange(3) / 7
      store.save(self.dir, 0, {'x': x}, {})
    found = store.load(self.dir).tree['x']
    self.assertEqual((found.dtype, found.tobytes()), (np.float64, x.tobytes()))

  def test_an_empty_tree_comes_back_empty(self):
    store.save(self.dir, 0, {}, {})
    self.assertEqual(store.load(self.dir).tree, {})

  def test_nothing_is_found_where_nothing_was_saved(self):
    self.assertIsNone(store.latest(self.dir / 'absent'))
    with self.assertRaisesRegex(ValueError, 'no checkpoint in .*absent; run'):
      store.load(self.dir / 'absent')

  def test_the_newest_two_steps_are_kept(self):
    self.save(1, 2, 100_000_000, 30)
    names = sorted(path.name for path in self.dir.iterdir())
    self.assertEqual(
      names, ['step_00000002', 'step_00000030', 'step_100000000']
    )
    self.assertEqual(store.latest(self.dir).step, 100_000_000)

  def test_a_step_that_is_there_is_replaced(self):
    self.save(3)
    store.save(self.dir, 3, {'y': np.ones(2)}, {'n': 'new'})
    found = store.load(self.dir)
    self.assertEqual((list(found.tree), found.meta), (['y'], {'n': 'new'}))
    self.assertLen(list(self.dir.iterdir()), 1)

  @parameterized.parameters('cut', 'changed', 'removed')
  def test_a_damaged_file_is_named_and_the_step_before_it_used(self, how):
    self.save(1, 2)
    path = self.biggest_file(2)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1  # same size, one bit
    if how == 'removed':
      path.unlink()
    else:
      path.write_bytes(data[:-1] if how == 'cut' else data)
    with self.assertLogs(logging.get_absl_logger(), 'WARNING') as logs:
      found = store.latest(self.dir)
    self.assertIn(str(path), logs.output[0])
    self.assertEqual((found.step, found.meta), (1, {'n': 1}))
    np.testing.assert_array_equal(found.tree['x'], [1] * 3)
    with self.assertRaisesRegex(ValueError, f'{path}.*same --workdir'):
      store.load(self.dir)
    self.save(2)  # the run goes on, and comes to the damaged step again
    self.assertEqual(store.load(self.dir).step, 2)

  @parameterized.parameters(None, '', '{"files": {', '{"step": 2}', '[]')
  def test_a_bad_manifest_is_named_and_the_step_before_it_used(self, text):
    self.save(1, 2)
    path = self.dir / 'step_00000002' / 'manifest.json'
    path.unlink()
    if text is not None:
      path.write_text(text)
    with self.assertLogs(logging.get_absl_logger(), 'WARNING') as logs:
      self.assertEqual(store.latest(self.dir).step, 1)
    self.assertIn(str(path), logs.output[0])

  def test_what_a_killed_writer_left_is_not_read_and_then_removed(self):
    self.save(1)
    left = self.dir / 'tmp_step_00000002' / 'checkpoint'
    left.mkdir(parents=True)
    (left / 'part').write_bytes(b'half')
    self.assertEqual(store.latest(self.dir).step, 1)
    self.assertTrue(left.exists())  # a reader removes nothing
    self.save(2)
    names = sorted(path.name for path in self.dir.iterdir())
    self.assertEqual(names, ['step_00000001', 'step_00000002'])

  def test_a_step_appears_in_one_piece(self):
    self.save(1)
    with (
      mock.patch.object(pathlib.Path, 'rename', side_effect=OSError('killed')),
      self.assertRaisesRegex(OSError, 'killed'),
    ):
      self.save(2)
    names = sorted(path.name for path in self.dir.iterdir())
    self.assertEqual(names, ['step_00000001', 'tmp_step_00000002'])

  def test_a_writer_that_is_killed_leaves_whole_steps(self):
    command = [sys.executable, '-c', _WRITER, str(self.dir)]
    root = pathlib.Path(__file__).parents[1]
    for delay in (0.01, 0.04):
      writer = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=root)
      for _ in range(3):
        writer.stdout.readline()
      time.sleep(delay)  # somewhere in the step after the third
      writer.send_signal(signal.SIGKILL)
      last = [3, *map(int, writer.communicate()[0].split())][-1]
      with self.assertNoLogs(logging.get_absl_logger(), 'WARNING'):
        found = store.latest(self.dir)
      self.assertIn(found.step, (last, last + 1))
      self.assertEqual(found.meta['step'], found.step)
      np.testing.assert_array_equal(found.tree['x'], [found.step] * 100_000)
      for path in self.dir.glob('step_*'):
        self.assertTrue((path / 'manifest.json').exists())

  def test_a_step_disappears_in_one_piece(self):
    self.save(1, 2)
    with (
      mock.patch.object(shutil, 'rmtree', side_effect=OSError('killed')),
      self.assertRaisesRegex(OSError, 'killed'),
    ):
      self.save(3)
    names = sorted(path.name for path in self.dir.glob('step_*'))
    self.assertEqual(names, ['step_00000002', 'step_00000003'])

  def test_names_that_orbax_would_confuse_are_refused(self):
    tree = {'a': {'b': np.zeros(2)}, 'a.b': np.ones(2)}
    with self.assertRaisesRegex(ValueError, "as 'tree.a.b'; rename one"):
      store.save(self.dir, 0, tree, {})
    self.assertEmpty(list(self.dir.iterdir()))

  def test_saving_is_silent(self):
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.INFO)
    self.addCleanup(logging.set_verbosity, verbosity)
    with self.assertNoLogs(logging.get_absl_logger(), 'INFO'):
      self.save(1)
      store.load(self.dir)
    self.assertEqual(logging.get_verbosity(), logging.INFO)

  def test_a_tree_of_another_structure_is_refused(self):
    self.save(3)
    tree = store.load(self.dir).tree
    with self.assertRaisesRegex(ValueError, r"\['y'\].*has None"):
      store.like({'x': np.zeros(3), 'y': np.zeros(())}, tree)
    with self.assertRaisesRegex(ValueError, r"\['x'\].*\(4,\).*\(3,\)"):
      store.like({'x': np.zeros(4)}, tree)

  def test_a_damaged_json_file_is_never_seen(self):
    path = self.dir / 'config.json'
    store.write_json(path, {'a': 1})
    with self.assertRaises(TypeError):
      store.write_json(path, {'a': object()})
    self.assertEqual(json.loads(path.read_text()), {'a': 1})


class CheckTest(absltest.TestCase):
  def test_equal_values_pass_and_other_keys_are_left_alone(self):
    meta = {'config': {'widths': [1, 2]}, 'commit': 'abc'}
    store.check(meta, {'config': {'widths': (1, 2)}}, 'the fit')

  def test_each_difference_is_told_and_what_to_do(self):
    meta = {'config': {'width': 4, 'depth': 2, 'old': 1}, 'data': 'abc'}
    expected = {'config': {'width': 8, 'depth': 2}, 'data': 'abd', 'kind': 'x'}
    with self.assertRaises(ValueError) as caught:
      store.check(meta, expected, 'the fit in runs/a')
    message = str(caught.exception)
    for part in (
      'the fit in runs/a',
      'config.width is 4 there, 8 here',
      'config.old is 1 there, None here',
      "data is 'abc' there, 'abd' here",
      "kind is None there, 'x' here",
      '--workdir',
    ):
      self.assertIn(part, message)
    self.assertNotIn('depth', message)


class FingerprintTest(parameterized.TestCase):
  def test_it_hangs_on_values_and_not_on_who_holds_them(self):
    a = {'x': np.float32([1, 2]), 'y': np.int32(3), 'e': {}}
    b = {'e': {}, 'y': jnp.int32(3), 'x': jnp.array([1.0, 2.0])}
    self.assertEqual(store.fingerprint(a), store.fingerprint(b))
    self.assertLen(store.fingerprint(a), 64)

  @parameterized.parameters(
    {'x': np.float32([[1, 2]])},  # shape
    {'x': np.float32([1, 2]).view(np.int32)},  # dtype
    {'x': np.float32([1, -2])},
    {'y': np.float32([1, 2])},
    {'x': {'x': np.float32([1, 2])}},
    {'x': np.float32([1, 2]), 'y': np.zeros(0)},
  )
  def test_any_change_changes_it(self, **other):
    tree = {'x': np.float32([1, 2])}
    self.assertNotEqual(store.fingerprint(tree), store.fingerprint(other))

  def test_the_order_in_memory_does_not_change_it(self):
    x = np.arange(6.0).reshape(2, 3)
    self.assertEqual(
      store.fingerprint({'x': x}), store.fingerprint({'x': x.copy('F')})
    )


if __name__ == '__main__':
  absltest.main()
