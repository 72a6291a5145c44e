"""Estimates against the proximal Bregman response of a 2-layer language model.

  python -m experiments.validate_pbrf --config=configs/pbrf_language_model.py \
    --workdir=runs/validation/pbrf_language_model

Trained on 42,201 sequences of Wikipedia leads with a vocabulary of 512. G and
the response are of 32 of them with 64 positions, since G itself, a product a
parameter, is the preconditioner: with EK-FAC the responses did not converge in
a trial. What is added is one copy in all that the model was trained on: of one
in 32, no response converged in 30 steps.
"""

import ml_collections

from configs import pbrf_concrete, quickstart


def get_config() -> ml_collections.ConfigDict:
  c = quickstart.get_config()
  c.data.update(vocab_size=512, max_len=64, buckets=(32,))
  c.model.update(
    vocab_size=512, max_len=64, width=24, mlp_width=96, num_layers=2
  )
  c.train.update(num_epochs=1, batch_tokens=2048)
  c.validation = pbrf_concrete.get_config().validation
  c.validation.update(
    task='language model',
    seeds=(0,),
    num_points=32,
    num_queries=5,
    num_train=32,
    length=64,
    batch_size=8,
    claimed=('relative', 0.1),
    dampings=(('relative', 0.1),),
  )
  c.validation.bounds.exact = 0.9
  c.validation.response.update(
    preconditioner='dense', points_at_once=8, epsilon_times_n=32 / 42_201
  )
  c.validation.methods = tuple(
    {**method, 'solver': 'dense'} if method['label'] == 'exact' else method
    for method in map(dict, c.validation.methods)
  )
  return c
