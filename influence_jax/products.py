"""Operations of the matrix products in a compiled program, of one device.

Read from HLO text as `collectives` reads what is sent, and with its conventions
for loops. Unlike a count in the jaxpr (`planner.flop`), it is of one device and
sees what several devices do alike, and what XLA has added or left out.
"""

import math
import re

import jax

from influence_jax import collectives

_ARRAY = re.compile(r'[a-z]\w*\[([\d,<=]*)\]')


def of(compiled: jax.stages.Compiled) -> dict[str, float]:
  """{path of the operation, '' if XLA keeps none: FLOP in a run}."""
  return of_text(compiled.as_text())


def of_text(text: str) -> dict[str, float]:
  """Of a module of HLO text.

  Raises:
    ValueError: a loop with products runs as often as the program decides.
  """
  computations, entry = collectives.parse(text)
  found = {}
  for name, ops in computations.items():  # what is called is printed before
    types = {op.name: op.type for op in ops}
    found[name] = {}
    for op in ops:
      own = {}
      if op.opcode == 'dot':
        own = {_path(op): _flop(op, types)}
      elif op.opcode == 'convolution':
        raise ValueError(f'{op.name}: convolutions are not counted')
      else:
        own = _called(op, found)
      for path, flop in own.items():
        found[name][path] = found[name].get(path, 0.0) + flop
  return found[entry]


def _called(op, found) -> dict[str, float]:
  if op.opcode == 'while':
    (body,) = collectives.named(op, 'body')
    trips = collectives.TRIPS.search(op.attributes)
    if found[body] and not trips:
      raise ValueError(f'{op.name} has products and no known length')
    return {path: int(trips[1]) * n for path, n in found[body].items()}
  if op.opcode == 'conditional':
    names = collectives.named(op, r'\w+_computations?')
    return max((found[x] for x in names), key=lambda x: sum(x.values()))
  total = {}
  for name in collectives.named(op, 'calls|to_apply|called_computations'):
    for path, flop in found[name].items():
      total[path] = total.get(path, 0.0) + flop
  return total


def _flop(op, types) -> float:
  (result,) = _ARRAY.findall(op.type)
  left = re.findall(r'[\w.-]+', op.operands.split('%', 1)[-1])[0]
  (shape,) = _ARRAY.findall(types[left])
  sizes = [int(n) for n in shape.split(',') if n]
  contracted = re.search(r'lhs_contracting_dims=\{([\d,]*)\}', op.attributes)
  depth = math.prod(sizes[int(n)] for n in contracted[1].split(',') if n)
  return 2.0 * depth * math.prod(int(n) for n in result.split(',') if n)


def _path(op) -> str:
  found = re.search(r'op_name="((?:[^"\\]|\\.)*)"', op.attributes)
  return found[1] if found else ''
