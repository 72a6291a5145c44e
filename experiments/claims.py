"""What the paper claims, what we found: one record a claim.

A claim is a dict of

  id         as 'E7a'; 'E1 concrete' where there is one a task
  figure     of the paper
  statement  what is measured, as a phrase
  value      a number; interval: [low, high], 95 %, or None where there is none
  threshold  [relation, number], as ['>', 0.5]: fixed before anything was seen
  held       whether the value passes the threshold
  paper      what the paper found, as a phrase
  seeds      of training behind the value
  sizes      of models behind the value
  form       how the numbers are shown: '.0%', '.2f', ...

Thresholds are part of the studies' code; the value alone decides.
"""

import operator
import os
import pathlib
from collections.abc import Iterable, Sequence

from rich import table

from experiments import agreement
from influence_jax import store
from influence_jax.report import terminal

_RELATIONS = {
  '>': operator.gt, '>=': operator.ge, '<': operator.lt, '<=': operator.le,
}  # fmt: skip


def claim(
  name: str,
  figure: str,
  statement: str,
  value: Sequence[float] | float,
  threshold: tuple[str, float],
  *,
  paper: str,
  rungs: Iterable = (),
  form: str = '.2f',
) -> dict:
  """The record; `held` follows from value and threshold.

  Args:
    value: a number, or [number, low, high].
    threshold: a relation of > >= < <= and a number.
    rungs: ladder.Rungs behind the value.
  """
  number, *interval = [value] if isinstance(value, float | int) else value
  relation, bound = threshold
  rungs = list(rungs)
  return {
    'id': name,
    'figure': figure,
    'statement': statement,
    'value': number,
    'interval': [*interval] or None,
    'threshold': [relation, bound],
    'held': bool(_RELATIONS[relation](number, bound)),
    'paper': paper,
    'seeds': sorted({rung.seed for rung in rungs}),
    'sizes': list(dict.fromkeys(rung.size for rung in rungs if rung.size)),
    'form': form,
  }


def gather(workdirs: Iterable[str | os.PathLike]) -> list[dict]:
  """Claims of all studies' result.json, with command, commit and device.

  Raises:
    ValueError: one is damaged.
  """
  found = {}
  for workdir in workdirs:
    for path in sorted(pathlib.Path(workdir).rglob('result.json')):
      result = store.read_json(path)
      source = {key: result.get(key) for key in ('command', 'commit', 'device')}
      for one in result.get('claims', ()):
        found[one['id']] = {**one, **source}
  return sorted(found.values(), key=lambda one: _order(one['id']))


def render(found: list[dict]) -> table.Table:
  """For the terminal: the last lines of every study."""
  view = terminal.table(
    None, 'claim', 'statement', 'value (95 %)', 'asked for', 'held', 'paper',
    num_labels=6,
  )  # fmt: skip
  for one in found:
    view.add_row(
      one['id'], one['statement'], value(one), bound(one),
      'yes' if one['held'] else '[bold]NO[/bold]', one['paper'],
    )  # fmt: skip
  return view


def markdown(found: list[dict]) -> str:
  """The README's table."""
  head = '| | figure | claim | paper | ours (95 %) | asked for | held | seeds |'
  lines = [head, '|' + '---|' * 8]
  for one in found:
    seeds = ', '.join(map(str, one['seeds'])) or '-'
    held = 'yes' if one['held'] else '**no**'
    cells = (
      one['id'], one['figure'], one['statement'], one['paper'], value(one),
      bound(one), held, seeds,
    )  # fmt: skip
    escaped = (cell.replace('|', r'\|') for cell in cells)
    lines.append('| ' + ' | '.join(escaped) + ' |')
  return '\n'.join(lines) + '\n'


def value(one: dict) -> str:
  """As '0.93 (0.90 to 0.95)'."""
  return agreement.shown([one['value'], *(one['interval'] or ())], one['form'])


def bound(one: dict) -> str:
  relation, number = one['threshold']
  return f'{relation} {format(number, one["form"])}'


def _order(name: str) -> tuple[bool, str, int, str]:
  """The paper's, E, before ours; by number, E2 before E10."""
  letter, digits = name[0], ''.join(x for x in name.split()[0] if x.isdigit())
  return letter != 'E', letter, int(digits or 0), name
