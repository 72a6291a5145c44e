"""Where figures come from: the commit, the processor and what it can do."""

import os
import pathlib
import subprocess
import time

import jax


def matmul_gflops(size: int = 2048, num: int = 10) -> float:
  """The most operations a second that a float32 product reaches, / 1e9."""
  x = jax.random.normal(jax.random.key(0), (size, size))
  product = jax.jit(lambda x: x @ x)
  product(x).block_until_ready()
  seconds = []
  for _ in range(num):
    start = time.perf_counter()
    product(x).block_until_ready()
    seconds.append(time.perf_counter() - start)
  return 2 * size**3 / min(seconds) / 1e9


def commit() -> str:
  """The commit; '-dirty' if more than results/ was changed."""
  name = _git('rev-parse', 'HEAD').stdout.strip()
  changed = _git('diff', '--quiet', 'HEAD', '--', '.', ':!results').returncode
  return f'{name}-dirty' if changed else name


def device() -> str:
  lines = pathlib.Path('/proc/cpuinfo').read_text().splitlines()
  models = [x.split(':')[1].strip() for x in lines if 'model name' in x]
  return f'{len(models)} x {models[0] if models else "unknown processor"}'


def rss_mb() -> float:
  """Memory of this process that is resident now."""
  pages = int(pathlib.Path('/proc/self/statm').read_text().split()[1])
  return pages * os.sysconf('SC_PAGE_SIZE') / 2**20


def peak_mb() -> float:
  """The most that was resident; getrusage may tell the parent's instead."""
  lines = pathlib.Path('/proc/self/status').read_text().splitlines()
  fields = dict(line.split(':', 1) for line in lines)
  return int(fields['VmHWM'].split()[0]) / 2**10


def _git(*arguments):
  root = pathlib.Path(__file__).parents[1]
  command = ['git', '-C', str(root), *arguments]
  return subprocess.run(command, capture_output=True, text=True)
