from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from influence_jax import losses


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


if __name__ == '__main__':
  absltest.main()
