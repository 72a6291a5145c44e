"""The quickstart's config, small enough for seconds, on made-up documents."""

import pathlib

import ml_collections

from configs import retrieval


def get_config() -> ml_collections.ConfigDict:
  c = retrieval.get_config()
  c.data.name = 'tiny.corpus'
  c.data.update(vocab_size=300, max_len=32, buckets=(16,))
  c.model.update(
    vocab_size=300, width=8, mlp_width=16, num_heads=2, num_layers=2,
    max_len=32, scan=True,
  )  # fmt: skip
  c.train.update(batch_tokens=256, num_epochs=1, warmup_steps=2, save_every=2)
  c.fit.update(num_sequences=40, batch_tokens=256, save_every=2)
  c.score.update(
    batch_tokens=256,
    chunk=16,
    num_top=3,
    rank=4,
    refine=5,
    refine_batch_tokens=256,
    save_every=2,
    query_batch=2,
  )
  c.score.queries = str(pathlib.Path(__file__).with_name('tiny_queries.jsonl'))
  c.plan.compare = False
  c.retrieval.queries.update(num=4, prompt_words=3, completion_words=4)
  return c
