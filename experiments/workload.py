"""How much there is to do: sequences by length, queries, shapes of batches.

From the workdir's corpus and tokenizer if it has them; else from the config's
section `plan`, so that a run can be planned before anything is made.
"""

import math
import pathlib

import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from experiments import trained
from influence_jax import sharding
from influence_jax.data import queries as queries_lib
from influence_jax.data import sequences as sequences_lib
from influence_jax.data import tokenizer as tokenizer_lib


def num_sequences(config: ConfigDict, workdir: pathlib.Path) -> dict[int, int]:
  """{T: number of sequences}: the corpus's, else config.plan's."""
  if (workdir / 'sequences' / sequences_lib.INFO).exists():
    records = sequences_lib.open(workdir / 'sequences').records
    lengths, numbers = np.unique(records['bucket'], return_counts=True)
    return dict(zip(lengths.tolist(), numbers.tolist(), strict=True))
  if 'plan' not in config:
    raise ValueError(
      f'{workdir} has no corpus yet and the config has no section plan: make '
      'the corpus (experiments.train), or write how many sequences of each '
      'bucket there are, plan.num_sequences, and queries, plan.num_queries'
    )
  numbers = tuple(config.plan.num_sequences)
  lengths = sequences_lib.bucket_lengths(
    config.data.buckets, config.data.max_len
  )
  if len(numbers) != len(lengths):
    raise ValueError(
      f'plan.num_sequences is {numbers}: expected a number for each of the '
      f'lengths {lengths}'
    )
  return dict(zip(lengths, numbers, strict=True))


def queries(config: ConfigDict, workdir: pathlib.Path) -> tuple[int, int]:
  """Their number and padded length, the longest there can be if not known."""
  path = pathlib.Path(config.score.queries)
  if not path.exists() and 'plan' in config:
    return config.plan.num_queries, config.data.max_len
  read = trained.read_queries(config)
  if not (workdir / 'tokenizer.json').exists():
    return len(read), config.data.max_len
  tokenizer = tokenizer_lib.load(workdir / 'tokenizer.json')
  batch = queries_lib.query_batch(
    read, tokenizer, config.data.max_len, buckets=config.data.buckets
  )
  return batch.mask.shape


def shapes(
  numbers: dict[int, int], batch_tokens: int, share: float, mesh: Mesh
) -> dict[tuple[int, int], int]:
  """{(B, T): number of batches} of a share of the sequences, on `mesh`."""
  found = {}
  for length, num in numbers.items():
    rows = max(1, batch_tokens // length)
    if num:
      filled = sharding.filled(mesh, rows)
      found[filled, length] = math.ceil(num * share / rows)
  return found
