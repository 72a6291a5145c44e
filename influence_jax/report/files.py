"""Files that are there whole or not at all."""

import os
import pathlib

from influence_jax import processes


def write(path: str | os.PathLike, content: bytes) -> None:
  """Writes beside `path`, then renames: a reader never sees half a file.

  Of many processes the first one does.
  """
  path = pathlib.Path(path)
  if not processes.is_first():
    return
  path.parent.mkdir(parents=True, exist_ok=True)
  unfinished = path.with_name(f'.{path.name}.{os.getpid()}')
  try:
    unfinished.write_bytes(content)
    os.replace(unfinished, path)
  finally:
    unfinished.unlink(missing_ok=True)
