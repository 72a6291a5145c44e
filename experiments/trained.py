"""A trained model with the layers that a study looks at, and its corpus.

It is what experiments.train left in the workdir or, where the config has a
section `checkpoint`, a pretrained one: read where it lies, never copied; with a
section `finetune` what experiments.finetune made of that.
"""

import json
import os
import pathlib
from typing import NamedTuple

import flax.linen as nn
import jax
import numpy as np
import rich
from ml_collections import ConfigDict
from rich import markup

from experiments import common, corpus, finetuned
from influence_jax import (
  checkpoint,
  losses,
  models,
  plain,
  pretrained,
  store,
  taps,
  types,
)
from influence_jax.data import chat
from influence_jax.data import queries as queries_lib
from influence_jax.models import decoder, families
from influence_jax.report import terminal


class Trained(NamedTuple):
  model: types.Model
  params: types.PyTree
  params_fingerprint: str
  found: taps.Found
  corpus: corpus.Corpus


def load(config: ConfigDict, workdir: str | os.PathLike) -> Trained:
  """What `config` names; reads data, layers and checkpoint, or else model.

  Raises:
    ValueError: it is unfinished, damaged or of another config.
  """
  read = _pretrained if 'checkpoint' in config else _from_workdir
  params, fingerprint, data = read(config, pathlib.Path(workdir))
  if 'finetune' in config:
    params, fingerprint = finetuned.load(config, workdir, params, fingerprint)
  model, found = describe(config, params)
  return Trained(model, params, fingerprint, found, data)


def describe(
  config: ConfigDict, params: types.PyTree
) -> tuple[types.Model, taps.Found]:
  """The model and its layers, plain ones (config.plain) after the dense.

  `params` are arrays or their shapes.
  """
  apply_fn = _apply_fn(network(config))
  inputs = jax.ShapeDtypeStruct((1, config.data.max_len), np.int32)
  found = taps.find_layers(apply_fn, params, inputs, config.layers)
  if config.plain is not None:
    more = plain.find(apply_fn, params, inputs, config.plain)
    found = found._replace(layers=found.layers | more)
  model = types.Model(apply_fn, losses.softmax_cross_entropy, found.layers)
  return model, found


def network(config: ConfigDict, **changes: str) -> nn.Module:
  """Of the section checkpoint or model, keys of which `changes` replaces."""
  if 'checkpoint' in config:
    name, make_fn = 'checkpoint', _decoder
  else:
    name, make_fn = 'model', models.make
  hparams = ConfigDict({**config[name].to_dict(), **changes})
  return finetuned.network(config, common.build(name, make_fn, hparams))


def with_dtype(
  config: ConfigDict, model: types.Model, dtype: str
) -> types.Model:
  """The same model and layers, computing in `dtype`."""
  return model._replace(apply_fn=_apply_fn(network(config, dtype=dtype)))


def read_queries(config: ConfigDict) -> list[queries_lib.Query]:
  """Of config.score.queries; messages by the checkpoint's chat template.

  Without a checkpoint, or a template in it, by `chat.human_assistant`.
  """
  template = chat.human_assistant
  if 'checkpoint' in config:
    template = checkpoint.open(config.checkpoint.path).template()
  return queries_lib.read_queries(config.score.queries, template)


def _from_workdir(config, workdir) -> tuple[types.PyTree, str, corpus.Corpus]:
  """Parameters, their fingerprint and the corpus: what train left."""
  data = corpus.load(config.data, workdir)
  left = store.load(workdir / 'train')
  sections = {name: config[name].to_dict() for name in ('data', 'model')}
  expected = {'config': {**left.meta['config'], **sections}}
  expected['data'] = data.sequences.fingerprint
  store.check(left.meta, expected, f'the model in {workdir / "train"}')
  if left.step != left.meta['num_steps']:
    raise ValueError(
      f'{workdir / "train"} is at step {left.step} of '
      f'{left.meta["num_steps"]}: run experiments.train to its end'
    )
  params = left.tree['params']
  return params, store.fingerprint(params), data


def _pretrained(config, workdir) -> tuple[types.PyTree, str, corpus.Corpus]:
  """The same of a checkpoint; its configuration is in the fingerprint too."""
  path, dtype = config.checkpoint.path, network(config).config.dtype
  opened = checkpoint.open(path)
  tokenizer = opened.tokenizer()
  ways = dict(dtype=dtype, scan=config.checkpoint.scan)
  if common.splits_params(config):  # each tensor goes where it belongs
    mesh = common.mesh(config)
    ways['put'] = lambda path, x: common.place(config, mesh, {path: x})[path]
  _, params = pretrained.load(path, **ways)
  fields = json.dumps(opened.config_json, sort_keys=True).encode()
  identity = {'config': np.frombuffer(fields, np.uint8), 'params': params}
  data = corpus.load(config.data, workdir, tokenizer)
  return params, store.fingerprint(identity), data


def _decoder(
  path: str | None, dtype: str, scan: bool, remat: bool
) -> nn.Module:
  """Of the checkpoint's configuration; no weight is read."""
  fields = checkpoint.open(path).config_json
  ways = dict(dtype=dtype, scan=scan, remat=remat)
  return decoder.Decoder(families.config(fields, **ways))


def _apply_fn(net: nn.Module):
  def apply_fn(params, inputs):
    return net.apply({'params': params}, inputs)

  return apply_fn


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
    rich.print(f'[dim]left out: {path} ({markup.escape(reason)})[/dim]')
