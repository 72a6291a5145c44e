"""Influence of single tokens, three ways; the quickstart's first 3 queries.

  python -m experiments.tokenwise --config=configs/tokenwise_quickstart.py \
    --workdir=runs/quickstart

For queries of your own: --config.score.folder, where they were scored, and
--config.tokenwise.queries="('id',)".
"""

import ml_collections

from configs import quickstart, tokenwise


def get_config() -> ml_collections.ConfigDict:
  c = tokenwise.with_tokenwise(quickstart.get_config())
  c.tokenwise.update(sizes=(), queries=())
  return c
