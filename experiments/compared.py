"""What a run was expected to cost, printed before it and compared after it.

    with compared.prediction(config, ours, workdir, 'fit'):
      ...  # the run

WORKDIR/plan_measured.json gets a record: bytes at the peak of the process,
seconds, both predicted (experiments.plan) and measured.
"""

import contextlib
import os
import pathlib
import resource
import time
from collections.abc import Iterator

import jax
import rich
from absl import logging
from ml_collections import ConfigDict

from experiments import common, plan, trained
from influence_jax import calibration, planner, store


@contextlib.contextmanager
def prediction(
  config: ConfigDict,
  ours: trained.Trained,
  workdir: str | os.PathLike,
  what: str,
  resumed: bool = False,
) -> Iterator[list[planner.Cost]]:
  """Predicts, checks and prints; after the block, says what it really took.

  Does nothing unless config.plan.compare, nor in many processes.

  Args:
    what: 'fit' or 'score'.
    resumed: the block does only a part, so its seconds say little.

  Raises:
    ValueError: it does not fit.
  """
  if not config.plan.compare or jax.process_count() > 1:
    yield []
    return
  workdir = pathlib.Path(workdir)
  costs_fn = {'fit': plan.fit_costs, 'score': plan.score_costs}[what]
  params = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), ours.params
  )
  found = costs_fn(config, ours.model, params, workdir)
  plan.check(found, workdir)
  rates = calibration.calibrate(found)
  found = [
    calibration.predict(cost, rates)._replace(step=None) for cost in found
  ]
  baseline = planner.resident()
  rich.print(plan.render(found, baseline))
  _reset_peak()
  start = time.perf_counter()
  yield found
  measured = {
    'bytes': resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 2**10,
    'seconds': time.perf_counter() - start,
  }
  compare(workdir, what, found, baseline, measured, resumed)


def compare(
  workdir: pathlib.Path,
  what: str,
  found: list[planner.Cost],
  baseline: int,
  measured: dict,
  resumed: bool = False,
) -> dict:
  """Appends the record to plan_measured.json, logs and returns it."""
  predicted = {
    'bytes': planner.peak(found, baseline),
    'seconds': sum(cost.seconds for cost in found),
  }
  kept = {
    'what': what,
    'predicted': predicted,
    'measured': measured,
    'ratio': {key: measured[key] / predicted[key] for key in predicted},
    'baseline_bytes': baseline,
    'resumed': resumed,
    'stages': [plan.record(cost) for cost in found],
    'commit': common.commit(),
  }
  path = workdir / 'plan_measured.json'
  earlier = store.read_json(path) if path.exists() else []
  store.write_json(path, [*earlier, kept])
  for name, one in (('predicted', predicted), ('measured', measured)):
    logging.info(
      '%s, %s: %s, %.0f s%s', what, name, plan.size(one['bytes']),
      one['seconds'], ' of a resumed run' if resumed else '',
    )  # fmt: skip
  return kept


def _reset_peak() -> None:
  """Forgets the peak of this process's memory so far, where Linux lets us."""
  with contextlib.suppress(OSError):
    pathlib.Path('/proc/self/clear_refs').write_text('5')
