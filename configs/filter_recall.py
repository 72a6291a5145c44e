"""The quickstart's scores; what TF-IDF and BM25 would have kept of the top 100.

  python -m experiments.filter_recall --config=configs/filter_recall.py \
    --workdir=runs/quickstart
"""

import ml_collections

from configs import quickstart


def get_config() -> ml_collections.ConfigDict:
  c = quickstart.get_config()
  c.filter_recall = dict(
    methods=('tf_idf', 'bm25'),
    num_true=100,
    num_points=60,
    missed_at=(100, 300, 1000, 3000),
    seed=0,  # of the random orders
  )
  return c
