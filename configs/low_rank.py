"""Ranks 1 to 64: 12 English queries against 500 sequences, three seeds of d128.

  python -m experiments.low_rank --config=configs/low_rank.py \
    --workdir=runs/english
"""

import ml_collections

from configs import compression, ladder_english

QUERIES = (  # the first 8 have colours
  *('shutdown', 'bullet', 'paperclips', 'inflation', 'whale', 'treaty'),
  *('truth_universally', 'hamlet', 'planet', 'evolution', 'elinor'),
  'clips_sold',
)


def get_config() -> ml_collections.ConfigDict:
  c = compression.with_compression(ladder_english.get_config())
  c.low_rank = dict(
    sizes=('d128',),  # of the ladder; () is all of them
    shown='shutdown',  # the query of the scatter
  )
  c.compression.update(parts=('rank',), num_sequences=500)
  c.compression.queries.update(
    path='configs/english_queries.jsonl', ids=QUERIES, num=0
  )
  c.compression.rank.update(
    ranks=(1, 2, 4, 8, 16, 32, 64), methods=('randomised',), rescored=()
  )
  return c
