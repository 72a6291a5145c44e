"""The queries' side of a scan: (G + damping)^-1 g, compressed.

A config may ask for several answers in one pass (config.score.answers): other
approximations that share the factors' eigenbasis, other dampings. Queries are
solved `query_batch` at a time and compressed before the next ones are taken, so
that K x model size is held only where no rank is asked for.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from experiments import common, trained
from influence_jax import (
  contraction,
  curvature,
  gradients,
  influence,
  lowrank,
  processes,
  sharding,
  types,
)


class Answer(NamedTuple):
  """One way to look at the same factors."""

  label: str
  approximation: types.Curvature
  damping: dict  # relative or absolute


def answers(config: ConfigDict) -> list[Answer]:
  """The config's own curvature and damping, then those of score.answers."""
  main = {**config.curvature.to_dict(), **config.damping.to_dict()}
  return [_answer(each) for each in (main, *map(dict, config.score.answers))]


def _answer(each: dict) -> Answer:
  hparams = dict(each)
  damping = {key: hparams.pop(key, None) for key in ('relative', 'absolute')}
  label = ' '.join(
    [each['name']] + [f'{k} {v:g}' for k, v in damping.items() if v is not None]
  )
  made = common.build('score.answers', curvature.make, ConfigDict(hparams))
  return Answer(label, made, damping)


def solve(
  config: ConfigDict,
  ours: trained.Trained,
  asked: list[Answer],
  factors: dict[str, types.Factors],
  batch: types.Batch,
) -> tuple[contraction.Queries, np.ndarray]:
  """Queries of all answers, K of the first one first; losses [K] in nats."""
  solver = make_solver(config, ours, asked, factors, config.score.rank)
  num = len(batch.inputs)
  found = [solver(batch, rows) for rows in chunks(config, num)]
  parts, losses = zip(*found, strict=True)
  by_answer = [one for each in zip(*parts, strict=True) for one in each]
  queries = contraction.concatenate(by_answer)
  return queries, np.concatenate(losses)


def chunks(config: ConfigDict, num: int) -> list[range]:
  """The queries that are solved together."""
  size = config.score.query_batch
  return [range(i, min(i + size, num)) for i in range(0, num, size)]


def lay(
  config: ConfigDict, ours: trained.Trained, factors: dict[str, types.Factors]
) -> tuple[trained.Trained, dict[str, types.Factors], Callable]:
  """Parameters and factors where a program finds them, and tree -> tree for

  what it sees beside them: on the mesh if the section mesh splits parameters,
  else as they are, for one device.
  """
  if not common.splits_params(config):
    return ours, factors, lambda tree: tree
  mesh = common.mesh(config)
  factors = sharding.put(
    factors, sharding.of_layers(mesh, ours.model.layers, factors)
  )
  placed = ours._replace(params=common.place(config, mesh, ours.params))
  return placed, factors, functools.partial(sharding.replicate, mesh)


def make_solver(
  config: ConfigDict,
  ours: trained.Trained,
  asked: list[Answer],
  factors: dict[str, types.Factors],
  rank: int | None,
) -> Callable:
  """(batch, rows) -> (queries of these rows for each answer, losses in nats).

  `steps`, one after the other.
  """
  gradient, solved = steps(config, ours, asked, factors, rank)
  return lambda batch, rows: solved(*gradient(batch, rows), len(rows))


def steps(
  config: ConfigDict,
  ours: trained.Trained,
  asked: list[Answer],
  factors: dict[str, types.Factors],
  rank: int | None,
) -> tuple[Callable, Callable]:
  """(batch, rows) -> (gradients, losses), and (gradients, losses, number of

  rows) -> as `make_solver`.

  At full rank if `rank` is None. Compiled once: rows are filled up to
  `query_batch`. ValueError if a query's loss or gradient is not finite.
  """
  layers = ours.model.layers
  ours, factors, beside = lay(config, ours, factors)
  dampings = [
    influence.damping_of(x.approximation, layers, factors, **x.damping)
    for x in asked
  ]

  @jax.jit
  def of_batch(params, batch):
    outputs = ours.model.apply_fn(params, batch.inputs)
    losses_K = ours.model.loss.per_sequence(outputs, batch.targets, batch.mask)
    return gradients.layer_gradients(ours.model, params, batch), losses_K

  @functools.partial(jax.jit, static_argnums=0)
  def compress(n, factors, damping, g_KxIxO):
    approximation = asked[n].approximation
    solved = influence.precondition(
      approximation, layers, factors, g_KxIxO, damping,
      rotated=rank is not None,
    )  # fmt: skip
    if rank is None:
      return contraction.whole(solved)
    return lowrank.truncate(
      approximation, layers, factors, solved, rank,
      weighted=config.score.weighted, method=config.score.svd,
    )  # fmt: skip

  def gradient(batch, rows):
    size = min(config.score.query_batch, len(batch.inputs))
    filled = np.resize(rows, size)  # one shape for all
    return of_batch(
      ours.params, beside(types.Batch(*(x[filled] for x in batch)))
    )

  def solved(g_KxIxO, losses_K, num):
    found = [
      compress(n, factors, damping, g_KxIxO)
      for n, damping in enumerate(dampings)
    ]
    if jax.process_count() > 1:
      found, losses_K = processes.fetch((found, losses_K))
    found = [contraction.take(one, range(num)) for one in found]
    losses_K = np.asarray(losses_K)[:num]
    _check_finite(found, losses_K)
    return found, losses_K

  return gradient, solved


def _check_finite(found, losses_K) -> None:
  named = {
    f'{path} of the queries': x for one in found for path, x in one.items()
  }
  for name, x in {**named, 'the losses': losses_K}.items():
    if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(x)):
      raise ValueError(
        f'non-finite values in {name}: expected finite ones; look at '
        'factor_health.json and raise the damping'
      )
