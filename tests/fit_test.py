"""Running stages: what stops a fit, what it saves, how it goes on."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import testing
from absl.testing import absltest, parameterized

from influence_jax import (
  curvature,
  fit,
  fit_step,
  losses,
  models,
  sharding,
  types,
)

_STEPS = testing.steps_made_once()


def setUpModule():
  jax.config.update('jax_enable_x64', True)
  jax.config.update('jax_disable_most_optimizations', True)  # compiles sooner
  _STEPS.start()


def tearDownModule():
  _STEPS.stop()
  jax.config.update('jax_disable_most_optimizations', False)
  jax.config.update('jax_enable_x64', False)


@functools.cache
def _regression():
  """Two dense layers; the first does not look at its first input."""
  net = models.make('mlp', widths=(2,), num_outputs=2, dtype='float64')
  inputs = jax.ShapeDtypeStruct((1, 3), float)
  model, params = testing.model_of(net, inputs, losses.squared_error)
  kernel = params['dense_0']['kernel'].at[0].set(0)
  return model, params | {'dense_0': params['dense_0'] | {'kernel': kernel}}


def _batches(num=6, rows=8):
  rng = np.random.default_rng(0)
  return [
    types.Batch(
      inputs=rng.normal(size=(rows, 3)),
      targets=rng.normal(size=(rows, 2)),
      mask=np.ones(rows),
      ids=np.arange(rows, dtype=np.int32) + rows * i,
    )
    for i in range(num)
  ]


def _fit(name, batches, **ways):
  return testing.fitted(curvature.make(name), *_regression(), batches, **ways)


def _with_input(batches, at, value):
  """The same batches; the first input of row 3 of batch `at` is `value`."""
  inputs = batches[at].inputs.copy()
  inputs[3, 0] = value
  changed = batches[at]._replace(inputs=inputs)
  return [*batches[:at], changed, *batches[at + 1 :]]


class NonFiniteTest(parameterized.TestCase):
  @parameterized.parameters(
    dict(at=0, save_every=1, cursors=[]),
    dict(at=1, save_every=2, cursors=[]),  # the batch after which it saves
    dict(at=2, save_every=1, cursors=[1, 2]),
    dict(at=2, save_every=4, cursors=[]),  # not seen before the next runs
    dict(at=5, save_every=2, cursors=[2, 4]),
    dict(at=5, save_every=100, cursors=[]),  # the last of the stage
  )
  def test_a_loss_stops_the_run_and_nothing_is_saved_after_it(
    self, at, save_every, cursors
  ):
    saved = []
    with self.assertRaisesRegex(
      ValueError,
      rf'non-finite loss at batch {at} \(sequences \[{8 * at}, .*'
      rf"{8 * at + 7}\]\), layers \['dense_0', 'dense_1'\]",
    ):
      _fit(
        'kfac', _with_input(_batches(), at, np.nan), save=saved.append,
        save_every=save_every,
      )  # fmt: skip
    self.assertEqual([x.cursor for x in saved], cursors)
    for x in jax.tree.leaves([(x.counts, x.sums) for x in saved]):
      self.assertTrue(np.isfinite(x).all())

  @parameterized.parameters('kfac', 'diagonal')
  def test_statistics_stop_the_run_under_the_name_of_their_layer(self, name):
    """An input whose square is no float64, and which the network ignores."""
    with self.assertRaisesRegex(
      ValueError, r"non-finite statistics at batch 1 .*layers \['dense_0'\]"
    ):
      _fit(name, _with_input(_batches(), 1, 1e200))

  @parameterized.parameters('kfac', 'diagonal')
  def test_a_sum_of_finite_statistics_must_be_finite_too(self, name):
    """The square is 1.44e308 in two batches, and 1.8e308 is no float64."""
    saved, (first, second, *rest) = [], _batches()
    size = 1.2e154
    if name == 'diagonal':
      size /= np.abs(_output_gradients(second)[3]).max()
    batches = _with_input([first, second, second, *rest], 1, size)
    batches[2] = batches[1]
    with self.assertRaisesRegex(
      ValueError, r"non-finite statistics at batch 2 .*layers \['dense_0'\]"
    ):
      _fit(name, batches, save=saved.append, save_every=1)
    self.assertEqual([x.cursor for x in saved], [1, 2])

  @parameterized.parameters('kfac', 'diagonal')
  def test_devices_whose_sums_overflow_together_make_no_factors(self, name):
    made, (model, _) = curvature.make(name), _regression()
    state = fit.start(made, model.layers, num_shards=2)
    state = state._replace(
      sums=jax.tree.map(lambda x: x + 1e308, state.sums),
      counts=jax.tree.map(lambda x: x + 4, state.counts),
    )
    (stage,) = made.stages
    with self.assertRaisesRegex(ValueError, f'dense_0.*{stage.name}.*finite'):
      fit.finish_stage(stage, model.layers, state)


def _output_gradients(batch):
  """ds_BxO of the first layer, by numpy."""
  _, params = _regression()
  (K_0, b_0), (K_1, b_1) = (
    (np.asarray(x['kernel']), np.asarray(x['bias'])) for x in params.values()
  )
  h_BxO = np.tanh(batch.inputs @ K_0 + b_0)
  residuals = h_BxO @ K_1 + b_1 - batch.targets
  return residuals @ K_1.T * (1 - h_BxO**2)


class SaveTest(parameterized.TestCase):
  @parameterized.parameters(
    (1, [(0, 1), (0, 2), (0, 3), (1, 0), (1, 1), (1, 2), (1, 3), (2, 0)]),
    (2, [(0, 2), (1, 0), (1, 2), (2, 0)]),
    (3, [(0, 3), (1, 0), (1, 3), (2, 0)]),
    (100, [(1, 0), (2, 0)]),
  )
  def test_every_so_many_batches_and_at_the_end_of_a_stage(
    self, save_every, places
  ):
    saved = []
    final = _fit('ekfac', _batches(3), save=saved.append, save_every=save_every)
    self.assertEqual([(x.stage, x.cursor) for x in saved], places)
    self.assertEqual(final.stage, 2)
    keys = [set(x.factors['dense_0']) for x in saved if x.stage == 1]
    self.assertEqual(keys, [{'L_A', 'Q_A', 'L_S', 'Q_S', 'T_mean'}] * len(keys))

  def test_what_is_saved_stays_as_it_was(self):
    """The step donates its sums: they must be no one else's."""
    states, copies = [], []

    def save(state):
      states.append(state)
      copies.append(jax.tree.map(np.array, state))

    _fit('ekfac', _batches(3), save=save, save_every=1)
    jax.tree.map(np.testing.assert_array_equal, states, copies)

  def test_a_state_that_a_fit_goes_on_from_stays_as_it_was(self):
    model, _ = _regression()
    state = fit.start(curvature.make('kfac'), model.layers)
    first = _fit('kfac', _batches(2), state=state)
    second = _fit('kfac', _batches(2), state=state)
    jax.tree.map(np.testing.assert_array_equal, first.factors, second.factors)


class ResumeTest(parameterized.TestCase):
  @parameterized.product(
    place=[(0, 2), (1, 0), (1, 1)], devices=[(8, 2), (2, 8), (8, 1)]
  )
  def test_it_goes_on_with_another_number_of_devices(self, place, devices):
    saved = []
    before, after = devices
    _fit('ekfac', _batches(3), devices=before, save=saved.append, save_every=1)
    (state,) = [x for x in saved if (x.stage, x.cursor) == place]
    self.assertLen(state.counts.tokens, 1)  # added up to be saved
    got = _fit('ekfac', _batches(3), devices=after, state=state)
    wanted = _fit('ekfac', _batches(3))
    for layer, factors in wanted.factors.items():
      for key in ('L_A', 'L_S', 'Lambda', 'T_mean'):
        testing.assert_near(self, got.factors[layer][key], factors[key])

  def test_it_does_not_ask_again_for_batches_that_are_in_the_sums(self):
    saved = []
    _fit('ekfac', _batches(3), save=saved.append, save_every=1)
    for state in saved:
      asked = []
      batches = _batches(3)
      fit.fit(
        curvature.make('ekfac'), *_regression(), 3,
        lambda i, batches=batches, asked=asked: (
          asked.append(i) or batches[i]
        ),
        jax.random.key(0), mesh=testing.mesh(), targets='data', state=state,
        quiet=True,
      )  # fmt: skip
      whole = [*range(3)]
      wanted = whole[state.cursor :] + whole * (1 - state.stage)
      self.assertEqual(asked, wanted if state.stage < 2 else [])

  def test_each_stage_draws_targets_of_its_own(self):
    """Else the eigenvalues would be fitted to the basis's own noise."""
    drawn = []
    model, params = _regression()

    def sample(rng, outputs, ids):
      targets = model.loss.sample(rng, outputs, ids)
      jax.debug.callback(lambda x: drawn.append(np.asarray(x)), targets)
      return targets

    noting = model._replace(loss=model.loss._replace(sample=sample))
    testing.fitted(
      curvature.make('ekfac'), noting, params, _batches(2), targets='model'
    )
    jax.effects_barrier()
    self.assertLen(drawn, 4)
    for i, one in enumerate(drawn):
      for other in drawn[:i]:
        self.assertGreater(np.abs(one - other).min(), 0)


class CountsTest(absltest.TestCase):
  def test_sequences_and_positions_that_are_not_masked(self):
    model, params = testing.deep(scan=True)
    batch = testing.deep_batch(num_rows=8)
    batch.mask[2] = 0
    batch.mask[5, :2] = 0
    batch.mask[5, 2] = 1
    for devices in (1, 8):
      saved = []
      testing.fitted(
        curvature.make('kfac'), model, params, [batch] * 2, devices=devices,
        save=saved.append, save_every=1,
      )  # fmt: skip
      for state in saved[:2]:
        counts = state.counts
        self.assertEqual(counts.sequences.sum(), 7 * state.cursor)
        tokens = (batch.mask > 0).sum() * state.cursor
        self.assertEqual(counts.tokens.sum(), tokens)

  def test_a_row_of_features_is_one_position(self):
    mask = jnp.array([1.0, 0, 1, 1])
    self.assertEqual(fit_step.count(mask), (3, 3))

  def test_all_rows_masked_are_refused(self):
    batches = [x._replace(mask=0 * x.mask) for x in _batches(2)]
    with self.assertRaisesRegex(ValueError, 'every row is masked'):
      _fit('kfac', batches)


class LossTest(parameterized.TestCase):
  @parameterized.parameters(((1, 1),), ((4, 1),), ((2, 2),))
  def test_the_bar_shows_nats_a_position_of_the_whole_batch(self, shape):
    (model, params), mesh = _regression(), sharding.make_mesh(*shape)
    batch = _batches(1)[0]._replace(mask=np.arange(8) % 3 > 0)
    made = curvature.make('kfac')
    state = fit.start(made, model.layers, shape[0])
    step = fit_step.make(model, made.stages[0], mesh, 'data')
    _, _, (_, nats) = step(
      params, state.factors, jax.random.key(0),
      sharding.shard_batch(mesh, batch), state.counts, state.sums,
    )  # fmt: skip
    outputs = model.apply_fn(params, batch.inputs)
    loss_B = model.loss.per_sequence(outputs, batch.targets, batch.mask)
    self.assertAlmostEqual(float(nats), float(loss_B.sum()) / 5, places=12)


class ArgumentsTest(absltest.TestCase):
  def test_no_batches_are_refused(self):
    with self.assertRaisesRegex(ValueError, 'no batches'):
      _fit('kfac', [])

  def test_unknown_targets_are_refused_with_those_that_there_are(self):
    with self.assertRaisesRegex(ValueError, "'model', 'data'.*'labels'"):
      _fit('kfac', _batches(1), targets='labels')


class CompilationTest(parameterized.TestCase):
  @parameterized.parameters(1, 8)
  def test_batches_of_one_shape_compile_one_program_a_stage(self, devices):
    """Traces of the model, and compilations between batches, are counted."""
    traces, compiled, at_batch = [], [], []
    model, params = _regression()

    def apply_fn(params, inputs):
      traces.append(inputs.shape)
      return model.apply_fn(params, inputs)

    def listen(event, seconds, **unused):
      del seconds, unused
      if event == '/jax/core/compile/backend_compile_duration':
        compiled.append(event)

    def get(i):
      at_batch.append(len(compiled))
      return _batches()[i]

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
      fit.fit(
        curvature.make('ekfac'), model._replace(apply_fn=apply_fn), params, 6,
        get, jax.random.key(0), mesh=testing.mesh(devices), quiet=True,
      )  # fmt: skip
    finally:
      jax.monitoring.unregister_event_duration_listener(listen)
    self.assertLen(traces, 2)
    for start in (0, 6):
      before, *after = at_batch[start : start + 6]
      self.assertGreater(after[0], before)
      self.assertEqual(after, [after[0]] * 5)


if __name__ == '__main__':
  absltest.main()
