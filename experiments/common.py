"""What all binaries share: flags, set-up, logs, where the code came from."""

import functools
import importlib.metadata
import inspect
import json
import logging as python_logging
import os
import pathlib
import shlex
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import jax
from absl import app, flags, logging
from jax.sharding import Mesh
from ml_collections import ConfigDict, config_flags

from influence_jax import cpu, processes, sharding, store, types
from influence_jax.data import batches as batches_lib
from influence_jax.data import sequences as sequences_lib

_CONFIG = config_flags.DEFINE_config_file('config', help_string='Experiment.')
_WORKDIR = flags.DEFINE_string('workdir', None, 'Holds all that is written.')
_COORDINATOR = flags.DEFINE_string(
  'coordinator', None, "HOST:PORT of many processes' first, or auto."
)
_NUM_PROCESSES = flags.DEFINE_integer(
  'num_processes', None, 'How many, with --coordinator=HOST:PORT.'
)
_PROCESS_ID = flags.DEFINE_integer(
  'process_id', None, 'Which of them this is, from 0.'
)
_CACHE = '~/.cache/influence_jax/xla'  # unless JAX_COMPILATION_CACHE_DIR is set


def main(run_fn: Callable[[ConfigDict, pathlib.Path], Any]) -> None:
  """Reads the flags, sets up and calls run_fn(config, workdir)."""

  def run(_) -> None:  # what it returned would be the exit status
    processes.start(_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
    run_fn(_CONFIG.value, setup(_WORKDIR.value))

  flags.mark_flags_as_required(['config', 'workdir'])
  app.run(run)


def setup(workdir: str | os.PathLike) -> pathlib.Path:
  """Makes the workdir, turns logs, the compilation cache and CPU speed on."""
  cpu.tune()
  first = processes.is_first()
  logging.set_verbosity(logging.INFO if first else logging.WARNING)
  python_logging.getLogger('jax').setLevel(python_logging.WARNING)
  if not jax.config.jax_compilation_cache_dir:
    cache = os.path.expanduser(_CACHE)
    jax.config.update('jax_compilation_cache_dir', cache)
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)
  jax.config.update('jax_persistent_cache_min_entry_size_bytes', -1)
  workdir = pathlib.Path(workdir)
  workdir.mkdir(parents=True, exist_ok=True)
  return workdir


def mesh(config: ConfigDict) -> Mesh:
  """Of the section mesh; without one, all devices split batches."""
  section = config.get('mesh', {})
  return sharding.make_mesh(section.get('data'), section.get('model', 1))


def splits_params(config: ConfigDict) -> bool:
  """Whether a device has only a part of the parameters."""
  section = config.get('mesh', {})
  return section.get('model', 1) > 1 or section.get('fsdp', False)


def params_shardings(
  config: ConfigDict, mesh: Mesh, params: types.PyTree
) -> types.PyTree:
  """Where the section mesh wants them; see `sharding.of_params`."""
  section = config.get('mesh', {})
  return sharding.of_params(
    mesh,
    params,
    fsdp=section.get('fsdp', False),
    rules=(*section.get('rules', ()), *sharding.RULES),
  )


def place(config: ConfigDict, mesh: Mesh, params: types.PyTree) -> types.PyTree:
  """A copy of the parameters on the mesh."""
  return sharding.put(params, params_shardings(config, mesh, params))


def placed(config: ConfigDict, mesh: Mesh) -> Callable:
  """tree -> tree within jit, its arrays where `place` puts them."""

  def constrain(tree):
    return jax.lax.with_sharding_constraint(
      tree, params_shardings(config, mesh, tree)
    )

  return constrain


def get_batch(
  mesh: Mesh, sequences: sequences_lib.Sequences, spec: batches_lib.BatchSpec
) -> types.Batch:
  """What this process's devices see of the batch."""
  return batches_lib.get(sequences, spec, sharding.local_rows(mesh, spec.size))


def save_config(config: ConfigDict, workdir: str | os.PathLike) -> None:
  """Writes config.json; not before checkpoints are checked, if there are."""
  store.write_json(pathlib.Path(workdir) / 'config.json', config.to_dict())


def build(section: str, fn: Callable, hparams: ConfigDict) -> Any:
  """fn(**hparams); a ValueError of a wrong key or value names the section."""
  signature = inspect.signature(fn)
  try:
    signature.bind(**hparams.to_dict())
  except TypeError as error:
    keys = list(signature.parameters)
    raise ValueError(f'config.{section}: {error}; keys are {keys}') from error
  try:
    return fn(**hparams.to_dict())
  except ValueError as error:
    raise ValueError(f'config.{section}: {error}') from error


def provenance(binary: str, config: ConfigDict) -> dict[str, Any]:
  """Where a result comes from: command, commit, device and config."""
  return {
    'command': shlex.join(['python', '-m', binary, *sys.argv[1:]]),
    'commit': commit(),
    'device': f'{jax.devices()[0].device_kind} x {jax.device_count()}',
    'config': config.to_dict(),
  }


def open_log(path: str | os.PathLike, step: int) -> Callable[[dict], Any]:
  """Appends records as JSON lines; drops lines cut short or after `step`."""
  if not processes.is_first():
    return lambda record: None
  path = pathlib.Path(path)
  lines = path.read_text().splitlines() if path.exists() else []
  kept = [f'{line}\n' for line in lines if _step(line) <= step]
  temporary = path.with_name(f'tmp_{path.name}')
  temporary.write_text(''.join(kept))
  temporary.replace(path)
  file = path.open('a', buffering=1)  # written line by line
  return lambda record: file.write(json.dumps(record) + '\n')


def _step(line: str) -> float:
  try:
    return json.loads(line)['step']
  except ValueError:
    return float('inf')


@functools.cache
def commit() -> str:
  """Commit of this code, '-dirty' if it was changed; without git, version."""
  root = pathlib.Path(__file__).parents[1]
  git = 'git describe --always --dirty --exclude=* --abbrev=40'.split()
  try:
    if (root / '.git').exists():
      quiet = {'cwd': root, 'stderr': subprocess.DEVNULL, 'text': True}
      return subprocess.check_output(git, **quiet).strip()
    return importlib.metadata.version('influence_jax')
  except (OSError, subprocess.CalledProcessError, ImportError):
    return 'unknown'
