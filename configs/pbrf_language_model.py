"""Estimates against the proximal Bregman response of a 2-layer language model.

  python -m experiments.validate_pbrf --config=configs/pbrf_language_model.py \
    --workdir=runs/validation/pbrf_language_model

Trained on Wikipedia leads with a vocabulary of 512; G and the response are of
128 of its sequences of 64 positions, since no shortcut to the minimum is exact.
"""

import ml_collections

from configs import pbrf_concrete, quickstart


def get_config() -> ml_collections.ConfigDict:
  c = quickstart.get_config()
  c.data.update(vocab_size=512, max_len=64, buckets=(32,))
  c.model.update(
    vocab_size=512, max_len=64, width=32, mlp_width=128, num_layers=2
  )
  c.train.update(num_epochs=1, batch_tokens=2048)
  c.validation = pbrf_concrete.get_config().validation
  c.validation.update(
    task='language model',
    seeds=(0, 1, 2),
    num_points=40,
    num_queries=5,
    num_train=128,
    length=64,
    batch_size=16,
    claimed=('relative', 0.1),
    dampings=(('relative', 0.1), ('relative', 1.0)),
  )
  c.validation.bounds.exact = 0.9
  c.validation.response.update(
    preconditioner='ekfac', points_at_once=4, points_a_file=20, tolerance=1e-3
  )
  exact = dict(label='exact', solver='cg', preconditioned=True, at=(150,))
  c.validation.methods = tuple(
    exact if method['label'] == 'exact' else method
    for method in map(dict, c.validation.methods)
  )
  return c
