"""The corpus of a config: documents, tokenizer and sequences, made once.

A corpus is a module of influence_jax.data (or a dotted path of your own) with
`load(data_dir, **config.data.source) -> source` and `documents(source) ->
iterator of dicts` (id, text, title, topic; all str but the id), where source[n]
is the document n. It may have `held_out(source)`, documents never trained on,
`queries(source, ...)` and `truth(source)`, for corpora made to be asked about.
"""

import functools
import importlib
import os
import pathlib
import types
from collections.abc import Callable
from typing import Any, NamedTuple

import tokenizers
from absl import logging
from ml_collections import ConfigDict

from influence_jax import processes, store
from influence_jax.data import sequences as sequences_lib
from influence_jax.data import tokenizer as tokenizer_lib


class Corpus(NamedTuple):
  sequences: sequences_lib.Sequences
  tokenizer: tokenizers.Tokenizer
  document: Callable[[int], dict]  # by id
  module: types.ModuleType
  source: Any  # of module.load


def load(
  config: ConfigDict,
  workdir: str | os.PathLike,
  tokenizer: tokenizers.Tokenizer | None = None,
) -> Corpus:
  """What `config` (the section data) describes, kept in `workdir`.

  Writes corpus.json, tokenizer.json and sequences/; what is there already is
  checked and used.

  Args:
    config: its vocab_size is read where no tokenizer is given.
    workdir: made when absent.
    tokenizer: of a pretrained model; None trains one on the corpus.

  Raises:
    ValueError: the workdir's corpus is of another config or tokenizer.
  """
  workdir = pathlib.Path(workdir)
  workdir.mkdir(parents=True, exist_ok=True)
  _claim(workdir / 'corpus.json', config.to_dict())
  module, source = open_source(config)
  tokenizer, sequences = processes.first_then_all(
    functools.partial(_made, config, workdir, module, source, tokenizer)
  )

  def document(number: int) -> dict:
    fields = source[number]
    return {
      name: value.decode() if isinstance(value, bytes) else value
      for name, value in fields.items()
    }

  return Corpus(sequences, tokenizer, document, module, source)


def _made(
  config, workdir, module, source, tokenizer
) -> tuple[tokenizers.Tokenizer, sequences_lib.Sequences]:
  """Tokenizer and sequences; what the workdir has is opened."""
  path = workdir / 'tokenizer.json'
  if tokenizer is None:
    tokenizer = _trained(path, config, module, source)
  else:
    _keep(path, tokenizer)
  folder = workdir / 'sequences'
  try:
    return tokenizer, sequences_lib.open(folder, tokenizer.get_vocab_size())
  except ValueError as error:
    logging.info('%s', error)
  return tokenizer, sequences_lib.build(
    module.documents(source), tokenizer, config.max_len, folder,
    buckets=config.buckets,
  )  # fmt: skip


def open_source(config: ConfigDict) -> tuple[types.ModuleType, Any]:
  """The module of `config` (the section data) and what it loads."""
  module = _find(config.name)
  data_dir = pathlib.Path(config.data_dir).expanduser()
  return module, processes.first_then_all(
    functools.partial(module.load, data_dir, **config.source)
  )


def _claim(path: pathlib.Path, config: dict) -> None:
  """The first config to use a workdir is the only one."""
  if path.exists():
    theirs = {'data': store.read_json(path)}
    store.check(theirs, {'data': config}, f'the corpus in {path.parent}')
  else:
    store.write_json(path, config)


def _find(name: str):
  path = name if '.' in name else f'influence_jax.data.{name}'
  try:
    return importlib.import_module(path)
  except ModuleNotFoundError as error:
    if not path.startswith(error.name or '-'):
      raise
    raise ValueError(
      f'config.data.name is {name!r}: no module {path}; expected a module of '
      'influence_jax.data, as wiki_leads, or the dotted path of your own'
    ) from error


def _trained(path, config, module, source) -> tokenizers.Tokenizer:
  if path.exists():
    return tokenizer_lib.load(path)
  texts = (document['text'] for document in module.documents(source))
  tokenizer = tokenizer_lib.train(texts, config.vocab_size)
  tokenizer_lib.save(tokenizer, path)
  return tokenizer


def _keep(path: pathlib.Path, tokenizer: tokenizers.Tokenizer) -> None:
  """Saves it; ValueError if the one that is there is another."""
  if not path.exists():
    tokenizer_lib.save(tokenizer, path)
  elif tokenizer_lib.load(path).to_str() != tokenizer.to_str():
    raise ValueError(
      f'{path} is another tokenizer than that of the checkpoint: the sequences '
      'beside it are of another model; choose another --workdir'
    )
