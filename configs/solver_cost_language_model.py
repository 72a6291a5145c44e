"""Solvers against the exact damped solve on a 2-layer model of Wikipedia leads.

The model of configs/pbrf_language_model.py: in the workdir of one of its seeds,
as runs/validation/pbrf_language_model/seed0, nothing is trained again.

  python -m experiments.solver_cost \
    --config=configs/solver_cost_language_model.py \
    --workdir=runs/validation/solver_cost_language_model
"""

import ml_collections

from configs import pbrf_language_model, solver_cost_small


def get_config() -> ml_collections.ConfigDict:
  c = pbrf_language_model.get_config()
  c.case = dict(folder=None)  # the workdir's own
  theirs = c.validation
  c.validation = solver_cost_small.get_config().validation
  c.validation.update(
    task='language model',
    batch_size=theirs.batch_size,  # a quarter of the sequences
    num_points=theirs.num_train,  # all: a score costs little
    num_train=theirs.num_train,
    length=theirs.length,
  )
  return c
