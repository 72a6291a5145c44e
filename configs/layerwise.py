"""Through which blocks does influence pass? Of the planted ladder.

  python -m experiments.layerwise --config=configs/layerwise.py \
    --workdir=runs/planted
"""

import ml_collections

from configs import ladder_planted


def with_layerwise(c: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
  """`c`, of any scored workdir or ladder, with the study's section."""
  c.layerwise = dict(
    sizes=('d128', 'd160'),  # of the ladder; () is all
    num_top=50,  # sequences a query, at most; score.num_top has to be as many
    label='class',  # of the queries, by which they are told apart; '' is none
    upper=('memorised', 'simple', 'lookup'),  # E12: these are above ...
    middle=('sum', 'difference'),  # ... these; two times () leaves E12 out
    num_permutations=9999,
    seed=0,  # of the permutations
    num_overlap=10,  # first of each third's order, whose words are compared
    outside='',  # regular expression of layers of no block, as 'lm_head'
  )
  return c


def get_config() -> ml_collections.ConfigDict:
  return with_layerwise(ladder_planted.get_config())
