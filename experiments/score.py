"""Scores queries against the sequences of the corpus and finds the top ones.

  python -m experiments.score --config=configs/quickstart.py \
    --workdir=runs/quickstart

Writes a folder (config.score.folder) of WORKDIR:

  top.parquet         the top and bottom score.num_top sequences of each query
                      with text, title, scores by token and by layer
  candidates.parquet  the first score.refine of each, with the scan's score and
                      the one of full rank; neither file if num_top is 0
  summary/            for each query: tops, sums, a histogram of all scores
  scores.zarr         if score.matrix: answers x queries x sequences, float32
  queries.json        with the completions' losses, nats
  manifest.json       what it is of

Sign and scale of scores are as in influence_jax.types. The same command again
goes on with what is missing and returns at once when nothing is.
Sections read: data, model or checkpoint, layers, curvature, fit, damping,
score, plan.
"""

import functools
import os
import pathlib

import jax
import numpy as np
import tqdm
from absl import logging
from ml_collections import ConfigDict

from experiments import (
  common,
  compared,
  fit_curvature,
  refine,
  solve,
  top_table,
  trained,
)
from influence_jax import (
  contraction,
  processes,
  score_store,
  store,
  topk,
  types,
)
from influence_jax import scan as scan_lib
from influence_jax.data import batches as batches_lib
from influence_jax.data import candidates as candidates_lib
from influence_jax.data import queries as queries_lib


def run(
  config: ConfigDict,
  workdir: str | os.PathLike,
  ours: trained.Trained | None = None,
) -> None:
  """`ours` is `trained.load(config, workdir)` where that was done before."""
  workdir = pathlib.Path(workdir)
  folder = workdir / config.score.folder
  ours = ours or trained.load(config, workdir)
  asked = solve.answers(config)
  factors = fit_curvature.restore(
    asked[0].approximation,
    ours.model.layers,
    workdir,
    fit_curvature.expected_meta(config, ours),
    complete=True,
  ).factors
  read = trained.read_queries(config)
  batch = query_batch(config, ours, read)
  numbers = candidates(config, ours, batch)  # may refuse: before the claim
  claim(folder, origin(config, ours, factors, read))
  scores = None
  if config.score.matrix:
    scores = processes.first_then_all(
      functools.partial(
        score_store.create,
        folder / 'scores.zarr',
        len(asked) * len(read),
        len(numbers),
        config.score.chunk,
      )
    )
  last = folder / ('top.parquet' if config.score.num_top else 'queries.json')
  if processes.agreed(last.exists()) and not missing_chunks(scores):
    return
  common.save_config(config, workdir)
  resumed = (folder / 'summary').exists()
  with compared.prediction(config, ours, workdir, 'score', resumed=resumed):
    solved, losses_K = solve.solve(config, ours, asked, factors, batch)
    summary = scan(config, ours, solved, numbers, scores, folder / 'summary')
    described = [
      {**query._asdict(), 'loss': float(loss)}
      for query, loss in zip(read, losses_K, strict=True)
    ]
    store.write_json(folder / 'queries.json', described)
    if not config.score.num_top:
      return
    tops = refine.tops(config, ours, factors, batch, solved, summary)
    layers = ours.model.layers
    top_table.write(
      folder / 'candidates.parquet', top_table.candidates(read, tops), layers
    )
    top_table.write(
      folder / 'top.parquet', top_table.rows(ours, read, tops), layers
    )


def missing_chunks(scores: score_store.ScoreStore | None) -> list[int]:
  """As the first process finds them; none of no store."""
  look = scores is not None and processes.is_first()
  return processes.agreed(scores.missing().tolist() if look else [])


def query_batch(
  config: ConfigDict, ours: trained.Trained, queries: list[queries_lib.Query]
) -> types.Batch:
  return queries_lib.query_batch(
    queries,
    ours.corpus.tokenizer,
    config.data.max_len,
    buckets=config.data.buckets,
  )


def candidates(
  config: ConfigDict, ours: trained.Trained, batch: types.Batch
) -> np.ndarray:
  """Numbers of the sequences to scan, ascending: all, or what a filter takes.

  All is `score.num_sequences` of them, evenly spread, if that is given. A
  filter (data.candidates) takes the union over queries of what their words
  find.
  """
  sequences = ours.corpus.sequences
  if config.score.candidates.method == 'all':
    return batches_lib.spread(len(sequences), config.score.num_sequences)
  lengths = [int(np.flatnonzero(row)[-1]) + 1 for row in batch.mask]
  asked = [
    np.append(inputs[1:n], targets[n - 1])
    for inputs, targets, n in zip(
      batch.inputs, batch.targets, lengths, strict=True
    )
  ]
  chosen = candidates_lib.choose(
    sequences=sequences, queries=asked, **config.score.candidates
  )
  return candidates_lib.union(chosen)


def scan(
  config: ConfigDict,
  ours: trained.Trained,
  queries: contraction.Queries,
  numbers: np.ndarray,
  scores: score_store.ScoreStore | None,
  folder: pathlib.Path,
) -> topk.Summary:
  """The summary of all queries over the sequences `numbers`, and `scores`.

  Each process writes its share of the chunks; all keep the summary.

  Goes on from the last summary in `folder`; batches before it are scored again
  only where `scores` misses a chunk.
  """
  mesh = common.mesh(config)
  sequences = ours.corpus.sequences
  plan = batches_lib.split(sequences, numbers, config.score.batch_tokens)
  k = max(config.score.num_top, config.score.refine, 1)
  summary, done = _restore(folder, contraction.num_queries(queries), k)
  wanted = np.zeros(len(numbers), bool)
  for chunk in missing_chunks(scores):
    wanted[scores.columns(chunk)] = True
  starts = np.cumsum([0, *(len(spec.rows) for spec in plan)])
  todo = [
    i for i, spec in enumerate(plan)
    if i >= done or wanted[starts[i] : starts[i + 1]].any()
  ]  # fmt: skip
  if todo:
    spec = plan[-1]
    shape = -(-spec.size // mesh.shape['data']), spec.length
    for path, road in scan_lib.roads(ours.model.layers, queries, shape).items():
      logging.info('scan: %s by %s', path, road)
  results = scan_lib.scan(
    scan_lib.make_step(ours.model, mesh),
    common.place(config, mesh, ours.params),
    queries,
    (common.get_batch(mesh, sequences, plan[i]) for i in todo),
    mesh,
  )
  bar = tqdm.tqdm(
    results, desc='score', total=len(todo), mininterval=1.0,
    disable=not processes.is_first(),
  )  # fmt: skip
  share = jax.process_index(), jax.process_count()
  for i, (ids_B, scores_KxB) in zip(todo, bar, strict=True):
    if scores is not None:
      scores.put(int(starts[i]), scores_KxB, share)
    if i < done:
      continue
    summary = topk.update(summary, ids_B, scores_KxB)
    if (i + 1) % config.score.save_every == 0 or i + 1 == len(plan):
      store.save(folder, i + 1, summary._asdict(), {'batches': len(plan)})
  return summary


def _restore(folder, num_queries, k) -> tuple[topk.Summary, int]:
  found, blank = store.latest(folder), topk.start(num_queries, k)
  if found is None:
    return blank, 0
  return store.like(blank, found.tree), found.step


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
    'answers': [answer.label for answer in solve.answers(config)],
    'queries': [list(query) for query in queries],
  }


def claim(folder: pathlib.Path, meta: dict) -> None:
  """Makes the folder that of `meta`; ValueError if it is another's."""
  path = folder / 'manifest.json'
  folder.mkdir(exist_ok=True)
  if processes.agreed(path.exists()):
    store.check(store.read_json(path), meta, f'the scores in {folder}')
  else:
    store.write_json(path, {**meta, 'commit': common.commit()})


if __name__ == '__main__':
  common.main(run)
