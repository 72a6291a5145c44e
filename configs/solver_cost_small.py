"""Solvers against the exact damped solve on the small parity case, MLP layers.

  python -m experiments.solver_cost --config=configs/solver_cost_small.py \
    --config.case.folder=DIR --workdir=runs/solver_cost_small
"""

import ml_collections

METHODS = (
  dict(label='identity', curvature='identity'),
  dict(label='diagonal', curvature='diagonal'),
  dict(label='K-FAC', curvature='kfac'),
  dict(label='EK-FAC', curvature='ekfac'),
  dict(label='EK-FAC, sub-blocks', curvature='ekfac_blocks'),  # 2 a side
  dict(label='Shampoo', curvature='shampoo'),
  dict(label='block-diagonal', solver='block_diagonal', at=(10,)),
  dict(label='LiSSA', solver='lissa', at=(10, 30, 100, 300, 500, 700, 1000)),
  dict(
    label='CG', solver='cg', preconditioned=False, at=(1, 2, 3, 5, 10, 20, 40)
  ),
  dict(label='EK-FAC-CG', solver='cg', at=(0, 1, 2, 3, 4, 5, 7, 10, 20, 30)),
  dict(label='ASTRA', solver='astra', rate=0.01, at=(0, 10, 30, 100, 300)),
  dict(label='exact', solver='cg', at=(300,)),  # 220 leave 2e-3
)


def get_config() -> ml_collections.ConfigDict:
  c = ml_collections.ConfigDict()
  c.case = dict(
    folder='',  # of the case: a flag has to name it
    layers=r'/mlp/',
  )
  c.validation = dict(
    task='small transformer',
    seed=0,  # of EK-FAC's targets
    num_points=512,  # of the training sequences are scored
    num_queries=3,  # the first
    batch_size=32,  # of a step of LiSSA and ASTRA
    dtype='float64',
    damping=('relative', 0.1),
    exact_residual=1e-3,
    methods=METHODS,
  )
  return c
