"""Keywords in the top 50 sequences of 33 English queries, by four methods.

  python -m experiments.dot_product --config=configs/dot_product.py \
    --workdir=runs/english
"""

import ml_collections

from configs import ladder_english


def get_config() -> ml_collections.ConfigDict:
  c = ladder_english.get_config()
  c.dot_product = dict(
    sizes=('d128', 'd160'),  # of the ladder; () is all of them
    num_top=50,  # sequences of each query that are looked at
  )
  return c
