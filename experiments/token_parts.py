"""What single tokens of the top sequences do: token_parts.parquet.

  python -m experiments.token_parts --config=configs/quickstart.py \
    --workdir=runs/quickstart

Beside the top.parquet of config.score.folder, of each of its rows:

  output         influence of every target token, nats (App. B, Eqs. 35, 36).
                 They add up to what token_scores do, the score; up to rounding:
                 the largest error is printed
  input          of every input token: the derivative by a factor on its
                 embedding (Eqs. 37, 38). These add up to nothing in particular
  last           the last token, the one that is only a target
  gradient_norm  of the sequence's loss, over the layers, float32

Both are exact derivatives (influence_jax.token_influence) along the query's
gradient solved at full rank, in the model's precision, and like token_scores of
dense layers alone. `config.score.query_batch` queries at a time: the same
command again goes on after the last of these.
Sections read: all of experiments.score, and tokenwise.embedding if it is there.
"""

import functools
import os
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import rich
import tqdm
from ml_collections import ConfigDict

from experiments import (
  common,
  fit_curvature,
  parts,
  score,
  solve,
  token_parts_table,
  top_table,
  trained,
)
from influence_jax import (
  contraction,
  gradients,
  plain,
  processes,
  store,
  token_influence,
)
from influence_jax.data import batches as batches_lib
from influence_jax.data import tokenizer as tokenizer_lib

_EMBEDDING = 'tok_emb'  # what the package's own models call it


def run(config: ConfigDict, workdir: str | os.PathLike) -> None:
  """Writes the table.

  Raises:
    ValueError: there are no top sequences, they are of another run or not of
      full rank; or what is there already is of others.
  """
  workdir = pathlib.Path(workdir)
  folder = workdir / config.score.folder
  _check_rows(config, folder)
  ours = trained.load(config, workdir)
  factors = fit_curvature.restore(
    solve.answers(config)[0].approximation,
    ours.model.layers,
    workdir,
    fit_curvature.expected_meta(config, ours),
    complete=True,
  ).factors
  queries = trained.read_queries(config)
  scored = score.origin(config, ours, factors, queries)
  manifest = store.read_json(folder / 'manifest.json')
  store.check(manifest, scored, f'the scores in {folder}')
  origin = {
    **{key: scored[key] for key in ('params', 'data', 'factors', 'damping')},
    'embedding': _embedding(config),
    'top': token_parts_table.digest(folder / 'top.parquet'),
  }
  path = folder / token_parts_table.NAME
  if path.exists():
    store.check(token_parts_table.load(path)[1], origin, str(path))
    return
  rows, _ = top_table.read(folder / 'top.parquet')
  found = _compute(config, ours, factors, queries, rows, folder, origin)
  token_parts_table.write(folder, found, origin)
  shutil.rmtree(_partial(folder))
  error = max(map(sum_error, rows, found), default=0.0)
  rich.print(
    f'token parts: {path}; those of output tokens add up to the score '
    f'within {error:.1e} of it'
  )


def sum_error(row: dict, found: dict) -> float:
  """|sum of the output parts - sum of the token scores|, of the latter."""
  total = np.sum(row['token_scores'])
  return float(abs(np.sum(found['output']) - total) / abs(total))


def _embedding(config: ConfigDict) -> str:
  return config.tokenwise.embedding if 'tokenwise' in config else _EMBEDDING


def _partial(folder: pathlib.Path) -> pathlib.Path:
  return folder / 'token_parts'


def _check_rows(config: ConfigDict, folder: pathlib.Path) -> None:
  if not (folder / 'top.parquet').exists():
    raise ValueError(
      f'no top sequences in {folder}: run experiments.score with this --config '
      'and --workdir, its score.num_top above 0'
    )
  if not config.score.refine and config.score.rank is not None:
    raise ValueError(
      f'the scores in {folder} are those of a scan of rank {config.score.rank}'
      ' (config.score.refine=0), to which parts of full rank do not add up: '
      'score with refine=100 into another config.score.folder'
    )


def _compute(config, ours, factors, queries, rows, folder, origin) -> list:
  """A row of the table for each of `rows`, in their order."""
  solver = solve.make_solver(
    config, ours, solve.answers(config)[:1], factors, rank=None
  )
  batch_K = score.query_batch(config, ours, queries)
  laid, _, beside = solve.lay(config, ours, factors)
  dense, _ = plain.split(ours.model.layers)
  model = ours.model._replace(layers=dense)
  parts_fn = jax.jit(functools.partial(_parts, model, _embedding(config)))
  bar = tqdm.tqdm(total=len(rows), desc='token parts', mininterval=1.0)

  def of_chunk(chunk):
    solved, found = solver(batch_K, chunk)[0][0], []
    for k, n in enumerate(chunk):
      one = contraction.take({path: solved[path] for path in dense}, [k])
      mine = [x for x in rows if x['query_id'] == queries[n].id]
      numbers = np.array([row['sequence'] for row in mine], int)
      for spec in batches_lib.split(
        ours.corpus.sequences, numbers, config.score.refine_batch_tokens
      ):
        batch = batches_lib.get(ours.corpus.sequences, spec)
        value = processes.fetch(parts_fn(laid.params, *beside((one, batch))))
        found += _rows(ours.corpus, queries[n].id, spec, value)
        bar.update(len(spec.rows))
    return {'rows': found}

  by_place = {}
  for chunk in solve.chunks(config, len(queries)):
    path = _partial(folder) / f'{chunk.start:06d}.json'
    done = parts.part(path, origin, functools.partial(of_chunk, chunk))['rows']
    by_place |= {(row['query_id'], row['sequence']): row for row in done}
    bar.update(len(by_place) - bar.n)
  bar.close()
  return [by_place[row['query_id'], row['sequence']] for row in rows]


def _parts(model, embedding, params, query, batch) -> tuple:
  """Of output and of input tokens [B, T]; gradient norms [B]."""
  solved = {path: one['P'][..., 0] for path, one in query.items()}
  along = token_influence.direction(params, model.layers, solved)
  args = model, params, along, batch
  num = len(batch.inputs)
  squares = gradients.batch_stats(
    model, params, batch, _square, lambda _: {'square': jnp.zeros(num)}, {}
  )
  square_B = sum(x['square'].reshape(-1, num).sum(0) for x in squares.values())
  return (
    token_influence.output_tokens(*args),
    token_influence.input_tokens(*args, embedding),
    jnp.sqrt(jnp.maximum(square_B, 0)),
  )


def _square(a_BxTxI, ds_BxTxO, mask_BxT, factors):
  """|sum_t a ds^T|^2 by products of positions: no gradient is formed."""
  del mask_BxT, factors
  wide = dict(preferred_element_type=jnp.float32)
  a_BxTxT = jnp.einsum('bti,bsi->bts', a_BxTxI, a_BxTxI, **wide)
  ds_BxTxT = jnp.einsum('bto,bso->bts', ds_BxTxO, ds_BxTxO, **wide)
  return {'square': (a_BxTxT * ds_BxTxT).sum((1, 2))}


def _rows(corpus, query_id, spec, value) -> list[dict]:
  output_BxT, input_BxT, norm_B = value
  if not all(np.isfinite(x).all() for x in value):
    raise ValueError(
      f'parts of tokens of query {query_id!r} are not finite in one of the '
      f'sequences {spec.rows.tolist()}: look at factor_health.json'
    )
  found = []
  for b, n in enumerate(spec.rows.tolist()):
    tokens = corpus.sequences.row(n)
    num = len(tokens) - 1
    found.append(
      {
        'query_id': query_id,
        'sequence': n,
        'output': output_BxT[b, :num].tolist(),
        'input': input_BxT[b, :num].tolist(),
        'last': tokenizer_lib.pieces(corpus.tokenizer, tokens)[-1],
        'gradient_norm': float(norm_B[b]),
      }
    )
  return found


if __name__ == '__main__':
  common.main(run)
