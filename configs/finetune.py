"""LoRA on a pretrained language model and text of your own, then its influence.

  python -m experiments.finetune --checkpoint=PATH --corpus='DIR/*.jsonl' \
    --workdir=W
  python -m experiments.influence --config=configs/finetune.py \
    --checkpoint=PATH --corpus='DIR/*.jsonl' --queries=q.jsonl --workdir=W
"""

import ml_collections

from configs import influence


def get_config() -> ml_collections.ConfigDict:
  c = influence.get_config()
  c.finetune = dict(
    method='lora',  # or 'full': all parameters
    rank=8,  # rank, alpha and layers are of 'lora' alone
    alpha=16.0,  # (alpha / rank) A B is added
    layers=r'/(attn|mlp)/',  # regular expression: dense layers that have A, B
    held_out=0.05,  # share of the documents that is not trained on
    batch_tokens=1024,
    num_epochs=1,
    learning_rate=2e-4,
    warmup_steps=10,
    weight_decay=0.0,
    clip_norm=1.0,
    seed=0,  # of A, of the held-out documents and of the order of the others
    save_every=200,  # steps
  )
  c.layers = (
    r'/lora_[ab]$'  # r'/mlp/\w+$' is of the weights below, or of 'full'
  )
  return c
