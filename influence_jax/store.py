"""Checkpoints that survive kill -9: pytrees by orbax, each with a manifest.

    directory/step_00000123/manifest.json   meta; size and sha256 of every file
    directory/step_00000123/checkpoint/     the arrays

A step is written into `tmp_...` beside its place, synced to disk and renamed:
a folder `step_...` is complete unless its disk went bad, and then the digests
tell. Trees come back as nested dicts of numpy arrays, bit for bit; `like` gives
them the structure they had. One program writes a directory at a time. Where
that is many processes each writes what its devices alone hold and the first one
the rest; all read the step that the first one finds.
"""

import contextlib
import hashlib
import json
import os
import pathlib
import re
import shutil
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging

from influence_jax import processes, types

_KEPT = 2  # newest steps


class Checkpoint(NamedTuple):
  step: int
  tree: dict  # nested dicts of numpy arrays
  meta: dict


def save(
  directory: str | os.PathLike, step: int, tree: types.PyTree, meta: dict
) -> None:
  """Writes a step in one piece and removes all but the newest two.

  Args:
    directory: made when absent.
    step: a step that is there already is replaced.
    tree: arrays and scalars in dicts, tuples and NamedTuples.
    meta: anything that JSON holds; `check` compares it later.
  """
  directory = pathlib.Path(directory).absolute()
  folder = directory / f'step_{step:08d}'
  temporary = directory / f'tmp_{folder.name}'
  if processes.is_first():
    directory.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(directory)
  processes.wait('store: begun')
  with _quiet(), ocp.StandardCheckpointer() as checkpointer:
    checkpointer.save(temporary / 'checkpoint', _nested({'tree': tree}))
  if processes.is_first():
    _finish(directory, folder, temporary, meta)
  processes.wait('store: done')


def _finish(directory, folder, temporary, meta) -> None:
  """Makes a step of what has been written in full."""
  step = int(folder.name.removeprefix('step_'))
  paths = [path for path in temporary.rglob('*') if path.is_file()]
  files = {str(p.relative_to(temporary)): _digest(p) for p in sorted(paths)}
  manifest = {'step': step, 'meta': meta, 'files': files}
  write_json(temporary / 'manifest.json', manifest)
  for path in [temporary, *temporary.rglob('*')]:
    _sync(path)
  if folder.exists():
    _retire(folder)
  temporary.rename(folder)
  _sync(directory)
  for old in [s for s in _steps(directory) if s <= step][:-_KEPT]:
    _retire(directory / f'step_{old:08d}')
  _remove_leftovers(directory)


def latest(directory: str | os.PathLike) -> Checkpoint | None:
  """The newest complete step; damaged ones are skipped with a warning."""
  step = processes.agreed(_newest(directory) if processes.is_first() else None)
  return None if step is None else _read(_folder(directory, step))


def load(directory: str | os.PathLike) -> Checkpoint:
  """The newest step, for those who only read; ValueError if it is not whole."""
  steps = processes.agreed(_steps(directory))
  if not steps:
    raise ValueError(
      f'no checkpoint in {directory}; run the command that writes it, or name '
      'the --workdir in which it ran'
    )
  folder = _folder(directory, steps[-1])
  damage = _damage(folder)
  if damage is not None:
    raise ValueError(
      f'{damage}; run the command that wrote it again with the same --workdir: '
      'it goes on from the last complete step'
    )
  return _read(folder)


def check(meta: dict, expected: dict, what: str) -> None:
  """ValueError unless `meta` has the values of `expected`; says what differs.

  Keys that only `meta` has are not compared, save in nested dicts.
  """
  ours = json.loads(json.dumps(expected))  # as the manifest holds it
  theirs = {key: meta[key] for key in ours if key in meta}
  differences = list(_differences(theirs, ours, ''))
  if differences:
    raise ValueError(
      f'{what} is of another run: {"; ".join(differences)}. Choose another '
      '--workdir, or remove what is in this one and run again'
    )


def like(target: types.PyTree, tree: dict) -> types.PyTree:
  """The arrays of a checkpoint's tree in the structure of `target`.

  Of the target's leaves only the shapes matter: `jax.eval_shape` will do.
  """

  def find(path: tuple, leaf: Any) -> np.ndarray:
    found = tree
    for name in _names(path):
      found = found.get(name) if isinstance(found, dict) else None
    ours = getattr(leaf, 'shape', ())
    theirs = None if found is None else np.shape(found)
    if ours != theirs:
      raise ValueError(
        f'{jax.tree_util.keystr(path)} should have shape {ours}, in the '
        f'checkpoint it has {theirs}; it is of another version or config: '
        'choose another --workdir'
      )
    return found

  return jax.tree_util.tree_map_with_path(find, target)


def fingerprint(tree: types.PyTree) -> str:
  """Sha256, in hex, of the paths, dtypes, shapes and bytes of the arrays."""
  digest = hashlib.sha256()
  leaves = {
    tuple(_names(path)): leaf
    for path, leaf in jax.tree_util.tree_leaves_with_path({'tree': tree})
  }
  for names in sorted(leaves):
    array = processes.fetch(leaves[names])  # one at a time
    name = ''.join(f'[{name!r}]' for name in names)
    digest.update(f'{name} {array.dtype} {array.shape}\n'.encode())
    digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
  return digest.hexdigest()


def write_json(path: str | os.PathLike, value: Any) -> None:
  """Writes JSON so that `path` holds all of it or what it held before.

  Of many processes the first one does.
  """
  if not processes.is_first():
    return
  path = pathlib.Path(path)
  temporary = path.with_name(f'tmp_{path.name}')
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary.write_text(json.dumps(value, indent=2, sort_keys=True) + '\n')
  _sync(temporary)
  temporary.replace(path)


def read_json(path: str | os.PathLike) -> Any:
  """The value in a JSON file; ValueError if it is missing or damaged."""
  try:
    return json.loads(pathlib.Path(path).read_text())
  except (OSError, ValueError) as error:
    raise ValueError(
      f'{path} is missing or damaged ({error}); remove it and run the command '
      'that wrote it again'
    ) from error


def _names(path: tuple) -> list[str]:
  return [jax.tree_util.keystr((key,), simple=True) for key in path]


def _nested(tree: types.PyTree) -> dict:
  """Nested dicts of numpy arrays; empty dicts stay, a layer may have none."""

  def is_empty(node: Any) -> bool:
    return isinstance(node, dict) and not node

  nested, seen = {}, set()
  for path, leaf in jax.tree_util.tree_leaves_with_path(tree, is_empty):
    *parents, name = _names(path)
    dotted = '.'.join(_names(path))  # orbax's name of the array
    if dotted in seen:
      raise ValueError(f'two arrays would be saved as {dotted!r}; rename one')
    seen.add(dotted)
    node = nested
    for parent in parents:
      node = node.setdefault(parent, {})
    node[name] = {} if is_empty(leaf) else _on_host(leaf)
  return nested


def _on_host(x: Any) -> Any:
  """As numpy, but for what is spread over processes and not the same in all."""
  if isinstance(x, jax.Array) and not x.is_fully_addressable:
    return np.asarray(x) if x.is_fully_replicated else x
  return np.asarray(x)


def _folder(directory: str | os.PathLike, step: int) -> pathlib.Path:
  return pathlib.Path(directory).absolute() / f'step_{step:08d}'


def _newest(directory: str | os.PathLike) -> int | None:
  """The newest step that is whole."""
  for step in reversed(_steps(directory)):
    damage = _damage(_folder(directory, step))
    if damage is None:
      return step
    logging.warning('%s; going back to the step before it', damage)
  return None


def _steps(directory: str | os.PathLike) -> list[int]:
  """The steps there are, whole or not, the newest last."""
  matches = [
    re.fullmatch(r'step_(\d{8,})', path.name)
    for path in pathlib.Path(directory).glob('step_*')
  ]
  return sorted(int(match[1]) for match in matches if match)


def _damage(folder: pathlib.Path) -> str | None:
  """What is wrong with the files of a step, None if nothing is."""
  try:
    manifest = json.loads((folder / 'manifest.json').read_text())
    files = manifest['files']
    manifest['meta'], manifest['step']
  except (OSError, ValueError, KeyError, TypeError) as error:
    return f'{folder / "manifest.json"} is missing or damaged ({error!r})'
  for name, digest in files.items():
    path = folder / name
    if not path.is_file() or _digest(path) != digest:
      return f'{path} is missing or damaged ({digest["size"]} bytes expected)'
  return None


def _read(folder: pathlib.Path) -> Checkpoint:
  manifest = read_json(folder / 'manifest.json')
  path = folder / 'checkpoint'
  with _quiet(), ocp.PyTreeCheckpointer() as checkpointer:
    # Whatever mesh the arrays were saved on
    found = checkpointer.metadata(path).item_metadata.tree
    as_numpy = jax.tree.map(
      lambda _: ocp.RestoreArgs(restore_type=np.ndarray), found
    )
    tree = checkpointer.restore(path, restore_args=as_numpy)['tree']
  return Checkpoint(manifest['step'], tree, manifest['meta'])


def _differences(theirs: Any, ours: Any, path: str) -> Iterator[str]:
  if isinstance(theirs, dict) and isinstance(ours, dict):
    for key in sorted({*theirs, *ours}):
      inner = f'{path}.{key}' if path else key
      yield from _differences(theirs.get(key), ours.get(key), inner)
  elif theirs != ours:
    yield f'{path} is {theirs!r} there, {ours!r} here'


def _digest(path: pathlib.Path) -> dict:
  with path.open('rb') as file:
    digest = hashlib.file_digest(file, 'sha256').hexdigest()
  return {'size': path.stat().st_size, 'sha256': digest}


def _sync(path: pathlib.Path) -> None:
  """Returns when the file or the folder's list of names is on the disk."""
  descriptor = os.open(path, os.O_RDONLY)
  os.fsync(descriptor)
  os.close(descriptor)


def _retire(folder: pathlib.Path) -> None:
  """Takes a step out of the list at once; its files go with the leftovers."""
  folder.rename(folder.with_name(f'tmp_old_{folder.name}'))


def _remove_leftovers(directory: pathlib.Path) -> None:
  for path in directory.glob('tmp_*'):
    shutil.rmtree(path)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
  """Orbax tells each of its steps at level INFO: hear its warnings alone."""
  verbosity = logging.get_verbosity()
  logging.set_verbosity(min(verbosity, logging.WARNING))
  try:
    yield
  finally:
    logging.set_verbosity(verbosity)
