"""Estimates against the proximal Bregman response on UCI Concrete, 721 rows.

  python -m experiments.validate_pbrf --config=configs/pbrf_concrete.py \
    --workdir=runs/validation/pbrf_concrete
"""

import ml_collections

from configs import net_concrete

ABSOLUTE = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
RELATIVE = (0.01, 0.1, 1.0, 10.0)


def get_config() -> ml_collections.ConfigDict:
  c = net_concrete.get_config()
  c.validation = dict(
    task='concrete',
    seeds=(0, 1, 2),  # of training
    seed=0,  # of the points and queries
    num_points=100,
    num_queries=10,
    batch_size=103,  # rows at once; a step of LiSSA and ASTRA sees so many
    dtype='float64',
    dampings=(
      *(('absolute', x) for x in ABSOLUTE),
      *(('relative', x) for x in RELATIVE),
    ),
    claimed=('absolute', 1e-2),
    bounds=dict(exact=0.95),
    response=dict(
      preconditioner='woodbury',  # or 'dense', 'ekfac'
      epsilon_times_n=1.0,  # one more copy of the point
      tolerance=1e-4,  # of the ratio of the gradient's norms
      max_steps=30,  # where a unit of relu is at its kink no step may help
      points_at_once=25,
      points_a_file=50,
    ),
    methods=(
      dict(label='gradient dot product', curvature='identity'),
      dict(label='diagonal', curvature='diagonal'),
      dict(label='K-FAC', curvature='kfac'),
      dict(label='EK-FAC', curvature='ekfac'),
      dict(label='Shampoo', curvature='shampoo'),
      dict(label='block-diagonal', solver='block_diagonal', at=(30,)),
      dict(label='LiSSA', solver='lissa', at=(10, 30, 100, 300, 721)),
      dict(label='CG', solver='cg', preconditioned=False, at=(1, 3, 10, 30)),
      dict(label='EK-FAC-CG', solver='cg', at=(0, 1, 3, 10, 30)),
      dict(label='ASTRA', solver='astra', rate=0.01, at=(0, 10, 30, 100, 300)),
      dict(label='exact', solver='woodbury', at=(0,)),
    ),
  )
  return c
