"""Where the time of a batch goes: XLA's own trace of each stage, by kind.

    python -m benchmarks.profile --profile_case=medium --rows=32

Milliseconds of a batch: products of matrices, products with a batch axis (the
attention; on a CPU they do not share the cores), loops (elementwise, copies,
transposes), the rest of the wall time. Two cores can run two operations at
once, so kinds may add up to more than the wall time. Eigen's threads carry no
names: time in large products shows as what is left over, `rest`.
"""

import collections
import glob
import gzip
import json
import pathlib
import re
import tempfile
import time

import jax
import jax.numpy as jnp
from absl import app, flags

from benchmarks import cases
from benchmarks import ours_library as library
from influence_jax import (
  attribution,
  contraction,
  cpu,
  fit,
  fit_step,
  influence,
  types,
)

_PROFILE_CASE = flags.DEFINE_string('profile_case', 'medium', 'of cases.CASES')
_ROWS = flags.DEFINE_integer('rows', 32, 'sequences a batch')


def stages(setup, batch, num_queries: int):
  """(name, jitted function, arguments) with made-up factors: good for times."""
  model, layers = setup.model, setup.model.layers
  basis = {
    path: {
      'Q_A': jnp.eye(x.num_in),
      'Q_S': jnp.eye(x.num_out),
      'Lambda': jnp.ones((x.num_in, x.num_out)),
    }
    for path, x in layers.items()
  }
  queries = {
    path: {'P': jnp.ones((x.num_in, x.num_out, num_queries))}
    for path, x in layers.items()
  }
  low = {
    path: {
      'U': jnp.ones((num_queries, x.num_in, cases.RANK)),
      'V': jnp.ones((num_queries, cases.RANK, x.num_out)),
    }
    for path, x in layers.items()
  }

  def loss(tokens, params):
    params = {**params, 'tok_emb': tokens}
    outputs = model.apply_fn(params, batch.inputs)
    return model.loss.per_sequence(outputs, batch.targets, batch.mask).sum()

  def scores(params, queries, batch):
    found = contraction.pairwise(model, params, queries, batch)
    return attribution.total(found, layers)

  def own(params, factors, batch):
    damping = influence.damping_of(setup.curvature, layers, factors)
    return influence.self_influence(
      setup.curvature, model, params, factors, damping, batch
    )

  def tokens(params, queries, batch):
    return contraction.tokenwise(model, params, queries, batch)

  params = setup.params
  yield 'pass', jax.jit(jax.grad(loss)), (params['tok_emb'], params)
  for stage in setup.curvature.stages:
    state = fit.start(setup.curvature._replace(stages=(stage,)), layers)
    step = fit_step.make(model, stage, setup.mesh, 'model')
    # Donated sums are given anew: a copy, as a first batch would have it.
    yield stage.name, _fresh(step), (params, basis, batch, state)
  yield 'pairwise', jax.jit(scores), (params, queries, batch)
  yield 'pairwise_rank32', jax.jit(scores), (params, low, batch)
  yield 'tokens_rank32', jax.jit(tokens), (params, low, batch)
  yield 'self_influence', jax.jit(own), (params, basis, batch)


def _fresh(step):
  def run(params, factors, batch, state):
    counts, sums = jax.tree.map(jnp.copy, (state.counts, state.sums))
    return step(params, factors, jax.random.key(0), batch, counts, sums)

  return jax.jit(run)


def kinds(fn, arguments, num: int = 3) -> dict[str, float]:
  """Milliseconds of a call by kind, and `wall`."""
  text = fn.lower(*arguments).compile().as_text()
  kind = _kinds(text)
  jax.block_until_ready(fn(*arguments))
  with tempfile.TemporaryDirectory() as folder:
    with jax.profiler.trace(folder, create_perfetto_trace=True):
      start = time.perf_counter()
      for _ in range(num):
        jax.block_until_ready(fn(*arguments))
      wall = time.perf_counter() - start
    (path,) = glob.glob(f'{folder}/**/perfetto_trace.json.gz', recursive=True)
    events = json.loads(gzip.decompress(pathlib.Path(path).read_bytes()))
  if isinstance(events, dict):
    events = events['traceEvents']
  found = collections.Counter()
  for event in events:
    if event.get('ph') == 'X' and event['name'] in kind:
      found[kind[event['name']]] += event['dur'] / 1e3 / num
  wall = 1e3 * wall / num
  return {**found, 'rest': wall - sum(found.values()), 'wall': wall}


def _kinds(text: str) -> dict[str, str]:
  """{operation: its kind} of a compiled program."""
  found = {}
  for name, shape, opcode, line in re.findall(
    r'%?([\w.-]+) = (\S+) ([\w-]+)\((.*)', text
  ):
    if opcode == 'dot':
      batched = 'batch_dims' in line
      found[name] = 'batched products' if batched else 'products'
    elif opcode in ('fusion', 'copy', 'transpose', 'concatenate', 'reduce'):
      found[name] = 'loops'
    del shape
  return found


def main(_):
  cpu.tune()
  case = cases.CASES[_PROFILE_CASE.value]
  with tempfile.TemporaryDirectory() as folder:
    setup = library.load(cases.write(case, pathlib.Path(folder) / case.name))
  batch = types.Batch(*(jnp.asarray(x[: _ROWS.value]) for x in setup.train))
  names = ('products', 'batched products', 'loops', 'rest', 'wall')
  print(f'{case.name}, {_ROWS.value} sequences, ms a batch')
  print(f'{"":18}' + ''.join(f'{name:>18}' for name in names))
  for name, fn, arguments in stages(setup, batch, case.num_queries):
    found = kinds(fn, arguments)
    print(f'{name:18}' + ''.join(f'{found.get(n, 0):18.1f}' for n in names))


if __name__ == '__main__':
  app.run(main)
