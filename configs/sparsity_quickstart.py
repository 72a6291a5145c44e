"""The tails of the quickstart's scores, beside those that TF-IDF chooses.

  python -m experiments.sparsity --config=configs/sparsity_quickstart.py \
    --workdir=runs/quickstart

The paper fits the top 0.01 % of 5 million sequences, 500 scores a query; of
10,194 sequences the top 2 % are 203.
"""

import ml_collections

from configs import quickstart


def get_config() -> ml_collections.ConfigDict:
  c = quickstart.get_config()
  c.sparsity = dict(
    sizes=(),  # without a ladder there is one model
    share=0.02,  # of the scores, in the tail that is fitted
    num_draws=2000,  # samples behind a p-value
    seed=0,  # of the samples
    num_panels=12,  # queries, evenly spread, whose tails are drawn
    filter=dict(method='tf_idf', per_query=1000),
  )
  return c
