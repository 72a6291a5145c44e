"""Where in the depth of a network influence comes from (Sec. 3.3, Eq. 30).

Scores by layer, a weight matrix each, are summed to scores by block: the two
matrices of a transformer block's MLP are one depth. Letters: C sequences, M
layers, L blocks.
"""

import re
from collections.abc import Sequence

import numpy as np

# A slice of a stack, as 'blocks/mlp/fc_in[3]', or else the first part of the
# path that ends in a number, as 'blocks_3/mlp/fc_in' and 'h/3/mlp/Dense_0'.
BLOCK = r'.*\[(\d+)\]$|.*?(\d+)(?:/|$)'


def blocks(names: Sequence[str], pattern: str = BLOCK) -> np.ndarray:
  """Block of each layer, [M]: from 0, in the order of the blocks' numbers.

  Args:
    names: of the layers, as `attribution.layer_names` has them.
    pattern: matched (re.match) from a name's beginning; the last of its groups
      that matches is the number of the block.

  Raises:
    ValueError: a name has no number, or all have the same.
  """
  found = {name: re.match(pattern, name) for name in names}
  numbers = {
    name: match[match.lastindex]
    for name, match in found.items()
    if match and match.lastindex
  }
  without = [name for name in names if not numbers.get(name, '').isdigit()]
  if without:
    raise ValueError(
      f'no block number in the names of layers {without} by {pattern!r}: '
      "expected names as 'blocks_3/mlp/fc_in' or 'blocks/mlp/fc_in[3]'; if "
      'these are layers of no block, name them in config.layerwise.outside'
    )
  blocks, block_M = np.unique(
    [int(numbers[name]) for name in names], return_inverse=True
  )
  if len(blocks) < 2:
    raise ValueError(
      f'the layers {list(names)} are all of block {blocks.tolist()}: expected '
      'two blocks or more; score a deeper model, or more of its layers'
    )
  return block_M


def by_block(scores_CxM: np.ndarray, block_M: np.ndarray) -> np.ndarray:
  """Scores summed over the layers of each block, [C, L]."""
  is_in_MxL = block_M[:, None] == np.arange(block_M.max() + 1)
  return np.asarray(scores_CxM, np.float64) @ is_in_MxL


def centre(scores_CxL: np.ndarray) -> np.ndarray:
  """Centre of mass of each sequence's positive scores, [C].

  0 is the first block, 1 the last; NaN where no block's score is positive.
  """
  positive_CxL = np.maximum(scores_CxL, 0)
  mass_C = positive_CxL.sum(1)
  places_L = np.linspace(0, 1, positive_CxL.shape[1])
  return positive_CxL @ places_L / np.where(mass_C > 0, mass_C, np.nan)


def thirds(num_blocks: int) -> dict[str, np.ndarray]:
  """{'lower': blocks, 'middle': .., 'upper': ..}, as even as can be.

  Empty where there are fewer than three blocks.
  """
  if num_blocks < 3:
    return {}
  parts = np.array_split(np.arange(num_blocks), 3)
  return dict(zip(('lower', 'middle', 'upper'), parts, strict=True))
