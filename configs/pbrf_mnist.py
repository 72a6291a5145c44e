"""Estimates against the proximal Bregman response on 500 images of MNIST.

  python -m experiments.validate_pbrf --config=configs/pbrf_mnist.py \
    --workdir=runs/validation/pbrf_mnist

784-256-256-10 with tanh: where a unit of ReLU is at its kink, the gradient of
the objective is 0 nowhere near the minimum (configs/pbrf_relu.py).
"""

import ml_collections

from configs import pbrf_digits


def get_config() -> ml_collections.ConfigDict:
  c = pbrf_digits.get_config()
  c.data.update(name='mnist', num_test=1000)
  c.model.widths = (256, 256)
  c.validation.update(
    task='MNIST',
    num_points=50,
    dampings=(('absolute', 1e-2),),  # at .1 of the mean eigenvalue: hours
  )
  return c
