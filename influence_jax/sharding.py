"""The mesh: batches are split over axis `data`, big factors over `model`.

One device is the mesh (1, 1). Axes are Auto: jit decides what is not said here.
"""

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from influence_jax import types

AXES = ('data', 'model')


def make_mesh(data: int | None = None, model: int = 1) -> Mesh:
  """A mesh of data x model devices; `data=None` takes all that there are."""
  devices = jax.devices()
  if data is None:
    data = len(devices) // model
  if not 0 < data * model <= len(devices):
    raise ValueError(
      f'a mesh of data={data} x model={model} devices, but {len(devices)} are '
      'there; choose a smaller mesh'
    )
  return jax.make_mesh(
    (data, model),
    AXES,
    axis_types=(AxisType.Auto,) * 2,
    devices=devices[: data * model],
  )


def replicate(mesh: Mesh, tree: types.PyTree) -> types.PyTree:
  """A copy of the tree's arrays on every device."""
  return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def shard_batch(mesh: Mesh, batch: types.PyTree) -> types.PyTree:
  """Arrays [B, ...] with their rows split over `data`: B[data]."""
  for array in jax.tree.leaves(batch):
    if np.shape(array)[0] % mesh.shape['data']:
      raise ValueError(
        f'{np.shape(array)[0]} rows cannot be split over the '
        f'{mesh.shape["data"]} devices of axis data; pad the batch'
      )
  return jax.device_put(batch, NamedSharding(mesh, PartitionSpec('data')))
