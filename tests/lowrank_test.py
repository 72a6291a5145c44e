import functools

import jax
import numpy as np
import testing
from absl.testing import absltest, parameterized

from influence_jax import influence, lowrank


def setUpModule():
  jax.config.update('jax_enable_x64', True)


def tearDownModule():
  jax.config.update('jax_enable_x64', False)


def _solved():
  """Preconditioned gradients of 6 queries; a stack is among the layers."""
  rng = np.random.default_rng(1)
  return {
    path: rng.normal(size=(*x.stack, 6, x.num_in, x.num_out))
    for path, x in testing.deep(scan=True)[0].layers.items()
  }


@functools.cache
def _truncated(rank):
  run = jax.jit(functools.partial(lowrank.truncate, rank=rank))
  return jax.device_get(run(_solved()))


@functools.cache
def _scores(rank):
  model, params = testing.deep(scan=True)
  run = jax.jit(functools.partial(lowrank.pairwise, model))
  return run(params, _truncated(rank), testing.deep_batch())


class LowRankTest(parameterized.TestCase):
  @parameterized.parameters(1, 2, 3)
  def test_the_truncation_error_is_the_least_there_is(self, rank):
    """Eckart and Young: the norm of the singular values left out."""
    for path, found in _truncated(rank).items():
      P, UV = _solved()[path], found['U'] @ found['V']
      for at in np.ndindex(P.shape[:-2]):
        left_out = np.linalg.svd(P[at], compute_uv=False)[rank:]
        error = np.linalg.norm(P[at] - UV[at])
        # Relative to P: where nothing is left out the error is rounding.
        scale = np.linalg.norm(P[at])
        self.assertLess(
          abs(error - np.linalg.norm(left_out)), 1e-9 * scale, path
        )

  @parameterized.parameters((2, (2, 2, 2)), (4, (4, 4, 3)), (99, (4, 4, 3)))
  def test_the_rank_is_at_most_that_of_the_layer(self, rank, wanted):
    found = _truncated(rank)
    for (path, P), R in zip(_solved().items(), wanted, strict=True):
      *stack, I, O = P.shape  # noqa: E741
      self.assertEqual(found[path]['U'].shape, (*stack, I, R))
      self.assertEqual(found[path]['V'].shape, (*stack, R, O))

  def test_scores_of_the_full_rank_are_the_scores(self):
    model, params = testing.deep(scan=True)
    run = jax.jit(functools.partial(influence.pairwise, model))
    full = run(params, _solved(), testing.deep_batch())
    self.assertEqual(_scores(99).keys(), full.keys())
    for path, x in full.items():
      testing.assert_near(self, _scores(99)[path], x, what=path)

  def test_scores_of_rank_two_are_those_of_the_truncated_matrix(self):
    model, params = testing.deep(scan=True)
    g = testing.loop_gradients(model, params, testing.deep_batch())
    nearest = {}
    for path, P in _solved().items():
      U, s, V = np.linalg.svd(P, full_matrices=False)
      nearest[path] = (U[..., :2] * s[..., None, :2]) @ V[..., :2, :]
    nearest = testing.split_stacks(model, nearest)
    found = testing.split_stacks(model, _scores(2))
    for name, P_KxIxO in nearest.items():
      wanted = np.einsum('bio,kio->bk', g[name], P_KxIxO)
      testing.assert_near(self, found[name], wanted, what=name)


if __name__ == '__main__':
  absltest.main()
