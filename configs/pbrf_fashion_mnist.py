"""Estimates against the proximal Bregman response on 500 of FashionMNIST.

  python -m experiments.validate_pbrf --config=configs/pbrf_fashion_mnist.py \
    --workdir=runs/validation/pbrf_fashion_mnist
"""

import ml_collections

from configs import pbrf_mnist


def get_config() -> ml_collections.ConfigDict:
  c = pbrf_mnist.get_config()
  c.data.name = 'fashion_mnist'
  c.validation.task = 'FashionMNIST'
  return c
