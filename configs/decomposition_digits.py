"""From retraining to influence, step by step: an MLP on 1,000 digits.

  python -m experiments.decomposition --config=configs/decomposition_digits.py \
    --workdir=runs/validation/decomposition_digits
"""

import ml_collections

from configs import net_concrete


def get_config() -> ml_collections.ConfigDict:
  c = net_concrete.get_config()
  c.data.update(name='digits', num_train=1000, num_test=300)
  # tanh: where a relu has its kink, a minimum has no gradient that is 0
  c.model.update(widths=(32,), activation='tanh', num_outputs=10)
  c.loss = 'softmax_cross_entropy'
  c.train.update(
    batch_size=100, num_epochs=100, learning_rate=0.03, weight_decay=1e-3
  )
  c.validation = dict(
    task='digits',
    seed=0,  # of the points and queries
    num_points=60,
    num_queries=20,
    batch_size=100,  # rows at once, and LiSSA's batch
    dtype='float64',
    response=dict(
      preconditioner='dense',
      epsilon_times_n=-1.0,  # the point is left out
      tolerance=1e-6,  # of the ratio of the gradient's norms
      max_steps=100,
      points_at_once=20,
      points_a_file=20,
    ),
    methods=(
      dict(label='exact', solver='dense', at=(0,)),
      dict(label='EK-FAC', curvature='ekfac'),
      dict(label='LiSSA', solver='lissa', at=(200,)),
      dict(label='CG', solver='cg', preconditioned=False, at=(10,)),
    ),
  )
  c.leave_one_out = dict(
    seeds=(0, 1, 2, 3, 4, 5, 6, 7),  # of cold retraining
    points_at_once=20,
    minimum=dict(tolerance=1e-6, max_steps=3000),
  )
  c.decomposition = dict(damping=1e-2)  # weight decay is a part of it
  return c
