"""Influence of single tokens, three ways; a query of each planted class.

  python -m experiments.tokenwise --config=configs/tokenwise.py \
    --workdir=runs/planted
"""

import ml_collections

from configs import ladder_planted


def with_tokenwise(c: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
  """`c`, of any scored workdir or ladder, with the study's section."""
  c.tokenwise = dict(
    sizes=('d128', 'd160'),  # of the ladder; () is all
    queries=(  # ids; () is the first num_queries
      'simple-00',
      'office-00',
      'sum-00',
      'lookup-00',
      'difference-00',
      'memorised-00',
    ),
    num_queries=3,
    num_sequences=3,  # of each, the first that are not spurious
    # |alpha p| as shares of |parameters|: large ones are not yet linear, small
    # ones are lost in rounding.
    steps=(1e-2, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5, 3e-6, 1e-6),
    embedding='tok_emb',  # regular expression of the tokens' embedding
    label='class',  # of the queries, by which spurious ones are counted
    num_shown=3,  # queries, the first sequence of each
  )
  return c


def get_config() -> ml_collections.ConfigDict:
  return with_tokenwise(ladder_planted.get_config())
