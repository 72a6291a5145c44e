"""The pass over the candidates: scores of every batch against all queries.

The bottleneck of the whole method (Sec. 3.2): one jitted step, rows split over
the mesh's `data` axis, the next batch dispatched before the last one's scores
are fetched. Memory is parameters, queries and two batches, whatever the corpus.
"""

from collections.abc import Callable, Iterable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from influence_jax import (
  attribution,
  contraction,
  plain,
  processes,
  sharding,
  types,
)


def make_step(model: types.Model, mesh: Mesh) -> Callable:
  """Jitted (params, queries, batch) -> scores [B, K], all layers together.

  A layer's tokens meet K / model queries on each device: none of these is sent.
  K is a multiple of the mesh's `model` axis; so is B of `data`.
  """
  dense, others = plain.split(model.layers)
  split = PartitionSpec('data')

  def across(rule):
    def call(a_BxTxI, ds_BxTxO, mask_BxT, one):
      return jax.shard_map(
        rule,
        mesh=mesh,
        in_specs=(split, split, split, _specs(one)),
        out_specs=PartitionSpec('data', 'model'),
        check_vma=False,
      )(a_BxTxI, ds_BxTxO, mask_BxT, one)

    return call

  def of_plain(params, queries, batch):
    by_path = contraction.pairwise(
      model._replace(layers=others), params, queries, batch
    )
    return attribution.total(by_path, others)

  @jax.jit
  def step(params, queries, batch):
    scores = []
    if dense:
      by_path = contraction.pairwise(
        model._replace(layers=dense), params, queries, batch, across=across
      )
      scores.append(attribution.total(by_path, dense))
    if others:
      mine = {path: queries[path] for path in others}
      specs = {path: _specs(one) for path, one in mine.items()}
      scores.append(
        jax.shard_map(
          of_plain,
          mesh=mesh,
          in_specs=(PartitionSpec(), specs, split),
          out_specs=PartitionSpec('data', 'model'),
          check_vma=False,
        )(params, mine, batch)
      )
    return sharding.whole(mesh, sum(scores))

  return step


def shardings(mesh: Mesh, queries: contraction.Queries) -> types.PyTree:
  """Of the queries: K over `model`."""
  specs = {path: _specs(one) for path, one in queries.items()}
  return jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs)


def filled(mesh: Mesh, queries: contraction.Queries) -> contraction.Queries:
  """With queries of zeros, so that K is a multiple of `model`."""
  rest = -contraction.num_queries(queries) % mesh.shape['model']

  def fill(key, x):
    ends = [(0, 0)] * x.ndim
    ends[-1 if key == 'P' else -3] = (0, rest)
    return jnp.pad(x, ends) if rest else x

  return {
    path: {key: fill(key, x) for key, x in one.items()}
    for path, one in queries.items()
  }


def scan(
  step: Callable,
  params: types.PyTree,
  queries: contraction.Queries,
  batches: Iterable[types.Batch],
  mesh: Mesh,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """(ids_B, scores_KxB) of each batch in turn, rows of padding left out.

  Args:
    step: of `make_step`.
    params: where they lie.
    batches: of numpy arrays.
  """
  num = contraction.num_queries(queries)
  queries = filled(mesh, queries)
  queries = sharding.put(queries, shardings(mesh, queries))
  waiting = None  # its scores are fetched while the next batch is under way
  for batch in batches:
    placed = sharding.shard_batch(mesh, batch)
    if waiting is not None and sharding.takes_turns(mesh):
      jax.block_until_ready(waiting[1])
    scores_BxK = step(params, queries, placed)
    if waiting is not None:
      yield _fetch(*waiting, num)
    waiting = batch.ids, scores_BxK
  if waiting is not None:
    yield _fetch(*waiting, num)


def roads(
  layers: dict[str, types.Layer],
  queries: contraction.Queries,
  shape: tuple[int, int],
) -> dict[str, str]:
  """{path: the road that batches of `shape` [B, T] take}, for the record."""
  dense, others = plain.split(layers)
  found = {
    path: contraction.road(layer.num_in, layer.num_out, shape, queries[path])
    for path, layer in dense.items()
  }
  return found | dict.fromkeys(others, 'gradient')


def _specs(one: types.Factors) -> dict[str, PartitionSpec]:
  """K of 'P' [*stack, I, O, K], 'U' and 'V' [*stack, K, ...] over `model`."""

  def spec(key, x):
    axes = [None] * x.ndim
    axes[-1 if key == 'P' else -3] = 'model'
    return PartitionSpec(*axes)

  return {key: spec(key, x) for key, x in one.items()}


def _fetch(ids_B, scores_BxK, num):
  kept = np.flatnonzero(np.asarray(ids_B) >= 0)
  return np.asarray(ids_B)[kept], processes.fetch(scores_BxK)[kept, :num].T
