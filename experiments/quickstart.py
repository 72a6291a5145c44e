"""The whole job: train, fit, score, show. The same command again goes on.

  python -m experiments.quickstart --config=configs/quickstart.py \
    --workdir=runs/quickstart
"""

import os
import time

import rich
from ml_collections import ConfigDict

from experiments import common, fit_curvature, report, score, train
from influence_jax import processes

STAGES = {
  'train the language model': train.run,
  'fit its curvature': fit_curvature.run,
  'score all training sequences': score.run,
  'report': report.run,
}


def run(config: ConfigDict, workdir: str | os.PathLike) -> None:
  for name, stage in STAGES.items():
    rich.print(f'[bold]{name}[/bold]')
    start = time.perf_counter()
    stage(config, workdir)
    processes.wait(name)  # the next one reads what the first process wrote
    rich.print(f'[dim]{name}: {time.perf_counter() - start:.1f} s[/dim]')


if __name__ == '__main__':
  common.main(run)
