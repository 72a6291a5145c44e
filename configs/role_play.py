"""Top sequences of answers like an assistant's. Of the English ladder.

  python -m experiments.role_play --config=configs/role_play.py \
    --workdir=runs/english
"""

import ml_collections

from configs import ladder_english


def get_config() -> ml_collections.ConfigDict:
  c = ladder_english.get_config()
  c.role_play = dict(
    num_top=20,  # sequences a query, whose tokens are compared
    num_shown=3,  # sequences a query in result.json and on the terminal
  )
  return c
