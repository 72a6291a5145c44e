"""The quickstart's model; 20 queries against 2,000 of its sequences.

  python -m experiments.compression --config=configs/compression.py \
    --workdir=runs/quickstart
"""

import ml_collections

from configs import quickstart


def with_compression(c: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
  """`c`, of any trained workdir, with the study's section."""
  c.compression = dict(
    parts=('rank', 'blocks', 'precision', 'draw'),
    num_sequences=2000,  # candidates, evenly spread
    batch_tokens=4096,  # low-rank queries are multiplied out once a batch
    num_top=10,  # whose overlap is counted
    queries=dict(
      path='configs/quickstart_queries.jsonl',
      ids=(),  # of those in the file; () is all
      num=10,  # more, out of articles
      prompt_words=12,
      completion_words=20,
      seed=0,
    ),
    rank=dict(
      ranks=(8, 16, 32, 64, 128),
      methods=('randomised', 'exact'),
      rescored=(10, 30, 100, 300),  # 10 of 10 is no refinement
    ),
    blocks=dict(blocks=(1, 2, 4, 8, 16)),
    precision=dict(dtype='bfloat16'),
    draw=dict(seed=1),  # of another fit's labels
  )
  return c


def get_config() -> ml_collections.ConfigDict:
  return with_compression(quickstart.get_config())
