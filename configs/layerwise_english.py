"""Through which blocks does influence pass? Of the English ladder.

  python -m experiments.layerwise --config=configs/layerwise_english.py \
    --workdir=runs/english
"""

import ml_collections

from configs import ladder_english, layerwise


def get_config() -> ml_collections.ConfigDict:
  c = layerwise.with_layerwise(ladder_english.get_config())
  c.layerwise.update(upper=(), middle=())  # no class of sums: no E12
  return c
