"""Parts of a study, each computed once and kept in a JSON file."""

import pathlib
import time
from collections.abc import Callable

from absl import logging

from experiments import common
from influence_jax import store


def part(path: pathlib.Path, origin: dict, fn: Callable[[], dict]) -> dict:
  """What fn() finds: from the file `path` if it is there, else computed.

  Args:
    origin: all that the part depends on, JSON-able.

  Raises:
    ValueError: what is in the file is of another origin; says what differs.
  """
  if path.exists():
    found = store.read_json(path)
    store.check(found['origin'], origin, str(path))
    logging.info('%s is done', path)
    return found
  started = time.perf_counter()
  found = {'origin': origin, 'commit': common.commit(), **fn()}
  found['seconds'] = time.perf_counter() - started
  store.write_json(path, found)
  return store.read_json(path)  # as the next run finds it
