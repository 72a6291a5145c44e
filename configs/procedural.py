"""Procedures and facts of the planted corpus: whose influence is alike?

  python -m experiments.procedural --config=configs/procedural.py \
    --workdir=runs/planted
"""

import ml_collections

from configs import ladder_planted


def get_config() -> ml_collections.ConfigDict:
  c = ladder_planted.get_config()
  c.procedural = dict(
    sizes=(),  # of the ladder; () is all of them
    num_top=20,  # documents of each query that are looked at
  )
  return c
