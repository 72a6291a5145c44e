"""Runs every ladder and every study, one command after another.

  python -m experiments.reproduce --config=configs/figures.py --workdir=runs

First it says what is left to train, fit and score and how long that will take
on this machine, as experiments.plan predicts it for each size of model (some
minutes a ladder, and none for what is done; --config.figures.dry=True does no
more than that). `only` names ladders, each with its studies, or 'validation',
the studies that need no ladder (`make validate`).

Then each command, printed as you would type it, is a process of its own:
results name their own command, and memory is given back. Each goes on where it
stopped, so this one does, too. The first that fails stops the run.

Writes WORKDIR/<ladder>/, WORKDIR/index.html (experiments.figures) and
WORKDIR/commands.jsonl, the seconds that each command took.
Sections read: figures, and the ladders' own configs.
"""

import json
import os
import pathlib
import runpy
import shlex
import subprocess
import sys
import time

import rich
from ml_collections import ConfigDict
from rich import table

from experiments import common, figures_found, ladder, plan
from influence_jax.report import terminal

Command = tuple[str, ...]  # a module of experiments and its flags


def run(config: ConfigDict, workdir: str | os.PathLike) -> None:
  workdir, section = pathlib.Path(workdir), config.figures
  found = commands(section, workdir)
  if section.dry:
    print(*map(shown, found), sep='\n')
    rich.print(_table(todo(section, workdir)))
    return
  # In a process of its own: JAX keeps what it once had of a device
  execute(('reproduce', *sys.argv[1:], '--config.figures.dry=True'))
  for command in found:
    record = {'command': shown(command), 'seconds': execute(command)}
    with (workdir / 'commands.jsonl').open('a') as file:
      file.write(json.dumps(record) + '\n')


def commands(section: ConfigDict, workdir: pathlib.Path) -> list[Command]:
  """All of them in order: ladders, studies, the page.

  Raises:
    ValueError: a ladder that is asked for, or that a study needs, is unknown.
  """
  configs = dict(section.ladders)
  asked = section.only or tuple(configs)
  needed = {root for _, root, _ in section.studies}
  if unknown := {*asked, *needed} - {*configs, figures_found.VALIDATION}:
    raise ValueError(
      f'figures.only or figures.studies name the ladders {sorted(unknown)}, '
      f'figures.ladders has {sorted(configs)}'
    )

  def command(module, path, folder) -> Command:
    return module, f'--config={path}', f'--workdir={folder}'

  return [
    *(
      command('train_ladder', path, workdir / name)
      for name, path in section.ladders
      if name in asked
    ),
    *(
      command(study, f'configs/{study}.py', workdir / root)
      for study, root, _ in section.studies
      if root in asked
    ),
    *(
      command(
        binary, f'configs/{name}.py', workdir / figures_found.VALIDATION / name
      )
      for binary, name, _ in section.validations
      if figures_found.VALIDATION in asked
    ),
    ('figures', f'--workdir={workdir}'),
  ]


def shown(command: Command) -> str:
  """As one types it."""
  module, *flags = command
  return shlex.join(['python', '-m', f'experiments.{module}', *flags])


def execute(command: Command) -> float:
  """Its seconds; ends this process if it fails."""
  print(f'\n$ {shown(command)}', flush=True)
  start = time.perf_counter()
  module, *flags = command
  found = subprocess.run(
    [sys.executable, '-m', f'experiments.{module}', *flags], check=False
  )
  if found.returncode:
    raise SystemExit(
      f'failed with status {found.returncode}; mend what it says, then repeat '
      f'it by itself, or all from here on by the command you gave:\n'
      f'{shown(command)}'
    )
  return time.perf_counter() - start


def todo(section: ConfigDict, workdir: pathlib.Path) -> list[dict]:
  """A row a size of model and a study: name, `left` of plan.STAGES, seconds.

  Seconds are None where nobody knows; those of what is done are 0.
  """
  rows, asked = [], section.only or tuple(dict(section.ladders))
  for name, path in section.ladders:
    if name not in asked:
      continue
    config, root = runpy.run_path(path)['get_config'](), workdir / name
    for size in config.ladder.sizes:
      rungs = ladder.rungs(config, root, (size,))
      left = {stage: sum(map(_LEFT[stage], rungs)) for stage in plan.STAGES}
      seconds = sum(
        num * _seconds(rungs[0].config, root, stage)
        for stage, num in left.items()
        if num
      )
      rows.append({'name': f'{name} {size}', 'left': left, 'seconds': seconds})
  studies = [
    *section.studies,
    *((x, figures_found.VALIDATION, s) for _, x, s in section.validations),
  ]
  for study, root, seconds in studies:
    if root in asked:
      done = (workdir / root / study / 'result.json').exists()
      rows.append(
        {'name': study, 'left': {}, 'seconds': 0 if done else seconds}
      )
  return rows


def _seconds(config: ConfigDict, root: pathlib.Path, stage: str) -> float:
  found, _ = plan.predicted(plan.costs_of(config, root, (stage,)))
  return sum(cost.seconds for cost in found)


def _not_scored(rung: ladder.Rung) -> bool:
  section = rung.config.score
  last = 'top.parquet' if section.num_top else 'queries.json'
  return not (rung.workdir / section.folder / last).exists()


# Whether a rung lacks what train_ladder writes when the stage is done
_LEFT = {
  'train': lambda rung: not (rung.workdir / 'held_out.json').exists(),
  'fit': lambda rung: not (rung.workdir / 'factor_health.json').exists(),
  'score': _not_scored,
}


def _table(rows: list[dict]) -> table.Table:
  known = [row['seconds'] for row in rows if row['seconds'] is not None]
  unknown = len(rows) - len(known)
  title = f'left to do: {sum(known) / 3600:.1f} h'
  if unknown:
    title += f', and studies that nobody has timed: {unknown}'
  names = [f'to {stage}' for stage in plan.STAGES]
  view = terminal.table(title, 'models, then studies', *names, 'hours')
  for row in rows:
    seconds = row['seconds']
    view.add_row(
      row['name'],
      *(str(row['left'].get(stage, '-')) for stage in plan.STAGES),
      '?' if seconds is None else f'{seconds / 3600:.2f}',
    )
  return view


if __name__ == '__main__':
  common.main(run)
