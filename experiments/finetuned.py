"""What experiments.finetune left in a workdir: a network and its parameters.

`trained` asks here where a config has a section `finetune`. Of LoRA the workdir
has A and B alone: they are of one checkpoint, and its fingerprint is compared.
"""

import dataclasses
import json
import os
import pathlib

import flax.linen as nn
import numpy as np
from ml_collections import ConfigDict

from experiments import common
from influence_jax import store, training, types
from influence_jax.models import lora

METHODS = 'lora', 'full'


@dataclasses.dataclass(frozen=True)
class FinetuneConfig(training.TrainConfig):
  """The section `finetune`; learning_rate and what follows is `training`'s."""

  method: str  # 'lora' or 'full'
  rank: int  # this and the next two are of 'lora': see lora.Lora
  alpha: float
  layers: str
  held_out: float  # share of the documents

  def __post_init__(self):
    super().__post_init__()
    if self.method not in METHODS:
      raise ValueError(f'method is {self.method!r}; there are {METHODS}')
    if not 0 < self.held_out < 1:
      raise ValueError(f'held_out is {self.held_out}, expected 0 to 1')

  @property
  def lora(self) -> lora.Lora | None:
    if self.method != 'lora':
      return None
    return lora.Lora(self.rank, self.alpha, self.layers)


def hparams(config: ConfigDict) -> FinetuneConfig:
  return common.build('finetune', FinetuneConfig, config.finetune)


def base(config: ConfigDict) -> ConfigDict:
  """The config of the checkpoint as it was, all dense layers tapped."""
  theirs = config.copy_and_resolve_references()
  with theirs.unlocked():
    del theirs.finetune
  theirs.layers = ''
  return theirs


def network(config: ConfigDict, net: nn.Module) -> nn.Module:
  """`net`, a decoder, with the A and B of section finetune, if it asks so."""
  if 'finetune' not in config:
    return net
  changed = dataclasses.replace(net.config, lora=hparams(config).lora)
  return net.clone(config=changed)


def meta(config: ConfigDict, fingerprint: str) -> dict:
  """What a fine-tuning is of; `fingerprint` is the checkpoint's."""
  layout = {key: config.checkpoint[key] for key in ('dtype', 'scan')}
  return {
    'kind': 'finetune',
    'config': {'finetune': config.finetune.to_dict(), 'checkpoint': layout},
    'checkpoint': fingerprint,
  }


def load(
  config: ConfigDict,
  workdir: str | os.PathLike,
  params: types.PyTree,
  fingerprint: str,
) -> tuple[types.PyTree, str]:
  """Fine-tuned parameters and a fingerprint of them and of their making.

  Args:
    params: of the checkpoint.
    fingerprint: of the checkpoint.

  Raises:
    ValueError: it is unfinished, damaged, or of another config or checkpoint.
  """
  directory = pathlib.Path(workdir) / 'finetune'
  found, expected = store.load(directory), meta(config, fingerprint)
  store.check(found.meta, expected, f'the fine-tuning in {directory}')
  if found.step != found.meta['num_steps']:
    raise ValueError(
      f'{directory} is at step {found.step} of {found.meta["num_steps"]}: run '
      'experiments.finetune to its end'
    )
  tuned = found.tree['params']
  described = np.frombuffer(json.dumps(expected).encode(), np.uint8)
  identity = store.fingerprint({'meta': described, 'params': tuned})
  return lora.join(params, tuned), identity
