"""Estimates against the proximal Bregman response of a 2-layer language model.

Trained on English prose; G and the response are of 512 of its sequences.

  python -m experiments.validate_pbrf --config=configs/pbrf_language_model.py \
    --workdir=runs/pbrf_language_model
"""

import ml_collections

from configs import ladder_english, pbrf_concrete


def get_config() -> ml_collections.ConfigDict:
  c = ladder_english.get_config()
  c.model.update(c.ladder.models.d64)
  del c.ladder
  c.validation = pbrf_concrete.get_config().validation
  c.validation.update(
    task='language model',
    seeds=(0,),
    num_points=100,
    num_queries=5,
    num_train=512,
    length=64,
    batch_size=64,
    claimed=('relative', 0.1),
    dampings=(('relative', 0.1), ('relative', 1.0)),
  )
  c.validation.bounds.exact = 0.9
  c.validation.response.update(preconditioner='ekfac', points_at_once=4)
  c.validation.methods = tuple(
    {**method, 'solver': 'cg', 'at': (100,)}
    if method['label'] == 'exact'
    else method
    for method in map(dict, c.validation.methods)
  )
  return c
