"""Scores of sequences against many queries, each layer in the cheapest order.

A layer's queries are (G + damping)^-1 g of each, held in one of two forms:

    {'P': [*stack, I, O, K]}                            whole
    {'U': [*stack, K, I, R], 'V': [*stack, K, R, O]}    low rank, P_k = U_k V_k

and there are two roads from a sequence's tokens to its K scores:

* 'gradient': form g[I, O] = sum_t a[t] ds[t]^T, then <g, P_k>. Low-rank queries
  are multiplied out a block at a time, once for the gradients held at once.
* 'tokens': a[t] U_k and V_k ds[t] meet at each position (low rank alone). No
  gradient is formed, and scores by position come for nothing.

Both give the same numbers. Memory is a batch's or a block of queries' share of
ONE layer: never (queries + batch) x model. Layers without tokens (`plain`) take
the first road. Functions are pure and not jitted.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from influence_jax import attribution, gradients, plain, types

Queries = dict[str, types.Factors]
_GROUP = 2**22  # numbers of gradients formed at once: 16 MiB stay in a cache
# Low-rank queries are multiplied out for so many numbers of gradients; but for
# this many gradients at least, since that is dear; but for no more numbers.
_HELD, _LEAST, _MOST = 5 * 2**21, 16, 2**26
_BLOCK = 16  # queries multiplied out at once
_TOKENS_BLOCK = 32  # queries whose tokens are projected at once


def whole(solved: dict[str, jax.Array]) -> Queries:
  """Queries of `influence.precondition`'s {path: [*stack, K, I, O]}."""
  return {path: {'P': jnp.moveaxis(x, -3, -1)} for path, x in solved.items()}


def num_queries(queries: Queries) -> int:
  """K."""
  one = next(iter(queries.values()))
  return one['P'].shape[-1] if 'P' in one else one['U'].shape[-3]


def take(queries: Queries, rows: Sequence[int]) -> Queries:
  """The queries with these numbers, in this order."""
  rows = np.asarray(rows)
  return {
    path: {
      key: x[..., rows] if key == 'P' else x[..., rows, :, :]
      for key, x in one.items()
    }
    for path, one in queries.items()
  }


def concatenate(parts: Sequence[Queries]) -> Queries:
  """The queries of all parts, one after another."""
  return {
    path: {
      key: jnp.concatenate(
        [part[path][key] for part in parts], -1 if key == 'P' else -3
      )
      for key in one
    }
    for path, one in parts[0].items()
  }


def flop(
  num_in: int, num_out: int, length: int, rows: int, queries: int, rank: int
) -> dict[str, float]:
  """Operations of one batch in one layer by road; `rank` 0 is whole queries."""
  I, O, T, B, K, R = num_in, num_out, length, rows, queries, rank  # noqa: E741
  if not rank:
    B = np.prod(_parts(B, _GROUP // (I * O)))  # parts are filled up
    return {'gradient': 2.0 * I * O * B * (T + K)}
  groups, held = _parts(B, _rows_held(I * O))
  K_gradient = np.prod(_parts(K, _queries_held(I * O)))
  K_tokens = np.prod(_parts(K, _TOKENS_BLOCK))
  operations = groups * (held * (T + K_gradient) + K_gradient * R)
  return {
    'gradient': 2.0 * I * O * operations,
    'tokens': 2.0 * B * T * K_tokens * R * (I + O + 1),
  }


def road(num_in: int, num_out: int, shape: tuple, one: types.Factors) -> str:
  """The one with the fewest operations for a layer and batches of [B, T]."""
  if 'P' in one:
    return 'gradient'
  K, _, R = one['U'].shape[-3:]
  costs = flop(num_in, num_out, shape[1], shape[0], K, R)
  return min(costs, key=costs.get)


def pairwise(
  model: types.Model,
  params: types.PyTree,
  queries: Queries,
  batch: types.Batch,
  only: str | None = None,
  across: Callable[[Callable], Callable] = lambda rule: rule,
) -> dict[str, jax.Array]:
  """Scores by layer, {path: [*stack, B, K]}, in nats; sum over all for Eq. 22.

  Args:
    only: this road in every layer.
    across: devices; see `scan.make_step`.
  """
  shape = len(batch.inputs), num_queries(queries)

  def rule(a_BxTxI, ds_BxTxO, mask_BxT, one):
    ends = a_BxTxI.shape[-1], ds_BxTxO.shape[-1]
    fn = _ROADS[only or road(*ends, mask_BxT.shape, one)]
    return {'scores': fn(a_BxTxI, ds_BxTxO, one)}

  stats = gradients.batch_stats(
    model, params, batch, across(rule),
    lambda _: {'scores': jnp.zeros(shape)}, queries,
    lambda g_BxIxO, one: {'scores': _meet(g_BxIxO, one)},
  )  # fmt: skip
  return {path: x['scores'] for path, x in stats.items()}


def tokenwise(
  model: types.Model,
  params: types.PyTree,
  queries: Queries,
  batch: types.Batch,
) -> jax.Array:
  """Scores by position [B, T, K] (Eq. 31); the sum over T is the score, but

  for the share of plain layers: they have no positions and are left out.
  Position t holds what passes through the layers at t: the token read there is
  input t, the token it helps to predict is target t, one to the right.
  """
  return attribution.total(
    tokenwise_by_layer(model, params, queries, batch),
    plain.split(model.layers)[0],
  )


def tokenwise_by_layer(
  model: types.Model,
  params: types.PyTree,
  queries: Queries,
  batch: types.Batch,
) -> dict[str, jax.Array]:
  """`tokenwise` of each dense layer apart, {path: [*stack, B, T, K]}."""
  shape = (*batch.mask.shape, num_queries(queries))

  def rule(a_BxTxI, ds_BxTxO, mask_BxT, one):
    del mask_BxT
    by_token = _whole_by_token if 'P' in one else _by_token
    return {'scores': by_token(a_BxTxI, ds_BxTxO, one)}

  stats = gradients.batch_stats(
    model, params, batch, rule, lambda _: {'scores': jnp.zeros(shape)}, queries
  )
  return {path: x['scores'] for path, x in stats.items()}


def _by_gradient(a_BxTxI, ds_BxTxO, one):
  size = a_BxTxI.shape[-1] * ds_BxTxO.shape[-1]
  return _in_parts(
    lambda a_BxTxI, ds_BxTxO: _meet(_form(a_BxTxI, ds_BxTxO), one),
    _GROUP // size if 'P' in one else _rows_held(size), a_BxTxI, ds_BxTxO,
  )  # fmt: skip


def _meet(g_BxIxO, one):
  """<g, P_k> [B, K] of gradients formed."""
  g_BxIO = g_BxIxO.reshape(len(g_BxIxO), -1)
  size = g_BxIO.shape[1]
  if 'P' in one:
    return g_BxIO @ one['P'].reshape(size, -1)

  def block(U_KxIxR, V_KxRxO):
    P_KxIO = (U_KxIxR @ V_KxRxO).reshape(len(U_KxIxR), -1)
    return jnp.einsum('bn,kn->bk', g_BxIO, P_KxIO).T

  return _in_parts(block, _queries_held(size), one['U'], one['V']).T


def _rows_held(size: int) -> int:
  return max(_HELD // size, min(_LEAST, _MOST // size))


def _queries_held(size: int) -> int:
  return min(_BLOCK, _MOST // size)


def _by_tokens(a_BxTxI, ds_BxTxO, one):
  return _project(a_BxTxI, ds_BxTxO, one, lambda met_KxBxT: met_KxBxT.sum(2)).T


def _by_token(a_BxTxI, ds_BxTxO, one):
  met_KxBxT = _project(a_BxTxI, ds_BxTxO, one, lambda met_KxBxT: met_KxBxT)
  return jnp.moveaxis(met_KxBxT, 0, -1)


def _project(a_BxTxI, ds_BxTxO, one, finish):
  """finish(a[t] U_k . V_k ds[t] [K, B, T]), side by side for some queries."""

  def block(U_KxIxR, V_KxRxO):
    K, _, R = U_KxIxR.shape
    into = a_BxTxI @ jnp.moveaxis(U_KxIxR, 0, 1).reshape(-1, K * R)
    out = ds_BxTxO @ jnp.moveaxis(V_KxRxO, 2, 0).reshape(-1, K * R)
    met_BxTxK = (into * out).reshape(*into.shape[:2], K, R).sum(-1)
    return finish(jnp.moveaxis(met_BxTxK, -1, 0))

  return _in_parts(block, _TOKENS_BLOCK, one['U'], one['V'])


def _whole_by_token(a_BxTxI, ds_BxTxO, one):
  def query(P_IxO):
    return jnp.einsum('bto,bto->bt', a_BxTxI @ P_IxO, ds_BxTxO)

  scores_KxBxT = jax.lax.map(query, jnp.moveaxis(one['P'], -1, 0))
  return jnp.moveaxis(scores_KxBxT, 0, -1)


_ROADS = {'gradient': _by_gradient, 'tokens': _by_tokens}


def _form(a_BxTxI, ds_BxTxO):
  return jnp.einsum('bti,bto->bio', a_BxTxI, ds_BxTxO)


def _in_parts(fn: Callable, size: int, *arrays: jax.Array) -> jax.Array:
  """fn over parts of the first axis, one after another, of at most `size`."""
  num = len(arrays[0])
  parts, size = _parts(num, size)
  if parts == 1:
    return fn(*arrays)
  filled = [
    jnp.pad(x, [(0, parts * size - num)] + [(0, 0)] * (x.ndim - 1))
    for x in arrays
  ]
  split = tuple(x.reshape(parts, size, *x.shape[1:]) for x in filled)
  results = jax.lax.map(lambda part: fn(*part), split)
  return results.reshape(parts * size, *results.shape[2:])[:num]


def _parts(num: int, size: int) -> tuple[int, int]:
  """How many parts of how many, even ones of at most `size` (or of one)."""
  parts = -(-num // max(size, 1))
  return parts, -(-num // parts)
