"""Estimates against the proximal Bregman response on 500 images of MNIST.

  python -m experiments.validate_pbrf --config=configs/pbrf_mnist.py \
    --workdir=runs/validation/pbrf_mnist
"""

import ml_collections

from configs import pbrf_digits

DAMPINGS = (
  ('absolute', 1e-3),
  ('absolute', 1e-2),
  ('absolute', 1e-1),
  ('relative', 0.1),
)


def get_config() -> ml_collections.ConfigDict:
  c = pbrf_digits.get_config()
  c.data.update(name='mnist', num_test=1000)
  c.model.widths = (256, 256)
  c.validation.update(task='MNIST', num_points=50, dampings=DAMPINGS)
  return c
