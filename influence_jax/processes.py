"""Many processes that run one program on their devices, or just one process.

Each runs the same code in the same order: what one alone decides, from a file
say, is `agreed` on first, so that none waits for a step that others skip. A
process that ends early ends all: the service that joins them notices.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from influence_jax import types

_T = TypeVar('_T')


def start(
  coordinator: str | None, num: int | None = None, index: int | None = None
) -> None:
  """Joins `num` processes as number `index`; before jax is used at all.

  Args:
    coordinator: 'HOST:PORT' of process 0; 'auto' asks SLURM, Kubernetes or the
      TPU; None for a process alone.

  Raises:
    ValueError: HOST:PORT without num and index.
  """
  if coordinator is None:
    return
  # It would keep SIGTERM from ending the process, and nothing here asks it
  jax.config.update('jax_enable_preemption_service', False)
  if coordinator == 'auto':
    jax.distributed.initialize()
    return
  if num is None or index is None or not 0 <= index < num:
    raise ValueError(
      f'--coordinator={coordinator} wants --num_processes and --process_id '
      f'below it, got {num} and {index}'
    )
  jax.distributed.initialize(
    coordinator, num, index, cluster_detection_method='deactivate'
  )


def is_first() -> bool:
  """Whether this process is the one that writes what is written once."""
  return jax.process_index() == 0


def wait(name: str) -> None:
  """Until all processes are here."""
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(name)


def first_then_all(fn: Callable[[], _T]) -> _T:
  """fn() of the first process, then, when its files are there, of the others.

  For work that is found done when it is asked for again.
  """
  result = fn() if is_first() else None
  wait('first_then_all')
  return result if is_first() else fn()


def agreed(value: Any, source: int = 0) -> Any:
  """What JSON holds of the value that process `source` has."""
  if jax.process_count() == 1:
    return value
  mine = jax.process_index() == source
  encoded = json.dumps(value).encode() if mine else b''
  size = multihost_utils.broadcast_one_to_all(np.int64(len(encoded)), mine)
  buffer = np.frombuffer(encoded.ljust(int(size)), np.uint8)
  return json.loads(
    bytes(multihost_utils.broadcast_one_to_all(buffer, mine)).decode()
  )


def fetch(tree: types.PyTree) -> types.PyTree:
  """Global arrays as numpy arrays, whole in every process."""

  def one(x):
    if isinstance(x, jax.Array) and not x.is_fully_addressable:
      if x.is_fully_replicated:
        return np.asarray(x.addressable_data(0))
      return np.asarray(multihost_utils.process_allgather(x, tiled=True))
    return np.asarray(x)

  return jax.tree.map(one, tree)


def shared_out(
  costs: Mapping[str, float],
  collect: Callable[[str], Any],
  work: Callable[[str, Any], types.PyTree],
) -> dict[str, types.PyTree]:
  """{key: work(key, collect(key))}, nested dicts of numpy arrays, for all.

  Each key is worked on by one process; the dearest first, to the one that has
  least to do. All call `collect`.
  """
  owners, load = {}, np.zeros(jax.process_count())
  for key in sorted(costs, key=lambda key: (-costs[key], key)):
    owners[key] = int(load.argmin())
    load[owners[key]] += costs[key]
  me, mine = jax.process_index(), {}
  for key in costs:
    given = collect(key)
    if owners[key] == me:
      mine[key] = given
  done = {key: work(key, given) for key, given in mine.items()}
  return {key: _from(owners[key], done.get(key)) for key in costs}


def _from(source: int, tree: types.PyTree) -> types.PyTree:
  """The tree that process `source` has."""
  tree = jax.tree.map(np.asarray, tree)
  if jax.process_count() == 1:
    return tree
  mine = jax.process_index() == source
  leaves, _ = jax.tree.flatten(tree)
  shapes = agreed(
    jax.tree.map(lambda x: {'shape': x.shape, 'dtype': str(x.dtype)}, tree),
    source,
  )

  def is_leaf(node):
    return set(node) == {'shape', 'dtype'}

  specs, structure = jax.tree.flatten(shapes, is_leaf=is_leaf)
  if not mine:
    leaves = [np.zeros(spec['shape'], spec['dtype']) for spec in specs]
  sent = multihost_utils.broadcast_one_to_all(tuple(leaves), mine)
  return jax.tree.unflatten(structure, list(map(np.asarray, sent)))
