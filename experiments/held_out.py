"""Loss of a model on the documents that its corpus keeps out of training."""

import pathlib

import jax
import numpy as np
from ml_collections import ConfigDict

from experiments import common, corpus, trained
from influence_jax import sharding
from influence_jax.data import batches as batches_lib
from influence_jax.data import sequences as sequences_lib


def sequences(
  config: ConfigDict, made: corpus.Corpus, folder: pathlib.Path
) -> sequences_lib.Sequences:
  """Those of the corpus's held_out(source), kept in `folder`."""
  try:
    return sequences_lib.open(folder)
  except ValueError:
    return sequences_lib.build(
      made.module.held_out(made.source), made.tokenizer, config.data.max_len,
      folder, buckets=config.data.buckets,
    )  # fmt: skip


def loss(
  config: ConfigDict,
  ours: trained.Trained,
  held_out: sequences_lib.Sequences,
  limit: int | None,
  batch_tokens: int,
) -> float:
  """Nats a token, the mean over `limit` of the sequences, evenly spread."""
  mesh = common.mesh(config)

  @jax.jit
  def sums(params, batch):
    outputs = ours.model.apply_fn(params, batch.inputs)
    losses_B = ours.model.loss.per_sequence(outputs, batch.targets, batch.mask)
    return losses_B.sum(), batch.mask.sum()

  plan = batches_lib.plan(
    held_out, batch_tokens,
    limit=min(limit or len(held_out), len(held_out)),
  )  # fmt: skip
  params = common.place(config, mesh, ours.params)
  # One at a time: devices of a host that wait for each other in several
  # programs at once may wait for ever.
  found = [
    jax.device_get(
      sums(params, sharding.shard_batch(mesh, batches_lib.get(held_out, spec)))
    )
    for spec in plan
  ]
  total, num = np.sum(found, axis=0, dtype=np.float64)
  return float(total / num)
