"""Many processes: the results of one, whichever of them is killed."""

import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import time
from unittest import mock

import jax
import kill_test
import numpy as np
from absl.testing import absltest

from influence_jax import processes, score_store, store

ROOT = kill_test.ROOT


def start(
  workdir: pathlib.Path, num: int, num_devices: int = 2, *flags: str
) -> list[subprocess.Popen]:
  """The tiny quickstart in `num` processes that share `num_devices`."""
  environment = {
    **os.environ,
    'JAX_COMPILATION_CACHE_DIR': os.path.join(
      tempfile.gettempdir(), 'influence_jax_kill_test_cache'
    ),
    'JAX_NUM_CPU_DEVICES': str(num_devices // num),
    'PYTHONPATH': str(ROOT / 'tests'),
  }
  environment.pop('XLA_FLAGS', None)
  with socket.socket() as free:
    free.bind(('127.0.0.1', 0))
    port = free.getsockname()[1]
  command = [sys.executable, '-m', 'experiments.quickstart']
  command += ['--config=tests/tiny_config.py', f'--workdir={workdir}', *flags]
  found = []
  for index in range(num):
    joined = [
      f'--coordinator=127.0.0.1:{port}',
      f'--num_processes={num}',
      f'--process_id={index}',
    ]
    log = workdir.with_name(f'{workdir.name}_{index}.log').open('a')
    found.append(
      subprocess.Popen(
        command + joined * (num > 1),
        cwd=ROOT,
        env=environment,
        stdout=log,
        stderr=log,
      )  # fmt: skip
    )
    log.close()
  return found


def end(joined: list[subprocess.Popen], seconds: float = 300) -> list[int]:
  """Exit statuses; all are killed if they have not ended by then."""
  limit = time.monotonic() + seconds
  try:
    return [x.wait(max(limit - time.monotonic(), 0)) for x in joined]
  finally:
    for x in joined:
      x.kill()


def scores(workdir: pathlib.Path) -> np.ndarray:
  return score_store.open(workdir / 'scores' / 'scores.zarr').read()


class StartTest(absltest.TestCase):
  def test_no_import_starts_the_devices(self):
    """Processes join before that, and XLA's flags are set before it."""
    binaries = sorted(
      f'experiments.{path.stem}'
      for path in (ROOT / 'experiments').glob('*.py')
      if 'common.main(' in path.read_text()
    )
    self.assertIn('experiments.quickstart', binaries)
    code = (
      f'import {", ".join(binaries)}\n'
      'from jax._src import xla_bridge\n'
      'assert not xla_bridge.backends_are_initialized()'
    )
    subprocess.run([sys.executable, '-c', code], cwd=ROOT, check=True)

  def test_an_address_without_a_place_is_refused(self):
    for num, index in ((None, None), (2, None), (2, 2), (2, -1)):
      with self.assertRaisesRegex(ValueError, '--num_processes and --process'):
        processes.start('127.0.0.1:1', num, index)

  def test_one_process_needs_no_other(self):
    processes.start(None)
    processes.wait('alone')
    self.assertTrue(processes.is_first())
    self.assertEqual(processes.agreed({'a': [1]}), {'a': [1]})
    self.assertEqual(processes.first_then_all(lambda: 3), 3)

  def test_work_is_shared_out_by_cost_and_comes_back_in_order(self):
    done = []
    with (
      mock.patch.object(jax, 'process_count', return_value=2),
      mock.patch.object(jax, 'process_index', return_value=1),
      mock.patch.object(processes, '_from', lambda source, tree: source),
    ):
      found = processes.shared_out(
        {'a': 1, 'b': 8, 'c': 5, 'd': 3}, str.upper,
        lambda key, given: done.append((key, given)),
      )  # fmt: skip
    self.assertEqual(found, {'a': 0, 'b': 0, 'c': 1, 'd': 1})
    self.assertEqual(done, [('c', 'C'), ('d', 'D')])


class ProcessesTest(absltest.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.folder = pathlib.Path(
      cls.enterClassContext(tempfile.TemporaryDirectory())
    )
    cls.two = cls.run_to_the_end('two', 2)

  @classmethod
  def run_to_the_end(cls, name, num, *args):
    workdir = cls.folder / name
    statuses = end(start(workdir, num, *args))
    logs = [path.read_text()[-3000:] for path in cls.folder.glob(f'{name}_*')]
    assert statuses == [0] * num, '\n'.join(logs)
    return workdir

  def test_two_have_the_scores_and_tops_of_one(self):
    one = self.run_to_the_end('one', 1, 1)
    wanted = scores(one)
    error = np.abs(scores(self.two) - wanted).max() / np.abs(wanted).max()
    self.assertLess(error, 1e-4)  # float32, and Adam's first steps
    summaries = [store.load(w / 'scores' / 'summary') for w in (one, self.two)]
    found = [x.tree['ids'][:, :, 0] for x in summaries]
    np.testing.assert_array_equal(*found)

  def test_killed_in_every_stage_they_end_with_the_same_bits(self):
    killed = self.folder / 'killed'
    last_fit = max(kill_test.steps(self.two, 'factors'))
    chunks = killed / 'scores' / 'scores.zarr' / 'c' / '0'
    stages = {
      'train': lambda: kill_test.steps(killed, 'train'),
      'covariance': lambda: kill_test.steps(killed, 'factors'),
      'eigenvalue': lambda: (
        max(kill_test.steps(killed, 'factors')) > last_fit // 2
      ),
      'score': lambda: chunks.exists() and [*chunks.iterdir()],
    }
    for n, (stage, happened) in enumerate(stages.items()):
      with self.subTest(stage):
        joined = start(killed, 2)
        victim = joined[n % 2]
        self.assertTrue(kill_test.kill_when(victim, happened), stage)
        (other,) = [x for x in joined if x is not victim]
        other.send_signal(signal.SIGTERM)  # launch/local.sh does so
        self.assertNotEqual(end([other], seconds=20), [0])
        self.assertFalse((killed / 'report.html').exists())
    self.run_to_the_end('killed', 2)
    np.testing.assert_array_equal(scores(killed), scores(self.two))

  def test_two_are_gone_on_with_by_four_and_these_by_one(self):
    moved = self.folder / 'moved'
    mesh = '--config.mesh.model=2', '--config.mesh.fsdp=True'
    chunks = moved / 'scores' / 'scores.zarr' / 'c' / '0'
    killed_when = {
      2: lambda: kill_test.steps(moved, 'factors'),
      4: lambda: chunks.exists() and [*chunks.iterdir()],
    }
    for num, happened in killed_when.items():
      joined = start(moved, num, 4, *mesh)
      self.assertTrue(kill_test.kill_when(joined[-1], happened), num)
      for other in joined[:-1]:
        other.kill()
      end(joined)
    self.run_to_the_end('moved', 1, 1)
    wanted = scores(self.two)
    error = np.abs(scores(moved) - wanted).max() / np.abs(wanted).max()
    self.assertLess(error, 1e-4)


if __name__ == '__main__':
  absltest.main()
