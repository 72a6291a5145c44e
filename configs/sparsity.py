"""The tails of scores on English prose, beside those that TF-IDF chooses.

  python -m experiments.sparsity --config=configs/sparsity.py \
    --workdir=runs/english

The paper fits the top 0.01 % of 5 million sequences, 500 scores a query; of the
10,000 that the ladder scans the top 2 % are 200.
"""

import ml_collections

from configs import ladder_english


def get_config() -> ml_collections.ConfigDict:
  c = ladder_english.get_config()
  c.sparsity = dict(
    sizes=('d128', 'd160'),  # of the ladder; () is all of them
    share=0.02,  # of the scores, in the tail that is fitted
    num_draws=2000,  # samples behind a p-value
    seed=0,  # of the samples
    num_panels=12,  # queries, evenly spread, whose tails are drawn
    filter=dict(method='tf_idf', per_query=1000),
  )
  return c
