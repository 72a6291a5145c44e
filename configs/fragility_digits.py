"""Depth, width and weight decay against the agreement with retraining: digits.

  python -m experiments.fragility --config=configs/fragility_digits.py \
    --workdir=runs/validation/fragility_digits

Few rows, so that Woodbury's, ten a row, fit at 59,000 parameters.
"""

import ml_collections

from configs import net_concrete


def get_config() -> ml_collections.ConfigDict:
  c = net_concrete.get_config()
  c.data.update(name='digits', num_train=300, num_test=300)
  c.model.update(widths=(), activation='tanh', num_outputs=10)
  c.loss = 'softmax_cross_entropy'
  c.train.update(
    batch_size=50,
    num_epochs=30,
    learning_rate=0.1,
    schedule='cosine',
    eval_every=30,
  )
  c.validation = dict(
    task='digits',
    seed=0,  # of the points and queries
    num_points=30,
    num_queries=20,
    batch_size=300,  # rows at once
    dtype='float64',
    response=dict(
      preconditioner='dense',  # the cell's: woodbury beyond dense_up_to
      epsilon_times_n=-1.0,  # the point is left out
      tolerance=1e-5,  # of the ratio of the gradient's norms
      max_steps=60,
      points_at_once=10,
      points_a_file=30,
    ),
    methods=(
      dict(label='EK-FAC', curvature='ekfac'),
      dict(label='exact', solver='dense', at=(0,)),  # as the preconditioner
    ),
  )
  c.leave_one_out = dict(
    seeds=(0, 1, 2),  # of cold retraining
    warm_epochs=10,
    points_at_once=30,
  )
  c.fragility = dict(
    depths=(0, 1, 2, 4),  # hidden layers
    widths=(8, 32, 128),
    decays=(0.0, 1e-4, 1e-3, 1e-2),
    decay=1e-3,  # of the claims
    least_damping=1e-3,
    dense_up_to=3000,  # parameters
  )
  return c
