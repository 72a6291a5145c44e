from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from scipy import special

from influence_jax import losses

_LOSSES = ['softmax_cross_entropy', 'squared_error', 'bernoulli']


def _cross_entropy(logits, targets, mask):
  """By another route: numpy, float64, a loop over positions."""
  total = np.zeros(len(logits))
  for at in np.ndindex(*mask.shape):
    p = np.exp(np.float64(logits[at]))
    total[at[0]] -= mask[at] * np.log(p[targets[at]] / p.sum())
  return total


def _bernstein(p, num_draws, failure=1e-6):
  """|frequency - p| is below this for all p at once, but for `failure`."""
  log = np.log(2 * np.size(p) / failure)
  return np.sqrt(2 * p * (1 - p) * log / num_draws) + 2 * log / 3 / num_draws


class CrossEntropyTest(parameterized.TestCase):
  @parameterized.parameters((3, 5), (3,))
  def test_it_is_the_sum_over_positions_in_nats(self, *shape):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(*shape, 11))
    targets = rng.integers(0, 11, shape)
    mask = rng.integers(0, 2, shape).astype(float)
    with jax.enable_x64(True):
      got = losses.softmax_cross_entropy.per_sequence(
        *map(jnp.asarray, (logits, targets, mask))
      )
    self.assertEqual(got.dtype, np.float64)
    wanted = _cross_entropy(logits, targets, mask)
    np.testing.assert_allclose(got, wanted, rtol=1e-12)

  def test_bfloat16_logits_are_summed_in_float32(self):
    logits = 5 * jax.random.normal(jax.random.key(0), (2, 300, 1000))
    logits = logits.astype(jnp.bfloat16)
    targets, mask = jnp.zeros((2, 300), int), jnp.ones((2, 300))
    got = losses.softmax_cross_entropy.per_sequence(logits, targets, mask)
    self.assertEqual(got.dtype, np.float32)
    wanted = _cross_entropy(np.asarray(logits), targets, mask)
    np.testing.assert_allclose(got, wanted, rtol=1e-5)

  def test_padding_adds_nothing_whatever_stands_there(self):
    logits = jax.random.normal(jax.random.key(0), (2, 6, 5))
    mask = jnp.array([[1, 1, 1, 1, 0, 0], [0] * 6], jnp.float32)
    targets = jnp.ones((2, 6), int)
    per_sequence = losses.softmax_cross_entropy.per_sequence
    short = per_sequence(logits[:1, :4], targets[:1, :4], mask[:1, :4])
    logits = logits.at[:, 4:].set(jnp.nan)
    got = per_sequence(logits, targets.at[:, 4:].set(-7), mask)
    np.testing.assert_array_equal(got, [short[0], 0])

  def test_its_gradient_is_probability_minus_target(self):
    logits = jax.random.normal(jax.random.key(0), (2, 3, 7))
    targets = jnp.array([[1, 2, 3], [4, 5, 6]])
    mask = jnp.array([[1.0, 1, 0], [1, 1, 1]])
    got = jax.grad(
      lambda x: losses.softmax_cross_entropy.per_sequence(
        x, targets, mask
      ).sum()
    )(logits)
    wanted = jax.nn.softmax(logits) - jax.nn.one_hot(targets, 7)
    np.testing.assert_allclose(got, wanted * mask[..., None], atol=1e-6)


class SampledTokensTest(parameterized.TestCase):
  @parameterized.parameters(5, 128, 300)  # within, of and over a block
  def test_frequencies_are_the_softmax(self, vocab_size):
    logits = 2 * jax.random.normal(jax.random.key(0), (1, 1, vocab_size))
    num_rows, length = 512, 256
    drawn = jax.jit(losses.softmax_cross_entropy.sample)(
      jax.random.key(1),
      jnp.broadcast_to(logits, (num_rows, length, vocab_size)),
      jnp.arange(num_rows),
    )
    self.assertEqual((drawn.shape, drawn.dtype), ((512, 256), np.int32))
    num_draws = num_rows * length
    counts = np.bincount(drawn.ravel(), minlength=vocab_size)
    p = np.asarray(jax.nn.softmax(logits[0, 0]), np.float64)
    error = np.abs(counts / num_draws - p)
    self.assertTrue((error < _bernstein(p, num_draws)).all())

  def test_a_draw_hangs_on_its_sequence_and_position_alone(self):
    logits = jax.random.normal(jax.random.key(0), (6, 40, 200))
    ids = jnp.array([3, 14, 15, 92, 65, -1])  # -1: a row of padding
    sample, rng = losses.softmax_cross_entropy.sample, jax.random.key(1)
    drawn = sample(rng, logits, ids)
    order = jnp.array([5, 0, 3])
    other_batch = sample(rng, logits[order], ids[order])
    np.testing.assert_array_equal(other_batch, drawn[order])
    shorter = sample(rng, logits[:, :17], ids)
    np.testing.assert_array_equal(shorter, drawn[:, :17])

  def test_sequences_positions_and_keys_draw_independently(self):
    same = jnp.zeros((2, 64, 1000))  # every token is as likely
    sample = losses.softmax_cross_entropy.sample
    drawn = sample(jax.random.key(0), same, jnp.array([0, 1]))
    again = sample(jax.random.key(1), same, jnp.array([0, 1]))
    for a, b in [(drawn[0], drawn[1]), (drawn[0], again[0])]:
      self.assertLess((a == b).sum(), 5)  # 64 / 1000 are expected
    self.assertGreater(len(np.unique(drawn[0])), 50)

  def test_classes_are_drawn_for_outputs_without_positions(self):
    logits = jnp.where(jnp.arange(10) == 7, 0, -jnp.inf)
    logits = jnp.broadcast_to(logits[None], (4, 10))
    ids = jnp.arange(4)
    drawn = losses.softmax_cross_entropy.sample(jax.random.key(0), logits, ids)
    np.testing.assert_array_equal(drawn, [7] * 4)

  def test_tokens_of_no_probability_are_never_drawn(self):
    possible = np.array([1, 127, 128, 290])
    logits = np.full((64, 128, 300), -np.inf, np.float32)
    logits[..., possible] = [0, -3, 1, -4]
    drawn = losses.softmax_cross_entropy.sample(
      jax.random.key(0), jnp.asarray(logits), jnp.arange(64)
    )
    np.testing.assert_array_equal(np.unique(drawn), possible)

  @parameterized.parameters((0, 280), (1 - 2**-24, 9))
  def test_the_ends_of_the_interval_draw_possible_tokens(self, uniform, token):
    logits = jnp.full((1, 300), -jnp.inf).at[0, jnp.array([9, 280])].set(0)
    self.assertEqual(self.sample_with(uniform, logits), token)

  def test_rounding_draws_nothing_but_the_last_tokens(self):
    logits = 3 * jax.random.normal(jax.random.key(0), (1000, 300))
    cdf = np.cumsum(jax.nn.softmax(logits), -1)
    drawn = np.asarray(self.sample_with(0, logits))
    reached = np.take_along_axis(cdf, drawn[:, None], -1)
    np.testing.assert_allclose(reached, 1, rtol=1e-5)

  def sample_with(self, uniform, logits):
    def fixed(key, shape, dtype):
      del key
      return jnp.full(shape, uniform, dtype)

    with mock.patch.object(jax.random, 'uniform', fixed):
      return losses.softmax_cross_entropy.sample(
        jax.random.key(0), logits, jnp.arange(len(logits))
      )

  def test_the_draw_is_no_path_for_gradients(self):
    def loss_fn(outputs):
      targets = losses.squared_error.sample(
        jax.random.key(0), outputs, jnp.arange(2)
      )
      mask = jnp.ones(2)
      return losses.squared_error.per_sequence(outputs, targets, mask).sum()

    outputs = jnp.ones((2, 3))
    self.assertGreater(np.abs(jax.grad(loss_fn)(outputs)).min(), 0)


class SquaredErrorTest(absltest.TestCase):
  def test_it_is_half_the_squared_distance(self):
    outputs = jnp.array([[1.0, 2.0], [0.0, 0.0], [5.0, 5.0]])
    targets = jnp.array([[4.0, 6.0], [1.0, 0.0], [0.0, 0.0]])
    mask = jnp.array([1.0, 1.0, 0.0])
    got = losses.squared_error.per_sequence(outputs, targets, mask)
    np.testing.assert_allclose(got, [12.5, 0.5, 0])

  def test_samples_are_normal_around_the_outputs(self):
    outputs = jnp.broadcast_to(jnp.array([[-3.0, 7.0]]), (40_000, 2))
    drawn = losses.squared_error.sample(
      jax.random.key(0), outputs, jnp.arange(40_000)
    )
    error = 5 / np.sqrt(40_000)  # five standard errors
    np.testing.assert_allclose(drawn.mean(0), [-3, 7], atol=error)
    np.testing.assert_allclose(drawn.std(0), 1, atol=error / np.sqrt(2))
    correlation = np.corrcoef(drawn.T)[0, 1]
    self.assertLess(abs(correlation), error)

  def test_a_draw_hangs_on_its_id_alone(self):
    outputs = jax.random.normal(jax.random.key(0), (5, 3))
    ids, order = jnp.array([8, 1, 6, 0, 9]), jnp.array([2, 4])
    sample, rng = losses.squared_error.sample, jax.random.key(1)
    drawn = sample(rng, outputs, ids)
    other_batch = sample(rng, outputs[order], ids[order])
    np.testing.assert_array_equal(other_batch, drawn[order])


class BernoulliTest(absltest.TestCase):
  def test_it_is_minus_the_log_probability_of_every_target(self):
    rng = np.random.default_rng(0)
    outputs, targets = rng.normal(size=(3, 4)), rng.integers(0, 2, (3, 4))
    mask = np.array([1.0, 0.0, 1.0])
    wanted = np.zeros(3)
    for n, o in np.ndindex(3, 4):
      p = 1 / (1 + np.exp(-outputs[n, o]))
      wanted[n] -= mask[n] * np.log(p if targets[n, o] else 1 - p)
    with jax.enable_x64(True):
      got = losses.bernoulli.per_sequence(
        *map(jnp.asarray, (outputs, targets, mask))
      )
    np.testing.assert_allclose(got, wanted, rtol=1e-12)

  def test_it_does_not_overflow_and_padding_adds_nothing(self):
    outputs = jnp.array([[500.0, -500.0], [jnp.nan, 0.0]])
    targets = jnp.array([[0.0, 0.0], [1.0, 1.0]])
    got = losses.bernoulli.per_sequence(outputs, targets, jnp.array([1.0, 0.0]))
    np.testing.assert_allclose(got, [500, 0])

  def test_samples_are_one_as_often_as_the_logits_say(self):
    logits, num = jnp.array([[-3.0, -0.4, 0.0, 1.0]]), 40_000
    drawn = losses.bernoulli.sample(
      jax.random.key(0), jnp.broadcast_to(logits, (num, 4)), jnp.arange(num)
    )
    self.assertEqual((drawn.shape, drawn.dtype), ((num, 4), np.float32))
    np.testing.assert_array_equal(np.unique(drawn), [0, 1])
    p = 1 / (1 + np.exp(-np.float64(logits[0])))
    error = np.abs(np.mean(drawn, 0) - p)
    self.assertTrue((error < _bernstein(p, num)).all())
    correlations = np.corrcoef(np.asarray(drawn).T) - np.eye(4)
    self.assertLess(np.abs(correlations).max(), 5 / np.sqrt(num))

  def test_a_draw_hangs_on_its_id_alone(self):
    outputs = jax.random.normal(jax.random.key(0), (5, 30))
    ids, order = jnp.array([8, 1, 6, 0, 9]), jnp.array([2, 4])
    sample, rng = losses.bernoulli.sample, jax.random.key(1)
    drawn = sample(rng, outputs, ids)
    other_batch = sample(rng, outputs[order], ids[order])
    np.testing.assert_array_equal(other_batch, drawn[order])
    self.assertFalse(np.array_equal(sample(rng, outputs, ids + 10), drawn))


def _kl(p, q):
  """By scipy, over the last axis."""
  return special.rel_entr(p, q).sum(-1)


def _probabilities(logits):
  """Of the two values of each logit, [..., 2]."""
  p = special.expit(logits)
  return np.stack([p, 1 - p], -1)


class BregmanTest(parameterized.TestCase):
  """D of outputs from anchors by every loss, against its closed form."""

  def setUp(self):
    super().setUp()
    self.enter_context(jax.enable_x64(True))
    rng = np.random.default_rng(0)
    self.outputs, self.anchors = 2 * rng.normal(size=(2, 3, 5, 4))
    self.mask = rng.integers(0, 2, (3, 5)).astype(float)
    self.mask[0] = 1

  def of(self, name, seed=0):
    """(loss, args of `bregman`); all but the softmax have no positions."""
    loss, rng = getattr(losses, name), np.random.default_rng(seed)
    args = self.outputs, self.anchors
    if name == 'softmax_cross_entropy':
      return loss, (*args, rng.integers(0, 4, (3, 5)), self.mask)
    args = [x[:, 0] for x in args]
    targets = rng.normal(size=(3, 4))
    if name == 'bernoulli':
      targets = (targets > 0).astype(float)
    return loss, (*args, targets, np.array([1.0, 0.0, 1.0]))

  def closed_form(self, name):
    _, (outputs, anchors, _, mask) = self.of(name)
    if name == 'softmax_cross_entropy':
      nats = _kl(special.softmax(anchors, -1), special.softmax(outputs, -1))
    elif name == 'bernoulli':
      nats = _kl(_probabilities(anchors), _probabilities(outputs)).sum(-1)
    else:
      nats = 0.5 * np.square(outputs - anchors).sum(-1)
    return (nats * mask).reshape(3, -1).sum(1)

  @parameterized.parameters(_LOSSES)
  def test_it_is_the_divergence_of_the_loss(self, name):
    loss, args = self.of(name)
    got = losses.bregman(loss, *map(jnp.asarray, args))
    np.testing.assert_allclose(got, self.closed_form(name), rtol=1e-12)

  @parameterized.parameters(_LOSSES)
  def test_it_is_zero_and_flat_at_the_anchor(self, name):
    loss, (_, anchors, targets, mask) = self.of(name)

    def total(outputs):
      return losses.bregman(loss, outputs, anchors, targets, mask).sum()

    value, slope = jax.value_and_grad(total)(jnp.asarray(anchors))
    self.assertEqual(value, 0)
    np.testing.assert_allclose(slope, np.zeros_like(anchors), atol=1e-15)

  @parameterized.parameters(_LOSSES)
  def test_targets_do_not_matter(self, name):
    loss, args = self.of(name)
    _, others = self.of(name, seed=1)
    self.assertTrue((args[2] != others[2]).any())
    one, other = (
      losses.bregman(loss, *map(jnp.asarray, x)) for x in (args, others)
    )
    np.testing.assert_allclose(one, other, rtol=1e-12)

  def test_padding_adds_nothing_whatever_stands_there(self):
    loss, (outputs, anchors, targets, mask) = self.of('softmax_cross_entropy')
    noisy = np.where(mask[..., None] > 0, outputs, 1e9)
    got = losses.bregman(
      loss, *map(jnp.asarray, (noisy, anchors, targets, mask))
    )
    wanted = self.closed_form('softmax_cross_entropy')
    np.testing.assert_allclose(got, wanted, rtol=1e-12)


if __name__ == '__main__':
  absltest.main()
