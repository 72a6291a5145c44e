"""Curvature approximations, one a file, found by the name of their module.

To add one, write `influence_jax/curvature/<name>.py` with a function
`make(**hparams) -> types.Curvature`; nothing else is edited. A dotted name
(`proj.me.mine`) is imported as it stands. The contract tests walk this package.
"""

from influence_jax import by_name, plain, types


def names() -> list[str]:
  """The approximations that this package has."""
  return by_name.names(__name__)


def make(name: str, **hparams) -> types.Curvature:
  """The approximation of module `name`, with `plain`'s beside it.

  Raises:
    ValueError: there is no such approximation, or it has no such parameter.
  """
  made = by_name.make(__name__, 'curvature approximation', name, hparams)
  return plain.beside(made)
