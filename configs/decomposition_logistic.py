"""From retraining to influence, step by step: logistic regression on digits.

  python -m experiments.decomposition \
    --config=configs/decomposition_logistic.py \
    --workdir=runs/validation/decomposition_logistic

Full batches at a rate that converges and a damping that is the weight decay:
what is left is linearisation, and each solver's own error.
"""

import ml_collections

from configs import decomposition_digits

DECAY = 1e-2


def get_config() -> ml_collections.ConfigDict:
  c = decomposition_digits.get_config()
  c.model.widths = ()
  c.train.update(
    batch_size=1000,
    num_epochs=600,
    learning_rate=1.0,
    weight_decay=DECAY,
    eval_every=100,
  )
  c.validation.update(task='logistic', batch_size=1000)
  c.leave_one_out.update(seeds=(0, 1))
  c.leave_one_out.minimum.update(tolerance=1e-8, max_steps=1000)
  c.decomposition.damping = DECAY
  return c
