"""EK-FAC on a 3-layer LM trained on 10,033 Wikipedia leads; 10 queries.

  python -m experiments.quickstart --config=configs/quickstart.py \
    --workdir=runs/quickstart
"""

import ml_collections
from ml_collections import config_dict


def get_config() -> ml_collections.ConfigDict:
  c = ml_collections.ConfigDict()
  c.data = dict(
    name='wiki_leads',
    data_dir='~/.cache/influence_jax/tfds',
    source=dict(),  # what else the corpus's load() is to be told
    vocab_size=8192,
    max_len=256,
    buckets=(80, 128, 176),
  )
  c.model = dict(
    name='transformer',
    vocab_size=8192,
    width=64,
    mlp_width=256,
    num_heads=2,
    num_layers=3,
    max_len=256,
    dtype='float32',
    scan=False,
    remat=False,
  )
  c.train = dict(
    batch_tokens=1024,
    num_epochs=2,
    learning_rate=3e-3,
    warmup_steps=100,
    weight_decay=0.1,
    clip_norm=1.0,
    seed=0,
    save_every=500,
  )
  c.layers = r'/mlp/'
  c.plain = config_dict.placeholder(str)  # r'emb|norm': see docs/pretrained.md
  c.mesh = dict(
    # Devices that share the rows of a batch; None is all
    data=config_dict.placeholder(int),
    model=1,  # devices that share matrices
    fsdp=False,  # parameters are split over `data`, too
    rules=(),  # (pattern, axes) of parameters, before sharding.RULES
  )
  c.curvature = dict(name='ekfac', eigh='float64')
  c.fit = dict(
    targets='model',
    num_sequences=2000,
    batch_tokens=1024,
    seed=0,
    save_every=100,
  )
  c.damping = dict(relative=0.1, absolute=None)
  c.score = dict(
    queries='configs/quickstart_queries.jsonl',
    folder='scores',  # another one keeps other queries in the same workdir
    batch_tokens=1024,
    rank=32,  # of the queries in the scan; None holds them whole
    weighted=True,  # truncated in the metric of the curvature
    svd='randomised',  # or 'exact'
    query_batch=16,  # queries solved at once
    answers=(),  # more of dict(name='kfac', relative=0.1) in the same pass
    # Scanned, evenly spread; None is all of them
    num_sequences=config_dict.placeholder(int),
    candidates=dict(method='all', per_query=10_000),  # 'tf_idf', 'bm25'
    matrix=True,  # keep queries x sequences, too
    chunk=1024,  # sequences a chunk of the matrix
    save_every=200,  # batches
    refine=100,  # top sequences scored again at full rank; 0 is none
    refine_batch_tokens=1024,
    refine_float64=False,
    num_top=20,  # with scores by token and layer
  )
  c.plan = dict(
    compare=False,  # fit and score say what they will cost, and what they did
    num_sequences=(
      3500,
      3300,
      1700,
      1700,
    ),  # by bucket, until there is a corpus
    num_queries=10,  # until there is a file of them
  )
  c.report = dict(num_shown=3)
  return c
