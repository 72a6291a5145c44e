"""Parts of a data set of rows: drawn by a seed, all in memory."""

from typing import NamedTuple

import numpy as np

from influence_jax import types


class Splits(NamedTuple):
  """Numpy arrays; a part's ids are the numbers of its rows in it."""

  train: types.Batch
  test: types.Batch
  validation: types.Batch | None = None  # None: there is none


def draw(
  num_rows: int, num_train: int, num_test: int, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Rows of train, test and neither, each of `num_rows` in one of them.

  Of one seed, a larger part holds a smaller one, whatever the other part.

  Raises:
    ValueError: a part has no rows, or both have more than there are.
  """
  check('train', num_train, num_rows)
  check('test', num_test, num_rows - num_train)
  rows = np.random.default_rng(seed).permutation(num_rows)
  end = num_rows - num_test
  return rows[:num_train], rows[end:][::-1], rows[num_train:end]


def check(part: str, asked: int, num_rows: int) -> None:
  """ValueError unless a part of `asked` rows can be taken from `num_rows`."""
  if not 1 <= asked <= num_rows:
    raise ValueError(
      f'num_{part} is {asked}, expected 1 to {num_rows}, the rows that there '
      'are for it: ask for fewer, in this part or the other'
    )


def batch(inputs: np.ndarray, targets: np.ndarray) -> types.Batch:
  """All rows, each of which counts."""
  num_rows = len(inputs)
  return types.Batch(
    inputs=inputs,
    targets=targets,
    mask=np.ones(num_rows, np.float32),
    ids=np.arange(num_rows, dtype=np.int32),
  )
