"""A decoder of 52 billion parameters, the paper's largest, on many devices.

  python -m experiments.plan_mesh --config=configs/plan_52b.py \
    --workdir=runs/plan_52b --mesh=8x8

Of that model the paper says the number of parameters, T = 512, that factors
were of MLPs in two blocks a side, rank 32 and 10 million sequences scanned.
Depth, width, vocabulary, the sequences of the fit and dtypes are ours.
"""

import ml_collections
from ml_collections import config_dict


def get_config() -> ml_collections.ConfigDict:
  c = ml_collections.ConfigDict()
  c.decoder = dict(  # fields of models.decoder.DecoderConfig
    vocab_size=65536,
    width=8192,
    mlp_width=32768,
    num_heads=64,
    num_kv_heads=64,
    head_dim=128,
    num_layers=64,
    max_len=512,
    rope=dict(base=1e4, width=128),
    norm='layer',
    epsilon=1e-5,
    activation='gelu',
    gated=False,
    tied=False,
    dtype='bfloat16',
    scan=True,
    remat=True,
  )
  c.layers = r'/mlp/'
  c.plain = config_dict.placeholder(str)
  c.mesh = dict(fsdp=True, rules=())
  c.curvature = dict(name='ekfac_blocks', blocks=2, eigh='float64')
  c.fit = dict(targets='model', num_sequences=100_000)  # ours: it names none
  c.score = dict(num_queries=32, rank=32, num_sequences=10_000_000)
  c.plan = dict(
    steps=('covariance', 'eigenvalue', 'scan'),
    rows=8,  # sequences of a batch on each device of the axis data
    length=512,  # T
    statistics='tf32',  # what products of float32 are computed in
    utilisation=0.4,  # of the peak that products reach: assumed
    link_utilisation=0.7,  # of the peak that what is sent reaches: assumed
  )
  return c
