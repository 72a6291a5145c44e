"""Several approximations fitted in one pass: of the same sequences and draws.

A pass over the data is most of a fit's cost; what differs between two fits is
then the approximation alone.
"""

from collections.abc import Mapping

import jax.numpy as jnp

from influence_jax import types


def together(parts: Mapping[str, types.Curvature]) -> types.Curvature:
  """What fits all of them in one pass; `own` takes one's factors out again."""

  def joined(results):
    return {
      f'{name}.{key}': x
      for name, one in results.items()
      for key, x in one.items()
    }

  def stage(index):
    stages = {name: one.stages[index] for name, one in parts.items()}

    def init(layer):
      return joined({name: one.init(layer) for name, one in stages.items()})

    def tap(a_BxTxI, ds_BxTxO, mask_BxT, factors):
      return joined(
        {
          name: one.tap(a_BxTxI, ds_BxTxO, mask_BxT, own(factors, name))
          for name, one in stages.items()
        }
      )

    def finish(factors, sums, counts):
      return joined(
        {
          name: one.finish(own(factors, name), own(sums, name), counts)
          for name, one in stages.items()
        }
      )

    name = next(iter(stages.values())).name
    return types.Stage(name, init, tap, finish)

  num = {len(one.stages) for one in parts.values()}
  if len(num) != 1:
    raise ValueError(f'parts have {num} stages, expected one number in all')
  return types.Curvature(
    tuple(stage(index) for index in range(*num)),
    eigenvalues=lambda factors: jnp.ones(()),
  )


def own(factors: types.Factors, name: str) -> types.Factors:
  """Those of part `name` of `together`."""
  prefix = f'{name}.'
  return {
    key.removeprefix(prefix): x
    for key, x in factors.items()
    if key.startswith(prefix)
  }
