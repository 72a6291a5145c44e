"""Estimates against the proximal Bregman response on 500 of the 8x8 digits.

  python -m experiments.validate_pbrf --config=configs/pbrf_digits.py \
    --workdir=runs/validation/pbrf_digits
"""

import ml_collections

from configs import pbrf_concrete


def get_config() -> ml_collections.ConfigDict:
  c = pbrf_concrete.get_config()
  c.data.update(name='digits', num_train=500, num_test=300)
  c.model.update(widths=(64, 64), num_outputs=10)
  c.loss = 'softmax_cross_entropy'
  c.train.update(num_epochs=50, learning_rate=0.03, weight_decay=1e-4)
  c.validation.update(
    task='digits',
    batch_size=100,
    dampings=(
      *(('absolute', x) for x in (1e-3, 1e-2, 1e-1)),
      *(('relative', x) for x in (0.1, 1.0)),
    ),
  )
  c.validation.bounds.exact = 0.9
  return c
