"""SmolLM2-135M-Instruct, 1,480 leads and 20 invented facts; 20 queries.

  python -m experiments.influence --smollm2 --config=configs/smollm2.py \
    --workdir=runs/smollm2

The model has seen neither the facts nor, as far as anybody can say, these very
leads: a score says what a sequence would do if it were trained on.
"""

import ml_collections

from configs import influence


def get_config() -> ml_collections.ConfigDict:
  c = influence.get_config()
  c.data.name = 'planted'
  c.data.source = dict(
    seed=0,
    num_leads=1480,
    spread_leads=True,  # over all topics
    copies=(),
    passages_per_k=0,
    num_offices=0,
    num_lookups=20,  # invented facts
    documents_per_lookup=8,
    num_sums=0,
  )
  c.fit.update(num_sequences=1000, save_every=20)
  c.score.update(
    queries='configs/smollm2_queries.jsonl',
    query_batch=4,  # one takes 2 GB while it is solved
    refine=10,  # of a query's top and bottom are scored again at full rank
    num_top=10,
    save_every=20,
  )
  return c
