"""The types that everything else speaks in, the dimensions, the conventions.

Dimension key (suffixes of array names, letters of einsums)::

  B sequences in a batch   T positions        V vocabulary    D width
  F MLP width              H heads            L stacked layers
  I layer inputs, the bias's constant 1 as last column included
  O layer outputs          K queries          C candidates    R rank
  N sequences in all       1 is one

Conventions (Grosse et al. 2023, arXiv 2308.03296; equation numbers are theirs):

* L(z) is the loss of ONE sequence: the sum over its positions, in nats. f(q) is
  the log-probability of a query's completion given its prompt: a sum, in nats.
* score(q, z) = grad f(q)^T (G + damping)^-1 grad log p(z), Eqs. 22 and 25 with
  both minus signs taken in. POSITIVE: training on one more copy of z makes the
  completion more likely. Not divided by the number of training sequences;
  score / num_train predicts the change of f in nats.
* G is the Gauss-Newton matrix = the Fisher matrix of the sequence: targets are
  sampled from the model at every position of real inputs (Eq. 11).
* A layer's gradient is g[I, O] = sum_t a[t] ds[t]^T (Eq. 26), with a the inputs
  and ds the gradient with respect to the outputs; the paper's is the transpose.
* A and S are means over positions; Lambda is the mean over sequences of the
  squared, rotated g (Eq. 20). K-FAC's eigenvalues are multiplied by the mean
  number of positions a sequence, so every approximation is of the same G.
* Padding is a mask. A padded position adds to no sum and to no count.
* Statistics and factors are float32 or wider, whatever the model computes in.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

Stats = dict[str, jax.Array]  # one layer's additive statistics
Factors = dict[str, jax.Array]  # one layer's factors
PyTree = Any


class Layer(NamedTuple):
  """A dense layer that taps can reach."""

  path: str  # of its parameters, '/'-joined
  num_in: int  # I: the bias column is counted
  num_out: int  # O
  has_bias: bool
  stack: tuple[int, ...] = ()  # (L,) under nn.scan: leading axis of its arrays


class Plain(Layer):
  """A parameter that is no dense layer, seen as I x O; see `plain`.

  `path` is its own. A class apart, so that a Layer's fields, and with them the
  meta of old factors, stay as they are.
  """

  __slots__ = ()


class Model(NamedTuple):
  """What is differentiated: a network, its loss and the layers in question."""

  apply_fn: Callable  # (params, inputs) -> outputs; not jitted
  loss: Any  # losses.Loss: per-sequence loss, and targets drawn from the model
  layers: dict[str, Layer]  # of taps.find_layers, then of plain.find if asked


class Batch(NamedTuple):
  """Sequences, one a row. A row whose mask is all zero is padding."""

  inputs: jax.Array  # [B, T] int32 tokens, [B, I] features or [B, H, W, C]
  targets: jax.Array  # [B, T] int32 tokens, [B] int32 classes or [B, O] values
  mask: jax.Array  # [B, T] or [B] float32: 1 where the loss counts, else 0
  ids: jax.Array  # [B] int32: which sequence of the data set a row is


class Counts(NamedTuple):
  """What sums are divided by: what was summed, padding not included."""

  sequences: jax.Array  # () float32
  tokens: jax.Array  # () float32, positions whose loss counts


class Stage(NamedTuple):
  """One pass over the data. Statistics are sums: stop, shard, add at will.

  Each function sees one layer without its stack axis, and no mesh.
  """

  name: str
  init: Callable[[Layer], Stats]  # zeros
  tap: Callable[..., Stats]  # (a_BxTxI, ds_BxTxO, mask_BxT, factors) -> addend
  finish: Callable[..., Factors]  # (factors, sums, counts) -> factors and more


def _same(factors: Factors, g_IxO: jax.Array) -> jax.Array:
  del factors
  return g_IxO


def _add(factors: Factors, eigenvalues_IxO: jax.Array, damping) -> jax.Array:
  del factors
  return eigenvalues_IxO + damping


class Curvature(NamedTuple):
  """An approximation of G: an orthogonal basis a layer and eigenvalues in it.

  `damped` is what stands for G + damping in the eigenbasis; only approximations
  that damp their factors (rather than their eigenvalues) need their own.
  The last two are for bases that are one of inputs and one of outputs, where
  tokens and low-rank factors rotate at less cost than gradients. They must
  agree with `rotate` and `unrotate`.
  """

  stages: tuple[Stage, ...]
  eigenvalues: Callable[[Factors], jax.Array]  # [I, O], per sequence, or ()
  rotate: Callable[[Factors, jax.Array], jax.Array] = _same  # g_IxO -> IxO
  unrotate: Callable[[Factors, jax.Array], jax.Array] = _same  # its transpose
  damped: Callable[..., jax.Array] = _add  # (factors, eigenvalues, damping)
  rotate_tokens: Callable | None = None  # see linalg.rotate_tokens
  unrotate_sides: Callable | None = None  # (factors, x_xI, y_xO) -> both back
