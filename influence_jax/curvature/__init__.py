"""Curvature approximations, one a file, found by the name of their module.

To add one, write `influence_jax/curvature/<name>.py` with a function
`make(**hparams) -> types.Curvature`; nothing else is edited. A dotted name
(`proj.me.mine`) is imported as it stands. The contract tests walk this package.
"""

import importlib
import inspect
import pkgutil

from influence_jax import types


def names() -> list[str]:
  """The approximations that this package has."""
  return sorted(module.name for module in pkgutil.iter_modules(__path__))


def make(name: str, **hparams) -> types.Curvature:
  """The approximation of module `name`.

  Raises:
    ValueError: there is no such approximation, or it has no such parameter.
  """
  if '.' not in name and name not in names():
    raise ValueError(
      f'unknown curvature approximation {name!r}: expected one of {names()} '
      'or the dotted path of a module of yours that has make()'
    )
  factory = importlib.import_module(
    name if '.' in name else f'{__name__}.{name}'
  ).make
  known = set(inspect.signature(factory).parameters)
  if unknown := hparams.keys() - known:
    raise ValueError(
      f'{name} has no parameter {sorted(unknown)}; it has {sorted(known)}'
    )
  return factory(**hparams)
