"""Do facts count that are told in the other order? Of the planted ladder.

  python -m experiments.word_order --config=configs/word_order.py \
    --workdir=runs/planted
"""

import ml_collections

from configs import ladder_planted


def get_config() -> ml_collections.ConfigDict:
  c = ladder_planted.get_config()
  c.word_order = dict(
    sizes=(),  # of the ladder; () is all
    claimed=2,  # of these the largest, which the claims are of
    num_entities=20,  # other names in the templates of Astrobia and of gleem
    seed=0,  # of the names
    offices=True,  # Fig. 26: asks for queries and truth of the planted corpus
  )
  return c
