"""Packages of one thing a file, `make(**hparams)`, found by the file's name."""

import importlib
import inspect
import pkgutil
import sys
from typing import Any


def names(package: str) -> list[str]:
  """Modules of the package of this name, sorted."""
  path = sys.modules[package].__path__
  return sorted(module.name for module in pkgutil.iter_modules(path))


def make(package: str, kind: str, name: str, hparams: dict[str, Any]) -> Any:
  """What module `name` of the package makes, or that of a dotted path.

  Args:
    kind: what the package holds, for messages.

  Raises:
    ValueError: there is no such module, or its make has no such parameter.
  """
  known = names(package)
  if '.' not in name and name not in known:
    raise ValueError(
      f'unknown {kind} {name!r}: expected one of {known} or the dotted path of '
      'a module of yours that has make()'
    )
  path = name if '.' in name else f'{package}.{name}'
  factory = importlib.import_module(path).make
  valid = set(inspect.signature(factory).parameters)
  if unknown := hparams.keys() - valid:
    raise ValueError(
      f'{name} has no parameter {sorted(unknown)}; it has {sorted(valid)}'
    )
  return factory(**hparams)
