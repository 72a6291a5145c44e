"""The response against the dense Gauss-Newton matrix of jacobians."""

import functools
from unittest import mock

import exact_ggn
import jax
import jax.numpy as jnp
import numpy as np
import testing
from absl.testing import absltest, parameterized
from scipy import special

from influence_jax import (
  attribution,
  contraction,
  ggn,
  gradients,
  layer_arrays,
  pbrf,
)

_STEPS, _STEP = 12, 1e-5  # of a solve; of a difference by epsilon


def setUpModule():
  jax.config.update('jax_enable_x64', True)
  jax.config.update('jax_disable_most_optimizations', True)  # compiles sooner


def tearDownModule():
  jax.config.update('jax_disable_most_optimizations', False)
  jax.config.update('jax_enable_x64', False)


def _case(name):
  """As exact_ggn's; 'some' is 'scan' of which two layers are tapped."""
  if name != 'some':
    return exact_ggn.case(name)
  model, params, batches = exact_ggn.case('scan')
  layers = {path: model.layers[path] for path in ('first', 'last')}
  return model._replace(layers=layers), params, batches


@functools.cache
def _damping(name):
  """Another number for every layer and slice."""
  rng = np.random.default_rng(0)
  return {
    path: jnp.asarray(rng.uniform(0.02, 0.2, layer.stack))
    for path, layer in _case(name)[0].layers.items()
  }


@functools.cache
def _damped(name):
  """G + damping [P, P]."""
  model, params, batches = _case(name)
  G = exact_ggn.matrix(model, params, exact_ggn.joined(batches))
  return G + np.diag(exact_ggn.diagonal(model.layers, _damping(name)))


def _points(name):
  """[3, 1, ...]: the first rows of the first batch, which are in the data."""
  return jax.tree.map(lambda x: x[:3, None].copy(), _case(name)[2][0])


@functools.cache
def _gradients(name):
  """Of the points' losses [3, P]."""
  model, params, batches = _case(name)
  g = testing.row_gradients(model, params, testing.rows(batches[0], slice(3)))
  return np.stack([exact_ggn.of_params(model.layers, x) for x in g])


def _problem(name, epsilon, damping=None, inverse=None):
  model, params, batches = _case(name)
  damping = _damping(name) if damping is None else damping
  inverse = np.linalg.inv(_damped(name)) if inverse is None else inverse

  def precondition(x):
    x_1xP = exact_ggn.raveled({path: a[None] for path, a in x.items()})
    solved = exact_ggn.vectors(model.layers, x_1xP @ inverse)
    return {path: a[0] for path, a in solved.items()}

  batches = ggn.stack(batches)
  anchors = pbrf.anchors(model, params, batches)
  return pbrf.Problem(
    model, params, batches, anchors, damping, epsilon, precondition
  )


@functools.cache
def _objective(name):
  """(epsilon, points, moved_M) -> Q [M] and its gradient."""

  @jax.jit
  def run(epsilon, points, moved_M):
    fn = functools.partial(pbrf.objective, _problem(name, epsilon))
    return jax.vmap(jax.value_and_grad(fn, 1))(points, moved_M)

  return run


@functools.cache
def _solver(name):
  """(epsilon, points, damping, inverse, tolerance) ->

  (first state, states after every step [M, steps, ...]).
  """

  @jax.jit
  def run(epsilon, points, damping, inverse, tolerance):
    problem = _problem(name, epsilon, damping, inverse)

    def one(point):
      def step(state, _):
        state = pbrf.step(problem, point, state, tolerance)
        return state, state

      state = pbrf.start(problem, point)
      return state, jax.lax.scan(step, state, length=_STEPS)[1]

    return jax.vmap(one)(points)

  return run


def _solve(name, epsilon, points=None, tolerance=0.0, damping=None):
  """(first state [M], all states [M, steps])."""
  inverse = np.linalg.inv(_damped(name))
  return jax.device_get(
    _solver(name)(
      epsilon, _points(name) if points is None else points,
      _damping(name) if damping is None else damping, inverse, tolerance,
    )
  )  # fmt: skip


def _last(states):
  return jax.tree.map(lambda x: x[:, -1], states)


@functools.cache
def _difference(name):
  """States at the minima for epsilon = +-_STEP."""
  return [_last(_solve(name, sign * _STEP)[1]) for sign in (1, -1)]


class ObjectiveTest(parameterized.TestCase):
  @parameterized.parameters('scan', 'squared', 'bernoulli')
  def test_it_is_divergence_and_loss_and_proximal_term(self, name):
    model, params, batches = _case(name)
    rng = np.random.default_rng(1)
    X_MxP = 0.3 * rng.normal(size=(3, len(_damped(name))))
    points = _points(name)
    moved_M = exact_ggn.vectors(model.layers, X_MxP)
    got = _objective(name)(0.7, points, moved_M)[0]
    joined = exact_ggn.joined(batches)
    D_P = exact_ggn.diagonal(model.layers, _damping(name))
    apply_fn = jax.jit(model.apply_fn)
    for m, x_P in enumerate(X_MxP):
      moved = exact_ggn.moved_params(model.layers, params, x_P)
      outputs = (apply_fn(p, joined.inputs) for p in (moved, params))
      divergence = _divergence(name, *outputs, joined.mask) / 11
      point = jax.tree.map(lambda x, m=m: x[m], points)
      outputs = apply_fn(moved, point.inputs)
      loss = model.loss.per_sequence(outputs, point.targets, point.mask)[0]
      wanted = divergence + 0.7 * loss + x_P @ (D_P * x_P) / 2
      testing.assert_near(self, got[m], wanted)

  @parameterized.parameters('scan', 'some', 'squared', 'bernoulli')
  def test_where_epsilon_is_zero_it_is_least_with_hessian_g_plus_damping(
    self, name
  ):
    """U9; targets are the data's, parameters anything but converged."""
    model, _, _ = _case(name)
    point = jax.tree.map(lambda x: x[0], _points(name))
    num = len(_damped(name))
    zero = layer_arrays.zeros(model.layers)

    @jax.jit
    def run(basis_K):
      gradient_of = jax.grad(
        lambda v: pbrf.objective(_problem(name, 0.0), point, v)
      )
      push = jax.vmap(lambda x: jax.jvp(gradient_of, (zero,), (x,)))
      return push(basis_K)

    gradient_K, pushed_K = run(exact_ggn.vectors(model.layers, np.eye(num)))
    slope = np.abs(exact_ggn.raveled(gradient_K)).max()
    self.assertLess(slope, 1e-14 * np.abs(_gradients(name)).max())
    testing.assert_near(self, exact_ggn.raveled(pushed_K), _damped(name))

  @parameterized.parameters('scan', 'squared')
  def test_it_starts_at_the_points_own_gradient(self, name):
    model, params, _ = _case(name)
    first, _ = _solve(name, _STEP)
    got = exact_ggn.raveled(first.gradient)
    testing.assert_near(self, got, _STEP * _gradients(name))
    zero = exact_ggn.vectors(model.layers, 0 * got)
    value, gradient = _objective(name)(_STEP, _points(name), zero)
    testing.assert_near(self, first.value, value)
    testing.assert_near(self, got, exact_ggn.raveled(gradient))
    norms = np.linalg.norm(_STEP * _gradients(name), axis=1)
    testing.assert_near(self, first.first, norms)
    np.testing.assert_array_equal(first.ratio, [1, 1, 1])


class MinimiserTest(parameterized.TestCase):
  @parameterized.parameters('scan', 'squared')
  def test_it_moves_with_epsilon_as_influence_says(self, name):
    plus, minus = (exact_ggn.raveled(x.moved) for x in _difference(name))
    wanted = -np.linalg.solve(_damped(name), _gradients(name).T).T
    got = (plus - minus) / (2 * _STEP)
    testing.assert_near(self, got, wanted, rtol=1e-5)

  @parameterized.parameters('scan', 'squared')
  def test_the_response_moves_with_epsilon_as_the_score(self, name):
    """Positive: one more copy makes the query more likely, as in types."""
    model, params, batches = _case(name)
    queries = testing.rows(batches[2], slice(2))
    points = testing.rows(batches[0], slice(3))

    @jax.jit
    def run(params, moved_M):
      g = gradients.layer_gradients(model, params, queries)
      g_KxP = exact_ggn.raveled(layer_arrays.lead(model.layers, g))
      solved_KxP = g_KxP @ np.linalg.inv(_damped(name))
      solved = layer_arrays.trail(
        model.layers, exact_ggn.vectors(model.layers, solved_KxP)
      )
      by_layer = contraction.pairwise(
        model, params, contraction.whole(solved), points
      )
      respond = functools.partial(pbrf.response, model, params)
      return (
        attribution.total(by_layer, model.layers),
        jax.vmap(respond, (None, 0))(queries, moved_M),
        jax.vmap(respond, (None, 0))(points, moved_M),
      )

    plus, minus = (run(params, x.moved) for x in _difference(name))
    score_MxK = plus[0]
    got = (plus[1] - minus[1]) / (2 * _STEP)
    testing.assert_near(self, got, score_MxK, rtol=1e-5)
    self.assertTrue((np.diag(plus[2]) > 0).all())  # of the points themselves
    self.assertTrue((np.diag(minus[2]) < 0).all())

  def test_of_some_layers_nothing_else_moves(self):
    model, params, batches = _case('some')
    rng = np.random.default_rng(2)
    x_P = 0.1 * rng.normal(size=len(_damped('some')))
    moved = {
      path: x[0]
      for path, x in exact_ggn.vectors(model.layers, x_P[None]).items()
    }
    got = pbrf.response(model, params, batches[0], moved)
    there = exact_ggn.moved_params(model.layers, params, x_P)
    for name in ('kernel', 'bias'):
      stays = params['blocks']['mix'][name]
      np.testing.assert_array_equal(there['blocks']['mix'][name], stays)
    here, there = (
      model.loss.per_sequence(
        model.apply_fn(p, batches[0].inputs), *batches[0][1:3]
      )
      for p in (params, there)
    )
    testing.assert_near(self, got, here - there)
    first = pbrf.start(
      _problem('some', 1.0), jax.tree.map(lambda x: x[0], _points('some'))
    )
    self.assertCountEqual(first.moved, ['first', 'last'])

  def test_a_layer_of_much_damping_stays_where_it_is(self):
    damping = dict(_damping('scan'))
    damping['blocks/mix'] = damping['blocks/mix'].at[1].set(1e6)
    _, states = _solve('scan', 1e-3, damping=damping)
    moved = _last(states).moved
    free = _last(_solve('scan', 1e-3)[1]).moved
    for m in range(3):
      self.assertLess(np.abs(moved['blocks/mix'][m, 1]).max(), 1e-8)
      for x, y in (
        (moved['blocks/mix'][m, 0], free['blocks/mix'][m, 0]),
        (moved['first'][m], free['first'][m]),
      ):
        self.assertGreater(np.linalg.norm(x), 0.3 * np.linalg.norm(y))


class StepTest(parameterized.TestCase):
  def test_points_together_are_points_one_by_one(self):
    together = _solve('squared', 1e-3)[1]
    for m in range(3):
      point = jax.tree.map(lambda x, m=m: x[m : m + 1], _points('squared'))
      alone = _solve('squared', 1e-3, points=point)[1]
      for n in (0, 2, 3):  # later ones are rounding
        got, wanted = (
          jax.tree.map(lambda x, m=m, n=n: x[m, n], states)
          for states, m in ((together, m), (alone, 0))
        )
        for path, x in wanted.moved.items():
          testing.assert_near(self, got.moved[path], x)
        testing.assert_near(self, got.value, wanted.value)
        testing.assert_near(self, got.ratio, wanted.ratio, rtol=1e-5)

  @parameterized.parameters('scan', 'squared')
  def test_its_ratio_is_that_of_the_gradients_at_last_and_at_first(self, name):
    first, states = _solve(name, 0.1)
    state = jax.tree.map(lambda x: x[:, 4], states)
    norms = []
    for moved in (state.moved, first.moved):
      value, gradient = _objective(name)(0.1, _points(name), moved)
      norms.append(np.linalg.norm(exact_ggn.raveled(gradient), axis=1))
    testing.assert_near(self, value, first.value)
    testing.assert_near(self, state.ratio, norms[0] / norms[1])
    np.testing.assert_array_equal(state.steps, [5, 5, 5])

  @parameterized.parameters(0.1, 1.0)
  def test_no_step_raises_it(self, epsilon):
    first, states = _solve('squared', epsilon)
    values = np.concatenate([first.value[:, None], states.value], 1)
    self.assertTrue((np.diff(values, axis=1) <= 0).all())
    self.assertLess(values[:, -1].max() / values[:, 0].max(), 0.9)

  @parameterized.parameters(1e-6, 1e-3)
  def test_rounding_of_the_divergence_does_not_end_it(self, epsilon):
    """Q falls by less than it is rounded to: slopes tell."""
    _, states = _solve('scan', epsilon)
    self.assertLess(states.ratio[:, -1].max(), 1e-9)

  def test_at_the_tolerance_it_stays(self):
    _, states = _solve('scan', 1e-3, tolerance=1e-4)
    for m in range(3):
      ratio, steps = states.ratio[m], states.steps[m]
      last = int(np.argmax(ratio <= 1e-4))
      self.assertBetween(last, 1, _STEPS - 2)
      np.testing.assert_array_equal(ratio[last:], ratio[last])
      np.testing.assert_array_equal(steps[last:], last + 1)
      for x in jax.tree.leaves(states.moved):
        self.assertTrue((x[m, last:] == x[m, last]).all())
        self.assertTrue((x[m, last] != x[m, last - 1]).all())

  def test_a_blank_point_is_solved_from_the_start(self):
    points = _points('scan')
    points.mask[1] = 0
    first, states = _solve('scan', 1e-3, points=points, tolerance=1e-4)
    np.testing.assert_array_equal(first.ratio, [1, 0, 1])
    state = _last(states)
    self.assertEqual((state.ratio[1], state.steps[1]), (0, 0))
    for x in jax.tree.leaves(state.moved):
      self.assertFalse(x[1].any())
      self.assertTrue(x[[0, 2]].any())

  def test_a_step_that_is_too_long_is_halved(self):
    first, taken = self.step_with(1e-3)
    _, newton = self.step_with(1.0)
    ratios = np.linalg.norm(exact_ggn.raveled(taken.moved), axis=1)
    ratios /= np.linalg.norm(exact_ggn.raveled(newton.moved), axis=1)
    halvings = np.log2(1e3 / ratios)
    np.testing.assert_allclose(halvings, np.round(halvings), atol=1e-6)
    self.assertTrue((halvings > 5).all())
    self.assertTrue((taken.value < first.value).all())
    value, gradient = _objective('squared')(
      0.1, _points('squared'), taken.moved
    )
    testing.assert_near(self, taken.value, value)
    testing.assert_near(
      self, *map(exact_ggn.raveled, (taken.gradient, gradient))
    )

  def test_a_step_that_no_halving_helps_is_not_taken(self):
    first, taken = self.step_with(1e-25)
    for x, y in zip(
      jax.tree.leaves(first), jax.tree.leaves(taken), strict=True
    ):
      np.testing.assert_array_equal(x, y)

  def step_with(self, share):
    """(first, second) states if the curvature along is taken for so much."""
    along = pbrf._along
    problem = _problem('squared', 0.1)
    with mock.patch.object(pbrf, '_along', lambda *x: share * along(*x)):

      @jax.jit
      @jax.vmap
      def run(point):
        state = pbrf.start(problem, point)
        return state, pbrf.step(problem, point, state, 0.0)

      return jax.device_get(run(_points('squared')))


class AdamTest(absltest.TestCase):
  def test_it_gets_nearer_with_more_steps_and_says_how_near(self):
    name, epsilon = 'squared', 0.1
    points = _points(name)
    point = jax.tree.map(lambda x: x[0], points)
    problem = _problem(name, epsilon)
    few, many = (
      jax.jit(lambda num=num: pbrf.adam(problem, point, num, 0.01))()
      for num in (10, 300)
    )
    solved = _last(_solve(name, epsilon)[1])
    goal_P = exact_ggn.raveled(solved.moved)[0]
    away, slopes = [], []
    for state in (few, many):
      moved_M = jax.tree.map(lambda x: jnp.stack([x] * 3), state.moved)
      away.append(np.linalg.norm(exact_ggn.raveled(moved_M)[0] - goal_P))
      value, gradient = _objective(name)(epsilon, points, moved_M)
      testing.assert_near(self, state.value, value[0])
      slopes.append(np.linalg.norm(exact_ggn.raveled(gradient)[0]))
    self.assertLess(away[1], 0.2 * away[0])
    self.assertLess(many.ratio, 0.1 * few.ratio)
    first = epsilon * np.linalg.norm(_gradients(name)[0])
    testing.assert_near(self, [few.ratio, many.ratio], np.divide(slopes, first))
    self.assertEqual((few.steps, many.steps), (10, 300))


def _divergence(name, outputs, anchors, mask):
  """Eq. 8 of all rows together, in closed form."""
  outputs, anchors = np.asarray(outputs), np.asarray(anchors)
  if name == 'squared':
    nats = 0.5 * np.square(outputs - anchors).sum(-1)
  elif name == 'bernoulli':
    p, q = special.expit(anchors), special.expit(outputs)
    nats = special.rel_entr(p, q) + special.rel_entr(1 - p, 1 - q)
    nats = nats.sum(-1)
  else:
    p, q = special.softmax(anchors, -1), special.softmax(outputs, -1)
    nats = special.rel_entr(p, q).sum(-1)
  return (nats * mask).sum()


if __name__ == '__main__':
  absltest.main()
