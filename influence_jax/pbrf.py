"""The proximal Bregman response: what influence functions approximate.

For a training point z, the proximal Bregman objective (Eq. 7; Bae et al. 2022)

  Q(v) = 1/N sum_i D(h(theta + v, x_i), h(theta, x_i)) + eps L(z, theta + v)
         + 1/2 sum_l damping_l ||v_l||^2

is least at v = 0 where eps is 0, for parameters that are not converged too, and
that minimum moves with eps as -(G + damping)^-1 grad L(z). The response of a
measurement f is f(theta + v) - f(theta) at the minimum for a finite eps; the
score predicts eps score(f, z), since f is a log-probability.

Only the tapped layers move. v is found by preconditioned conjugate gradients
(Polak and Ribiere's) on Q itself: the step is Newton's along the direction,
with the curvature G + damping there, halved until Q falls enough. How far it
got is `State.ratio`, which no caller may leave out. Departure: the paper takes
Adam, which after 500 steps is not there (`adam` is for who wants to see).

Batches are [S, B, ...] as in ggn, points [M, 1, ...]. float64, please: D is of
second order in v.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from influence_jax import ggn, layer_arrays, losses, types

Vector = layer_arrays.Vector
_ENOUGH = 1e-4  # share of the slope's promise that a step must keep (Armijo)
_HIDDEN = 1e-9  # share of Q that a fall may be and be lost in rounding
_HALVINGS = 30


class Problem(NamedTuple):
  """What is the same for all points; arrays but `model` and `precondition`."""

  model: types.Model
  params: types.PyTree
  batches: types.Batch  # [S, B, ...] of all N sequences
  anchors: jax.Array  # [S, B, ...] their outputs at theta, by `anchors`
  damping: dict[str, jax.Array]  # {path: [*stack]}, as the estimators'
  epsilon: float  # 1 / N: one more copy; -1 / N: left out
  precondition: Callable[[Vector], Vector]  # about (G + damping)^-1


class State(NamedTuple):
  """Of one point; of M points under vmap."""

  moved: Vector  # v
  gradient: Vector  # of Q
  solved: Vector  # preconditioned gradient
  direction: Vector
  value: jax.Array  # Q, nats
  ratio: jax.Array  # norm of the gradient over that at v = 0
  first: jax.Array  # norm at v = 0
  steps: jax.Array  # int32, taken


def anchors(
  model: types.Model, params: types.PyTree, batches: types.Batch
) -> jax.Array:
  """Outputs of every batch at theta, [S, B, ...]: once for all steps."""
  return jax.lax.map(lambda x: model.apply_fn(params, x), batches.inputs)


def objective(problem: Problem, point: types.Batch, moved: Vector) -> jax.Array:
  """Q(v), in nats (of one sequence: both sums are means)."""
  divergence = ggn.over_batches(
    lambda both: _divergence(problem, *both, moved),
    (problem.batches, problem.anchors),
  )
  return divergence / ggn.count(problem.batches) + _rest(problem, point, moved)


def start(problem: Problem, point: types.Batch) -> State:
  """v = 0, where Q's gradient is eps grad L(z)."""
  zero = layer_arrays.zeros(problem.model.layers)
  value, gradient = jax.value_and_grad(_rest, 2)(problem, point, zero)
  solved = problem.precondition(gradient)
  first = layer_arrays.norm(gradient)
  return State(
    zero, gradient, solved, jax.tree.map(jnp.negative, solved), value,
    jnp.where(first > 0, jnp.ones_like(first), 0), first,
    jnp.zeros((), jnp.int32),
  )  # fmt: skip


def step(
  problem: Problem, point: types.Batch, state: State, tolerance: float
) -> State:
  """One step along the direction; none if ratio <= tolerance already.

  Enough is Armijo's condition or, where rounding hides what Q falls by, the
  same on its slopes (Hager and Zhang 2005): of a quadratic they are one.
  """
  done = state.ratio <= tolerance
  slope = layer_arrays.dot(state.gradient, state.direction)
  size = -slope / _along(problem, state)

  def fell(size, value, gradient):
    enough = value <= state.value + _ENOUGH * size * slope
    is_hidden = value <= state.value + _HIDDEN * jnp.abs(state.value)
    there = layer_arrays.dot(gradient, state.direction)
    return enough | (is_hidden & (there <= (2 * _ENOUGH - 1) * slope))

  def halve(tried):
    size, number, *_ = tried
    return size / 2, number + 1, *evaluate(size / 2)

  def evaluate(size):
    moved = layer_arrays.add(state.moved, state.direction, size)
    return jax.value_and_grad(objective, 2)(problem, point, moved)

  def goes_on(tried):
    size, number, *found = tried
    return ~done & ~fell(size, *found) & (number < _HALVINGS)

  size, _, value, gradient = jax.lax.while_loop(
    goes_on, halve, (size, jnp.zeros((), jnp.int32), *evaluate(size))
  )
  done |= ~fell(size, value, gradient)
  found = _turn(problem, state, size, value, gradient)
  return jax.tree.map(lambda old, new: jnp.where(done, old, new), state, found)


def response(
  model: types.Model,
  params: types.PyTree,
  queries: types.Batch,
  moved: Vector,
) -> jax.Array:
  """f(theta + v) - f(theta) of K queries, log-probabilities in nats [K]."""

  def f_K(params):
    outputs = model.apply_fn(params, queries.inputs)
    return -model.loss.per_sequence(outputs, queries.targets, queries.mask)

  return f_K(layer_arrays.moved(params, model.layers, moved)) - f_K(params)


def adam(
  problem: Problem,
  point: types.Batch,
  num_steps: int,
  learning_rate: float,
) -> State:
  """The paper's way: Adam on all of Q, its rate decaying to 0 by a cosine."""
  rate = optax.cosine_decay_schedule(learning_rate, num_steps)
  optimizer = optax.adam(rate)
  state = start(problem, point)

  def one(carried, _):
    moved, inner = carried
    gradient = jax.grad(objective, 2)(problem, point, moved)
    updates, inner = optimizer.update(gradient, inner)
    return (optax.apply_updates(moved, updates), inner), None

  carried = state.moved, optimizer.init(state.moved)
  moved = jax.lax.scan(one, carried, length=num_steps)[0][0]
  value, gradient = jax.value_and_grad(objective, 2)(problem, point, moved)
  return state._replace(
    moved=moved, gradient=gradient, value=value,
    ratio=layer_arrays.norm(gradient) / state.first,
    steps=jnp.asarray(num_steps, jnp.int32),
  )  # fmt: skip


def _divergence(problem, batch, anchors, moved) -> jax.Array:
  model = problem.model
  params = layer_arrays.moved(problem.params, model.layers, moved)
  outputs = model.apply_fn(params, batch.inputs)
  return losses.bregman(
    model.loss, outputs, anchors, batch.targets, batch.mask
  ).sum()


def _rest(problem, point, moved) -> jax.Array:
  """The terms that see no data: the point's loss and the proximal term."""
  model = problem.model
  params = layer_arrays.moved(problem.params, model.layers, moved)
  outputs = model.apply_fn(params, point.inputs)
  loss_1 = model.loss.per_sequence(outputs, point.targets, point.mask)
  near = layer_arrays.dot(moved, layer_arrays.times(problem.damping, moved))
  return problem.epsilon * loss_1.sum() + near / 2


def _along(problem, state) -> jax.Array:
  """d^T (G + damping) d at theta + v."""
  model, d = problem.model, state.direction
  params = layer_arrays.moved(problem.params, model.layers, state.moved)
  total = ggn.over_batches(
    lambda batch: ggn.along(model, params, batch, d), problem.batches
  )
  damped = layer_arrays.dot(d, layer_arrays.times(problem.damping, d))
  return total / ggn.count(problem.batches) + damped


def _turn(problem, state, size, value, gradient) -> State:
  """The state after a step, its next direction conjugate to this one."""
  solved = problem.precondition(gradient)
  change = layer_arrays.add(gradient, state.gradient, -1.0)
  weight = layer_arrays.dot(solved, change) / layer_arrays.dot(
    state.solved, state.gradient
  )
  falling = jax.tree.map(jnp.negative, solved)
  direction = layer_arrays.add(falling, state.direction, jnp.maximum(weight, 0))
  is_down = layer_arrays.dot(direction, gradient) < 0
  direction = jax.tree.map(
    lambda new, plain: jnp.where(is_down, new, plain), direction, falling
  )
  return State(
    layer_arrays.add(state.moved, state.direction, size), gradient, solved,
    direction, value, layer_arrays.norm(gradient) / state.first, state.first,
    state.steps + 1,
  )  # fmt: skip
