"""Ranks alone, for the model of `wiki_128`; 20 queries, 1,000 sequences.

  python -m experiments.compression --config=configs/compression_128.py \
    --workdir=runs/wiki_128
"""

import ml_collections

from configs import compression, wiki_128


def get_config() -> ml_collections.ConfigDict:
  c = compression.with_compression(wiki_128.get_config())
  c.compression.parts = ('rank',)
  c.compression.num_sequences = 1000
  return c
