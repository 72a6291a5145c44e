"""K-FAC with factored Tikhonov damping (Martens & Grosse 2015, Sec. 6.3).

(A + pi sqrt(damping) I) (x) (S + sqrt(damping) / pi I) stands for G + damping,
pi^2 = mean eigenvalue of A / mean eigenvalue of S: the damping is split so that
both factors feel it alike. Here S carries the mean number of positions a
sequence, as in `kfac`.
"""

import jax.numpy as jnp

from influence_jax import types
from influence_jax.curvature import kfac


def make(eigh: str = 'float64') -> types.Curvature:
  """`eigh`: 'float64' on the host, 'float32' on the device."""
  return kfac.make(eigh)._replace(damped=_damped)


def _damped(factors, eigenvalues_IxO, damping):
  del eigenvalues_IxO
  L_A = jnp.maximum(factors['L_A'], 0)
  L_S = jnp.maximum(factors['L_S'], 0) * factors['T_mean']
  pi = jnp.sqrt(L_A.mean() / L_S.mean())
  root = jnp.sqrt(damping)
  return (L_A + pi * root)[:, None] * (L_S + root / pi)[None, :]
