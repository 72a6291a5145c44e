"""A trained model of a workdir with the layers that a study looks at."""

import os
import pathlib
from typing import NamedTuple

import jax
import numpy as np
import rich
from ml_collections import ConfigDict

from experiments import common, corpus
from influence_jax import losses, models, store, taps, types
from influence_jax.report import terminal


class Trained(NamedTuple):
  model: types.Model
  params: types.PyTree
  params_fingerprint: str
  found: taps.Found
  corpus: corpus.Corpus


def load(config: ConfigDict, workdir: str | os.PathLike) -> Trained:
  """What experiments.train left in `workdir`; reads data, model, layers.

  Raises:
    ValueError: it is unfinished, damaged or of another config.
  """
  workdir = pathlib.Path(workdir)
  data = corpus.load(config.data, workdir)
  checkpoint = store.load(workdir / 'train')
  sections = {name: config[name].to_dict() for name in ('data', 'model')}
  expected = {'config': {**checkpoint.meta['config'], **sections}}
  expected['data'] = data.sequences.fingerprint
  store.check(checkpoint.meta, expected, f'the model in {workdir / "train"}')
  if checkpoint.step != checkpoint.meta['num_steps']:
    raise ValueError(
      f'{workdir / "train"} is at step {checkpoint.step} of '
      f'{checkpoint.meta["num_steps"]}: run experiments.train to its end'
    )
  params = checkpoint.tree['params']
  net = common.build('model', models.make, config.model)

  def apply_fn(params, inputs):
    return net.apply({'params': params}, inputs)

  inputs = jax.ShapeDtypeStruct((1, config.data.max_len), np.int32)
  found = taps.find_layers(apply_fn, params, inputs, config.layers)
  model = types.Model(apply_fn, losses.softmax_cross_entropy, found.layers)
  return Trained(model, params, store.fingerprint(params), found, data)


def with_dtype(
  config: ConfigDict, model: types.Model, dtype: str
) -> types.Model:
  """The same model and layers, computing in `dtype`."""
  hparams = ConfigDict({**config.model.to_dict(), 'dtype': dtype})
  net = common.build('model', models.make, hparams)

  def apply_fn(params, inputs):
    return net.apply({'params': params}, inputs)

  return model._replace(apply_fn=apply_fn)


def print_layers(found: taps.Found, curvature: types.Curvature) -> None:
  """Layers, their shapes and bytes of factors; and dense layers left out."""
  view = terminal.table(
    'tapped layers', 'path', 'stack', 'I x O', 'bias', 'factors, MiB'
  )
  for path, layer in found.layers.items():
    sums = jax.eval_shape(
      lambda path=path, layer=layer: [
        taps.zeros({path: layer}, stage.init) for stage in curvature.stages
      ]
    )
    size = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(sums))
    view.add_row(
      path,
      'x'.join(map(str, layer.stack)) or '-',
      f'{layer.num_in} x {layer.num_out}',
      'yes' if layer.has_bias else 'no',
      f'{size / 2**20:.2f}',
    )
  rich.print(view)
  for path, reason in found.left_out.items():
    rich.print(f'[dim]left out: {path} ({reason})[/dim]')
