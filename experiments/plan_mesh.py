"""What a model too large for this machine will cost on a mesh, from shapes.

  python -m experiments.plan_mesh --config=configs/plan_52b.py \
    --workdir=runs/plan_52b --mesh=8x8,8x16 [--hardware=h100]

Lowers and compiles the real steps (plan.steps: the stages of the curvature,
scan, train) for DATAxMODEL emulated devices of this host's CPU and allocates no
array. Prints and writes WORKDIR/plan_mesh.json: for each mesh
and step bytes a device by kind, operations a device, what is sent, by kind and
how much of it leaves a host, seconds at the hardware's peaks; and the device
hours of the config's whole run. docs/plan_52b.md has what these can not show.
Sections read: decoder, layers, plain, mesh (fsdp, rules), curvature, fit,
score, train, plan.
"""

import dataclasses
import functools
import os
import pathlib
from collections.abc import Sequence

import jax
import numpy as np
import rich
from absl import app, flags
from ml_collections import ConfigDict
from rich import table

from experiments import common, plan
from influence_jax import (
  collectives,
  costs,
  curvature,
  hardware,
  losses,
  plain,
  planner,
  products,
  sharding,
  store,
  taps,
  training,
  types,
)
from influence_jax.models import decoder, rope
from influence_jax.report import terminal

_MESH = flags.DEFINE_list('mesh', None, 'DATAxMODEL; several, with commas.')
_HARDWARE = flags.DEFINE_enum(
  'hardware', 'h100', list(hardware.HARDWARE), 'Whose peaks are taken.'
)
_HOURS = 'device_hours_of_products', 'device_hours_if_nothing_overlaps'
_COUNT = 'xla_force_host_platform_device_count'


def run(config: ConfigDict, workdir: str | os.PathLike) -> None:
  """With the flags' meshes and hardware."""
  plan_meshes(config, workdir, meshes(_MESH.value), _HARDWARE.value)


def meshes(texts: Sequence[str]) -> list[tuple[int, int]]:
  """(data, model) of each '8x16'."""
  found = []
  for text in texts:
    sizes = text.split('x')
    if len(sizes) != 2 or not all(n.isdigit() and int(n) for n in sizes):
      raise ValueError(f'--mesh wants DATAxMODEL, as 8x16, got {text!r}')
    found.append((int(sizes[0]), int(sizes[1])))
  return found


def emulate(num: int) -> None:
  """So many devices of this host's CPU; before jax is used at all."""
  jax.config.update('jax_platforms', 'cpu')
  if _COUNT not in os.environ.get('XLA_FLAGS', ''):
    jax.config.update('jax_num_cpu_devices', num)


def plan_meshes(
  config: ConfigDict,
  workdir: str | os.PathLike,
  sizes: Sequence[tuple[int, int]],
  name: str,
) -> list[dict]:
  """Records of all steps on all meshes, printed and written."""
  need, have = max(data * model for data, model in sizes), jax.device_count()
  if need > have:
    raise ValueError(
      f'--mesh wants {need} devices and {have} are emulated: take {_COUNT} out '
      'of XLA_FLAGS and JAX_NUM_CPU_DEVICES out of the environment'
    )
  peaks, workdir = hardware.HARDWARE[name], pathlib.Path(workdir)
  records = []
  for data, model in sizes:
    for cost in costs_of(config, data, model):
      records.append(record(cost, config, data, model, peaks))
      described = {
        'steps': records,
        'hardware': peaks._asdict(),
        **common.provenance('experiments.plan_mesh', config),
      }
      store.write_json(workdir / 'plan_mesh.json', described)
  rich.print(*render(records, config, peaks))
  return records


def network(config: ConfigDict) -> decoder.Decoder:
  """Of the section decoder: DecoderConfig's fields, rope as a dict."""
  fields = config.decoder.copy_and_resolve_references()
  if fields.rope is not None:
    turned = common.build('decoder.rope', rope.Rope, fields.rope)
    with fields.unlocked():
      fields.rope = None
  net = common.build('decoder', decoder.make, fields)
  if config.decoder.rope is None:
    return net
  return net.clone(config=dataclasses.replace(net.config, rope=turned))


def abstract(
  config: ConfigDict, mesh: jax.sharding.Mesh
) -> tuple[types.Model, types.PyTree]:
  """The model and where the shapes of its parameters lie.

  They are as wide as the computation, as pretrained ones are.
  """
  net = network(config)

  def apply_fn(params, inputs):
    return net.apply({'params': params}, inputs)

  inputs = jax.ShapeDtypeStruct((1, config.plan.length), np.int32)
  params = jax.eval_shape(net.init, jax.random.key(0), inputs)['params']
  params = jax.tree.map(lambda x: x.update(dtype=net.config.dtype), params)
  layers = taps.find_layers(apply_fn, params, inputs, config.layers).layers
  if config.plain is not None:
    layers |= plain.find(apply_fn, params, inputs, config.plain)
  model = types.Model(apply_fn, losses.softmax_cross_entropy, layers)
  return model, common.place(config, mesh, params)


def costs_of(config: ConfigDict, data: int, model: int) -> list[planner.Cost]:
  """Of one batch in each step, compiled for the mesh."""
  mesh = sharding.make_mesh(data, model)
  described, params = abstract(config, mesh)
  shape = data * config.plan.rows, config.plan.length
  over = planner.passes(described, params, {shape: 1.0})
  found = fit_costs(config, over, mesh)
  if 'scan' in config.plan.steps:
    c = config.score
    queries = costs.queries_of(described.layers, c.num_queries, c.rank)
    found.append(costs.scan_cost(over, queries, mesh=mesh))
  if 'train' in config.plan.steps:
    hparams = common.build('train', training.TrainConfig, config.train)
    place = functools.partial(common.place, config, mesh)
    steps = over._replace(shapes={shape: hparams.warmup_steps + 1.0})
    net = network(config)
    found.append(costs.train_cost(net, hparams, steps, mesh=mesh, place=place))
  return found


def fit_costs(
  config: ConfigDict, over: planner.Passes, mesh: jax.sharding.Mesh
) -> list[planner.Cost]:
  """Of one batch in each stage that is asked for."""
  made = common.build('curvature', curvature.make, config.curvature)
  return [
    costs.fit_step_cost(made, n, over, mesh=mesh, targets=config.fit.targets)
    for n, stage in enumerate(made.stages)
    if stage.name in config.plan.steps
  ]


def record(
  cost: planner.Cost,
  config: ConfigDict,
  data: int,
  model: int,
  peaks: hardware.Hardware,
) -> dict:
  """What JSON holds of a step; numbers are of one device and one step."""
  text = cost.step.as_text()
  sent = collectives.total(collectives.of_text(text))
  leaves = collectives.total(hardware.between_hosts(text, peaks.per_host))
  total = sum(products.of_text(text).values())
  # Which are whose XLA forgets on one device; the jaxpr does not
  share = cost.flop['layers'] / sum(cost.flop.values())
  share = 0.0 if cost.stage == 'train' else share
  flop = {'model': total * (1 - share), 'statistics': total * share}
  held = dict(cost.device)
  temporary = held.pop('temporary')
  seconds = _seconds(config, flop, sent, leaves, peaks)
  rows = data * config.plan.rows
  return {
    'mesh': f'{data}x{model}',
    'devices': data * model,
    'sequences': rows,
    'step': cost.stage,
    'held_bytes': held,
    'temporary_bytes': temporary,
    'flop': flop,
    'counted_flop': cost.step_flop / (data * model),
    'sent_bytes': sent,
    'between_hosts_bytes': leaves,
    'seconds': seconds,
    'run': _whole_run(cost.stage, config, rows, data * model, seconds),
    'compile_seconds': cost.compile_seconds,
  }


def _seconds(config, flop, sent, leaves, peaks) -> dict[str, float]:
  """Of products and of what is sent, at the shares of the peaks that the

  config assumes. They may overlap: a step is between their largest and sum.
  """
  c, dtype = config.plan, config.decoder.dtype
  rate = {
    'model': peaks.flop['tf32' if dtype == 'float32' else dtype],
    'statistics': peaks.flop[c.statistics],
  }
  away = sum(leaves.values())
  near = sum(sent.values()) - away
  return {
    'products': sum(n / rate[k] for k, n in flop.items()) / c.utilisation,
    'within_hosts': near / (c.link_utilisation * peaks.link),
    'between_hosts': away / (c.link_utilisation * peaks.network),
  }


def _whole_run(stage, config, rows, devices, seconds) -> dict | None:
  """Device hours of all steps, if what is sent is hidden and if it is not."""
  if stage == 'train':
    return None
  section = config.score if stage == 'scan' else config.fit
  hours = section.num_sequences / rows * devices / 3600
  return {
    'sequences': section.num_sequences,
    _HOURS[0]: hours * seconds['products'],
    _HOURS[1]: hours * sum(seconds.values()),
  }


def render(
  records: list[dict], config: ConfigDict, peaks: hardware.Hardware
) -> list[table.Table]:
  """Of one device and step, but for the hours of the whole run."""
  share, links = config.plan.utilisation, config.plan.link_utilisation
  view = terminal.table(
    'of one device in one step',
    'mesh', 'step', 'held', 'temporary', 'TFLOP', 'sent', 'to hosts',
  )  # fmt: skip
  times = terminal.table(
    f'{peaks.name}: {share:.0%} of its products, {links:.0%} of its links',
    'mesh', 'step', 'products, s', 'sent, s', 'run, device hours',
  )  # fmt: skip
  for x in records:
    s, whole = x['seconds'], x['run'] or dict.fromkeys(_HOURS, 0)
    view.add_row(
      x['mesh'],
      x['step'],
      plan.size(sum(x['held_bytes'].values())),
      plan.size(x['temporary_bytes']),
      f'{sum(x["flop"].values()) / 1e12:.4g}',
      plan.size(sum(x['sent_bytes'].values())),
      plan.size(sum(x['between_hosts_bytes'].values())),
    )
    times.add_row(
      x['mesh'],
      x['step'],
      f'{s["products"]:.3g}',
      f'{s["within_hosts"] + s["between_hosts"]:.3g}',
      ' to '.join(f'{whole[key]:,.3g}' for key in _HOURS),
    )
  return [view, times]


def _emulate_asked() -> None:
  emulate(max(data * model for data, model in meshes(_MESH.value)))


if __name__ == '__main__':
  flags.mark_flag_as_required('mesh')
  app.call_after_init(_emulate_asked)
  common.main(run)
