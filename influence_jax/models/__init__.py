"""Models, one a file, found by name: `make('transformer', width=256, ...)`."""

import importlib
import inspect
import pkgutil
import types
from typing import Any


def find(name: str) -> types.ModuleType:
  """The module `name` of this package, or of a dotted path of your own."""
  path = name if '.' in name else f'{__name__}.{name}'
  try:
    return importlib.import_module(path)
  except ModuleNotFoundError as error:
    if not (error.name and path.startswith(error.name)):
      raise  # the module is there: something that it imports is not
    names = [
      name
      for _, name, _ in pkgutil.iter_modules(__path__)
      if hasattr(importlib.import_module(f'{__name__}.{name}'), 'make')
    ]
    raise ValueError(
      f'no model {name!r}; there are {names}, or write the dotted path of a '
      'module with a function make(**hparams)'
    ) from error


def make(name: str, **hparams: Any) -> Any:
  """The model (a flax module) that `name` makes of its hyperparameters."""
  make_fn = find(name).make
  signature = inspect.signature(make_fn)
  try:
    signature.bind(**hparams)
  except TypeError as error:
    valid = list(signature.parameters)
    raise ValueError(f'model {name!r}: {error}; its keys: {valid}') from error
  return make_fn(**hparams)
