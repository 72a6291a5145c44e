"""What experiments.tokenwise computes of a rung: influence of single tokens."""

import functools
import pathlib
from typing import NamedTuple

import jax
import numpy as np
import optax
from ml_collections import ConfigDict

from experiments import (
  fit_curvature,
  ladder,
  parts,
  score,
  scored,
  solve,
  top_table,
  trained,
)
from influence_jax import (
  attribution,
  contraction,
  store,
  token_influence,
  types,
)
from influence_jax.data import batches as batches_lib
from influence_jax.data import queries as queries_lib
from influence_jax.data import sequences as sequences_lib
from influence_jax.data import tokenizer as tokenizer_lib
from influence_jax.report import records


class Tops(NamedTuple):
  """A rung's top sequences by tokens."""

  rung: ladder.Rung
  queries: list[queries_lib.Query]
  rows: dict[str, list[dict]]  # by query: positive ones of top.parquet
  spurious: dict[str, list[bool]]  # by query: which of these are marked
  origin: dict  # of the scores


def read(rung: ladder.Rung) -> Tops:
  """What experiments.score left; `spurious` by their token scores (Sec. 5.3).

  Raises:
    ValueError: there are no scores, or none by token.
  """
  sequences = sequences_lib.open(rung.workdir / 'sequences')
  folder = rung.workdir / rung.config.score.folder
  found = scored.load(folder, sequences)
  path = folder / 'top.parquet'
  if not path.exists():
    raise ValueError(
      f'no {path}: expected top sequences with scores by token; score with '
      'config.score.num_top=20 into another config.score.folder'
    )
  groups = records.group(top_table.read(path)[0])
  ids = [query.id for query in found.queries]
  rows = {name: groups.get((name, 'positive'), []) for name in ids}
  return Tops(rung, found.queries, rows, _spurious(rows), found.origin)


def choose(tops: Tops, section: ConfigDict) -> list[queries_lib.Query]:
  """The queries of config.tokenwise, in its order."""
  by_id = {query.id: query for query in tops.queries}
  wanted = section.queries or [*by_id][: section.num_queries]
  if unknown := [name for name in wanted if name not in by_id]:
    raise ValueError(
      f'config.tokenwise.queries names {unknown}: expected ids of queries that '
      f'were scored, as {[*by_id][:5]}; () takes the first ones'
    )
  return [by_id[name] for name in wanted]


def first_sound(tops: Tops, query: str, num: int) -> tuple[list[dict], int]:
  """(its first rows that are not spurious, how many were passed over)."""
  marks = tops.spurious[query]
  sound = [n for n, mark in enumerate(marks) if not mark][:num]
  passed = sum(marks[: sound[-1]]) if len(sound) == num else sum(marks)
  return [tops.rows[query][n] for n in sound], passed


def part(tops: Tops, section: ConfigDict, path: pathlib.Path) -> dict:
  """'sequences': a record of each query and sequence, see `_record`."""
  queries = choose(tops, section)
  chosen = {
    query.id: first_sound(tops, query.id, section.num_sequences)[0]
    for query in queries
  }
  origin = {
    **tops.origin,
    'queries': [list(query) for query in queries],
    'sequences': {
      name: [row['sequence'] for row in rows] for name, rows in chosen.items()
    },
    **{name: section[name] for name in ('steps', 'embedding')},
  }
  return parts.part(
    path, origin, lambda: _compute(tops, queries, chosen, section)
  )


def relative_error(found: np.ndarray, exact: np.ndarray) -> float:
  """|found - exact| / |exact|, lengths over the tokens."""
  return float(np.linalg.norm(found - exact) / np.linalg.norm(exact))


def _spurious(rows: dict[str, list[dict]]) -> dict[str, list[bool]]:
  flat = [row['token_scores'] for mine in rows.values() for row in mine]
  # Zeros change no norm, and all rows are one array.
  values = np.zeros((len(flat), max(map(len, flat), default=1)))
  for row, x in zip(values, flat, strict=True):
    row[: len(x)] = x
  marks = iter(np.asarray(token_influence.is_sparse(values)).tolist())
  return {name: [next(marks) for _ in mine] for name, mine in rows.items()}


def _compute(tops, queries, chosen, section) -> dict:
  config, ours, factors = _restore(tops)
  asked = solve.answers(config)[:1]
  solver = solve.make_solver(config, ours, asked, factors, rank=None)
  batch_K = score.query_batch(config, ours, queries)
  exact = jax.jit(functools.partial(_exact, ours.model, section.embedding))
  moved = jax.jit(functools.partial(_moved, ours.model, section.embedding))
  found = []
  for k, query in enumerate(queries):
    one = types.Batch(*(x[[k]] for x in batch_K))
    solved = solver(one, range(1))[0][0]
    for row in chosen[query.id]:
      batch = _batch(ours, row['sequence'])
      value = jax.device_get(exact(ours.params, solved, batch))
      swept = [
        jax.device_get(moved(ours.params, solved, batch, step))
        for step in section.steps
      ]
      found.append(_record(ours, row, value, swept, section.steps))
  return {'sequences': found}


def _restore(tops: Tops):
  """(config, model, factors); ValueError if the scores are not of these."""
  config, workdir = tops.rung.config, tops.rung.workdir
  ours = trained.load(config, workdir)
  approximation = solve.answers(config)[0].approximation
  meta = fit_curvature.expected_meta(config, ours)
  factors = fit_curvature.restore(
    approximation, ours.model.layers, workdir, meta, complete=True
  ).factors
  expected = {
    'params': ours.params_fingerprint,
    'factors': store.fingerprint(factors),
    'damping': config.damping.to_dict(),
  }
  what = f'the scores in {workdir / config.score.folder}'
  store.check(tops.origin, expected, what)
  return config, ours, factors


def _batch(ours: trained.Trained, number: int) -> types.Batch:
  """The sequence alone."""
  sequences = ours.corpus.sequences
  (spec,) = batches_lib.split(sequences, np.array([number]), 1)
  return batches_lib.get(sequences, spec)


def _exact(model, embedding, params, solved, batch) -> dict:
  """{'output': [T], 'input': [T], 'layers': [M, T]} of one sequence."""
  direction = _direction(model, params, solved)
  args = model, params, direction, batch
  by_path = contraction.tokenwise_by_layer(model, params, solved, batch)
  by_layer = attribution.by_layer(by_path, model.layers)
  return {
    'output': token_influence.output_tokens(*args)[0],
    'input': token_influence.input_tokens(*args, embedding)[0],
    'layers': [x_BxTxK[0, :, 0] for x_BxTxK in by_layer.values()],
  }


def _moved(model, embedding, params, solved, batch, step) -> dict:
  """The first two of `_exact` by finite differences, |alpha p| / |params|."""
  direction = _direction(model, params, solved)
  alpha = step * optax.tree.norm(params) / optax.tree.norm(direction)
  args = model, params, direction, batch
  return {
    'output': token_influence.output_tokens_by_difference(*args, alpha)[0],
    'input': token_influence.input_tokens_by_difference(
      *args, embedding, alpha
    )[0],
  }


def _direction(model, params, solved):
  one = {path: x['P'][..., 0] for path, x in solved.items()}
  return token_influence.direction(params, model.layers, one)


def _record(ours, row, value, swept, steps) -> dict:
  """All there is of one query and sequence; numbers in nats, six digits.

  tokens [T + 1] are all of the sequence; simple, input and each of layers [T]
  are of the first T, output [T] of the last T. The layers add up to simple.
  """
  tokens = ours.corpus.sequences.row(row['sequence'])
  num = len(tokens) - 1
  names = attribution.layer_names(ours.model.layers)
  errors = {
    kind: [relative_error(x[kind], value[kind]) for x in swept]
    for kind in ('output', 'input')
  }
  total = float(value['output'].sum(dtype=np.float64))
  return {
    'query': row['query_id'],
    'sequence': row['sequence'],
    'rank': row['rank'],
    'title': row['title'],
    'score': row['score'],
    'sum_error': abs(total - row['score']) / abs(row['score']),
    'differences': {'steps': list(steps), **errors},
    'tokens': tokenizer_lib.pieces(ours.corpus.tokenizer, tokens),
    'simple': _short(row['token_scores']),
    'input': _short(value['input'][:num]),
    'output': _short(value['output'][:num]),
    'layers': {
      name: _short(x_T[:num])
      for name, x_T in zip(names, value['layers'], strict=True)
    },
  }


def _short(values) -> list[float]:
  return [float(f'{x:.6g}') for x in values]
