"""The pass over the candidates: scores of every batch against all queries.

The bottleneck of the whole method (Sec. 3.2): one jitted step, rows split over
the mesh's `data` axis, the next batch dispatched before the last one's scores
are fetched. Memory is parameters, queries and two batches, whatever the corpus.
"""

from collections.abc import Callable, Iterable, Iterator

import jax
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from influence_jax import attribution, contraction, plain, sharding, types


def make_step(model: types.Model, mesh: Mesh) -> Callable:
  """Jitted (params, queries, batch) -> scores [B, K], all layers together."""

  def on_shard(params, queries, batch):
    by_path = contraction.pairwise(model, params, queries, batch)
    return attribution.total(by_path, model.layers)

  whole, split = PartitionSpec(), PartitionSpec('data')
  return jax.jit(
    jax.shard_map(
      on_shard,
      mesh=mesh,
      in_specs=(whole, whole, split),
      out_specs=split,
      check_vma=False,
    )
  )


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
    batches: of numpy arrays; rows a multiple of the mesh's `data` axis.
  """
  params, queries = sharding.replicate(mesh, (params, queries))
  waiting = None  # its scores are fetched while the next batch is under way
  for batch in batches:
    scores_BxK = step(params, queries, sharding.shard_batch(mesh, batch))
    if waiting is not None:
      yield _fetch(*waiting)
    waiting = batch.ids, scores_BxK
  if waiting is not None:
    yield _fetch(*waiting)


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


def _fetch(ids_B, scores_BxK):
  kept = np.asarray(ids_B) >= 0
  return np.asarray(ids_B)[kept], np.asarray(scores_BxK)[kept].T
