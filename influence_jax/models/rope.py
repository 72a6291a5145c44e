"""Rotary positions (Su et al. 2021, arXiv 2104.09864) and their rescalings.

The first `width` coordinates of a head are pairs (n, n + width / 2), turned at
position t by the angle t f[n], f[n] = base ** (-2 n / width). A context longer
than that of the pretraining is had by slower turns: f / factor for all pairs
(`Linear`), or only for pairs that had turned less than so many times in the old
context, with a ramp between (`Llama3`; `Yarn`, Peng et al. 2023, 2309.00071).
Arrays end in r, the width / 2 pairs, beside the letters of `decoder`.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True)
class Linear:
  factor: float

  def slow(self, f_r: np.ndarray, base: float) -> np.ndarray:
    del base
    return f_r / self.factor


@dataclasses.dataclass(frozen=True)
class Llama3:
  """The ramp is straight in the number of turns."""

  factor: float
  low_freq_factor: float  # turns in the old context: with fewer, f / factor
  high_freq_factor: float  # with more, f as it was
  original_len: int  # the old context

  def slow(self, f_r: np.ndarray, base: float) -> np.ndarray:
    del base
    turns_r = self.original_len * f_r / (2 * math.pi)
    span = self.high_freq_factor - self.low_freq_factor
    kept_r = np.clip((turns_r - self.low_freq_factor) / span, 0, 1)
    return kept_r * f_r + (1 - kept_r) * f_r / self.factor


@dataclasses.dataclass(frozen=True)
class Yarn:
  """The ramp is straight in the number of the pair; q and k grow a little."""

  factor: float
  original_len: int  # the old context
  beta_fast: float = 32  # turns in the old context: with more, f as it was
  beta_slow: float = 1  # with fewer, f / factor
  attention_factor: float | None = None  # of q and of k; None: by the paper

  @property
  def amplitude(self) -> float:
    if self.attention_factor is not None:
      return self.attention_factor
    return 0.1 * math.log(max(self.factor, 1)) + 1

  def slow(self, f_r: np.ndarray, base: float) -> np.ndarray:
    width = 2 * len(f_r)

    def pair(turns):  # the one that turns so many times
      old_angle = self.original_len / (2 * math.pi * turns)
      return width * math.log(old_angle) / (2 * math.log(base))

    low = max(math.floor(pair(self.beta_fast)), 0)
    high = min(math.ceil(pair(self.beta_slow)), width - 1)
    span = high - low or 1e-3
    kept_r = 1 - np.clip((np.arange(len(f_r)) - low) / span, 0, 1)
    return kept_r * f_r + (1 - kept_r) * f_r / self.factor


@dataclasses.dataclass(frozen=True)
class Rope:
  base: float
  width: int  # so many of a head's coordinates are turned
  scaling: Linear | Llama3 | Yarn | None = None

  def __post_init__(self):
    if self.width % 2 or self.width < 2:
      raise ValueError(
        f'{self.width} coordinates of a head are to be turned in pairs; '
        'expected an even number of them'
      )


def tables(
  rope: Rope, num_positions: int, dtype: jnp.dtype
) -> tuple[jax.Array, jax.Array]:
  """cos_Txr and sin_Txr of the angles of positions 0, 1, ..."""
  f_r = rope.base ** (-np.arange(0, rope.width, 2) / rope.width)
  if rope.scaling:
    f_r = rope.scaling.slow(f_r, rope.base)
  angles_Txr = jnp.outer(
    jnp.arange(num_positions, dtype=dtype), jnp.asarray(f_r, dtype)
  )
  amplitude = getattr(rope.scaling, 'amplitude', 1.0)
  return amplitude * jnp.cos(angles_Txr), amplitude * jnp.sin(angles_Txr)


def rotate(
  x_BxTxHxd: jax.Array, cos_Txr: jax.Array, sin_Txr: jax.Array
) -> jax.Array:
  """Heads with their first 2 r coordinates turned, in the dtype of x."""
  r = cos_Txr.shape[-1]
  cos_1xTx1xr, sin_1xTx1xr = cos_Txr[None, :, None], sin_Txr[None, :, None]
  one, two, rest = jnp.split(x_BxTxHxd, [r, 2 * r], -1)
  turned = [
    one * cos_1xTx1xr - two * sin_1xTx1xr,
    two * cos_1xTx1xr + one * sin_1xTx1xr,
  ]
  return jnp.concatenate([x.astype(rest.dtype) for x in (*turned, rest)], -1)
