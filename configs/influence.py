"""EK-FAC on the MLPs of a pretrained language model and text of your own.

  python -m experiments.influence --checkpoint=PATH --corpus='DIR/*.jsonl' \
    --queries=q.jsonl --workdir=W
"""

import ml_collections
from ml_collections import config_dict

from configs import files


def get_config() -> ml_collections.ConfigDict:
  c = files.get_config()
  del c.model, c.train, c.data.vocab_size  # the checkpoint has its own
  c.checkpoint = dict(
    path=config_dict.placeholder(str),  # a folder, or a .gguf
    dtype='float32',  # of computation and parameters
    scan=True,  # one compiled block for all layers
    remat=False,
  )
  c.data.update(max_len=128, buckets=(64,))
  del c.fit.num_sequences
  c.fit.num_sequences = config_dict.placeholder(int)  # all, unless given
  c.score.queries = config_dict.placeholder(str)
  c.perplexity = dict(num_sequences=24, batch_tokens=1024)
  c.plan = dict(compare=False)  # experiments.influence plans by itself
  return c
