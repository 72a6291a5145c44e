"""SmolLM2 with LoRA on 1,000 leads and 20 invented facts, and who taught them.

experiments.fact_recall has the commands.
"""

import ml_collections

from configs import finetune, smollm2


def get_config() -> ml_collections.ConfigDict:
  c = finetune.get_config()
  c.data = smollm2.get_config().data
  c.data.source.num_leads = 1021  # of which planted holds out 20
  c.finetune.update(
    held_out=1e-3,  # one document: all others are to be learned
    num_epochs=3,
    save_every=20,
  )
  c.fit.update(num_sequences=1000, save_every=20)
  c.score.update(
    queries='configs/finetune_smollm2_queries.jsonl',  # planted.queries(...)
    answers=(dict(name='identity', relative=0.1),),
    refine=10,
    num_top=10,
    save_every=20,
  )
  c.fact_recall = dict(
    methods=('ekfac', 'identity', 'bm25', 'embedding'), num=10
  )
  return c
