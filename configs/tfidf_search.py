"""How many of 10,000 English sequences match the top 10 of 1,000 by TF-IDF?

  python -m experiments.tfidf_search --config=configs/tfidf_search.py \
    --workdir=runs/english
"""

import ml_collections

from configs import ladder_english


def get_config() -> ml_collections.ConfigDict:
  c = ladder_english.get_config()
  c.tfidf_search = dict(
    sizes=('d128', 'd160'),  # of the ladder; () is all of them
    per_query=1000,  # that TF-IDF chooses, a tenth of the scan
    share=0.02,  # of the scores, in the tail that is fitted
    num_true=100,  # best of the scan, that TF-IDF is to find
    num_points=60,  # of the recall curve
  )
  return c
