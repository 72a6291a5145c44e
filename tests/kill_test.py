"""kill -9 in every stage, then the same command: not a bit differs."""

import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

import numpy as np
from absl.testing import absltest

from experiments import top_table
from influence_jax import score_store, store

ROOT = pathlib.Path(__file__).parents[1]


def start(workdir: pathlib.Path) -> subprocess.Popen:
  """The quickstart in a process of its own, on one device."""
  cache = pathlib.Path(tempfile.gettempdir()) / 'influence_jax_kill_test_cache'
  environment = {**os.environ, 'JAX_COMPILATION_CACHE_DIR': str(cache)}
  environment.pop('XLA_FLAGS', None)
  environment['PYTHONPATH'] = str(ROOT / 'tests')
  command = [sys.executable, '-m', 'experiments.quickstart']
  command += ['--config=tests/tiny_config.py', f'--workdir={workdir}']
  with (workdir.parent / f'{workdir.name}.log').open('a') as log:
    return subprocess.Popen(
      command, cwd=ROOT, env=environment, stdout=log, stderr=log
    )


def kill_when(process: subprocess.Popen, happened) -> bool:
  """Kills the process once `happened()`; False if it ended before that."""
  while process.poll() is None:
    if happened():
      process.send_signal(signal.SIGKILL)
      return process.wait() == -signal.SIGKILL
    time.sleep(0.002)
  return False


def steps(workdir: pathlib.Path, name: str) -> list[int]:
  return [
    int(path.name.removeprefix('step_'))
    for path in (workdir / name).glob('step_*')
  ]


class KillTest(absltest.TestCase):
  def scores(self, workdir: pathlib.Path) -> np.ndarray:
    return score_store.open(workdir / 'scores' / 'scores.zarr').read()

  def test_killed_in_every_stage_it_ends_with_the_same_scores(self):
    folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    whole, killed = folder / 'whole', folder / 'killed'
    self.assertEqual(start(whole).wait(), 0, (folder / 'whole.log').read_text())
    last_train = max(steps(whole, 'train'))
    last_fit = max(steps(whole, 'factors'))  # 2 (batches + 1)
    chunks = killed / 'scores' / 'scores.zarr' / 'c' / '0'
    for stage, happened in {
      'train': lambda: steps(killed, 'train'),
      'covariance': lambda: steps(killed, 'factors'),
      'eigenvalue': lambda: max(steps(killed, 'factors')) > last_fit // 2,
      'score': lambda: chunks.exists() and [*chunks.iterdir()],
    }.items():
      with self.subTest(stage):
        self.assertTrue(kill_when(start(killed), happened), stage)
        if stage == 'train':
          self.assertLess(max(steps(killed, 'train')), last_train)
        if stage in ('covariance', 'eigenvalue'):
          self.assertLess(max(steps(killed, 'factors')), last_fit)
        self.assertFalse((killed / 'report.html').exists())
    self.assertEqual(
      start(killed).wait(), 0, (folder / 'killed.log').read_text()
    )
    np.testing.assert_array_equal(self.scores(killed), self.scores(whole))
    summaries = [store.load(w / 'scores' / 'summary') for w in (killed, whole)]
    self.assertEqual(*(store.fingerprint(found.tree) for found in summaries))
    for name in ('top', 'candidates'):
      rows = [
        top_table.read(w / 'scores' / f'{name}.parquet')
        for w in (killed, whole)
      ]
      self.assertEqual(*rows)


if __name__ == '__main__':
  absltest.main()
