"""Through which blocks does influence pass? Of one model, the quickstart's.

  python -m experiments.layerwise --config=configs/layerwise_quickstart.py \
    --workdir=runs/quickstart

For queries of your own: --config.score.folder, where they were scored.
"""

import ml_collections

from configs import layerwise, quickstart


def get_config() -> ml_collections.ConfigDict:
  c = layerwise.with_layerwise(quickstart.get_config())
  c.layerwise.update(sizes=(), num_top=20, label='', upper=(), middle=())
  return c
