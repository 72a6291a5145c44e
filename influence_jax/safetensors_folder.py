"""Weights and config.json of a folder in Hugging Face's layout.

It holds config.json and model.safetensors, or shards of it beside
model.safetensors.index.json. Headers alone are read; a tensor, when it is asked
for. Nothing in the files is run: pickles are refused.
"""

import functools
import json
import pathlib
import re
from typing import Any

import numpy as np
import safetensors

from influence_jax.models import tensors

PICKLES = ('.bin', '.pt', '.pth', '.pkl', '.pickle', '.ckpt')
UNSAFE = (  # what is said of them
  'are pickles, which run code as they are read: convert them to safetensors '
  'where you trust them'
)
_SINGLE, _INDEX = 'model.safetensors', 'model.safetensors.index.json'


def config_json(folder: pathlib.Path) -> dict[str, Any]:
  """What is in config.json; ValueError if it is missing or damaged."""
  path = folder / 'config.json'
  if not path.is_file():
    others = sorted(x.name for x in folder.glob('*.gguf'))
    raise ValueError(
      f'there is no {path}; expected a folder with it, or one of the files '
      f'*.gguf, of which {others or "none"} are there'
    )
  return _read_json(path)


def headers(folder: pathlib.Path) -> dict[str, tensors.Tensor]:
  """{name: tensor} of all files.

  Raises:
    ValueError: there are no safetensors; a file is damaged, or missing, or not
      of the folder; a tensor is in two files.
  """
  found = {}
  for path in _files(folder):
    with _open(path) as file:
      for name in file.keys():  # noqa: SIM118, no dict
        if name in found:
          raise ValueError(
            f'{name} is in {path} and in {found[name].path}; remove one of them'
          )
        part = file.get_slice(name)
        shape, dtype = tuple(part.get_shape()), part.get_dtype()
        read = functools.partial(_read, path, name)
        found[name] = tensors.Tensor(path, shape, dtype, read)
  return found


def _files(folder: pathlib.Path) -> list[pathlib.Path]:
  """The safetensors of the folder: one, or those that its index names."""
  if (folder / _SINGLE).exists():
    return [folder / _SINGLE]
  if not (folder / _INDEX).exists():
    names = sorted(p.name for p in folder.iterdir() if p.suffix in PICKLES)
    why = f'{names} {UNSAFE}' if names else 'download or save the weights there'
    raise ValueError(f'{folder} has no {_SINGLE} and no {_INDEX}; {why}')
  shards = _read_json(folder / _INDEX).get('weight_map')
  if not isinstance(shards, dict) or not shards:
    raise ValueError(f'{folder / _INDEX} has no weight_map of tensors to files')
  names = sorted({str(name) for name in shards.values()})
  if outside := [x for x in names if re.search(r'[/\\]', x) or x == '..']:
    raise ValueError(
      f'{folder / _INDEX} names {outside}; expected files of its folder'
    )
  if missing := [name for name in names if not (folder / name).is_file()]:
    raise ValueError(
      f'{folder} lacks {missing} of the {len(names)} files that {_INDEX} '
      'names; download the rest'
    )
  return [folder / name for name in names]


def _read_json(path: pathlib.Path) -> dict:
  try:
    found = json.loads(path.read_bytes())
  except ValueError as error:
    raise ValueError(f'{path} is damaged: {error}') from error
  if not isinstance(found, dict):
    raise ValueError(f'{path} is a {type(found).__name__}, expected an object')
  return found


def _open(path: pathlib.Path) -> safetensors.safe_open:
  try:
    return safetensors.safe_open(path, 'np')
  except safetensors.SafetensorError as error:
    raise ValueError(
      f'{path} is damaged or cut short, {path.stat().st_size} bytes are there: '
      f'{error}; download it again'
    ) from error


def _read(path: pathlib.Path, name: str) -> np.ndarray:
  # Opened for each tensor: what is mapped counts as memory till it is closed.
  with _open(path) as file:
    return file.get_tensor(name)
