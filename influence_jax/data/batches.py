"""Batches of sequences, found from their number alone.

A plan is the list of all batches of a pass. It costs no reading and is the same
wherever it is made, on any mesh, so that a cursor into it is all the state
there is: step s of training is batch s % n of `training_plan(..., epoch=s //
n)`, where n, the length of the plan, is the same in every epoch.

All batches of a bucket have one shape [B, T], so nothing is compiled twice; the
last one is filled up with rows of padding: mask 0, id -1.
"""

from typing import NamedTuple

import numpy as np

from influence_jax import types
from influence_jax.data import sequences as sequences_lib


class BatchSpec(NamedTuple):
  """Which sequences make a batch; all are of one bucket."""

  rows: np.ndarray  # [at most B] int64, their numbers
  size: int  # B
  length: int  # T


def plan(
  sequences: sequences_lib.Sequences,
  batch_tokens: int,
  *,
  limit: int | None = None,
) -> list[BatchSpec]:
  """The batches of all sequences in the order of their numbers.

  Args:
    sequences: N of them.
    batch_tokens: the most positions in a batch, padding counted; but a row.
    limit: take only so many sequences, evenly spread over the numbers, so over
      lengths and documents; None takes all.
  """
  rows = spread(len(sequences), limit)
  return split(sequences, rows, batch_tokens)


def spread(num: int, limit: int | None) -> np.ndarray:
  """`limit` of the numbers below `num`, ascending, evenly; None takes all."""
  if limit is not None and not 0 < limit <= num:
    raise ValueError(
      f'limit={limit}, expected 1 to {num}, the number of sequences; or None'
    )
  limit = limit or num
  return np.arange(limit, dtype=np.int64) * num // limit


def training_plan(
  sequences: sequences_lib.Sequences,
  batch_tokens: int,
  seed: int,
  epoch: int,
) -> list[BatchSpec]:
  """The batches of one epoch: every sequence once, in an order drawn anew.

  Sequences change places within their bucket, then batches in the epoch.
  """
  rng = np.random.default_rng((seed, epoch))
  rows = rng.permutation(len(sequences))
  specs = split(sequences, rows, batch_tokens)
  return [specs[i] for i in rng.permutation(len(specs))]


def get(
  sequences: sequences_lib.Sequences,
  spec: BatchSpec,
  rows: slice = slice(None),
) -> types.Batch:
  """The batch as numpy arrays; padding has token 0 and mask 0.

  So has a row that is not of `rows`: it is not read, but its id is there.
  """
  shape = spec.size, spec.length
  inputs_BxT, targets_BxT = np.zeros((2, *shape), np.int32)
  mask_BxT = np.zeros(shape, np.float32)
  ids_B = np.full(spec.size, -1, np.int32)
  ids_B[: len(spec.rows)] = spec.rows
  for b in range(len(spec.rows))[rows]:
    row = sequences.row(spec.rows[b])
    inputs_BxT[b, : len(row) - 1] = row[:-1]
    targets_BxT[b, : len(row) - 1] = row[1:]
    mask_BxT[b, : len(row) - 1] = 1
  return types.Batch(inputs_BxT, targets_BxT, mask_BxT, ids_B)


def split(
  sequences: sequences_lib.Sequences,
  rows: np.ndarray,
  batch_tokens: int,
) -> list[BatchSpec]:
  """The batches of the sequences `rows`: by bucket, in their order within."""
  buckets = sequences.records['bucket'][rows]
  specs = []
  for length in np.unique(buckets).tolist():
    size = max(1, batch_tokens // length)
    mine = rows[buckets == length]
    specs += [
      BatchSpec(mine[i : i + size], size, length)
      for i in range(0, len(mine), size)
    ]
  return specs
