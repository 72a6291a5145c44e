"""The second stage of a scan: its top sequences, scored again at full rank.

A low-rank scan may put a sequence a few places wrong; the order of the first m
is settled here, query by query (`query_batch` at a time, so memory is theirs
alone), in float32 or, if asked, in float64 throughout.
"""

import contextlib
import functools
from collections.abc import Callable, Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tqdm
from ml_collections import ConfigDict

from experiments import solve, trained
from influence_jax import (
  attribution,
  contraction,
  plain,
  processes,
  topk,
  types,
)
from influence_jax.data import batches as batches_lib


class Top(NamedTuple):
  """One sequence that matters to one query; both scores in nats."""

  sequence: int
  scan_score: float  # of the scan, perhaps of low rank
  score: float  # what it is ranked by: of full rank if it was refined
  token_scores: list[float] | None = None
  layer_scores: list[float] | None = None


def tops(
  config: ConfigDict,
  ours: trained.Trained,
  factors: dict[str, types.Factors],
  batch: types.Batch,
  queries: contraction.Queries,
  summary: topk.Summary,
) -> list[dict[str, list[Top]]]:
  """{kind: Tops, extremes first} of each query, of the config's own answer.

  The first `num_top` of a kind have scores by token and by layer. Ties go to
  the smaller number; a kind has only scores of its sign.

  Args:
    batch: of the queries.
    queries: as the scan had them, those of the first answer first.
    summary: of the scan.
  """
  with precision(config):
    solver, details = make(config, ours, factors)
    found, num = [], len(batch.inputs)
    bar = tqdm.tqdm(total=num, desc='refine', mininterval=1.0)
    for rows in solve.chunks(config, num):
      mine = contraction.take(queries, rows)
      if config.score.refine:
        mine = solver(batch, rows)[0][0]
      for k, n in enumerate(rows):
        query = contraction.take(mine, [k])
        found.append(of_query(config, ours, details, query, summary, n))
        bar.update()
    bar.close()
  return found


def precision(config: ConfigDict) -> contextlib.AbstractContextManager:
  """In which all of this is done."""
  wide = config.score.refine_float64
  return jax.enable_x64(True) if wide else contextlib.nullcontext()


def make(
  config: ConfigDict, ours: trained.Trained, factors: dict[str, types.Factors]
) -> tuple[Callable, Callable]:
  """What is compiled: a solver at full rank (`solve.make_solver`) and

  (query, batch) -> (scores by position, scores by layer).
  """
  if config.score.refine_float64:
    ours, factors = _widen(config, ours, factors)
  details_fn = jax.jit(functools.partial(_details, ours.model))
  main = solve.answers(config)[:1]
  ours, factors, beside = solve.lay(config, ours, factors)
  solver = solve.make_solver(config, ours, main, factors, rank=None)

  def details(query, batch):
    return processes.fetch(details_fn(ours.params, *beside((query, batch))))

  return solver, details


def of_query(
  config: ConfigDict,
  ours: trained.Trained,
  details: Callable,
  query: contraction.Queries,
  summary: topk.Summary,
  n: int,
  watch: Callable[[list], Iterable] = iter,
) -> dict[str, list[Top]]:
  """Tops of query n of the scan.

  Args:
    watch: sees the batches go by.
  """
  ids, scores = summary.ids[n], summary.scores[n] * [[1], [-1]]
  scan = {
    int(i): float(score)
    for i, score in zip(ids.flat, scores.flat, strict=True)
    if i >= 0
  }
  exact = _exact(config, ours, details, query, sorted(scan), watch)
  result = {}
  for sign, kind in ((1, 'positive'), (-1, 'negative')):
    side = [int(i) for i in ids[(1 - sign) // 2] if i >= 0]
    score = {
      i: float(exact[i][1].sum()) if config.score.refine else scan[i]
      for i in side
    }
    order = sorted(side, key=lambda i: (-sign * score[i], i))
    best = [i for i in order if sign * score[i] > 0]
    shown = best[: config.score.num_top]
    result[kind] = [
      Top(i, scan[i], score[i], *map(np.ndarray.tolist, exact[i]))
      if i in shown
      else Top(i, scan[i], score[i])
      for i in best
    ]
  return result


def _exact(config, ours, details, query, numbers, watch) -> dict:
  """{sequence: (scores by position, scores by layer)} of one query."""
  sequences, found = ours.corpus.sequences, {}
  plan = batches_lib.split(
    sequences, np.array(numbers, int), config.score.refine_batch_tokens
  )
  for spec in watch(plan):
    batch = batches_lib.get(sequences, spec)
    tokens_BxT, layers_BxL = details(query, batch)
    for b, i in enumerate(spec.rows.tolist()):
      num_positions = len(sequences.row(i)) - 1
      found[i] = tokens_BxT[b, :num_positions], layers_BxL[b]
  return found


def _details(model, params, query, batch):
  """Scores of one query by position [B, T] and by layer [B, layers].

  The first are of the dense layers, the second of plain ones, too.
  """
  dense, others = plain.split(model.layers)
  by_path = contraction.tokenwise_by_layer(model, params, query, batch)
  by_layer = attribution.by_layer(by_path, dense)
  scores_BxLxT = jnp.stack([*by_layer.values()], 1)[..., 0]
  if not others:
    return scores_BxLxT.sum(1), scores_BxLxT.sum(2)
  found = dict(zip(by_layer, scores_BxLxT.sum(2).T, strict=True))
  rest = model._replace(layers=others)
  by_path = contraction.pairwise(rest, params, query, batch)
  for name, scores_Bx1 in attribution.by_layer(by_path, others).items():
    found[name] = scores_Bx1[:, 0]
  names = attribution.layer_names(model.layers)
  return scores_BxLxT.sum(1), jnp.stack([found[name] for name in names], 1)


def _widen(config, ours, factors):
  """Model, parameters and factors in float64."""
  wide = functools.partial(
    jax.tree.map, lambda x: jnp.asarray(np.asarray(x, np.float64))
  )
  ours = ours._replace(
    model=trained.with_dtype(config, ours.model, 'float64'),
    params=wide(ours.params),
  )
  return ours, wide(factors)
