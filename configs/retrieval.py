"""The quickstart's model and factors; 50 completions out of 50 articles.

  python -m experiments.retrieval --config=configs/retrieval.py \
    --workdir=runs/quickstart
"""

import ml_collections

from configs import quickstart


def get_config() -> ml_collections.ConfigDict:
  c = quickstart.get_config()
  c.score.rank = None
  c.retrieval = dict(
    approximations=('ekfac', 'kfac', 'identity'),
    queries=dict(num=50, prompt_words=12, completion_words=20, seed=0),
  )
  return c
