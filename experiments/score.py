"""Scores queries against every sequence of the corpus and finds the top ones.

  python -m experiments.score --config=configs/quickstart.py \
    --workdir=runs/quickstart

Writes a folder (config.score.folder) of WORKDIR: scores.zarr (queries x
sequences, nats, float32; sign and scale as in influence_jax.types),
queries.json (with the completions' losses, nats), manifest.json, and
top.parquet: the top and bottom sequences of each query with text, title, scores
by token and by layer. The same command again goes on with what is missing and
returns at once when nothing is.
Sections read: data, model, layers, curvature, fit, damping, score.
"""

import os
import pathlib

import jax
import numpy as np
import tqdm
from ml_collections import ConfigDict

from experiments import common, fit_curvature, top_table, trained
from influence_jax import (
  attribution,
  curvature,
  gradients,
  influence,
  score_store,
  sharding,
  store,
  types,
)
from influence_jax.data import batches as batches_lib
from influence_jax.data import queries as queries_lib


def run(config: ConfigDict, workdir: str | os.PathLike) -> None:
  workdir = pathlib.Path(workdir)
  folder = workdir / config.score.folder
  ours = trained.load(config, workdir)
  approximation = common.build('curvature', curvature.make, config.curvature)
  state = fit_curvature.restore(
    approximation,
    ours.model.layers,
    workdir,
    fit_curvature.expected_meta(config, ours),
    complete=True,
  )
  queries = queries_lib.read_queries(config.score.queries)
  batch = query_batch(config, ours, queries)
  claim(folder, origin(config, ours, state.factors, queries))
  scores = score_store.create(
    folder / 'scores.zarr',
    len(queries),
    len(ours.corpus.sequences),
    config.score.chunk,
  )
  if not len(scores.missing()) and (folder / 'top.parquet').exists():
    return
  common.save_config(config, workdir)
  solved, losses_K = solve(config, ours, approximation, state.factors, batch)
  scan(ours, solved, scores, config.score.batch_tokens)
  described = [
    {**query._asdict(), 'loss': float(loss)}
    for query, loss in zip(queries, losses_K, strict=True)
  ]
  store.write_json(folder / 'queries.json', described)
  rows = top_table.make(
    ours, queries, solved, scores.read(), config.score.num_top,
    config.score.batch_tokens,
  )  # fmt: skip
  top_table.write(folder / 'top.parquet', rows, ours.model.layers)


def query_batch(
  config: ConfigDict, ours: trained.Trained, queries: list[queries_lib.Query]
) -> types.Batch:
  return queries_lib.query_batch(
    queries,
    ours.corpus.tokenizer,
    config.data.max_len,
    buckets=config.data.buckets,
  )


def solve(
  config: ConfigDict,
  ours: trained.Trained,
  approximation: types.Curvature,
  factors: dict[str, types.Factors],
  batch: types.Batch,
) -> tuple[dict[str, jax.Array], np.ndarray]:
  """(G + damping)^-1 g of all queries, {path: [*stack, K, I, O]}; losses [K].

  Raises:
    ValueError: a query's loss or gradient is not finite.
  """
  damping = influence.damping_of(
    approximation, ours.model.layers, factors, **config.damping
  )

  @jax.jit
  def solve_batch(params, factors, damping, batch):
    g_KxIxO = gradients.layer_gradients(ours.model, params, batch)
    outputs = ours.model.apply_fn(params, batch.inputs)
    losses_K = ours.model.loss.per_sequence(outputs, batch.targets, batch.mask)
    solved = influence.precondition(
      approximation, ours.model.layers, factors, g_KxIxO, damping
    )
    return solved, losses_K

  solved, losses_K = solve_batch(ours.params, factors, damping, batch)
  for path, x in {**solved, 'the loss': losses_K}.items():
    if not np.isfinite(x).all():
      raise ValueError(
        f'the queries have non-finite values at {path}: expected finite ones; '
        'look at factor_health.json and raise the damping'
      )
  return solved, np.asarray(losses_K)


def scan(
  ours: trained.Trained,
  solved: dict[str, jax.Array],
  scores: score_store.ScoreStore,
  batch_tokens: int,
) -> None:
  """Fills in the chunks of `scores` that are missing."""
  mesh = sharding.make_mesh()
  sequences = ours.corpus.sequences
  wanted = np.zeros(len(sequences), bool)
  for number in scores.missing():
    wanted[scores.columns(number)] = True
  plan = batches_lib.plan(
    sequences, batch_tokens, multiple_of=mesh.shape['data']
  )
  todo = [spec for spec in plan if wanted[spec.rows].any()]

  @jax.jit
  def score_batch(params, solved, batch):
    by_path = influence.pairwise(ours.model, params, solved, batch)
    return attribution.total(by_path, ours.model.layers)

  params, solved = sharding.replicate(mesh, (ours.params, solved))
  waiting = None  # its scores are fetched while the next batch is under way
  for spec in tqdm.tqdm([*todo, None], desc='score', mininterval=1.0):
    next_one = None
    if spec is not None:
      batch = sharding.shard_batch(mesh, batches_lib.get(sequences, spec))
      next_one = spec.rows, score_batch(params, solved, batch)
    if waiting is not None:
      rows, scores_BxK = waiting
      scores.put(int(rows[0]), np.asarray(scores_BxK)[: len(rows)].T)
    waiting = next_one


def origin(
  config: ConfigDict,
  ours: trained.Trained,
  factors: dict[str, types.Factors],
  queries: list[queries_lib.Query],
) -> dict:
  """What scores are of: kept beside them and compared by `claim`."""
  return {
    'params': ours.params_fingerprint,
    'data': ours.corpus.sequences.fingerprint,
    'factors': store.fingerprint(factors),
    'damping': config.damping.to_dict(),
    'score': config.score.to_dict(),
    'queries': [list(query) for query in queries],
  }


def claim(folder: pathlib.Path, meta: dict) -> None:
  """Makes the folder that of `meta`; ValueError if it is another's."""
  path = folder / 'manifest.json'
  folder.mkdir(exist_ok=True)
  if path.exists():
    store.check(store.read_json(path), meta, f'the scores in {folder}')
  else:
    store.write_json(path, {**meta, 'commit': common.commit()})


if __name__ == '__main__':
  common.main(run)
