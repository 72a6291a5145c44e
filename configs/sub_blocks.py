"""1 to 16 blocks a side: 12 English queries, 500 sequences, 3 seeds of d128.

  python -m experiments.sub_blocks --config=configs/sub_blocks.py \
    --workdir=runs/english
"""

import ml_collections

from configs import low_rank


def get_config() -> ml_collections.ConfigDict:
  c = low_rank.get_config()
  del c.low_rank
  c.sub_blocks = dict(sizes=('d128',))  # of the ladder; () is all of them
  c.compression.parts = ('blocks',)
  c.compression.blocks.blocks = (1, 2, 4, 8, 16)
  return c
