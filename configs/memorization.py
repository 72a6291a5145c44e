"""Are planted passages found again? Of the planted ladder.

  python -m experiments.memorization --config=configs/memorization.py \
    --workdir=runs/planted
"""

import ml_collections

from configs import ladder_planted


def get_config() -> ml_collections.ConfigDict:
  c = ladder_planted.get_config()
  c.memorization = dict(
    sizes=(),  # of the ladder; () is all
    # Of config.score's answers, or 'bm25'; E9 is of the first.
    methods=('ekfac', 'identity', 'bm25'),
  )
  return c
