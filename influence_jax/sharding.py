"""The mesh: batches are split over axis `data`, wide arrays over `model`.

Parameters lie as RULES say: kernels tensor-parallel over `model` and, with
fsdp, over `data` too; jit gathers those of a block when its turn comes. Sums,
factors and queries lie over `model` by their last axis. One device is the mesh
(1, 1). Axes are Auto: jit decides what is not said here. An axis that does not
divide what it should split is left out there.

In many processes each holds its own devices' part: see `processes`.
"""

import functools
import re
from collections.abc import Callable, Sequence

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from influence_jax import types

AXES = ('data', 'model')

# Pattern, searched in a parameter's '/'-joined path: axes of its last
# dimensions. The first that is found counts; a parameter of none is whole.
RULES = (
  (r'(attn/o|down|fc_out)/kernel$', ('model', 'data')),
  (r'kernel$', ('data', 'model')),
  (r'(embedding|emb)$', ('model', 'data')),
)


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
  if jax.process_count() > 1 and data * model < len(devices):
    raise ValueError(
      f'a mesh of data={data} x model={model} devices leaves out some of the '
      f'{len(devices)} that {jax.process_count()} processes have; take all'
    )
  return jax.make_mesh(
    (data, model),
    AXES,
    axis_types=(AxisType.Auto,) * 2,
    devices=devices[: data * model],
  )


def takes_turns(mesh: Mesh) -> bool:
  """Whether a program must end before the next one starts.

  Devices of a host's CPU that wait for each other in two at once may wait for
  ever.
  """
  return mesh.size > 1 and mesh.devices.flat[0].platform == 'cpu'


def put(tree: types.PyTree, shardings: types.PyTree) -> types.PyTree:
  """The arrays, laid out so; every process has the same ones.

  Copies, but for those of JAX that lie so already. Shapes, as
  jax.ShapeDtypeStruct, are told where they would lie.
  """

  def one(x, sharding):
    if isinstance(x, jax.ShapeDtypeStruct):
      return x.update(sharding=sharding)
    if getattr(x, 'sharding', None) == sharding:
      return x
    if sharding.is_fully_addressable or isinstance(x, jax.Array):
      return jax.device_put(x, sharding, may_alias=False)
    x = np.asarray(x)
    return jax.make_array_from_callback(x.shape, sharding, lambda at: x[at])

  return jax.tree.map(one, tree, shardings)


def replicate(mesh: Mesh, tree: types.PyTree) -> types.PyTree:
  """A copy of the tree's arrays on every device."""
  whole = NamedSharding(mesh, PartitionSpec())
  return put(tree, jax.tree.map(lambda _: whole, tree))


def whole(mesh: Mesh, tree: types.PyTree) -> types.PyTree:
  """Within jit: the same arrays, on every device."""
  return jax.lax.with_sharding_constraint(
    tree, NamedSharding(mesh, PartitionSpec())
  )


def shard_batch(mesh: Mesh, batch: types.Batch) -> types.Batch:
  """Rows split over `data`, B[data]; rows of padding fill up the last ones.

  A process needs to have read its own rows alone (`local_rows`).
  """
  rows = filled(mesh, len(batch.ids)) - len(batch.ids)

  def fill(x, value=0):
    return np.pad(
      x, [(0, rows)] + [(0, 0)] * (np.ndim(x) - 1), constant_values=value
    )

  if rows:
    batch = types.Batch(*map(fill, batch[:3]), ids=fill(batch.ids, -1))
  return put(batch, of_batch(mesh, batch))


def of_batch(mesh: Mesh, batch: types.Batch) -> types.Batch:
  """Shardings of a batch whose rows `data` divides."""
  split = NamedSharding(mesh, PartitionSpec('data'))
  return jax.tree.map(lambda _: split, batch)


def local_rows(mesh: Mesh, num_rows: int) -> slice:
  """The rows of a batch of so many that this process's devices see."""
  shape = (filled(mesh, num_rows),)
  split = NamedSharding(mesh, PartitionSpec('data'))
  found = [
    at for (at,) in split.addressable_devices_indices_map(shape).values()
  ]
  starts, stops = zip(*(at.indices(shape[0])[:2] for at in found), strict=True)
  return slice(min(starts), min(max(stops), num_rows))


def of_params(
  mesh: Mesh,
  params: types.PyTree,
  *,
  fsdp: bool = False,
  rules: Sequence[tuple[str, tuple[str | None, ...]]] = RULES,
) -> types.PyTree:
  """Shardings of parameters or their shapes, or of a tree that holds them

  under other names, as an optimizer's does.
  """

  def one(path, x):
    name = jax.tree_util.keystr(path, simple=True, separator='/')
    axes = next((axes for p, axes in rules if re.search(p, name)), ())
    if not fsdp:
      axes = tuple(None if axis == 'data' else axis for axis in axes)
    return _sharding(mesh, np.shape(x), axes)

  return jax.tree_util.tree_map_with_path(one, params)


def of_layers(
  mesh: Mesh,
  layers: dict[str, types.Layer],
  tree: dict[str, types.PyTree],
  *,
  by_shard: bool = False,
) -> dict[str, types.PyTree]:
  """Shardings of {path: arrays [*stack, ...]}, matrices over `model`.

  Args:
    by_shard: they are [P, *stack, ...] with P over `data`.
  """

  def one(num_stack, x):
    shape = np.shape(x)
    is_matrix = len(shape) - by_shard - num_stack >= 2
    axes = (None,) * (len(shape) - 1) + ('model' if is_matrix else None,)
    if by_shard:
      axes = ('data', *axes[1:])
    return _sharding(mesh, shape, axes)

  return {
    path: jax.tree.map(functools.partial(one, len(layer.stack)), tree[path])
    for path, layer in layers.items()
  }


def by_shard(mesh: Mesh, rule: Callable) -> Callable:
  """A tap's rule as each shard of `data` applies it to its own rows.

  Its statistics get a leading axis P, the shards: nothing is sent between them.
  """
  split, whole = PartitionSpec('data'), PartitionSpec()

  def own(a_BxTxI, ds_BxTxO, mask_BxT, factors):
    # Tokens are sent once; else XLA sends what is made of them, wider yet
    a_BxTxI, ds_BxTxO = whole_over_model((a_BxTxI, ds_BxTxO))
    stats = rule(a_BxTxI, ds_BxTxO, mask_BxT, factors)
    # Said here, the products are made where they stay
    return jax.tree.map(lambda x: _over_model(mesh, x)[None], stats)

  return jax.shard_map(
    own,
    mesh=mesh,
    in_specs=(split, split, split, whole),
    out_specs=split,
    axis_names={'data'},
    check_vma=False,
  )


def splits_model() -> bool:
  """Within a tap's rule: whether more devices than one share its results."""
  return jax.sharding.get_abstract_mesh().shape.get('model', 1) > 1


def whole_over_model(tree: types.PyTree) -> types.PyTree:
  """Within a tap's rule: the same arrays, on every device of `model`."""
  if not splits_model():
    return tree
  return whole(jax.sharding.get_abstract_mesh(), tree)


def _over_model(mesh, x):
  if x.ndim < 2 or mesh.shape['model'] == 1:
    return x
  axes = (None,) * (x.ndim - 1) + ('model',)
  return jax.lax.with_sharding_constraint(x, _sharding(mesh, x.shape, axes))


def _sharding(mesh, shape, axes) -> NamedSharding:
  """`axes` are of the last dimensions; one that does not divide is left out."""
  axes = axes[max(len(axes) - len(shape), 0) :]
  axes = (None,) * (len(shape) - len(axes)) + tuple(axes)
  kept = [
    axis if axis and size % mesh.shape[axis] == 0 else None
    for size, axis in zip(shape, axes, strict=True)
  ]
  return NamedSharding(mesh, PartitionSpec(*kept))


def filled(mesh: Mesh, num_rows: int) -> int:
  """B of a batch of so many rows, filled up to a multiple of `data`."""
  return -(-num_rows // mesh.shape['data']) * mesh.shape['data']
