"""What a validation is of: a trained net, the points and the queries."""

import pathlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from experiments import train, train_net, trained
from influence_jax import curvature, fit, ggn, sharding, types
from influence_jax.data import batches as batches_lib
from influence_jax.data import queries as queries_lib


class Task(NamedTuple):
  model: types.Model
  params: types.PyTree
  batches: types.Batch  # [S, B, ...]: all N training sequences
  points: types.Batch  # [M, 1, ...] of them: whose influence is asked
  queries: types.Batch  # [K, ...]: on whose loss


def train_and_load(config: ConfigDict, workdir: pathlib.Path) -> Task:
  """The net of `workdir`, trained if it is not yet, in validation.dtype.

  A config whose section validation names `num_train` is a language model's:
  experiments.train trains it on its whole corpus, and the N sequences are
  `num_train` of its corpus's, of `length` positions, with the queries of
  config.score.queries. Any other is of experiments.train_net.
  """
  if 'num_train' in config.validation:
    train.run(config, workdir)
    return _of_language_model(config, workdir)
  train_net.run(config, workdir)
  return _of_net(config, workdir)


def _of_net(config: ConfigDict, workdir: pathlib.Path) -> Task:
  """Points are drawn from the training rows, queries from the test rows, by

  validation.seed: the same for every seed of training.
  """
  section = config.validation
  net = train_net.load(config, workdir)
  rng = np.random.default_rng(section.seed)
  rows, test = net.splits.train, net.splits.test
  points = _draw(rng, rows, section.num_points, 'num_points')
  return Task(
    net.model, net.params, ggn.batched(rows, section.batch_size),
    jax.tree.map(lambda x: x[:, None], points),
    _draw(rng, test, section.num_queries, 'num_queries'),
  )  # fmt: skip


def _of_language_model(config: ConfigDict, workdir: pathlib.Path) -> Task:
  section = config.validation
  ours = trained.load(config, workdir)
  sequences = ours.corpus.sequences
  numbers = np.flatnonzero(sequences.records['bucket'] == section.length)
  numbers = numbers[batches_lib.spread(len(numbers), section.num_train)]
  spec = batches_lib.BatchSpec(numbers, len(numbers), section.length)
  rows = batches_lib.get(sequences, spec)
  points = _draw(
    np.random.default_rng(section.seed), rows, section.num_points, 'num_points'
  )
  queries = queries_lib.query_batch(
    queries_lib.read_queries(config.score.queries)[: section.num_queries],
    ours.corpus.tokenizer, config.data.max_len,
  )  # fmt: skip
  return Task(
    trained.with_dtype(config, ours.model, section.dtype),
    jax.tree.map(lambda x: jnp.asarray(x, section.dtype), ours.params),
    ggn.batched(rows, section.batch_size),
    jax.tree.map(lambda x: x[:, None], points), queries,
  )  # fmt: skip


def fitted(
  task: Task, name: str, seed: int
) -> tuple[types.Curvature, dict[str, types.Factors]]:
  """A curvature approximation and its factors; targets drawn by `seed`."""
  made = curvature.make(name)
  batches = task.batches
  state = fit.fit(
    made, task.model, task.params, len(batches.mask),
    lambda s: jax.tree.map(lambda x: x[s], batches), jax.random.key(seed),
    mesh=sharding.make_mesh(data=1), quiet=True,
  )  # fmt: skip
  return made, jax.tree.map(jnp.asarray, state.factors)


def _draw(rng, rows: types.Batch, num: int, name: str) -> types.Batch:
  if not 0 < num <= len(rows.ids):
    raise ValueError(
      f'validation.{name} is {num}, expected 1 to {len(rows.ids)}, the rows '
      'that there are'
    )
  at = np.sort(rng.permutation(len(rows.ids))[:num])
  return jax.tree.map(lambda x: np.asarray(x)[at], rows)
