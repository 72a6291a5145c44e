"""The parts of experiments.compression, each a function of the same study."""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tqdm
from ml_collections import ConfigDict

from experiments import agreement, trained
from influence_jax import (
  attribution,
  combined,
  contraction,
  curvature,
  fit,
  gradients,
  influence,
  lowrank,
  sharding,
  taps,
  types,
)
from influence_jax.data import batches as batches_lib
from influence_jax.data import queries as queries_lib


class Study(NamedTuple):
  """What all parts share."""

  config: ConfigDict
  ours: trained.Trained
  approximation: types.Curvature  # config.curvature's
  factors: dict[str, types.Factors]
  queries: list[queries_lib.Query]
  plan: list[batches_lib.BatchSpec]  # of the candidates


class RankScores(NamedTuple):
  """Scores of all queries and sequences, at each rank and at full rank."""

  kinds: list[tuple]  # rank, weighted, method
  low: list[np.ndarray]  # [K, N] of each kind
  exact_KxN: np.ndarray


def rank_scores(study: Study) -> RankScores:
  """At config.compression.rank's ranks, plain and weighted, by its methods."""
  section = study.config.compression.rank
  given = study, study.ours.model, study.approximation, study.factors
  solved, rotated = (_solve(*given, rotated=x) for x in (False, True))
  kinds = list(itertools.product(section.ranks, (False, True), section.methods))
  made = [_truncate(study, rotated, *kind) for kind in kinds]
  sets = {'exact': contraction.whole(solved), 'low': _stack(made)}
  scores = _scan(study, study.ours.model, sets)
  low = np.split(scores['low'], len(kinds))
  return RankScores(kinds, low, scores['exact'])


def compare_ranks(study: Study, found: RankScores) -> dict:
  """Rows of rank, weighted and method; refinement of some of them."""
  section, num_top = study.config.compression.rank, _num_top(study)
  exact_KxN, rows, two_stage = found.exact_KxN, [], []
  for (rank, weighted, method), x_KxN in zip(
    found.kinds, found.low, strict=True
  ):
    kind = {'rank': rank, 'weighted': weighted, 'method': method}
    rows.append({**kind, **agreement.agreement(x_KxN, exact_KxN, num_top)})
    for m in section.rescored:
      if m <= x_KxN.shape[1]:
        share_K = agreement.refined(x_KxN, exact_KxN, m, num_top)
        two_stage.append(
          {**kind, 'rescored': m, 'overlap': agreement.summary(share_K)}
        )
  return {'rows': rows, 'two_stage': two_stage}


def _rank(study: Study) -> dict:
  return compare_ranks(study, rank_scores(study))


def _blocks(study: Study) -> dict:
  """Rows of numbers of blocks, the first of which the others are held to."""
  made = {
    str(num): curvature.make('ekfac_blocks', blocks=num)
    for num in study.config.compression.blocks.blocks
  }
  model, seed = study.ours.model, study.config.fit.seed
  fitted = _fit(study, model, combined.together(made), seed)
  sets, sizes = {}, {}
  for name, one in made.items():
    factors = {path: combined.own(x, name) for path, x in fitted.items()}
    sets[name] = _solve(study, model, one, factors)
    sums = jax.eval_shape(
      lambda stage=one.stages[0]: taps.zeros(model.layers, stage.init)
    )
    sizes[name] = {
      'covariance_bytes': _bytes(sums),
      'factor_bytes': _bytes(factors),
    }
  scores = _scan_whole(study, model, sets)
  exact_KxN = next(iter(scores.values()))
  rows = [
    {
      'blocks': int(name),
      **sizes[name],
      **agreement.agreement(x_KxN, exact_KxN, _num_top(study)),
    }
    for name, x_KxN in scores.items()
  ]
  return {'rows': rows}


def _precision(study: Study) -> dict:
  """Rows of what is computed in the narrower dtype."""
  dtype = study.config.compression.precision.dtype
  model, narrow = (
    study.ours.model,
    trained.with_dtype(study.config, study.ours.model, dtype),
  )
  approximation, seed = study.approximation, study.config.fit.seed
  solved = _solve(study, model, approximation, study.factors)
  exact_KxN = _scan_whole(study, model, {'exact': solved})['exact']
  factors = _fit(study, narrow, approximation, seed)
  sets = {
    'sequences': solved,
    'sequences, queries': _solve(study, narrow, approximation, study.factors),
    'sequences, queries, factors': _solve(
      study, narrow, approximation, factors
    ),
  }
  scores = _scan_whole(study, narrow, sets)
  rows = [
    {
      'dtype': dtype,
      'of': name,
      **agreement.agreement(x, exact_KxN, _num_top(study)),
    }
    for name, x in scores.items()
  ]
  return {'rows': rows}


def _draw(study: Study) -> dict:
  """One row: other labels from the model, the same sequences."""
  seed = study.config.compression.draw.seed
  model, approximation = study.ours.model, study.approximation
  other = _fit(study, model, approximation, seed)
  scores = _scan_whole(
    study,
    model,
    {
      'exact': _solve(study, model, approximation, study.factors),
      'other': _solve(study, model, approximation, other),
    },
  )
  row = agreement.agreement(scores['other'], scores['exact'], _num_top(study))
  return {'rows': [{'fit_seed': seed, **row}]}


PARTS = {
  'rank': _rank,
  'blocks': _blocks,
  'precision': _precision,
  'draw': _draw,
}


def _num_top(study):
  return study.config.compression.num_top


def _fit(study: Study, model, approximation, seed: int) -> dict:
  """Factors as config.fit has them, with labels of `seed`."""
  sequences, section = study.ours.corpus.sequences, study.config.fit
  plan = batches_lib.plan(
    sequences, section.batch_tokens, limit=section.num_sequences
  )
  state = fit.fit(
    approximation,
    model,
    study.ours.params,
    len(plan),
    lambda cursor: batches_lib.get(sequences, plan[cursor]),
    jax.random.key(seed),
    mesh=sharding.make_mesh(data=1),
    targets=section.targets,
  )
  return state.factors


def _solve(
  study: Study, model, approximation, factors, rotated: bool = False
) -> dict:
  """(G + damping)^-1 g of all queries, {path: [*stack, K, I, O]}."""
  config = study.config
  batch = queries_lib.query_batch(
    study.queries, study.ours.corpus.tokenizer, config.data.max_len,
    buckets=config.data.buckets,
  )  # fmt: skip
  damping = influence.damping_of(
    approximation, model.layers, factors, **config.damping
  )

  @jax.jit
  def solve(params, factors, damping, batch):
    g_KxIxO = gradients.layer_gradients(model, params, batch)
    return influence.precondition(
      approximation, model.layers, factors, g_KxIxO, damping, rotated=rotated
    )

  return solve(study.ours.params, factors, damping, batch)


def _truncate(study: Study, rotated, rank, weighted, method):
  def truncate(factors, rotated):
    return lowrank.truncate(
      study.approximation, study.ours.model.layers, factors, rotated, rank,
      weighted=weighted, method=method,
    )  # fmt: skip

  return jax.jit(truncate)(study.factors, rotated)


def _stack(made: Sequence[contraction.Queries]) -> contraction.Queries:
  """Low-rank queries of several ranks as more queries of the largest: zeros."""

  def stack(*arrays, axis):
    largest = max(x.shape[axis] for x in arrays)

    def pad(x):
      widths = [(0, 0)] * x.ndim
      widths[axis] = (0, largest - x.shape[axis])
      return jnp.pad(x, widths)

    return jnp.concatenate([pad(x) for x in arrays], -3)

  return {
    path: {
      'U': stack(*[one[path]['U'] for one in made], axis=-1),
      'V': stack(*[one[path]['V'] for one in made], axis=-2),
    }
    for path in made[0]
  }


def _scan(study: Study, model, sets: dict) -> dict:
  """{name: scores_KxN} of {name: contraction.Queries}, in the plan's order."""
  sequences = study.ours.corpus.sequences

  @jax.jit
  def score(params, sets, batch):
    return {
      name: attribution.total(
        contraction.pairwise(model, params, queries, batch), model.layers
      )
      for name, queries in sets.items()
    }

  parts = []
  for spec in tqdm.tqdm(study.plan, desc='score', mininterval=1.0):
    found = score(study.ours.params, sets, batches_lib.get(sequences, spec))
    parts.append({k: np.asarray(x)[: len(spec.rows)] for k, x in found.items()})
  return {
    name: np.concatenate([part[name] for part in parts]).T.astype(np.float64)
    for name in sets
  }


def _scan_whole(study: Study, model, solved: dict) -> dict:
  """{name: scores_KxN} of {name: what `_solve` gives}, stacked along K."""
  stacked = jax.tree.map(lambda *x: jnp.concatenate(x, -3), *solved.values())
  sets = {'all': contraction.whole(stacked)}
  scores = np.split(_scan(study, model, sets)['all'], len(solved))
  return dict(zip(solved, scores, strict=True))


def _bytes(tree) -> int:
  return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))
