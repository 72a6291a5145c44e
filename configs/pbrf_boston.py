"""Estimates against the proximal Bregman response on Boston Housing, 354 rows.

  python -m experiments.validate_pbrf --config=configs/pbrf_boston.py \
    --workdir=runs/validation/pbrf_boston
"""

import ml_collections

from configs import pbrf_concrete


def get_config() -> ml_collections.ConfigDict:
  c = pbrf_concrete.get_config()
  c.data.name = 'boston'
  c.validation.update(
    task='boston',
    batch_size=59,
    dampings=(('absolute', 1e-2), ('absolute', 1e-1), ('relative', 0.1)),
  )
  return c
