"""Where in the network influence comes from (Sec. 3.3)."""

import itertools

import jax
import numpy as np

from influence_jax import types


def by_layer(
  values: dict[str, types.PyTree], layers: dict[str, types.Layer]
) -> dict[str, types.PyTree]:
  """{name: [...]} of {path: [*stack, ...]}, block after block.

  A slice of a stack is named like 'blocks/mlp/fc_in[0]'. Scores by layer add up
  to the total (Eq. 30).
  """
  return {
    name: jax.tree.map(lambda x, at=at: x[at], values[path])
    for name, path, at in slices(layers)
  }


def layer_names(layers: dict[str, types.Layer]) -> list[str]:
  """The keys of `by_layer`."""
  return [name for name, _, _ in slices(layers)]


def total(scores: dict[str, jax.Array], layers: dict) -> jax.Array:
  """Sum over layers and stacks of {path: [*stack, ...]}."""
  return sum(
    scores[path].sum(tuple(range(len(layer.stack))))
    for path, layer in layers.items()
  )


def slices(layers) -> list[tuple[str, str, tuple[int, ...]]]:
  """(name, path, index in the stack); layers of one stack turn by turn."""
  runs = itertools.groupby(layers.values(), key=lambda layer: layer.stack)
  return [
    (layer.path + ''.join(f'[{i}]' for i in at), layer.path, at)
    for stack, run in [(stack, [*run]) for stack, run in runs]
    for at in np.ndindex(*stack)
    for layer in run
  ]
