"""Low-rank preconditioned query gradients (Sec. 3.2.2): R (I + O), not I O.

A score is <P, g> with g a training gradient whose second moment is G. So what a
truncation should keep is P in the metric of G, not P: in the eigenbasis entry
[i, o] of P counts by its eigenvalue. Singular vectors need a weight that is a
product, w_i v_o: the means of the eigenvalues over the other axis, which is
exact for K-FAC. `weighted=False` is the paper's plain truncation.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from influence_jax import contraction, types

METHODS = ('randomised', 'exact')
_FLOOR = 1e-6  # of the mean weight: directions that no gradient has


def truncate(
  curvature: types.Curvature,
  layers: dict[str, types.Layer],
  factors: dict[str, types.Factors],
  rotated: dict[str, jax.Array],
  rank: int,
  *,
  weighted: bool = True,
  method: str = 'randomised',
  oversample: int = 16,
  num_iterations: int = 2,
) -> contraction.Queries:
  """Queries of rank R = min(rank, I, O), as near as can be to the given ones.

  Args:
    rotated: {path: [*stack, K, I, O]} of `influence.precondition`, left in the
      eigenbasis: the factors leave it at R / min(I, O) of the cost.
    weighted: near in the metric of `curvature`'s G.
    method: 'exact' is the singular value decomposition, 'randomised' that of a
      sketch (Halko et al. 2011) with `oversample` more columns than the rank
      and `num_iterations` power iterations: a few matrix products.

  Raises:
    ValueError: rank < 1 or an unknown method.
  """
  if rank < 1 or method not in METHODS:
    raise ValueError(
      f'expected rank >= 1 and a method of {METHODS}, got rank={rank} and '
      f'method={method!r}'
    )
  width = None if method == 'exact' else rank + oversample
  sides = curvature.unrotate_sides

  def one_layer(one_factors, P_KxIxO):
    shape = P_KxIxO.shape[1:]
    w_Ix1, w_1xO = _weights(curvature, one_factors, shape, weighted)

    def one(P_IxO):
      if sides is None and not weighted:
        P_IxO = curvature.unrotate(one_factors, P_IxO)
      U, s, V = _svd(w_Ix1 * P_IxO * w_1xO, width, num_iterations)
      U, V = (U * s[None])[:, :rank] / w_Ix1, V[:rank] / w_1xO
      if sides is not None:
        U_t, V = sides(one_factors, U.T, V)
        U = U_t.T
      elif weighted:  # UV has rank R in the eigenbasis and out of it
        P_IxO = curvature.unrotate(one_factors, U @ V)
        U = _range(P_IxO, min(rank, *shape))
        V = U.T @ P_IxO
      return {'U': U, 'V': V}

    return jax.lax.map(one, P_KxIxO)

  return {
    path: _over_stack(layer, one_layer)(factors[path], rotated[path])
    for path, layer in layers.items()
  }


def _over_stack(layer: types.Layer, fn: Callable) -> Callable:
  """`taps.over_stack`, but one slice after another.

  On a CPU of few cores jaxlib 0.10's LAPACK calls of several matrices wait for
  threads that calls of other layers hold, and those for theirs, for ever.
  """
  for _ in layer.stack:
    fn = functools.partial(
      lambda fn, *arrays: jax.lax.map(lambda one: fn(*one), arrays), fn
    )
  return fn


def _weights(curvature, factors, shape, weighted):
  """Square roots of G's mean eigenvalue by input and by output direction."""
  if not weighted:
    return jnp.ones((shape[0], 1)), jnp.ones((1, shape[1]))
  eigenvalues = jnp.broadcast_to(curvature.eigenvalues(factors), shape)
  floor = _FLOOR * eigenvalues.mean() + jnp.finfo(eigenvalues.dtype).tiny
  return tuple(
    jnp.sqrt(eigenvalues.mean(axis, keepdims=True) + floor) for axis in (1, 0)
  )


def _svd(P_IxO, width, num_iterations):
  """(U, s, V), exact if there is no `width`."""
  if width is None or width >= min(P_IxO.shape):
    return jnp.linalg.svd(P_IxO, full_matrices=False)
  if P_IxO.shape[0] > P_IxO.shape[1]:  # bases of the shorter side cost less
    V_t, s, U_t = _svd(P_IxO.T, width, num_iterations)
    return U_t.T, s, V_t.T
  Q = _range(P_IxO, width)
  for _ in range(num_iterations):
    Q = jnp.linalg.qr(P_IxO @ (P_IxO.T @ Q))[0]
  rows, R = jnp.linalg.qr(P_IxO.T @ Q)  # so that LAPACK's matrix is small
  U, s, V = jnp.linalg.svd(R.T)
  return Q @ U, s, V @ rows.T


def _range(P_IxO, width):
  """An orthonormal basis [I, width] of most of what P's columns span."""
  rng = jax.random.key(0)  # which sketch hardly matters; the same one always
  sketch = jax.random.normal(rng, (P_IxO.shape[1], width), P_IxO.dtype)
  return jnp.linalg.qr(P_IxO @ sketch)[0]
