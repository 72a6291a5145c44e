"""What every approximation must do, whatever it is: walks the package."""

import functools
import pathlib
import sys
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import testing
from absl.testing import absltest, parameterized

from influence_jax import attribution, curvature, influence, types

_NAMES = curvature.names()
_NUM_SEQUENCES, _LENGTH = 10, 6
_BLANK = None  # a row that is all padding
_STEPS = testing.steps_made_once()

# What must not matter: (rows a batch, positions, order, devices, scan)
_WAYS = {
  'base': (4, _LENGTH, range(10), 1, True),
  'other_batches': (5, _LENGTH, (7, 2, 9, 0, 4, 8, 1, 6, 5, 3), 1, True),
  'more_padding': (4, 9, (_BLANK, *range(6), *[_BLANK] * 6, *range(6, 10)), 1,
                   True),  # the third batch is blank
  'eight_devices': (8, _LENGTH, range(10), 8, True),  # 6 have one row in two
  'unrolled': (4, _LENGTH, range(10), 1, False),
}  # fmt: skip


def setUpModule():
  jax.config.update('jax_enable_x64', True)
  jax.config.update('jax_disable_most_optimizations', True)  # compiles sooner
  _STEPS.start()


def tearDownModule():
  _STEPS.stop()
  jax.config.update('jax_disable_most_optimizations', False)
  jax.config.update('jax_enable_x64', False)


def _batches(size, length=_LENGTH, order=range(_NUM_SEQUENCES)):
  """The data set in batches; noise stands wherever there is padding."""
  data = testing.deep_batch(_NUM_SEQUENCES, _LENGTH)
  order = [*order, *[_BLANK] * (-len(order) % size)]
  rows = testing.deep_batch(len(order), length, seed=1)
  rows = rows._replace(mask=0 * rows.mask, ids=0 * rows.ids - 1)
  for row, n in enumerate(order):
    if n is not _BLANK:
      rows.ids[row] = data.ids[n]
      for field in ('inputs', 'targets', 'mask'):
        getattr(rows, field)[row, :_LENGTH] = getattr(data, field)[n]
  starts = range(0, len(order), size)
  return [testing.rows(rows, slice(i, i + size)) for i in starts]


@functools.cache
def _made(name):
  return curvature.make(name)


@functools.cache
def _fitted(name, way):
  size, length, order, devices, scan = _WAYS[way]
  model, params = testing.deep(scan)
  return testing.fitted(
    _made(name), model, params, _batches(size, length, order),
    targets='model', devices=devices,
  )  # fmt: skip


def _resumed(name, state=None, batches=None, **ways):
  model, params = testing.deep(scan=True)
  return testing.fitted(
    _made(name), model, params, batches or _batches(4), targets='model',
    state=state, **ways,
  )  # fmt: skip


@functools.cache
def _solver(name, scan):
  """factors -> what IHVPs of all basis vectors are, eigenvalues, damping."""
  layers = testing.deep(scan)[0].layers

  def solve(factors):
    damping = influence.damping_of(_made(name), layers, factors)
    basis = {
      path: jnp.broadcast_to(
        jnp.eye(x.num_in * x.num_out).reshape(-1, x.num_in, x.num_out),
        (*x.stack, x.num_in * x.num_out, x.num_in, x.num_out),
      )
      for path, x in layers.items()
    }
    solved = influence.precondition(
      _made(name), layers, factors, basis, damping
    )
    eigenvalues = {
      path: _eigenvalues(name, factors[path], x.stack)
      for path, x in layers.items()
    }
    return {
      path: (solved[path], eigenvalues[path], damping[path]) for path in layers
    }

  return jax.jit(solve)


def _eigenvalues(name, factors, stack):
  one = _made(name).eigenvalues
  if not factors:
    return jnp.broadcast_to(one(factors), stack)
  return jax.vmap(one)(factors) if stack else one(factors)


def _operators(name, factors, scan=True):
  """{unrolled layer: (dense IHVP [IO, IO], eigenvalues, damping)}."""
  layers = testing.deep(scan)[0].layers
  found = _solver(name, scan)(factors)
  return {
    layer: (
      np.asarray(solved_JxIxO).reshape(len(solved_JxIxO), -1),
      np.asarray(eigenvalues),
      float(damping),
    )
    for layer, (solved_JxIxO, eigenvalues, damping) in testing.unrolled_names(
      attribution.by_layer(found, layers)
    ).items()
  }


@functools.cache
def _base_operators(name):
  return _operators(name, _fitted(name, 'base').factors)


def _of_random_arrays(name):
  """(layers without a stack, factors of random inputs and gradients)."""
  layers = testing.deep(scan=False)[0].layers
  data = testing.random_arrays(layers)
  return layers, testing.factors_of(_made(name), layers, *data)


class OperatorTest(parameterized.TestCase):
  @parameterized.parameters(_NAMES)
  def test_factors_are_finite_and_eigenvalues_are_not_negative(self, name):
    for path, factors in _fitted(name, 'base').factors.items():
      for key, x in factors.items():
        self.assertTrue(np.isfinite(x).all(), (path, key))
    for layer, (_, eigenvalues, damping) in _base_operators(name).items():
      self.assertTrue(np.isfinite(eigenvalues).all(), layer)
      self.assertGreaterEqual(eigenvalues.min(), 0, layer)
      self.assertGreater(eigenvalues.max(), 0, layer)
      testing.assert_near(self, damping, 0.1 * eigenvalues.mean(), what=layer)

  @parameterized.parameters(_NAMES)
  def test_its_ihvp_is_symmetric_positive_and_bounded_by_the_damping(
    self, name
  ):
    for layer, (solve, _, damping) in _base_operators(name).items():
      testing.assert_near(self, solve, solve.T, what=layer)
      spectrum = np.linalg.eigvalsh((solve + solve.T) / 2)
      self.assertGreater(spectrum[0], 0, layer)
      smallest = 1 if name == 'identity' else 0  # eigenvalue of G
      bound = 1 / (smallest + damping)
      self.assertLessEqual(spectrum[-1], bound * (1 + 1e-9), layer)

  @parameterized.product(name=_NAMES, length=(1, 4, 5, 9))
  def test_rotating_tokens_is_rotating_their_gradient(self, name, length):
    """Layers of 6 x 4, 5 x 4 and 4 x 3: either side, both or none of them."""
    if not (rotate_tokens := _made(name).rotate_tokens):
      self.skipTest('it rotates no tokens')
    layers, all_factors = _of_random_arrays(name)
    rng = np.random.default_rng(8)
    for path, layer in layers.items():
      sides = layer.num_in, layer.num_out
      a, ds = (rng.normal(size=(2, length, n)) for n in sides)
      *tokens, rest = rotate_tokens(all_factors[path], a, ds)
      formed = np.einsum('bti,bto->bio', *tokens)
      for b in range(2):
        g_IxO = sum(np.outer(*x) for x in zip(a[b], ds[b], strict=True))
        wanted = _made(name).rotate(all_factors[path], g_IxO)
        testing.assert_near(self, rest(formed[b]), wanted, what=path)

  @parameterized.parameters(_NAMES)
  def test_sides_of_a_product_leave_the_basis_as_the_product_does(self, name):
    if not (unrotate_sides := _made(name).unrotate_sides):
      self.skipTest('its basis has no sides')
    layers, all_factors = _of_random_arrays(name)
    rng = np.random.default_rng(9)
    for path, layer in layers.items():
      x, y = (rng.normal(size=(2, n)) for n in (layer.num_in, layer.num_out))
      got_x, got_y = unrotate_sides(all_factors[path], x, y)
      wanted = _made(name).unrotate(all_factors[path], x.T @ y)
      testing.assert_near(self, got_x.T @ got_y, wanted, what=path)

  def test_the_identity_only_divides_by_one_plus_damping(self):
    for layer, (solve, _, damping) in _base_operators('identity').items():
      wanted = np.eye(len(solve)) / (1 + damping)
      testing.assert_near(self, solve, wanted, what=layer)


class InvarianceTest(parameterized.TestCase):
  @parameterized.product(
    name=_NAMES, way=[way for way in _WAYS if way != 'base']
  )
  def test_it_hangs_on_the_sequences_not_on_how_they_come(self, name, way):
    got = _operators(name, _fitted(name, way).factors, scan=_WAYS[way][-1])
    wanted = _base_operators(name)
    self.assertCountEqual(got, wanted)
    for layer, (solve, _, damping) in wanted.items():
      testing.assert_near(self, got[layer][0], solve, what=layer)
      testing.assert_near(self, got[layer][2], damping, what=layer)

  @parameterized.parameters(_NAMES)
  def test_other_ids_draw_other_targets(self, name):
    if not _made(name).stages:
      self.skipTest('it looks at no data')
    batches = [x._replace(ids=x.ids + 100) for x in _batches(4)]
    got = _operators(name, _resumed(name, batches=batches).factors)
    for layer, (solve, _, _) in _base_operators(name).items():
      change = np.abs(got[layer][0] - solve).max() / np.abs(solve).max()
      self.assertGreater(change, 1e-3, layer)

  @parameterized.parameters(_NAMES)
  def test_stopped_after_any_batch_it_goes_on_to_the_same_bits(self, name):
    saved = []
    whole = _resumed(name, save=saved.append, save_every=1)
    self.assertLen(saved, len(_made(name).stages) * (3 + 1))
    for state in saved:
      place = f'stage {state.stage}, after batch {state.cursor}'
      state = jax.tree.map(np.array, state)
      resumed = _resumed(name, state=state)
      for path, factors in whole.factors.items():
        self.assertCountEqual(resumed.factors[path], factors)
        for key, x in factors.items():
          np.testing.assert_array_equal(
            resumed.factors[path][key], x, f'{path} {key}, {place}'
          )


class MakeTest(parameterized.TestCase):
  @parameterized.parameters(_NAMES)
  def test_an_unknown_hyperparameter_is_refused(self, name):
    with self.assertRaisesRegex(ValueError, f"{name} .* parameter .*'dampin'"):
      curvature.make(name, dampin=0.1)

  def test_an_unknown_name_is_refused_with_those_that_there_are(self):
    with self.assertRaisesRegex(ValueError, "'no_such_thing'.*'ekfac'.*'kfac'"):
      curvature.make('no_such_thing')

  def test_a_file_outside_the_package_is_found_by_its_dotted_name(self):
    folder = pathlib.Path(self.create_tempdir().full_path)
    (folder / 'my_study').mkdir()
    (folder / 'my_study' / 'scaled.py').write_text(
      'from influence_jax import types\n'
      'def make(scale):\n'
      '  return types.Curvature((), lambda factors: scale)\n'
    )
    with (
      mock.patch.object(sys, 'path', [str(folder), *sys.path]),
      mock.patch.dict(sys.modules),
    ):
      made = curvature.make('my_study.scaled', scale=3.0)
      self.assertIsInstance(made, types.Curvature)
      self.assertEqual(made.eigenvalues({}), 3)
      with self.assertRaisesRegex(ValueError, "'size'.*'scale'"):
        curvature.make('my_study.scaled', size=3.0)

  def test_the_package_has_what_the_paper_compares(self):
    paper = {'identity', 'diagonal', 'kfac', 'ekfac'}
    self.assertContainsSubset(paper, _NAMES)


if __name__ == '__main__':
  absltest.main()
