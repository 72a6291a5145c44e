"""What a pretrained model's files say: a folder's, or one .gguf's.

    opened = checkpoint.open(path)
    net = decoder.Decoder(families.config(opened.config_json))
    tokenizer, template = opened.tokenizer(), opened.template()

A folder is in Hugging Face's layout. Which of the two there is, is known here
and asked nowhere else.
"""

import functools
import os
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import tokenizers

from influence_jax import gguf_file, gguf_tokenizer, safetensors_folder
from influence_jax.data import chat, pretrained_tokenizer
from influence_jax.models import tensors

_EXPECTED = (
  'a folder with config.json, tokenizer.json and safetensors, or a .gguf file'
)


class Checkpoint(NamedTuple):
  """Functions read when they are called, and raise ValueError."""

  config_json: dict[str, Any]  # for families.config
  layout: str | None  # a key of tensors.TABLES, if that knows the family
  headers: Callable[[], dict[str, tensors.Tensor]]  # by the tensors' names
  tokenizer: Callable[[], tokenizers.Tokenizer]  # with its borders
  template: Callable[[], chat.Template]  # human_assistant if it has none


def open(path: str | os.PathLike | None) -> Checkpoint:
  """The checkpoint at `path`; ValueError if none is there, or a damaged one."""
  if not path:
    raise ValueError(
      f'no checkpoint is given, expected {_EXPECTED}: set checkpoint.path'
    )
  path = pathlib.Path(path).expanduser()
  if path.suffix == '.gguf':
    return _gguf(path)
  if path.is_dir():
    return _folder(path)
  what = 'a file' if path.exists() else 'not there'
  pickle = path.suffix in safetensors_folder.PICKLES
  why = f'; files {path.suffix} {safetensors_folder.UNSAFE}' if pickle else ''
  raise ValueError(
    f'checkpoint {str(path)!r} is {what}, expected {_EXPECTED}{why}'
  )


def _gguf(path: pathlib.Path) -> Checkpoint:
  layout, config_json, found = gguf_file.headers(path)
  return Checkpoint(
    config_json,
    layout,
    lambda: found,
    functools.partial(gguf_tokenizer.tokenizer, path),
    functools.partial(gguf_tokenizer.template, path),
  )


def _folder(path: pathlib.Path) -> Checkpoint:
  config_json = safetensors_folder.config_json(path)
  return Checkpoint(
    config_json,
    config_json.get('model_type'),
    functools.partial(safetensors_folder.headers, path),
    functools.partial(pretrained_tokenizer.load, path),
    functools.partial(chat.template_if_any, path),
  )
