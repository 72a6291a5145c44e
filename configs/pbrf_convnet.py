"""The same of a convolutional net, 500 images of FashionMNIST.

  python -m experiments.validate_pbrf --config=configs/pbrf_convnet.py \
    --workdir=runs/validation/pbrf_convnet
"""

import ml_collections

from configs import pbrf_fashion_mnist


def get_config() -> ml_collections.ConfigDict:
  c = pbrf_fashion_mnist.get_config()
  c.model = dict(
    name='convnet',
    channels=(8, 16),
    activation='tanh',
    num_outputs=10,
    dtype='float64',
  )
  c.validation.update(
    task='FashionMNIST, convolutions',
    seeds=(0,),
    num_points=25,
    dampings=(c.validation.claimed,),
  )
  return c
