"""LoRA (Hu et al. 2021, arXiv 2106.09685): W stays, A and B are trained.

    y = x W + (alpha / r) (x A) B        W [I, O], A [I, r], B [r, O]    (Eq. 3)

A starts Gaussian, of variance 1 / I where the paper names none, and B at 0: the
model starts as the one without them, bit for bit. W and a bias keep their
paths; A and B are dense layers without bias below, `.../lora_a` and
`.../lora_b`, so that taps find them. Under scan they are stacks as W is.
"""

import dataclasses
import re

import flax.linen as nn
import jax
from flax import traverse_util

from influence_jax import types

_A, _B = '/lora_a/kernel', '/lora_b/kernel'
_GAUSSIAN = nn.initializers.variance_scaling(1.0, 'fan_in', 'normal')


@dataclasses.dataclass(frozen=True)
class Lora:
  """Which dense layers have A and B, and how large these are."""

  rank: int  # r
  alpha: float
  layers: str  # regular expression, searched in their '/'-joined paths

  def __post_init__(self):
    if self.rank < 1:
      raise ValueError(f'rank is {self.rank}, expected at least 1')

  @property
  def scale(self) -> float:
    return self.alpha / self.rank


def adapt(dense: nn.Dense, lora: Lora | None) -> nn.Module:
  """`dense`, bound to its parent, with A and B if its path is one of theirs."""
  if lora is None or not re.search(lora.layers, '/'.join(dense.path)):
    return dense
  return _Adapted(dense, lora)


class _Adapted(nn.Module):
  dense: nn.Dense
  lora: Lora

  def setup(self):
    nn.share_scope(self, self.dense)  # no level of its own in the parameters

  @nn.compact
  def __call__(self, x_BxTxI: jax.Array) -> jax.Array:
    y_BxTxO = self.dense(x_BxTxI)

    def project(name, width, init, x):
      dtypes = dict(dtype=self.dense.dtype, param_dtype=self.dense.param_dtype)
      return nn.Dense(width, False, kernel_init=init, name=name, **dtypes)(x)

    xA_BxTxR = project('lora_a', self.lora.rank, _GAUSSIAN, x_BxTxI)
    zeros, O = nn.initializers.zeros, y_BxTxO.shape[-1]  # noqa: E741
    return y_BxTxO + self.lora.scale * project('lora_b', O, zeros, xA_BxTxR)


def only(params: types.PyTree) -> types.PyTree:
  """All A and B of a model's parameters, without the others."""
  flat = traverse_util.flatten_dict(params, sep='/')
  flat = {path: x for path, x in flat.items() if path.endswith((_A, _B))}
  return traverse_util.unflatten_dict(flat, sep='/')


def join(params: types.PyTree, others: types.PyTree) -> types.PyTree:
  """The arrays of both trees; of a path in both, those of `others`."""
  flat, more = map(traverse_util.flatten_dict, (params, others))
  return traverse_util.unflatten_dict({**flat, **more})


def merge(params: types.PyTree, lora: Lora) -> types.PyTree:
  """Parameters of the same model without A and B: W + (alpha / r) A B."""
  flat = traverse_util.flatten_dict(params, sep='/')
  for path in [path.removesuffix(_A) for path in flat if path.endswith(_A)]:
    A_IxR, B_RxO = flat.pop(path + _A), flat.pop(path + _B)
    W_IxO = flat[f'{path}/kernel']
    W_new_IxO = W_IxO + lora.scale * A_IxR @ B_RxO  # stack axis, if any, first
    flat[f'{path}/kernel'] = W_new_IxO.astype(W_IxO.dtype)
  return traverse_util.unflatten_dict(flat, sep='/')
