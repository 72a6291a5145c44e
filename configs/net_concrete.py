"""An MLP 8-128-128-1 on UCI Concrete, 721 rows. Seconds on a CPU.

  python -m experiments.train_net --config=configs/net_concrete.py \
    --workdir=runs/net_concrete
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
  c = ml_collections.ConfigDict()
  c.data = dict(
    name='concrete',
    data_dir='~/.cache/influence_jax/tfds',
    num_train=None,  # 70 % of the rows
    num_test=None,  # 10 %; the rest validates
    seed=0,
  )
  c.model = dict(
    name='mlp',
    widths=(128, 128),
    activation='tanh',
    num_outputs=1,
    dtype='float64',
  )
  c.loss = 'squared_error'
  c.train = dict(
    batch_size=128,
    num_epochs=200,
    learning_rate=0.01,
    schedule='constant',
    momentum=0.9,
    weight_decay=1e-4,
    seed=0,
    eval_every=20,
  )
  c.layers = ''  # all
  return c
