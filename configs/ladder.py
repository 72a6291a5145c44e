"""What the ladders have in common: four sizes, their seeds, their scores.

No experiment of its own: see ladder_english, ladder_bible, ladder_planted.
"""

import ml_collections

from configs import quickstart

MODELS = dict(
  d64=dict(width=64, mlp_width=256, num_heads=2, num_layers=2),
  d96=dict(width=96, mlp_width=384, num_heads=3, num_layers=3),
  d128=dict(width=128, mlp_width=512, num_heads=4, num_layers=4),
  d160=dict(width=160, mlp_width=640, num_heads=5, num_layers=5),
)
# Fewer where it takes longer: all of `make figures` is to take six hours
SEEDS = dict(d64=(0, 1, 2), d96=(0, 1, 2), d128=(0,), d160=(0,))


def get_config() -> ml_collections.ConfigDict:
  c = quickstart.get_config()
  c.ladder = dict(
    sizes=tuple(MODELS),  # smallest first
    models=MODELS,
    seeds=SEEDS,
    queries=ml_collections.config_dict.placeholder(dict),
    num_held_out=1000,  # sequences behind the loss on held-out text
  )
  c.train.update(num_epochs=1, learning_rate=3e-3, batch_tokens=2048)
  c.fit.update(num_sequences=2000, batch_tokens=2048)
  c.score.update(
    batch_tokens=8192,  # low-rank queries are multiplied out once a batch
    answers=(
      dict(name='identity', relative=0.1),
      dict(name='kfac', relative=0.1),
    ),
    refine=50,
    num_top=50,
  )
  return c
