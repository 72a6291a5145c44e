"""FashionMNIST with ReLU: how far the responses get, and what it changes.

  python -m experiments.validate_pbrf --config=configs/pbrf_relu.py \
    --workdir=runs/validation/pbrf_relu
"""

import ml_collections

from configs import pbrf_fashion_mnist


def get_config() -> ml_collections.ConfigDict:
  c = pbrf_fashion_mnist.get_config()
  c.model.activation = 'relu'
  c.validation.update(
    task='FashionMNIST, ReLU',
    seeds=(0,),
    num_points=25,
    dampings=(c.validation.claimed,),
  )
  c.validation.response.max_steps = 10  # a step at a kink is halved 30 times
  return c
