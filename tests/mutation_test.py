"""Deliberate mistakes in the library: a numeric check must see every one.

Each check compares with an oracle made before anything is broken. It must pass
on the library as it is and fail under the mutation.
"""

import functools
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import testing
import tqdm
from absl.testing import absltest, parameterized

from influence_jax import (
  contraction,
  curvature,
  fit,
  fit_step,
  influence,
  linalg,
  losses,
  lowrank,
  models,
  taps,
  types,
)
from influence_jax.curvature import ekfac, kfac


def setUpModule():
  jax.config.update('jax_enable_x64', True)
  jax.config.update('jax_disable_most_optimizations', True)  # compiles sooner


def tearDownModule():
  jax.config.update('jax_disable_most_optimizations', False)
  jax.config.update('jax_enable_x64', False)


# The library as it is, and what it should find


def _batch():
  """Ends padded with noise, and a prompt whose loss does not count."""
  batch = testing.deep_batch(num_rows=4)
  batch.mask[1, 0] = 0
  return batch


def _model():
  model, params = testing.deep(scan=True)
  return model._replace(loss=_late_loss()), params


def _late_loss():
  """The cross-entropy whose functions are looked up when they are called."""
  return losses.Loss(
    lambda *args: losses._cross_entropy(*args),
    lambda *args: losses._sample_tokens(*args),
  )


@functools.cache
def _oracle():
  """{unrolled layer: {A, S, T, g_NxIxO}}."""
  return _moments(*testing.deep(), _batch())


def _moments(model, params, batch):
  arrays = testing.explicit_arrays(model, params, batch)
  gradients = testing.loop_gradients(model, params, batch)
  counts, found = batch.mask > 0, {}
  for layer, (a_BxTxI, ds_BxTxO) in arrays.items():
    a_JxI, ds_JxO = a_BxTxI[counts], ds_BxTxO[counts]
    found[layer] = {
      'A': a_JxI.T @ a_JxI / len(a_JxI),
      'S': ds_JxO.T @ ds_JxO / len(ds_JxO),
      'T': len(a_JxI) / len(batch.mask),
      'g': gradients[layer],
    }
  return found


@functools.cache
def _sound(name):
  """A fit by the library as it is, and its state after the first stage."""
  saved = []
  state = testing.fitted(
    curvature.make(name), *_model(), [_batch()], save=saved.append
  )
  return state, saved[0]


def _unrolled(per_path):
  return testing.unrolled_names(
    testing.split_stacks(testing.deep(scan=True)[0], per_path)
  )


def _get(state, key):
  return _unrolled({path: x[key] for path, x in state.factors.items()})


class Checks(parameterized.TestCase):
  """Each raises AssertionError when the library is wrong."""

  def covariances(self):
    with mock.patch.object(linalg, '_COLUMNS', 2):  # more than one block
      state = testing.fitted(curvature.make('kfac'), *_model(), [_batch()])
    found = {key: _get(state, key) for key in ('L_A', 'Q_A', 'L_S', 'Q_S')}
    for layer, moments in _oracle().items():
      for side in 'AS':
        L, Q = found[f'L_{side}'][layer], found[f'Q_{side}'][layer]
        testing.assert_near(self, Q * L @ Q.T, moments[side], what=layer)

  def square_covariances(self):
    """All layers have I = O, so that no shape tells A and S apart."""
    model, params, batch, oracle = _square()
    state = testing.fitted(curvature.make('kfac'), model, params, [batch])
    for layer, factors in state.factors.items():
      for side in 'AS':
        L, Q = (np.asarray(factors[f'{x}_{side}']) for x in 'LQ')
        testing.assert_near(self, Q * L @ Q.T, oracle[layer][side], what=layer)

  def eigenvalues(self):
    """Only the second stage runs; the basis is of the library as it is."""
    _, after_covariance = _sound('ekfac')
    state = testing.fitted(
      curvature.make('ekfac'), *_model(), [_batch()], state=after_covariance
    )
    Q_A, Q_S = _get(after_covariance, 'Q_A'), _get(after_covariance, 'Q_S')
    for layer, got in _get(state, 'Lambda').items():
      g_NxIxO = _oracle()[layer]['g']
      rotated = np.einsum('ia,nio,os->nas', Q_A[layer], g_NxIxO, Q_S[layer])
      testing.assert_near(self, got, (rotated**2).mean(0), what=layer)

  def solve(self):
    """K-FAC's IHVP is a dense solve, damping a tenth of the mean eigenvalue."""
    layers = _model()[0].layers
    approximation = curvature.make('kfac')

    @jax.jit
    def run(factors, g_KxIxO):
      damping = influence.damping_of(approximation, layers, factors)
      return influence.precondition(
        approximation, layers, factors, g_KxIxO, damping
      )

    gradients = {
      path: np.stack([_oracle()[f'blocks_{i}/mix']['g'] for i in range(2)])
      if x.stack
      else _oracle()[path]['g']
      for path, x in layers.items()
    }
    got = _unrolled(run(_sound('kfac')[0].factors, gradients))
    for layer, moments in _oracle().items():
      G = moments['T'] * np.kron(moments['A'], moments['S'])
      damped = G + 0.1 * np.trace(G) / len(G) * np.eye(len(G))
      g_IOxN = moments['g'].reshape(len(moments['g']), -1).T
      wanted = np.linalg.solve(damped, g_IOxN).T.reshape(got[layer].shape)
      testing.assert_near(self, got[layer], wanted, what=layer)

  def resume(self):
    """Two batches in one go, and stopped between them.

    They differ: means of two like batches do not show that one was lost.
    """
    model, params, batch, _ = _square()
    batches = [batch, batch._replace(inputs=batch.inputs[::-1] + 1)]
    approximation, saved = curvature.make('kfac'), []
    whole = testing.fitted(
      approximation, model, params, batches, save=saved.append, save_every=1
    )
    resumed = testing.fitted(
      approximation, model, params, batches, state=saved[0]
    )
    jax.tree.map(np.testing.assert_array_equal, resumed.factors, whole.factors)

  def sampled(self):
    """S of the last layer: softmax p gives mean_t of diag(p) - p p^T.

    Bernstein's bound for 4096 sequences of three positions: an entry of one is
    below 1 and has a variance below E[ds_o^2 ds_p^2] <= E[ds_o^2]. False once
    in a million keys.
    """
    p_TxV = _probabilities()
    wanted = np.diag(p_TxV.mean(0)) - p_TxV.T @ p_TxV / 3
    model, params = _one_layer()
    model = model._replace(loss=_late_loss())
    batch = _repeated(4096)
    state = testing.fitted(
      curvature.make('kfac'), model, params, [batch], targets='model'
    )
    (factors,) = state.factors.values()
    L, Q = np.asarray(factors['L_S']), np.asarray(factors['Q_S'])
    log = np.log(2 * 9 / 1e-6)
    bound = np.sqrt(2 * wanted.max() * log / 4096) + 2 * log / (3 * 4096)
    self.assertLess(np.abs(Q * L @ Q.T - wanted).max(), bound)

  def truncation(self):
    """No rank-2 matrix is nearer: the rest is the smallest singular values."""
    P_KxIxO = np.random.default_rng(0).normal(size=(3, 5, 4))
    got = _rank_two('identity', {}, P_KxIxO, weighted=False)
    error = P_KxIxO - got
    s_KxR = np.linalg.svd(P_KxIxO, compute_uv=False)
    squares = (s_KxR[:, 2:] ** 2).sum(1)
    testing.assert_near(self, (error**2).sum((1, 2)), squares)

  def weighted_truncation(self):
    """None is nearer as seen by gradients whose second moment is A (x) S."""
    rng = np.random.default_rng(0)
    P_KxIxO, roots = rng.normal(size=(3, 5, 4)), []
    factors = {'T_mean': 2.0}
    for side, n in zip('AS', (5, 4), strict=True):
      Q, _ = np.linalg.qr(rng.normal(size=(n, n)))
      L = 4.0 ** np.arange(n)
      factors |= {f'Q_{side}': Q, f'L_{side}': L}
      roots.append(Q * np.sqrt(L) @ Q.T)
    got = _rank_two('kfac', factors, P_KxIxO, weighted=True)
    error = roots[0] @ (P_KxIxO - got) @ roots[1]
    s_KxR = np.linalg.svd(roots[0] @ P_KxIxO @ roots[1], compute_uv=False)
    squares = (s_KxR[:, 2:] ** 2).sum(1)
    # The floor of the weights is 1e-6 of their mean: 40 times the smallest's.
    testing.assert_near(self, (error**2).sum((1, 2)), squares, 1e-6)

  def contracted(self):
    """Scores of low-rank queries by both roads, rows and queries in parts."""
    model, params = _model()
    rng = np.random.default_rng(0)
    queries = {
      path: {
        'U': rng.normal(size=(*x.stack, 4, x.num_in, 2)),
        'V': rng.normal(size=(*x.stack, 4, 2, x.num_out)),
      }
      for path, x in model.layers.items()
    }
    U, V = (_unrolled({p: x[k] for p, x in queries.items()}) for k in 'UV')
    parts = mock.patch.multiple(
      contraction, _HELD=50, _LEAST=1, _BLOCK=2, _TOKENS_BLOCK=2
    )
    for only in ('gradient', 'tokens'):
      fn = functools.partial(contraction.pairwise, model, only=only)
      with parts:
        got = _unrolled(jax.jit(fn)(params, queries, _batch()))
      for layer, moments in _oracle().items():
        wanted = np.einsum('bio,kir,kro->bk', moments['g'], U[layer], V[layer])
        testing.assert_near(self, got[layer], wanted, what=layer)

  def self_influence(self):
    """g^T (G + damping)^-1 g by a dense solve; tokens rotated and gradients."""
    approximation = curvature.make('kfac')
    model, params = _model()
    for length in (5, 2):
      batch = testing.deep_batch(num_rows=4, length=length)
      damping = {
        path: np.full(x.stack, 0.3) for path, x in model.layers.items()
      }
      fn = functools.partial(influence.self_influence, approximation, model)
      got = _unrolled(
        jax.jit(fn)(params, _sound('kfac')[0].factors, damping, batch)
      )
      gradients = _unrolled_gradients(length)
      for layer, moments in _oracle().items():
        G = moments['T'] * np.kron(moments['A'], moments['S'])
        flat = gradients[layer].reshape(4, -1).T
        solved = np.linalg.solve(G + 0.3 * np.eye(len(G)), flat)
        testing.assert_near(self, got[layer], (flat * solved).sum(0))


def _rank_two(name, factors, P_KxIxO, weighted):
  """U V of rank 2, by exact singular values."""
  given = (
    curvature.make(name), {'layer': types.Layer('layer', 5, 4, False)},
    {'layer': factors},
  )  # fmt: skip
  rotated = testing.rotated(*given, {'layer': jnp.asarray(P_KxIxO)})
  got = lowrank.truncate(*given, rotated, 2, weighted=weighted, method='exact')[
    'layer'
  ]
  return np.asarray(got['U'] @ got['V'])


@functools.cache
def _unrolled_gradients(length):
  batch = testing.deep_batch(num_rows=4, length=length)
  return testing.loop_gradients(*testing.deep(), batch)


@functools.cache
def _square():
  net = models.make('mlp', widths=(4,), num_outputs=5, dtype='float64')
  rng = np.random.default_rng(0)
  batch = types.Batch(
    inputs=rng.normal(size=(4, 3)),
    targets=rng.integers(0, 5, 4).astype(np.int32),
    mask=np.ones(4),
    ids=np.arange(4),
  )
  model, params = testing.model_of(net, batch.inputs)
  return model, params, batch, _moments_of_rows(model, params, batch)


def _moments_of_rows(model, params, batch):
  """A and S of an MLP, by numpy."""
  (K_0, b_0), (K_1, b_1) = (
    (np.asarray(x['kernel']), np.asarray(x['bias'])) for x in params.values()
  )
  h = np.tanh(batch.inputs @ K_0 + b_0)
  p = np.exp(h @ K_1 + b_1)
  ds_1 = p / p.sum(1, keepdims=True) - np.eye(5)[batch.targets]
  ds_0 = ds_1 @ K_1.T * (1 - h**2)
  found = {}
  for layer, x, ds in zip(
    model.layers, (batch.inputs, h), (ds_0, ds_1), strict=True
  ):
    a = np.concatenate([x, np.ones((4, 1))], 1)
    found[layer] = {'A': a.T @ a / 4, 'S': ds.T @ ds / 4}
  return found


@functools.cache
def _one_layer():
  net = models.make('mlp', widths=(), num_outputs=3, dtype='float64')
  return testing.model_of(net, _repeated(1).inputs)


def _repeated(num):
  """One sequence under many ids; its positions like different classes."""
  return types.Batch(
    inputs=np.tile(6 * np.eye(3), (num, 1, 1)),
    targets=np.zeros((num, 3), np.int32),
    mask=np.ones((num, 3)),
    ids=np.arange(num),
  )


def _probabilities():
  _, params = _one_layer()
  (layer,) = params.values()
  p_TxV = np.exp(6 * np.asarray(layer['kernel']) + np.asarray(layer['bias']))
  return p_TxV / p_TxV.sum(1, keepdims=True)


# Mutations: the library's functions with one thing wrong

_MUTATIONS = []


def _breaks(check, module, name):
  """Notes a function that stands in for `name` and must fail the check."""

  def note(mutant):
    what = mutant.__name__.strip('_')
    _MUTATIONS.append((what, check, module, name, mutant))
    return mutant

  return note


_kfac_tap, _covariance_stage = kfac._tap, kfac.covariance_stage
_ekfac_tap, _sum_of_squares = ekfac._tap, linalg.sum_of_squares
_kfac_rotate_tokens, _svd = kfac.rotate_tokens, lowrank._svd
_in_parts, _mirror = contraction._in_parts, linalg.mirror
_run_stage, _finish_stage = fit._run_stage, fit.finish_stage
_layer_stats, _over_stack = taps.layer_stats, taps.over_stack
_cross_entropy, _sample_tokens = losses._cross_entropy, losses._sample_tokens
_pad = jnp.pad


@_breaks('solve', kfac, 'rotate')
def _rotate_by_the_transposed_basis(factors, g_IxO):
  return factors['Q_A'] @ g_IxO @ factors['Q_S'].T


@_breaks('solve', kfac, 'unrotate')
def _unrotate_by_the_transposed_basis(factors, g_IxO):
  return factors['Q_A'].T @ g_IxO @ factors['Q_S']


@_breaks('solve', influence, '_damped')
def _no_damping(approximation, factors, damping):
  del damping
  return approximation.eigenvalues(factors)


@_breaks('solve', influence, '_preconditioner')
def _product_in_place_of_the_inverse(approximation, back):
  def multiply(factors, damping, g_KxIxO):
    damped_IxO = influence._damped(approximation, factors, damping)

    def one(g_IxO):
      rotated_IxO = approximation.rotate(factors, g_IxO)
      return back(factors, rotated_IxO * damped_IxO)

    return jax.vmap(one)(g_KxIxO)

  return multiply


@_breaks('solve', kfac, 'eigenvalues')
def _number_of_positions_dropped(factors):
  return factors['L_A'][:, None] * factors['L_S'][None, :]


@_breaks('solve', taps, 'over_stack')
def _stack_axis_flipped_in_the_solve(layer, fn):
  if not layer.stack:
    return fn
  mapped = _over_stack(layer, fn)
  return lambda *args: jax.tree.map(lambda x: x[::-1], mapped(*args))


@_breaks('covariances', fit, 'finish_stage')
def _stack_axis_flipped_in_the_fit(stage, layers, state):
  return {
    path: jax.tree.map(lambda x: x[::-1], factors)
    if layers[path].stack
    else factors
    for path, factors in _finish_stage(stage, layers, state).items()
  }


@_breaks('eigenvalues', ekfac, '_tap')
def _eigenvalues_in_the_transposed_basis(a_BxTxI, ds_BxTxO, mask_BxT, factors):
  transposed = {'Q_A': factors['Q_A'].T, 'Q_S': factors['Q_S'].T}
  return _ekfac_tap(a_BxTxI, ds_BxTxO, mask_BxT, factors | transposed)


@_breaks('eigenvalues', linalg, 'sum_of_squares')
def _squares_before_the_sum_over_positions(a_BxTxI, ds_BxTxO, rotate):
  a_Jx1xI = a_BxTxI.reshape(-1, 1, a_BxTxI.shape[-1])
  ds_Jx1xO = ds_BxTxO.reshape(-1, 1, ds_BxTxO.shape[-1])
  return _sum_of_squares(a_Jx1xI, ds_Jx1xO, rotate)


@_breaks('eigenvalues', ekfac, '_finish')
def _eigenvalues_by_positions(factors, sums, counts):
  return {**factors, 'Lambda': sums['Lambda'] / counts.tokens}


@_breaks('covariances', kfac, 'covariance_stage')
def _covariances_by_sequences(eigh):
  stage = _covariance_stage(eigh)

  def finish(factors, sums, counts):
    return stage.finish(factors, sums | {'positions': counts.sequences}, counts)

  return stage._replace(finish=finish)


@_breaks('covariances', kfac, '_tap')
def _mask_lost_in_the_covariances(a_BxTxI, ds_BxTxO, mask_BxT, factors):
  return _kfac_tap(a_BxTxI, ds_BxTxO, jnp.ones_like(mask_BxT), factors)


@_breaks('covariances', kfac, '_tap')
def _mask_lost_in_the_covariance_of_ds(a_BxTxI, ds_BxTxO, mask_BxT, factors):
  found = _kfac_tap(a_BxTxI, ds_BxTxO, mask_BxT, factors)
  return found | {'S': jnp.einsum('bto,btp->op', ds_BxTxO, ds_BxTxO)}


@_breaks('covariances', losses, '_sum_masked')
def _mask_lost_in_the_loss(losses_BxT, mask_BxT):
  del mask_BxT
  return losses_BxT.sum(1)


@_breaks('covariances', losses, '_sum_masked')
def _mean_over_positions_as_the_loss(losses_BxT, mask_BxT):
  return (losses_BxT * mask_BxT).sum(1) / mask_BxT.sum(1)


@_breaks('covariances', kfac, '_tap')
def _mask_lost_in_the_number_of_positions(a_BxTxI, ds_BxTxO, mask_BxT, factors):
  found = _kfac_tap(a_BxTxI, ds_BxTxO, mask_BxT, factors)
  return found | {'positions': jnp.ones_like(mask_BxT).sum()}


@_breaks('eigenvalues', fit_step, 'count')
def _positions_counted_as_sequences(mask):
  return types.Counts(mask.sum(), mask.sum())


def _with_another_rule(change):
  """taps.layer_stats whose rules see change(a, ds)."""

  def layer_stats(loss_fn, params, layers, rule, *rest):
    def changed(a_BxTxI, ds_BxTxO, mask_BxT, factors):
      return rule(*change(a_BxTxI, ds_BxTxO), mask_BxT, factors)

    return _layer_stats(loss_fn, params, layers, changed, *rest)

  return layer_stats


@_breaks('covariances', taps, 'layer_stats')
def _doubled_gradients(*args):
  return _with_another_rule(lambda a, ds: (a, 2 * ds))(*args)


@_breaks('covariances', taps, 'layer_stats')
def _inputs_of_the_position_before(*args):
  return _with_another_rule(lambda a, ds: (jnp.roll(a, 1, 1), ds))(*args)


@_breaks('covariances', jnp, 'pad')
def _bias_column_of_zeros(x, widths, constant_values=0):
  return _pad(x, widths, constant_values=0 * constant_values)


@_breaks('square_covariances', kfac, '_tap')
def _covariances_swapped(*args):
  found = _kfac_tap(*args)
  return found | {'A': found['S'], 'S': found['A']}


@_breaks('covariances', losses, '_cross_entropy')
def _targets_of_the_data_shifted_by_one(logits, targets_BxT, mask_BxT):
  return _cross_entropy(logits, jnp.roll(targets_BxT, 1, axis=1), mask_BxT)


@_breaks('sampled', losses, '_sample_tokens')
def _targets_of_the_model_shifted_by_one(*args):
  return jnp.roll(_sample_tokens(*args), 1, axis=1)


@_breaks('sampled', losses, '_sample_tokens')
def _most_likely_targets_in_place_of_a_draw(rng, logits, ids_B):
  del rng, ids_B
  return logits.argmax(-1)


@_breaks('sampled', losses, '_sample_tokens')
def _targets_uniform_over_the_vocabulary(rng, logits, ids_B):
  return _sample_tokens(rng, 0 * logits, ids_B)


@_breaks('sampled', losses, '_draw')
def _one_draw_for_all_sequences(distribution, rng, ids_B, like):
  del ids_B
  one = distribution(rng, shape=like.shape[1:], dtype=like.dtype)
  return jnp.broadcast_to(one, like.shape)


@_breaks('resume', fit, '_run_stage')
def _restart_with_sums_of_zero(step, state, *rest):
  sums = jax.tree.map(np.zeros_like, state.sums)
  counts = jax.tree.map(np.zeros_like, state.counts)
  return _run_stage(step, state._replace(sums=sums, counts=counts), *rest)


@_breaks('resume', fit, '_run_stage')
def _restart_at_the_first_batch(*args):
  *given, bar, save, save_every = args
  whole_bar = tqdm.tqdm(range(bar.total), disable=True)
  return _run_stage(*given, whole_bar, save, save_every)


@_breaks('truncation', lowrank, '_svd')
def _truncation_to_the_smallest(P_IxO, width, num_iterations):
  U, s, V = _svd(P_IxO, width, num_iterations)
  return U[:, ::-1], s[::-1], V[::-1]


@_breaks('weighted_truncation', lowrank, '_weights')
def _truncation_that_does_not_look_at_the_curvature(*args):
  del args
  return jnp.ones((5, 1)), jnp.ones((1, 4))


@_breaks('weighted_truncation', lowrank, '_weights')
def _weights_that_are_not_square_roots(approximation, factors, *rest):
  eigenvalues = approximation.eigenvalues(factors)
  return eigenvalues.mean(1)[:, None], eigenvalues.mean(0)[None]


@_breaks('weighted_truncation', kfac, 'unrotate_sides')
def _truncation_that_leaves_the_basis_transposed(factors, x_RxI, y_RxO):
  return x_RxI @ factors['Q_A'], y_RxO @ factors['Q_S']


@_breaks('contracted', contraction, '_form')
def _gradients_of_single_positions(a_BxTxI, ds_BxTxO):
  return jnp.einsum('bi,bo->bio', a_BxTxI.sum(1), ds_BxTxO.sum(1))


@_breaks('contracted', contraction, '_project')
def _ranks_that_meet_crosswise(a_BxTxI, ds_BxTxO, one, finish):
  into = jnp.einsum('bti,kir->kbt', a_BxTxI, one['U'])
  return finish(into * jnp.einsum('bto,kro->kbt', ds_BxTxO, one['V']))


@_breaks('contracted', contraction, '_in_parts')
def _parts_in_the_wrong_order(fn, size, *arrays):
  return _in_parts(fn, size, *(x[::-1] for x in arrays))


def _by_transposed_bases(factors, a_BxTxI, ds_BxTxO):
  transposed = {'Q_A': factors['Q_A'].T, 'Q_S': factors['Q_S'].T}
  return _kfac_rotate_tokens(factors | transposed, a_BxTxI, ds_BxTxO)


@_breaks('eigenvalues', kfac, 'rotate_tokens')
def _tokens_rotated_by_the_transposed_basis(*args):
  return _by_transposed_bases(*args)


@_breaks('self_influence', kfac, 'rotate_tokens')
def _self_influence_in_the_transposed_basis(*args):
  return _by_transposed_bases(*args)


@_breaks('eigenvalues', linalg, 'rotate_tokens')
def _tokens_never_rotated(a_BxTxI, ds_BxTxO, *rotations):
  del rotations
  return a_BxTxI, ds_BxTxO, lambda g_IxO: g_IxO


@_breaks('self_influence', influence, '_damped')
def _self_influence_without_damping(approximation, factors, damping):
  del damping
  return approximation.eigenvalues(factors)


@_breaks('covariances', linalg, 'mirror')
def _lower_triangle_not_filled(upper_IxI):
  return upper_IxI


@_breaks('covariances', linalg, 'mirror')
def _diagonal_twice(upper_IxI):
  return _mirror(upper_IxI) + jnp.diag(jnp.diag(upper_IxI))


class MutationTest(Checks):
  passed = set()  # checks that have passed on the library as it is

  @parameterized.named_parameters(*_MUTATIONS)
  def test_a_check_sees(self, check, module, name, mutant):
    if check not in self.passed:
      getattr(self, check)()
      self.passed.add(check)
    # What is traced belongs to the library as it is, or as it was broken.
    jax.clear_caches()
    with mock.patch.object(module, name, mutant):
      with self.assertRaises(AssertionError):
        getattr(self, check)()
    jax.clear_caches()


if __name__ == '__main__':
  absltest.main()
