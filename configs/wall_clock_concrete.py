"""Seconds until estimates agree with the response on Concrete, Fig. 7.

  python -m experiments.wall_clock --config=configs/wall_clock_concrete.py \
    --workdir=runs/validation/wall_clock_concrete
"""

import ml_collections

from configs import pbrf_concrete

STEPS = (1, 3, 10, 30, 100, 300, 721)


def get_config() -> ml_collections.ConfigDict:
  c = pbrf_concrete.get_config()
  c.validation.num_queries = 100
  c.validation.methods = (
    dict(label='gradient dot product', curvature='identity'),
    dict(label='K-FAC', curvature='kfac'),
    dict(label='EK-FAC', curvature='ekfac'),
    dict(label='LiSSA', solver='lissa', at=STEPS),
    dict(label='CG', solver='cg', preconditioned=False, at=(1, 3, 10, 30)),
    dict(label='EK-FAC-CG', solver='cg', at=(0, 1, 3, 10, 30)),
    dict(label='ASTRA', solver='astra', rate=0.01, at=(0, 10, 30, 100)),
    dict(label='exact', solver='woodbury', at=(0,)),
  )
  c.wall_clock = dict(
    measurements=(1, 10, 100),
    claimed=10,  # of them E4 is
  )
  return c
