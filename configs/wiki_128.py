"""The quickstart with a larger model: width 128, 4 layers, one epoch.

  python -m experiments.quickstart --config=configs/wiki_128.py \
    --workdir=runs/wiki_128
"""

import ml_collections

from configs import quickstart


def get_config() -> ml_collections.ConfigDict:
  c = quickstart.get_config()
  c.model.update(width=128, mlp_width=512, num_heads=4, num_layers=4)
  c.train.update(num_epochs=1, learning_rate=2e-3)
  return c
