"""What a compiled program sends between its devices, read from its HLO text.

XLA's Python objects name an instruction's opcode and operands but not its
groups, loops or branches, so the text is parsed. Conventions:

* Bytes are of one device: of a collective's result, and for a reduce-scatter of
  its operand, so that they are the larger of the two everywhere.
* A loop's collectives count as often as XLA says that it runs
  (`known_trip_count`), those of its condition once more. Where XLA says
  nothing the program decides, even if the condition compares with a constant
  (what the loop begins with is then unknown): times is None and sums raise.
* Of a conditional's branches the one that sends most counts; what is in the
  others is listed with times 0.
* An asynchronous pair is one collective, with the result of its end.

The text is of the backend that compiled. XLA's CPU backend sends 16-bit floats
as float32, and all-reduces where others reduce-scatter: bytes of a program
compiled for emulated devices are from above. Collectives inside a custom call
of a library are in no text. Sends between devices, broadcasts and ragged
all-to-alls raise.
"""

import itertools
import math
import re
from collections.abc import Iterable
from typing import NamedTuple

import jax

KINDS = (
  'all-gather', 'all-reduce', 'reduce-scatter', 'all-to-all',
  'collective-permute',
)  # fmt: skip
_OTHERS = ('send', 'recv', 'ragged-all-to-all', 'collective-broadcast')
_NAME = r'%?([\w.-]+)'
_ARRAY = re.compile(r'([a-z]\w*)\[([\d,<=]*)\]')
TRIPS = re.compile(r'known_trip_count\W+n\W+(\d+)')


class Collective(NamedTuple):
  """As it stands in the program, with all arrays that it sends together."""

  kind: str  # of KINDS
  dtypes: tuple[str, ...]  # HLO's names of them: f32, bf16, s8, pred
  shapes: tuple[tuple[int, ...], ...]  # of the result on one device
  bytes: int  # as in the module docstring, of one run
  group_size: int  # devices that take part together
  times: int | None  # it runs in a step; None where the program decides
  op_name: str  # path to the operation it is of, '' if XLA keeps none


class _Op(NamedTuple):
  name: str
  type: str
  opcode: str
  operands: str
  attributes: str


def of(compiled: jax.stages.Compiled) -> list[Collective]:
  """All that are in a program of `jit(fn).lower(*args).compile()`."""
  return of_text(compiled.as_text())


def of_text(text: str) -> list[Collective]:
  """All that are in a module of HLO text."""
  computations, entry = parse(text)
  header = text.lstrip().partition('\n')[0]
  counts = re.findall(r'(?:replica_count|num_partitions)=(\d+)', header)
  num_devices = math.prod(int(n) for n in counts)
  found = {}
  for name, ops in computations.items():  # what is called is printed before
    ends = {x.operands.split()[-1].lstrip('%'): x for x in ops if _ends(x)}
    found[name] = []
    for op in ops:
      if (kind := op.opcode.removesuffix('-start')) in KINDS:
        if kind != op.opcode and op.name not in ends:
          raise ValueError(f'{op.name} begins and has no end in {name}')
        result = op if kind == op.opcode else ends[op.name]
        found[name].append(_collective(kind, op, result.type, num_devices))
      else:
        found[name] += _called_by(op, found)
  return found[entry]


def sent(collective: Collective) -> float:
  """Bytes in one run, of the device that sends most.

  Groups are rings, whose devices all send as much; an all-reduce goes round
  twice. An all-to-all sends each device its part.
  """
  n = collective.group_size
  if n == 1:
    return 0.0
  if collective.kind == 'collective-permute':
    return float(collective.bytes)
  ways = 2 if collective.kind == 'all-reduce' else 1
  return ways * collective.bytes * (n - 1) / n


def total(collectives: Iterable[Collective]) -> dict[str, float]:
  """Bytes that a device sends in a step, {kind: bytes}; kinds that occur."""
  sums = {}
  for x in collectives:
    if x.times is None:
      raise ValueError(
        f'how often {x.kind} of {x.op_name!r} runs is not in the program: give '
        'its loop a fixed length or replace `times`'
      )
    sums[x.kind] = sums.get(x.kind, 0.0) + x.times * sent(x)
  return sums


def parse(text: str) -> tuple[dict[str, list[_Op]], str]:
  """{computation: its instructions} and the entry's name."""
  computations, ops, entry = {}, None, None
  for line in text.split('\n'):
    if ops is None:
      begins = re.match(rf'(ENTRY )?{_NAME} .*\{{$', line)
      if begins and not line.startswith('HloModule'):
        ops = computations[begins[2]] = []
        entry = begins[2] if begins[1] else entry
    elif line.startswith('}'):
      ops = None
    elif ' = ' in line:
      ops.append(_parse_op(line))
  if entry is None:
    raise ValueError(f'no entry computation in HLO text {text[:60]!r}')
  return computations, entry


def _parse_op(line: str) -> _Op:
  name, _, rest = line.strip().removeprefix('ROOT ').partition(' = ')
  end = _closing(rest) if rest[0] == '(' else rest.index(' ')
  opcode, _, _ = rest[end:].lstrip().partition('(')
  operands = rest[rest.index(opcode, end) + len(opcode) :]
  close = _closing(operands)
  return _Op(
    name.lstrip('%'), rest[:end], opcode, operands[1 : close - 1],
    operands[close:],
  )  # fmt: skip


def _closing(text: str) -> int:
  """Behind the parenthesis that closes the one at the start."""
  depth = 0
  for bracket in re.finditer(r'[()]', text):
    depth += 1 if bracket[0] == '(' else -1
    if not depth:
      return bracket.end()
  raise ValueError(f'unbalanced HLO: {text[:80]!r}')


def _ends(op: _Op) -> bool:
  return op.opcode.endswith('-done')


def _called_by(op: _Op, found: dict[str, list]) -> list[Collective]:
  """What one run of an instruction, itself no collective, runs inside."""
  kind = op.opcode.removesuffix('-start')
  if kind in _OTHERS and 'is_host_transfer=true' not in op.attributes:
    raise ValueError(f'{op.opcode} of {op.name} is not counted: {KINDS} are')
  if op.opcode == 'while':
    (body,), (condition,) = named(op, 'body'), named(op, 'condition')
    trips = TRIPS.search(op.attributes)
    trips = int(trips[1]) if trips else None
    again = None if trips is None else trips + 1
    return _times(found[body], trips) + _times(found[condition], again)
  if op.opcode == 'conditional':
    branches = [found[x] for x in named(op, r'\w+_computations?')]
    most = max(range(len(branches)), key=lambda n: _size(branches[n]))
    each = [_times(x, int(n == most)) for n, x in enumerate(branches)]
    return list(itertools.chain(*each))
  if _ends(op) or op.opcode.endswith('-update'):
    return []  # these name again what their beginning called
  called = named(op, 'calls|to_apply|called_computations')
  return list(itertools.chain(*(found[x] for x in called)))


def named(op: _Op, attributes: str) -> list[str]:
  """Computations that an instruction names as these attributes."""
  unquoted = re.sub(r'"(?:[^"\\]|\\.)*"', '', op.attributes)
  found = re.findall(rf'\b(?:{attributes})=(?:\{{(.*?)\}}|{_NAME})', unquoted)
  return re.findall(_NAME, ' '.join(several + one for several, one in found))


def _collective(
  kind: str, op: _Op, result: str, num_devices: int
) -> Collective:
  arrays = [
    (dtype, tuple(int(n.lstrip('<=')) for n in shape.split(',') if n))
    for dtype, shape in _ARRAY.findall(result)
  ]
  group_size = _group_size(op, kind, num_devices)
  nbytes = sum(math.ceil(math.prod(s) * _bits(d) / 8) for d, s in arrays)
  op_name = re.search(r'op_name="((?:[^"\\]|\\.)*)"', op.attributes)
  return Collective(
    kind,
    tuple(dtype for dtype, _ in arrays),
    tuple(shape for _, shape in arrays),
    nbytes * (group_size if kind == 'reduce-scatter' else 1),
    group_size,
    1,
    op_name[1] if op_name else '',
  )


def _bits(dtype: str) -> int:
  """Of a number: f32 has 32, bf16 16, f8e4m3fn 8, s4 4; a pred takes 8."""
  if dtype == 'pred':
    return 8
  return int(re.search(r'\d+', dtype)[0])


def _group_size(op: _Op, kind: str, num_devices: int) -> int:
  """Devices of the largest group, in any of the forms that XLA prints.

  [4,2]<=[8]T(1,0) are 4 of 2 devices; mesh['x'=2,'y'=4] {'y'} are over an axis,
  {'y':(1)2} over a part of it, of 2; {} is all. Of source-target pairs, all the
  devices on a path are a group.
  """
  _, _, groups = op.attributes.partition('replica_groups=')
  if kind == 'collective-permute':
    _, _, groups = op.attributes.partition('source_target_pairs=')
  elif found := re.match(r'\[\d+,(\d+)\]<=', groups):
    return int(found[1])
  elif found := re.match(r'mesh\[(.*?)\][^{]*\{(.*?)\}', groups):
    axes = dict(re.findall(r"'(.+?)'=(\d+)", found[1]))
    over = re.findall(r"'(.+?)'(?::\(\d+\)(\d+))?", found[2])
    return math.prod(int(part or axes[axis]) for axis, part in over)
  if not (found := re.match(r'\{((?:\{[\d,]*\},?)*)\}', groups)):
    raise ValueError(f'{op.name} is of unknown devices: {groups[:60]!r}')
  lists = [x.split(',') for x in re.findall(r'\{([\d,]+)\}', found[1])]
  if kind != 'collective-permute':
    return max(map(len, lists), default=num_devices)
  paths = []
  for pair in map(set, lists):
    joined = [x for x in paths if x & pair]
    paths = [x for x in paths if not x & pair] + [pair.union(*joined)]
  return max(map(len, paths), default=1)


def _times(collectives, times: int | None) -> list[Collective]:
  def product(own):
    if 0 in (own, times):
      return 0
    return None if None in (own, times) else own * times

  return [x._replace(times=product(x.times)) for x in collectives]


def _size(collectives) -> float:
  """Bytes sent; a branch of unknown length is the largest."""
  return sum(
    math.inf if x.times is None else x.times * sent(x) for x in collectives
  )
