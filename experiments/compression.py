"""How much of a score survives each economy?

  python -m experiments.compression --config=configs/compression.py \
    --workdir=runs/quickstart

Scores some queries against some sequences, once as they are and once with each
economy, and compares the scores of every query over the sequences:

* rank: low-rank queries, plain and weighted, by exact and randomised singular
  value decomposition (Sec. 3.2.2, Fig. 30); and what re-scoring the first m at
  full rank mends.
* blocks: A and S made of diagonal blocks (App. A), against one block; all of
  one pass, so of the same sequences and draws.
* precision: a narrower dtype of the model's computation, against float32.
* draw: other labels drawn for the Fisher matrix. Not an economy: the noise that
  the others are to be seen beside.

Goes on after the last part that is in WORKDIR/compression; writes a JSON file a
part, result.json and, of rank and blocks, compression.png.
config.compression.parts says which. Needs a fitted workdir, of any model. Most
of its time is compilation.
Sections read: data, model, train (its seed), layers, curvature, fit, damping,
compression.
"""

import os
import pathlib
from collections.abc import Sequence

import rich
from ml_collections import ConfigDict
from rich import table

from experiments import (
  common,
  compression_figure,
  compression_parts,
  fit_curvature,
  parts,
  retrieval,
  trained,
)
from influence_jax import (
  curvature,
  store,
)
from influence_jax.data import batches as batches_lib
from influence_jax.data import queries as queries_lib
from influence_jax.report import figures, terminal


def run(config: ConfigDict, workdir: str | os.PathLike) -> dict:
  workdir = pathlib.Path(workdir)
  study = open_study(config, workdir)
  folder = workdir / 'compression'
  result = {
    **common.provenance('experiments.compression', config),
    'seeds': {
      'train': config.train.seed,
      'fit': config.fit.seed,
      'queries': config.compression.queries.seed,
      'draw': config.compression.draw.seed,
    },
    'queries': [list(query) for query in study.queries],
    'sequences': sum(len(spec.rows) for spec in study.plan),
    'parts': {
      name: part(folder / f'{name}.json', study, name)
      for name in config.compression.parts
    },
  }
  store.write_json(folder / 'result.json', result)
  if result['parts'].keys() & {*compression_figure.DRAWN}:
    drawn = compression_figure.draw(result['parts'])
    figures.save(drawn, folder / 'compression.png')
  for view in _tables(result):
    rich.print(view)
  return result


def open_study(
  config: ConfigDict, workdir: str | os.PathLike
) -> compression_parts.Study:
  """The fitted model of `workdir` with the study's queries and sequences."""
  workdir = pathlib.Path(workdir)
  ours = trained.load(config, workdir)
  approximation = common.build('curvature', curvature.make, config.curvature)
  state = fit_curvature.restore(
    approximation, ours.model.layers, workdir,
    fit_curvature.expected_meta(config, ours), complete=True,
  )  # fmt: skip
  section = config.compression
  plan = batches_lib.plan(
    ours.corpus.sequences, section.batch_tokens, limit=section.num_sequences
  )
  return compression_parts.Study(
    config, ours, approximation, state.factors, _queries(section, ours), plan
  )


def origin(study: compression_parts.Study, name: str) -> dict:
  """What the part `name` depends on."""
  section = study.config.compression.to_dict()
  return {
    'params': study.ours.params_fingerprint,
    'data': study.ours.corpus.sequences.fingerprint,
    'factors': store.fingerprint(study.factors),
    'fit': study.config.fit.to_dict(),
    'damping': study.config.damping.to_dict(),
    'queries': [list(query) for query in study.queries],
    'num_sequences': section['num_sequences'],
    'num_top': section['num_top'],
    name: section[name],
  }


def part(path: pathlib.Path, study: compression_parts.Study, name: str) -> dict:
  """What it finds, kept in `path`; ValueError if that is of another run."""
  fn = compression_parts.PARTS[name]
  return parts.part(path, origin(study, name), lambda: fn(study))


def _queries(section, ours) -> list[queries_lib.Query]:
  """Those of the file, or the ones named, and some out of articles."""
  drawn = section.queries.to_dict()
  path, ids = drawn.pop('path'), drawn.pop('ids')
  queries = queries_lib.read_queries(path)
  if ids:
    by_id = {query.id: query for query in queries}
    if unknown := {*ids} - {*by_id}:
      raise ValueError(
        f'config.compression.queries.ids has {sorted(unknown)}, expected ids '
        f'of the queries in {path}'
      )
    queries = [by_id[name] for name in ids]
  if drawn['num']:
    queries += retrieval.make_queries(ours, **drawn)[1]
  return queries


def _tables(result: dict) -> list[table.Table]:
  found = result['parts']
  title = (
    f'{len(result["queries"])} queries x {result["sequences"]} sequences, '
    'against exact scores: median, least; overlap: mean, least'
  )
  views = []
  if 'rank' in found:
    keys = ('rank', 'weighted', 'method')
    views.append(_table(title, keys, found['rank']['rows']))
    views.append(_table_two_stage(found['rank']['two_stage']))
  for name, title, keys in (
    (
      'blocks',
      'blocks a side, against one; bytes of A and S, of all factors',
      ('blocks', 'covariance_bytes', 'factor_bytes'),
    ),
    ('precision', 'narrower dtype', ('of',)),
    ('draw', 'other labels drawn', ('fit_seed',)),
  ):
    if name in found:
      views.append(_table(title, keys, found[name]['rows']))
  return views


_HEADS = {'covariance_bytes': 'A and S', 'factor_bytes': 'factors'}


def _table(title: str, keys: Sequence[str], rows: list[dict]) -> table.Table:
  names = [_HEADS.get(key, key) for key in keys]
  view = terminal.table(title, *names, 'Pearson', 'Spearman', 'overlap')
  for row in rows:
    view.add_row(
      *[str(row[key]) for key in keys],
      *[_cell(row[key]) for key in ('pearson', 'spearman')],
      _share(row['overlap']),
    )
  return view


def _table_two_stage(rows: list[dict]) -> table.Table:
  """A column a number of re-scored ones: mean overlap and the least."""
  counts = list(dict.fromkeys(row['rescored'] for row in rows))
  kinds = {}
  for row in rows:
    kind = (row['rank'], row['weighted'], row['method'])
    kinds.setdefault(kind, []).append(row['overlap'])
  view = terminal.table(
    'exact top found after re-scoring the first m: mean, least',
    'rank', 'weighted', 'method', *[f'm = {m}' for m in counts],
  )  # fmt: skip
  for kind, overlaps in kinds.items():
    view.add_row(*map(str, kind), *map(_share, overlaps))
  return view


def _share(x: dict) -> str:
  return f'{x["mean"]:.3f} {x["min"]:.1f}'


def _cell(x: dict) -> str:
  digits = [f'{x[key]:.5f}' for key in ('median', 'min')]
  return ' '.join(text.removeprefix('0') for text in digits)


if __name__ == '__main__':
  common.main(run)
