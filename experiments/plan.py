"""Says what training, fitting and scoring will cost, before any of it is done.

  python -m experiments.plan --config=configs/quickstart.py \
    --workdir=runs/quickstart

Prints a table of stages and writes WORKDIR/plan.json: operations, bytes on the
device by kind, on the host and on disk, seconds; fails, with advice, if
they do not fit. The real steps are compiled and, where that is cheap, run a few
times. Numbers of sequences are the corpus's if WORKDIR has it, else
config.plan's. A fit and a scan then say by themselves how the prediction did
(experiments.compared).
Sections read: data, model, train, layers, curvature, damping, fit, score, plan.
"""

import functools
import math
import os
import pathlib
import shutil
from collections.abc import Collection

import jax
import numpy as np
import rich
from ml_collections import ConfigDict
from rich import table

from experiments import common, solve, trained, workload
from influence_jax import (
  calibration,
  costs,
  curvature,
  planner,
  store,
  topk,
  training,
  types,
)
from influence_jax.report import terminal

STAGES = ('train', 'fit', 'score')
_ADVICE = {
  'temporary': 'lower train.batch_tokens, fit.batch_tokens, '
  'score.batch_tokens or score.query_batch',
  'queries': 'lower score.rank, or ask fewer queries or answers',
  'sums': 'take curvature.name=ekfac_blocks with more blocks, or fewer layers',
  'factors': 'take curvature.name=ekfac_blocks with more blocks, or fewer '
  'layers',
  'parameters': 'take a smaller model or a larger machine',
  'optimizer': 'take a smaller model or a larger machine',
}


def run(config: ConfigDict, workdir: str | os.PathLike) -> None:
  workdir = pathlib.Path(workdir)
  found = costs_of(config, workdir)
  check(found, workdir)
  found, rates = predicted(found)
  baseline = planner.resident()
  rich.print(render(found, baseline))
  described = {
    'stages': [record(cost) for cost in found],
    'rates': rates,
    'baseline_bytes': baseline,
    'device': jax.devices()[0].device_kind,
    'commit': common.commit(),
  }
  store.write_json(workdir / 'plan.json', described)


def costs_of(
  config: ConfigDict, workdir: pathlib.Path, asked: Collection[str] = STAGES
) -> list[planner.Cost]:
  """Of the STAGES asked for, in their order; seconds come with `predicted`.

  A config without a section train trains nothing.
  """
  model, params = abstract_model(config)
  costs_fns = {'train': train_costs, 'fit': fit_costs, 'score': score_costs}
  return [
    cost
    for stage in STAGES
    if stage in asked and (stage != 'train' or 'train' in config)
    for cost in costs_fns[stage](config, model, params, workdir)
  ]


def predicted(
  found: list[planner.Cost],
) -> tuple[list[planner.Cost], dict[str, float]]:
  """With seconds on this machine, without programs; and its rates."""
  rates = calibration.calibrate(found)
  return [
    calibration.predict(cost, rates)._replace(step=None) for cost in found
  ], rates


def abstract_model(config: ConfigDict) -> tuple[types.Model, types.PyTree]:
  """The config's model and the shapes of its parameters."""
  net = trained.network(config)
  inputs = jax.ShapeDtypeStruct((1, config.data.max_len), np.int32)
  params = jax.eval_shape(net.init, jax.random.key(0), inputs)['params']
  return trained.describe(config, params)[0], placed_shapes(config, params)


def placed_shapes(config: ConfigDict, params: types.PyTree) -> types.PyTree:
  """Shapes of parameters that say where they will lie."""
  shapes = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), params
  )
  return common.place(config, common.mesh(config), shapes)


def train_costs(
  config: ConfigDict,
  model: types.Model,
  params: types.PyTree,
  workdir: pathlib.Path,
) -> list[planner.Cost]:
  """Of experiments.train."""
  train = common.build('train', training.TrainConfig, config.train)
  numbers = workload.num_sequences(config, workdir)
  epoch = workload.shapes(numbers, train.batch_tokens, 1, common.mesh(config))
  shapes = {shape: train.num_epochs * n for shape, n in epoch.items()}
  net = trained.network(config)
  over = planner.passes(model, params, shapes)
  mesh = common.mesh(config)
  place = functools.partial(common.place, config, mesh)
  return [costs.train_cost(net, train, over, mesh=mesh, place=place)]


def fit_costs(
  config: ConfigDict,
  model: types.Model,
  params: types.PyTree,
  workdir: pathlib.Path,
) -> list[planner.Cost]:
  """Of experiments.fit_curvature."""
  numbers = workload.num_sequences(config, workdir)
  share = (config.fit.num_sequences or math.inf) / sum(numbers.values())
  shapes = workload.shapes(
    numbers, config.fit.batch_tokens, min(share, 1), common.mesh(config)
  )
  return costs.fit_costs(
    common.build('curvature', curvature.make, config.curvature),
    planner.passes(model, params, shapes),
    mesh=common.mesh(config),
    targets=config.fit.targets,
  )


def score_costs(
  config: ConfigDict,
  model: types.Model,
  params: types.PyTree,
  workdir: pathlib.Path,
) -> list[planner.Cost]:
  """Of experiments.score; a filter is taken to keep all that it may."""
  c, asked = config.score, solve.answers(config)
  numbers = workload.num_sequences(config, workdir)
  num, length = workload.queries(config, workdir)
  wanted = c.num_sequences or sum(numbers.values())
  if c.candidates.method != 'all':
    wanted = min(wanted, num * c.candidates.per_query)
  share = wanted / sum(numbers.values())
  queries = costs.queries_of(model.layers, num * len(asked), c.rank)
  shape = min(c.query_batch, num), length
  chunks = math.ceil(num / c.query_batch)
  batches = planner.passes(model, params, {shape: chunks * len(asked)})
  over = planner.passes(
    model,
    params,
    workload.shapes(numbers, c.batch_tokens, share, common.mesh(config)),
  )
  basis = asked[0].approximation
  found = [
    costs.solve_cost(
      basis, batches, c.rank, queries, weighted=c.weighted, method=c.svd
    )
    if c.rank
    else costs.solve_cost(basis, batches, None, queries),
    _with_scores(
      costs.scan_cost(over, queries, mesh=common.mesh(config)),
      config, num * len(asked), wanted,
    ),
  ]  # fmt: skip
  if not c.num_top:  # experiments.score ends with the scan
    return found
  top = 2 * max(c.refine, c.num_top)
  share = min(top / sum(numbers.values()), 1)
  once = workload.shapes(
    numbers, c.refine_batch_tokens, share, common.mesh(config)
  )
  shapes = {k: num * n for k, n in once.items()}
  details = planner.passes(model, params, shapes)
  refined = [costs.refine_cost(details, queries)]
  if c.refine:
    batches = batches._replace(shapes={shape: chunks})
    again = costs.solve_cost(basis, batches, None, queries)
    refined.append(again._replace(stage='solve at full rank'))
  return found + [
    _doubled(x) if c.refine and c.refine_float64 else x for x in refined
  ]


def check(found: list[planner.Cost], workdir: str | os.PathLike) -> None:
  """ValueError if a stage needs more memory or disk than there is."""
  on_cpu = jax.default_backend() == 'cpu'
  device, disk = available(), shutil.disk_usage(workdir).free
  for cost in found:
    need = sum(cost.device.values()) + (cost.host if on_cpu else 0)
    if need > device:
      largest = max(_ADVICE, key=lambda kind: cost.device.get(kind, 0))
      kinds = {kind: size(n) for kind, n in cost.device.items()}
      raise ValueError(
        f'{cost.stage} needs {size(need)} of memory ({kinds}), '
        f'{size(device)} are available: {_ADVICE[largest]}'
      )
    if cost.disk > disk:
      raise ValueError(
        f'{cost.stage} needs {size(cost.disk)} of disk, {size(disk)} are '
        f'free at {workdir}: choose another --workdir, or set '
        'score.matrix=False'
      )


def available() -> int:
  """Bytes that may still be allocated on a device."""
  if jax.default_backend() != 'cpu':
    found = jax.devices()[0].memory_stats()
    return found['bytes_limit'] - found['bytes_in_use']
  lines = pathlib.Path('/proc/meminfo').read_text().splitlines()
  fields = dict(line.split(':') for line in lines)
  return int(fields['MemAvailable'].split()[0]) * 2**10


def record(cost: planner.Cost) -> dict:
  """What JSON holds of a cost."""
  names = ('stage', 'flop', 'device', 'host', 'disk', 'seconds')
  return {name: getattr(cost, name) for name in names}


def _with_scores(cost, config, num_queries, num_sequences) -> planner.Cost:
  """With the summary and the matrix of scores."""
  k = max(config.score.num_top, config.score.refine, 1)
  summary = num_queries * sum(x.nbytes for x in topk.start(1, k))
  matrix = chunk = 0
  if config.score.matrix:
    matrix = 4 * num_queries * num_sequences
    chunk = (8 + 4) * num_queries * config.score.chunk
  return cost._replace(host=2 * summary + chunk, disk=3 * summary + matrix)


def _doubled(cost) -> planner.Cost:
  """In float64: numbers twice as wide, products half as fast."""
  return cost._replace(
    device={kind: 2 * n for kind, n in cost.device.items()},
    flop={kind: 2 * n for kind, n in cost.flop.items()},
  )


def size(num_bytes: float) -> str:
  names = ('B', 'KiB', 'MiB', 'GiB', 'TiB')
  power = min(int(math.log2(max(num_bytes, 1))) // 10, len(names) - 1)
  return f'{num_bytes / 2 ** (10 * power):.3g} {names[power]}'


def render(found: list[planner.Cost], baseline: int) -> table.Table:
  title = (
    f'predicted: {size(planner.peak(found, baseline))} at the peak of the '
    f'process, {size(baseline)} now; {sum(x.seconds for x in found):.0f} s'
  )
  view = terminal.table(
    title, 'stage', 'GFLOP', 'device', 'host', 'disk', 'seconds'
  )
  for cost in found:
    view.add_row(
      cost.stage,
      f'{sum(cost.flop.values()) / 1e9:.3g}',
      size(sum(cost.device.values())),
      size(cost.host),
      size(cost.disk),
      f'{cost.seconds:.3g}',
    )
  return view


if __name__ == '__main__':
  common.main(run)
