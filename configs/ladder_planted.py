"""Four sizes on 3,000 Wikipedia leads and documents of known structure.

  python -m experiments.train_ladder --config=configs/ladder_planted.py \
    --workdir=runs/planted
"""

import ml_collections

from configs import ladder


def get_config() -> ml_collections.ConfigDict:
  c = ladder.get_config()
  c.data.update(
    name='planted',
    source=dict(
      seed=0,
      num_leads=3_000,
      copies=(1, 2, 4, 8, 16, 32),  # of the passages
      passages_per_k=4,  # for each number of copies
      num_offices=500,  # who holds an office: half told forward, half backward
      documents_per_office=5,
      num_lookups=100,  # facts to be known by heart
      documents_per_lookup=8,
      num_sums=16_000,  # documents of a sum modulo 5, as many of a difference
      share_held_out=0.12,  # of the 100 pairs of digits, to be asked about
    ),
    vocab_size=4096,
    max_len=128,
    buckets=(16, 32, 64),
  )
  c.model.update(vocab_size=4096, max_len=128)
  c.train.update(num_epochs=4, batch_tokens=1024)
  c.fit.num_sequences = 4000  # three in four are sums or differences
  c.ladder.queries = dict(seed=0)
  c.ladder.seeds.d128 = (0, 1)  # claims hang on it: d64 learns no procedure
  c.plan.update(num_sequences=(32_319, 2110, 2366, 3325), num_queries=98)
  # Each answer is a third of the scan's cost again: it has 98 queries
  c.score.answers = (dict(name='identity', relative=0.1),)
  return c
