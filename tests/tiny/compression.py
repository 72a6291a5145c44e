"""Studies of experiments.compression without a model, on tiny.ladder."""

import importlib
import pathlib
import types

import ml_collections
import numpy as np
from tiny import ladder as tiny_ladder

from experiments import compression_parts, ladder
from influence_jax import store


def config(study: str, **kwargs) -> ml_collections.ConfigDict:
  """Sections of configs/<study>.py, of all sizes; kwargs are of the ladder."""
  c = tiny_ladder.config(**kwargs)
  ours = importlib.import_module(f'configs.{study}').get_config()
  c.compression, c[study] = ours.compression, ours[study]
  c[study].sizes = ()
  return c


def finish(config: ml_collections.ConfigDict, root: pathlib.Path) -> None:
  """All that says of a model that it is scored."""
  for rung in ladder.rungs(config, root):
    folder = rung.workdir / rung.config.score.folder
    store.write_json(folder / 'manifest.json', {})


def open_study(
  config: ml_collections.ConfigDict | None, workdir: pathlib.Path
) -> compression_parts.Study:
  """Of no model; one fingerprint for each workdir."""
  sequences = types.SimpleNamespace(fingerprint='of tiny')
  ours = types.SimpleNamespace(
    params_fingerprint=f'of {workdir.name}',
    corpus=types.SimpleNamespace(sequences=sequences),
  )
  return compression_parts.Study(
    config, ours, None, {'layer': np.ones(2)}, tiny_ladder.QUERIES, []
  )
