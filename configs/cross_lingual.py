"""Influence across languages, on the Bible ladder.

  python -m experiments.cross_lingual --config=configs/cross_lingual.py \
    --workdir=runs/bible
"""

import ml_collections

from configs import ladder_bible


def get_config() -> ml_collections.ConfigDict:
  c = ladder_bible.get_config()
  c.cross_lingual = dict(
    sizes=(),  # of the ladder; () is all of them
    source='en',  # the language that the others are compared with
    group='seen',  # of the verses whose top sequences are taken
    num_top=10,  # sequences of a query
    num_random=40,  # other verses of each group that a translation must outrank
    seed=0,  # of random sequences and verses
    num_shown=2,  # verses whose top sequences are drawn
    scripts=dict(
      en='Latin',
      es='Latin',
      fr='Latin',
      it='Latin',
      de='Latin',
      ru='Cyrillic',
      ko='Hangul',
    ),
  )
  return c
