import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import testing
from absl.testing import absltest, parameterized
from flax import traverse_util

from influence_jax import (
  attribution,
  contraction,
  gradients,
  losses,
  models,
  token_influence,
  types,
)

_WAYS = {
  'plain': {},
  'remat': {'remat': True},
  'scan': {'scan': True},
  'scan_and_remat': {'scan': True, 'remat': True},
}
_PADDING, _PROMPT = 2, 4  # rows: one is padding, one counts from position 2 on
_ALPHAS = [10.0**-n for n in range(1, 13)]
_EMBEDDING = 'tok_emb'


def setUpModule():
  jax.config.update('jax_enable_x64', True)


def tearDownModule():
  jax.config.update('jax_enable_x64', False)


@functools.cache
def _batch():
  """Noise in the padding, a prompt, and losses that count double."""
  batch = testing.batch()
  rng = np.random.default_rng(3)
  noise = rng.integers(0, testing.VOCAB, (2, *batch.mask.shape))
  mask = batch.mask.copy()
  inputs = np.where(mask, batch.inputs, noise[0]).astype(np.int32)
  targets = np.where(mask, batch.targets, noise[1]).astype(np.int32)
  mask[_PADDING] = 0
  mask[_PROMPT, :2] = 0
  mask[0, 1] = 2
  return batch._replace(inputs=inputs, targets=targets, mask=mask)


def _is_padding():
  """[B, T]: no target counts from here on."""
  later = np.cumsum(_batch().mask[:, ::-1], 1)[:, ::-1]
  return later == 0


@functools.cache
def _solved(way='plain', dtype='float64'):
  """{path: [*stack, I, O]}: the same numbers for every way of running."""
  model, params = testing.transformer(**_WAYS[way], dtype=dtype)
  rng = np.random.default_rng(1)
  plain = {
    path: rng.normal(size=(layer.num_in, layer.num_out))
    for path, layer in testing.transformer()[0].layers.items()
  }
  solved = {}
  for path, layer in model.layers.items():
    if layer.stack:
      name = path.removeprefix('blocks/')
      solved[path] = np.stack([plain[f'blocks_{i}/{name}'] for i in range(2)])
    else:
      solved[path] = plain[path]
  return model, params, solved


def _directed(way='plain', dtype='float64'):
  """(model, params, direction)."""
  model, params, solved = _solved(way, dtype)
  return model, params, token_influence.direction(params, model.layers, solved)


@functools.cache
def _exact(way='plain', dtype='float64'):
  """(output, input) influence [B, T]."""
  model, params, direction = _directed(way, dtype)

  @jax.jit
  def run(params, direction):
    args = model, params, direction, _batch()
    return (
      token_influence.output_tokens(*args),
      token_influence.input_tokens(*args, _EMBEDDING),
    )

  return jax.device_get(run(params, direction))


@functools.cache
def _differences(dtype='float64'):
  """[(output, input) influence [B, T]], one for each alpha."""
  model, params, direction = _directed(dtype=dtype)

  @jax.jit
  def run(params, direction, alpha):
    args = model, params, direction, _batch()
    return (
      token_influence.output_tokens_by_difference(*args, alpha),
      token_influence.input_tokens_by_difference(*args, _EMBEDDING, alpha),
    )

  return jax.device_get([run(params, direction, alpha) for alpha in _ALPHAS])


def _score(model, params, solved, batch):
  """[B]: of one query, the sum over layers of `contraction.pairwise`."""
  one = {path: jnp.expand_dims(x, -3) for path, x in solved.items()}
  queries = contraction.whole(one)
  by_layer = contraction.pairwise(model, params, queries, batch)
  return attribution.total(by_layer, model.layers)[:, 0]


@functools.cache
def _scores(way='plain'):
  model, params, solved = _solved(way)
  run = jax.jit(functools.partial(_score, model))
  return jax.device_get(run(params, solved, _batch()))


@functools.cache
def _output_wanted():
  """[B, T]: <solved, gradient of one position's loss>, one at a time."""
  model, params, solved = _solved()
  batch = _batch()
  B, T = batch.mask.shape
  rows = testing.rows(batch, np.repeat(np.arange(B), T))
  rows = rows._replace(mask=rows.mask * np.tile(np.eye(T), (B, 1)))
  g = testing.loop_gradients(model, params, rows)
  scores = sum(np.einsum('nio,io->n', g[path], solved[path]) for path in solved)
  return scores.reshape(B, T)


@functools.cache
def _input_wanted():
  """[B, T]: five-point differences of the score as a token's embedding grows.

  One sequence at a time, where h e_t added at position t can be added to the
  embedding of that position: no embedding's output is touched.
  """
  model, params, solved = _solved()
  table_VxD = params['tok_emb']['embedding']

  @jax.jit
  def score(row, t, h):
    positions_TxD = params['pos_emb']['embedding']
    grown_TxD = positions_TxD.at[t].add(h * table_VxD[row.inputs[t]])
    moved = {**params, 'pos_emb': {'embedding': grown_TxD}}
    row = types.Batch(*(x[None] for x in row))
    return _score(model, moved, solved, row)[0]

  step, wanted_BxT = 3e-4, np.zeros(_batch().mask.shape)
  weights = {-2: 1 / 12, -1: -8 / 12, 1: 8 / 12, 2: -1 / 12}
  for b, t in np.ndindex(wanted_BxT.shape):
    row = testing.rows(_batch(), b)
    for times, weight in weights.items():
      wanted_BxT[b, t] += weight * score(row, t, times * step) / step
  return wanted_BxT


class _Heads(nn.Module):
  """Kernels of three axes, with a bias of two and of none, and of two axes."""

  @nn.compact
  def __call__(self, h_BxTxD):
    split = nn.DenseGeneral((2, 3), name='split', param_dtype=float)
    join = nn.DenseGeneral(
      4, axis=(-2, -1), use_bias=False, name='join', param_dtype=float
    )
    return jnp.tanh(join(jnp.tanh(split(h_BxTxD)))), None


class _Stacked(nn.Module):
  @nn.compact
  def __call__(self, x_BxTxI):
    h_BxTxD = nn.Dense(4, name='first', param_dtype=float)(x_BxTxI)
    scanned = nn.scan(
      _Heads, {'params': 0}, split_rngs={'params': True}, length=2
    )
    h_BxTxD, _ = scanned(name='blocks')(h_BxTxD)
    return nn.Dense(3, name='untapped', param_dtype=float)(h_BxTxD)


class _Embeds(nn.Module):
  """One that is the head too, called `times`, one of no tokens, another."""

  times: int = 1

  @nn.compact
  def __call__(self, tokens_BxT):
    embed = nn.Embed(testing.VOCAB, 4, name='tied', param_dtype=float)
    one_1xD = nn.Embed(1, 4, name='one', param_dtype=float)(jnp.zeros(1, int))
    h_BxTxD = one_1xD[None] + sum(embed(tokens_BxT) for _ in range(self.times))
    other = nn.Embed(testing.VOCAB, 4, name='other', param_dtype=float)
    h_BxTxD += other(tokens_BxT)
    h_BxTxD += nn.Dense(4, name='dense', param_dtype=float)(h_BxTxD)
    return embed.attend(h_BxTxD)


class _Table(nn.Module):
  """Logits are looked up."""

  @nn.compact
  def __call__(self, tokens_BxT):
    V = testing.VOCAB
    return nn.Embed(V, V, name='table', dtype='float32')(tokens_BxT)


def _random_solved(layers):
  rng = np.random.default_rng(2)
  return {
    path: rng.normal(size=(*x.stack, x.num_in, x.num_out))
    for path, x in layers.items()
  }


def _step(params, direction, alpha):
  return jax.tree.map(lambda x, p: x + alpha * p, params, direction)


def _all_log_p(model, params, batch):
  """[B]."""
  outputs = model.apply_fn(params, batch.inputs)
  return -model.loss.per_sequence(outputs, batch.targets, batch.mask)


class DirectionTest(parameterized.TestCase):
  def check_product(self, model, params, solved, batch):
    """<p, grad log p> is the score; p is 0 off the layers and there alone."""
    direction = token_influence.direction(params, model.layers, solved)
    wanted = jax.jit(functools.partial(_score, model))(params, solved, batch)
    dot = jax.tree.map(
      lambda p, g: -np.vdot(p, g), [direction] * len(batch.inputs),
      testing.row_gradients(model, params, batch),
    )  # fmt: skip
    got = [sum(jax.tree.leaves(row)) for row in dot]
    testing.assert_near(self, got, wanted)
    for path, x in traverse_util.flatten_dict(direction, sep='/').items():
      tapped = path.rpartition('/')[0] in model.layers
      self.assertEqual(bool(np.any(x)), tapped, path)

  @parameterized.parameters(False, True)
  def test_its_product_with_a_gradient_is_the_score(self, scan):
    model, params = testing.deep(scan)
    solved = _random_solved(model.layers)
    self.check_product(model, params, solved, testing.deep_batch())

  def test_kernels_of_any_number_of_axes_are_laid_out(self):
    batch = testing.deep_batch()
    pattern = 'first|blocks'
    model, params = testing.model_of(_Stacked(), batch.inputs, pattern=pattern)
    self.assertEqual(params['blocks']['split']['bias'].shape, (2, 2, 3))
    self.assertLen(model.layers, 3)
    self.check_product(model, params, _random_solved(model.layers), batch)

  def test_a_step_along_it_makes_the_completion_likelier(self):
    model, params = testing.deep()
    query = testing.rows(testing.deep_batch(), [0])
    run = jax.jit(functools.partial(gradients.layer_gradients, model))
    # The preconditioned query where G + damping is 1.
    solved = {path: x[0] for path, x in run(params, query).items()}
    direction = token_influence.direction(params, model.layers, solved)
    moved = _step(params, direction, 1e-3)
    log_p = [_all_log_p(model, x, query)[0] for x in (params, moved)]
    self.assertGreater(log_p[1], log_p[0])

  def test_many_queries_at_once_are_refused(self):
    model, params, solved = _solved()
    many = {path: np.stack([x, x]) for path, x in solved.items()}
    with self.assertRaisesRegex(
      ValueError, r"blocks_0/mlp/fc_in'.*\(2, 7, 10\), expected \(7, 10\)"
    ):
      token_influence.direction(params, model.layers, many)


class OutputTokensTest(parameterized.TestCase):
  @parameterized.parameters('plain', 'scan_and_remat')
  def test_they_sum_to_the_score(self, way):
    found = _exact(way)[0].sum(1)
    testing.assert_near(self, found, _scores(way))
    np.testing.assert_array_equal(found != 0, _batch().mask.any(1))

  @parameterized.parameters(*_WAYS)
  def test_each_is_the_score_of_its_position_alone(self, way):
    testing.assert_near(self, _exact(way)[0], _output_wanted())

  def test_they_are_exactly_zero_where_the_mask_is_and_there_alone(self):
    np.testing.assert_array_equal(_exact()[0] != 0, _batch().mask > 0)

  def test_nan_stays_in_the_padding(self):
    batch = testing.deep_batch(length=4)
    inputs = np.where(batch.mask[..., None] > 0, batch.inputs, np.nan)
    batch = batch._replace(inputs=inputs)
    net = models.make('mlp', widths=(4,), num_outputs=3, dtype='float64')
    model, params = testing.model_of(net, batch.inputs)
    solved = _random_solved(model.layers)
    direction = token_influence.direction(params, model.layers, solved)
    run = jax.jit(functools.partial(token_influence.output_tokens, model))
    found = run(params, direction, batch)
    np.testing.assert_array_equal(found != 0, batch.mask > 0)
    self.assertTrue(np.isfinite(found).all())

  def test_any_loss_will_do(self):
    batch = testing.deep_batch()
    targets = np.random.default_rng(4).normal(size=(*batch.mask.shape, 3))
    batch = batch._replace(targets=targets)
    model, params = testing.model_of(
      testing.Deep(scan=False), batch.inputs, losses.squared_error
    )
    # Values [B, T, O] under a mask [B, T] are what the loss sums over T.
    solved = _random_solved(model.layers)
    direction = token_influence.direction(params, model.layers, solved)
    run = jax.jit(functools.partial(token_influence.output_tokens, model))
    found = run(params, direction, batch)
    wanted = jax.jit(functools.partial(_score, model))(params, solved, batch)
    testing.assert_near(self, found.sum(1), wanted)


class InputTokensTest(parameterized.TestCase):
  @parameterized.parameters(*_WAYS)
  def test_they_are_how_the_score_changes_as_an_embedding_grows(self, way):
    testing.assert_near(self, _exact(way)[1], _input_wanted())

  def test_they_are_exactly_zero_in_the_padding_and_there_alone(self):
    np.testing.assert_array_equal(_exact()[1] != 0, ~_is_padding())
    self.assertTrue((_exact()[1] != 0)[_PROMPT, :2].all())

  def test_use_as_a_head_is_not_input(self):
    """Where nothing mixes positions, and against a table of its own."""
    model, params = testing.model_of(_Embeds(), _batch().inputs)
    solved = _random_solved(model.layers)
    direction = token_influence.direction(params, model.layers, solved)
    found = jax.jit(
      lambda *args: token_influence.input_tokens(model, *args, 'tied')
    )(params, direction, _batch())

    def log_p(dense, e_BxTxD):
      h = e_BxTxD + params['one']['embedding'][None]
      h += params['other']['embedding'][_batch().inputs]
      h += h @ dense['kernel'] + dense['bias'][None, None]
      logits = h @ params['tied']['embedding'].T
      log_p = jax.nn.log_softmax(logits)
      targets = _batch().targets[..., None]
      return (jnp.take_along_axis(log_p, targets, -1)[..., 0] * mask).sum()

    mask = _batch().mask
    e_BxTxD = params['tied']['embedding'][_batch().inputs]
    ends = [
      jax.grad(log_p, 1)(_step(params, direction, alpha)['dense'], e_BxTxD)
      for alpha in (1e-5, -1e-5)
    ]
    wanted = ((ends[0] - ends[1]) / 2e-5 * e_BxTxD).sum(-1)
    testing.assert_near(self, found, wanted, 1e-7)

  def test_the_model_goes_on_in_its_own_dtype(self):
    net, noted = _Table(), []

    def apply_fn(params, inputs):
      outputs = net.apply({'params': params}, inputs)
      noted.append(outputs.dtype)
      return outputs

    table_VxV = jnp.eye(testing.VOCAB, dtype='float32')
    params = {'table': {'embedding': table_VxV}}
    model = types.Model(apply_fn, losses.softmax_cross_entropy, {})
    token_influence.input_tokens(model, params, params, _batch(), 'table')
    self.assertEqual(noted, [np.float32])

  @parameterized.parameters(
    (1, 'wte', r"'wte' should .* tokens \(6, 8\); it matches \[\] .*'tied'"),
    (1, 'ti|ot', r"matches \[\('tied', \(6, 8\)\), \('other', \(6, 8\)\)\]"),
    (2, 'tied', r"matches \[\('tied', \(6, 8\)\), \('tied', \(6, 8\)\)\]"),
    (1, 'one', r"matches \[\('one', \(1,\)\)\]"),
  )
  def test_the_embedding_is_one_used_once(self, times, pattern, message):
    model, params = testing.model_of(_Embeds(times), _batch().inputs)
    with self.assertRaisesRegex(ValueError, message):
      token_influence.input_tokens(model, params, params, _batch(), pattern)


class DifferencesTest(parameterized.TestCase):
  def errors(self, dtype, side):
    """The error at each alpha, relative to the largest influence."""
    wanted = _exact()[side]
    return [
      np.abs(found[side] - wanted).max() / np.abs(wanted).max()
      for found in _differences(dtype)
    ]

  @parameterized.product(
    end=[('float64', 1e-6), ('float32', 1e-2)], side=(0, 1)
  )
  def test_they_converge_to_the_derivatives(self, end, side):
    dtype, bound = end
    errors = self.errors(dtype, side)
    self.assertLess(min(errors), bound)

  @parameterized.parameters(0, 1)
  def test_their_error_is_of_first_order(self, side):
    errors = self.errors('float64', side)
    at = _ALPHAS.index(1e-4), _ALPHAS.index(1e-5)
    self.assertBetween(errors[at[0]] / errors[at[1]], 9, 11)

  def test_the_derivatives_do_with_float32(self):
    for got, wanted in zip(_exact(dtype='float32'), _exact(), strict=True):
      testing.assert_near(self, got, wanted, 1e-5)


class SpreadTest(parameterized.TestCase):
  @parameterized.parameters(
    ([0, -3, 0, 0], 1.0, True),
    ([2, -2, 2, 2], 0.5, False),
    ([3, 4], 5 / 7, True),
    ([1, 1], 0.5**0.5, True),
    ([1, 1, 1], 3**-0.5, False),
    ([0, 0, 0], 0.0, False),
    ([5], 1.0, True),
  )
  def test_it_is_the_ratio_of_norms(self, values, wanted, sparse):
    self.assertAlmostEqual(float(token_influence.spread(values)), wanted)
    self.assertEqual(bool(token_influence.is_sparse(values)), sparse)

  @parameterized.parameters(1e-300, 1e300)
  def test_it_is_free_of_scale(self, scale):
    found = token_influence.spread(scale * np.array([3.0, 4.0, 0.0]))
    self.assertAlmostEqual(float(found), 5 / 7)

  def test_every_row_has_its_own(self):
    rows = np.random.default_rng(0).normal(size=(2, 3, 5))
    rows[1, 2] = 0
    norms = np.linalg.norm(rows, axis=-1), np.linalg.norm(rows, 1, axis=-1)
    wanted = norms[0] / np.where(norms[1], norms[1], 1)
    testing.assert_near(self, token_influence.spread(rows), wanted, 1e-12)
    np.testing.assert_array_equal(
      token_influence.is_sparse(rows, 0.5), wanted > 0.5
    )

  def test_a_nan_is_seen_and_not_called_sparse(self):
    values = [[np.nan, 0, 0], [1, 0, 0]]
    np.testing.assert_array_equal(
      np.isnan(token_influence.spread(values)), [True, False]
    )
    np.testing.assert_array_equal(
      token_influence.is_sparse(values), [False, True]
    )


if __name__ == '__main__':
  absltest.main()
