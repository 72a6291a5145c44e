"""Four sizes on English prose: leads, speeches, novels, Brown, an FAQ.

  python -m experiments.train_ladder --config=configs/ladder_english.py \
    --workdir=runs/english
"""

import ml_collections

from configs import ladder


def get_config() -> ml_collections.ConfigDict:
  c = ladder.get_config()
  c.data.update(
    name='english_prose',
    source=dict(
      parts=('wiki', 'sotu', 'moby_dick', 'brown', 'anarchism', 'austen'),
      max_chars=60_000,  # of a document: 7.7 million tokens in all
    ),
    vocab_size=4096,
    max_len=128,
    buckets=(64,),
  )
  c.model.update(vocab_size=4096, max_len=128)
  c.score.update(queries='configs/english_queries.jsonl', num_sequences=10_000)
  c.plan.update(num_sequences=(5236, 60_664), num_queries=48)
  return c
