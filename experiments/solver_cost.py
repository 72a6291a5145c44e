"""How many products with G until a solver agrees with the exact solution?

  python -m experiments.solver_cost --config=configs/solver_cost_small.py \
    --config.case.folder=DIR --workdir=runs/solver_cost_small

No response is asked for: truth is the scores of the method labelled `exact`,
refused if its residual is above validation.exact_residual. The number is
Pearson's and Spearman's correlation with it over the scored sequences, one a
query: the mean over queries, 95 % by the bootstrap over them. case.folder is a
case of experiments.parity; None takes the language model of the workdir,
trained if it is not yet. Damping is validation.damping of EK-FAC's eigenvalues,
the same in every method. At each step asked for of a solver

  products  of one sequence's G_z with a vector, for each right-hand side: a
            pass over N sequences is N. The residual that preconditioned CG
            starts from counts; LiSSA's search of its scale does not.
  seconds   of all queries together, compiled before. LiSSA's search counts;
            the fit that a method needs does not, it is `fit_seconds`.
  residual  ||(G + damping) x - g|| / ||g||, the median over queries.

The claim S1: products of LiSSA over those of the cheapest of EK-FAC-CG and
ASTRA, each at the first of its steps with a mean Pearson of at least _WANTED
(ASTRA's step 0 is EK-FAC itself, without a product, and does not count). If
LiSSA never gets there its last step counts; if neither of the others does, the
value is 0.

Writes WORKDIR/solver_cost/ (a file a method), result.json and cost.png. The
same command again goes on at the next method. Sections read: case, validation;
of a language model those of experiments.train, layers and score.queries, too.
"""

import functools
import os
import pathlib
import time

import jax
import jax.numpy as jnp
import numpy as np
import rich
import tqdm
from ml_collections import ConfigDict

from experiments import (
  agreement,
  claims,
  common,
  estimates,
  parity_case,
  parts,
  solver_cost_figure,
  validate_pbrf,
  validation_task,
)
from influence_jax import ggn, influence, losses, store, taps, types
from influence_jax.data import batches as batches_lib
from influence_jax.models import transformer
from influence_jax.report import figures, terminal

EXACT, LISSA = validate_pbrf.EXACT, validate_pbrf.LISSA
PRECONDITIONED = ('EK-FAC-CG', 'ASTRA')
_WANTED = 0.85


def run(config: ConfigDict, workdir: str | os.PathLike) -> dict:
  workdir, section = pathlib.Path(workdir), config.validation
  with jax.enable_x64(section.dtype == 'float64'):
    task = load(config, workdir)
    found = _estimates(config, task, workdir / 'solver_cost')
  rows = _rows(found)
  result = {
    **common.provenance('experiments.solver_cost', config),
    'task': section.task,
    'wanted': _WANTED,
    **_facts(task),
    'rows': rows,
    'diverged': [x for x in found if 'diverged' in x],
    'claims': [claim(section, rows)],
  }
  store.write_json(workdir / 'result.json', result)
  figures.save(solver_cost_figure.cost(result), workdir / 'cost.png')
  rich.print(_table(result))
  rich.print(claims.render(result['claims']))
  return result


def load(config: ConfigDict, workdir: pathlib.Path) -> validation_task.Task:
  """The case's model with its first queries, and points spread evenly.

  Raises:
    ValueError: case.folder has no case, or one of too few sequences.
  """
  if config.case.folder is None:
    return validation_task.train_and_load(config, workdir)
  section, folder = config.validation, pathlib.Path(config.case.folder)
  for name in ('config.json', 'weights.npz', 'data.npz'):
    if not (folder / name).exists():
      raise ValueError(
        f'config.case.folder is {config.case.folder!r}, which has no {name}, '
        'expected the folder of a parity case; pass --config.case.folder=DIR'
      )
  made, params = parity_case.load_parity(folder, dtype=section.dtype)
  train, queries = parity_case.load_batches(folder)
  for name, rows in (('num_points', train), ('num_queries', queries)):
    if not 0 < section[name] <= len(rows.ids):
      raise ValueError(
        f'validation.{name} is {section[name]}, expected 1 to {len(rows.ids)}, '
        f'the sequences that {folder} has'
      )
  net = transformer.Transformer(made)

  def apply_fn(params, inputs):
    return net.apply({'params': params}, inputs)

  layers = taps.find_layers(
    apply_fn, params, train.inputs[:1], config.case.layers
  ).layers
  points = batches_lib.spread(len(train.ids), section.num_points)
  return validation_task.Task(
    types.Model(apply_fn, losses.softmax_cross_entropy, layers),
    jax.tree.map(jnp.asarray, params),
    ggn.batched(train, section.batch_size),
    jax.tree.map(lambda x: x[points, None], train),
    jax.tree.map(lambda x: x[: section.num_queries], queries),
  )


def claim(section: ConfigDict, rows: list[dict]) -> dict:
  """S1 of the rows, as the module's docstring has it."""

  def least(*labels):
    """Products at the first step that agrees well enough, None if none."""
    reached = [
      row['products']
      for row in rows
      if row['label'] in labels and row['products']
      if row['pearson'][0] >= _WANTED
    ]
    return min(reached, default=None)

  kind, value = section.damping
  lissa, ours = least(LISSA), least(*PRECONDITIONED)
  note = ''
  if ours is None:
    note = '; 0: none of these reaches it'
  elif lissa is None:
    note = '; at least: LiSSA never reaches it'
    lissa = max((x['products'] for x in rows if x['label'] == LISSA), default=0)
  return claims.claim(
    f'S1 {section.task}', '-',
    f'products of LiSSA over those of the cheapest of '
    f'{" and ".join(PRECONDITIONED)} at Pearson {_WANTED} with the exact '
    f'solution, damping {kind} {value:g}{note}',
    float(lissa / ours) if ours else 0.0, ('>=', 10.0),
    paper='not measured', form='.1f',
  )  # fmt: skip


def _estimates(config, task, folder: pathlib.Path) -> list[dict]:
  """Records of estimates.compute, a part a method, the exact one first."""
  section = config.validation
  methods = sorted(
    map(dict, section.methods), key=lambda method: method['label'] != EXACT
  )
  labels = [method['label'] for method in methods]
  if labels.count(EXACT) != 1 or 'solver' not in methods[0]:
    raise ValueError(
      f'validation.methods are labelled {labels}, expected one solver labelled '
      f'{EXACT!r}: the truth of all others'
    )
  fitted = functools.cache(
    lambda name: validation_task.fitted(task, name, section.seed)
  )
  origin = {
    'task': store.fingerprint(task._replace(model=None)._asdict()),
    'layers': [*task.model.layers],
    **{key: section[key] for key in ('damping', 'dtype', 'seed')},
  }
  found = []
  for method in tqdm.tqdm(methods, desc='solver_cost'):
    found += parts.part(
      folder / f'{method["label"].replace(" ", "_")}.json',
      {**origin, 'method': method},
      functools.partial(_of_method, config, task, fitted, method),
    )['estimates']
    if method['label'] == EXACT:
      _check_converged(found[-1], section.exact_residual)
  return found


def _of_method(config, task, fitted, method) -> dict:
  own = config.copy_and_resolve_references()
  own.validation.methods = (method,)
  name, fit_seconds = method.get('curvature', 'ekfac'), None
  fits = {x: fitted(x) for x in ('ekfac', name)}
  if 'curvature' in method:
    started = time.perf_counter()
    validation_task.fitted(task, name, config.validation.seed)  # compiled
    fit_seconds = time.perf_counter() - started
  kind, value = config.validation.damping
  damping = influence.damping_of(
    fits['ekfac'][0], task.model.layers, fits['ekfac'][1],
    **{'relative': None, kind: value},
  )  # fmt: skip
  found = estimates.compute(own, task, fits, damping)
  return {'estimates': [{**x, 'fit_seconds': fit_seconds} for x in found]}


def _check_converged(exact: dict, most: float) -> None:
  residual = exact.get('residual', float('inf'))  # inf if it diverged
  if not residual <= most:
    raise ValueError(
      f'the residual of {EXACT!r} is {residual:g}, expected at most {most:g} '
      '(validation.exact_residual): it is no truth; give it more steps in '
      'validation.methods'
    )


def _rows(found: list[dict]) -> list[dict]:
  found = [x for x in found if 'scores' in x]
  exact_KxM = np.array([x for x in found if x['label'] == EXACT][-1]['scores'])
  every_M = np.ones(exact_KxM.shape[1], bool)
  rows = []
  for one in found:
    row = {key: x for key, x in one.items() if key != 'scores'}
    both = validate_pbrf.correlations(
      np.array(one['scores']), exact_KxM, every_M
    )
    with_exact = {key: agreement.interval(x) for key, x in both.items()}
    rows.append({**row, **with_exact})
  return rows


def _facts(task: validation_task.Task) -> dict:
  return {
    'num_train': int(ggn.count(task.batches)),
    'batch_size': task.batches.mask.shape[1],
    'num_points': len(task.points.ids),
    'num_queries': len(task.queries.ids),
    'parameters': sum(x.size for x in jax.tree.leaves(task.params)),
    'layers': [*task.model.layers],
  }


def _table(result):
  view = terminal.table(
    f'{result["task"]}: correlation with the exact solution (95 %), '
    f'{result["num_queries"]} queries, {result["num_train"]:,} sequences',
    'method', 'step', 'Pearson', 'Spearman', 'residual', 'products', 's',
    'fit s', wrap=True,
  )  # fmt: skip
  for row in result['rows']:
    view.add_row(
      row['label'],
      _or_dash(row['step'], ''),
      *(agreement.shown(row[key], '.3f') for key in ('pearson', 'spearman')),
      _or_dash(row['residual'], '.1e'), f'{row["products"]:,}',
      f'{row["seconds"]:.3g}', _or_dash(row['fit_seconds'], '.3g'),
    )  # fmt: skip
  return view


def _or_dash(number, form: str) -> str:
  return '-' if number is None else format(number, form)


if __name__ == '__main__':
  common.main(run)
