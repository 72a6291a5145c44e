"""Four sizes on the New Testament in seven languages, verse by verse.

  python -m experiments.train_ladder --config=configs/ladder_bible.py \
    --workdir=runs/bible
"""

import ml_collections

from configs import ladder


def get_config() -> ml_collections.ConfigDict:
  c = ladder.get_config()
  c.data.update(
    name='bible_verses',
    source=dict(
      languages=('en', 'es', 'fr', 'it', 'de', 'ru', 'ko'),
      books=(40, 66),
      unseen=0.02,  # of the verses, trained on in no language
      single=0.05,  # in one language only
      seed=0,
    ),
    vocab_size=8192,
    max_len=128,
    buckets=(32, 48, 64),
  )
  c.model.update(vocab_size=8192, max_len=128)
  c.train.batch_tokens = 1024
  c.ladder.queries = dict(num_per_group=8, seed=0)
  c.score.update(
    answers=(), num_sequences=16_000, query_batch=32, refine=0, num_top=0
  )
  c.plan.update(num_sequences=(25_864, 18_594, 6295, 1339), num_queries=168)
  return c
