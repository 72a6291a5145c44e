"""What every solver must do, whatever it is: walks the package.

The system: a softmax net with a stack, three batches of unequal numbers of
sequences, another damping for every layer and slice, EK-FAC beside it.
"""

import functools
import itertools
import pathlib
import sys
from unittest import mock

import exact_ggn
import jax
import jax.numpy as jnp
import numpy as np
import testing
from absl.testing import absltest, parameterized

from influence_jax import (
  curvature,
  ggn,
  influence,
  layer_arrays,
  losses,
  models,
  solvers,
)

_NAMES = solvers.names()
_P, _N, _K = 76, 11, 4
_MORE = 20  # iterates after the end
_RATE, _DEPTH = 0.3, 300  # of ASTRA; steps of it and of LiSSA

# How each is run to its end: parameters, iterates. One that needs nothing of
# its own is not here: it gets there by default within 100.
_RUNS = {
  'arnoldi': ({'size': _P}, _P),
  'astra': ({'rate': _RATE}, _DEPTH),
  'block_diagonal': ({}, 40),
  'dense': ({}, 2),
  'lissa': ({}, _DEPTH),
  'woodbury': ({}, 2),
}
_STOCHASTIC = ('astra', 'lissa')  # exact of one batch alone: see _error


def setUpModule():
  jax.config.update('jax_enable_x64', True)
  jax.config.update('jax_disable_most_optimizations', True)  # compiles sooner


def tearDownModule():
  jax.config.update('jax_disable_most_optimizations', False)
  jax.config.update('jax_enable_x64', False)


@functools.cache
def _damping():
  rng = np.random.default_rng(0)
  return {
    path: jnp.asarray(rng.uniform(0.1, 0.5, layer.stack))
    for path, layer in exact_ggn.case('scan')[0].layers.items()
  }


@functools.cache
def _problem(whole=False):
  """`whole` puts all sequences in one batch."""
  model, params, batches = exact_ggn.case('scan')
  ekfac = curvature.make('ekfac')
  state = testing.fitted(ekfac, model, params, batches, targets='model')
  batches = [exact_ggn.joined(batches)] if whole else batches
  return solvers.problem(
    model, params, ggn.stack(batches), _damping(), ekfac, state.factors
  )


@functools.cache
def _matrix():
  """G + damping [P, P]."""
  model, params, batches = exact_ggn.case('scan')
  G_PxP = exact_ggn.matrix(model, params, exact_ggn.joined(batches))
  return G_PxP + np.diag(exact_ggn.diagonal(model.layers, _damping()))


@functools.cache
def _sampled():
  """What stands for G + damping where one batch is seen, [S, P, P]."""
  model, params, batches = exact_ggn.case('scan')
  D_PxP = np.diag(exact_ggn.diagonal(model.layers, _damping()))
  share = [3 * x.mask.any(1).sum() / _N for x in batches]
  return [
    share * exact_ggn.matrix(model, params, x) + D_PxP
    for share, x in zip(share, batches, strict=True)
  ]


@functools.cache
def _preconditioner():
  """[P, P], symmetric."""
  basis = exact_ggn.vectors(_problem().layers, np.eye(_P))
  precondition = jax.vmap(_problem().precondition, (None, 0))
  return exact_ggn.raveled(jax.jit(precondition)(_problem().data, basis))


@functools.cache
def _blocks():
  """G + damping without what is between layers and slices of stacks."""
  sizes = [
    layer.num_in * layer.num_out
    for _, layer in sorted(_problem().layers.items())
    for _ in np.ndindex(*layer.stack)
  ]
  block = np.repeat(np.arange(len(sizes)), sizes)
  return np.where(block[:, None] == block, _matrix(), 0)


def _right_sides():
  """[K, P]; the last is 0."""
  B_KxP = np.random.default_rng(1).normal(size=(_K, _P))
  B_KxP[-1] = 0
  return B_KxP


def _iterates(solver, problem, B_KxP, num):
  """The first so many: ([num, K, P], products)."""
  iterator = solver(problem)(exact_ggn.vectors(problem.layers, B_KxP))
  found = list(itertools.islice(iterator, num))
  X = np.stack([exact_ggn.raveled(x.x) for x in found])
  return X, [x.products for x in found]


def _setting(name):
  """(solver, problem, iterates to its end)."""
  hparams, num = _RUNS.get(name, ({}, 100))
  problem = _problem(whole=name in _STOCHASTIC)
  return solvers.make(name, **hparams), problem, num


@functools.cache
def _run(name):
  """To the end and beyond."""
  solver, problem, num = _setting(name)
  return _iterates(solver, problem, _right_sides(), num + _MORE)


def _solution(name):
  matrix = _blocks() if name == 'block_diagonal' else _matrix()
  return np.linalg.solve(matrix, _right_sides().T).T


def _error(name):
  """How near the end must be, in the norm of the matrix.

  LiSSA and ASTRA contract by a factor a step, from where they start.
  """
  spectrum = np.linalg.eigvalsh(_matrix())
  if name == 'lissa':
    return (1 - spectrum[0] / spectrum[-1]) ** (_DEPTH - 1)
  if name == 'astra':
    values = np.linalg.eigvals(_preconditioner() @ _matrix()).real
    return np.abs(1 - _RATE * values).max() ** (_DEPTH - 1)
  return 1e-9


class SolverTest(parameterized.TestCase):
  @parameterized.parameters(_NAMES)
  def test_it_gets_to_the_solution_of_the_dense_matrix(self, name):
    X_KxP = _run(name)[0][-1 - _MORE]
    wanted, goal = _solution(name), _error(name)
    self.assertLess(goal, 1e-3)
    L_PxP = np.linalg.cholesky(_matrix())
    start = _run(name)[0][0] - wanted if name in _STOCHASTIC else wanted
    away, start = (
      np.linalg.norm(x @ L_PxP, axis=1) for x in (X_KxP - wanted, start)
    )
    self.assertTrue((away <= goal * start).all(), (away, start))

  @parameterized.parameters(_NAMES)
  def test_at_the_end_it_stays(self, name):
    """None falls apart where there is nothing left to do."""
    X, _ = _run(name)
    self.assertTrue(np.isfinite(X).all())
    size = np.abs(X[-1]).max()
    change = np.abs(X[-1 - _MORE :] - X[-1]).max()
    self.assertLess(change, 2 * _error(name) * size)

  @parameterized.parameters(_NAMES)
  def test_the_solution_for_zero_is_zero(self, name):
    X, _ = _run(name)
    self.assertFalse(X[:, -1].any())

  @parameterized.parameters(_NAMES)
  def test_an_iterate_of_one_is_as_that_of_many_and_shaped_as_it(self, name):
    solver, problem, _ = _setting(name)
    b_1 = exact_ggn.vectors(problem.layers, _right_sides()[1:2])
    shapes = jax.tree.map(jnp.shape, b_1)
    first = itertools.islice(solver(problem)(b_1), 4)
    for wanted, got in zip(_run(name)[0][:4], first, strict=True):
      self.assertEqual(jax.tree.map(jnp.shape, got.x), shapes)
      testing.assert_near(self, exact_ggn.raveled(got.x)[0], wanted[1])

  @parameterized.parameters(_NAMES)
  def test_products_are_counted(self, name):
    _, products = _run(name)
    self.assertTrue((np.diff(products) >= 0).all())
    num = np.arange(len(products))
    passes = {
      # a pass is of all right-hand sides
      'arnoldi': np.minimum(num + 1, _P) * _N // _K,
      'astra': num * _N,
      'block_diagonal': 4 * (num + 1) * _N,
      'cg': (num + 1) * _N,
      'dense': _P * _N + 0 * num,
      'lissa': num * _N,
    }
    if name in passes:
      np.testing.assert_array_equal(products, passes[name])


class CgTest(parameterized.TestCase):
  def test_the_first_iterate_is_the_approximations_own_solution(self):
    X, _ = _run('cg')
    testing.assert_near(self, X[0], _right_sides() @ _preconditioner())

  @parameterized.parameters(True, False)
  def test_no_other_point_of_the_krylov_space_is_nearer(self, preconditioned):
    """In the matrix's norm: the best of span {z, (PA) z, ...}, by numpy."""
    if preconditioned:
      X, _ = _run('cg')
    else:
      solver = solvers.make('cg', preconditioned=False)
      X, products = _iterates(solver, _problem(), _right_sides(), 5)
      self.assertEqual(products, [_N * j for j in range(5)])
      self.assertFalse(X[0].any())
    P_PxP = _preconditioner() if preconditioned else np.eye(_P)
    A_PxP = _matrix()
    for k, b_P in enumerate(_right_sides()[:2]):
      x_P = P_PxP @ b_P if preconditioned else 0 * b_P
      space = [P_PxP @ (b_P - A_PxP @ x_P)]
      for j in range(1, 5):
        Q_PxJ = np.linalg.qr(np.stack(space, 1))[0]
        best_J = np.linalg.solve(
          Q_PxJ.T @ A_PxP @ Q_PxJ, Q_PxJ.T @ (b_P - A_PxP @ x_P)
        )
        testing.assert_near(self, X[j, k], x_P + Q_PxJ @ best_J, 1e-8)
        space.append(P_PxP @ A_PxP @ Q_PxJ[:, -1])


class StochasticTest(parameterized.TestCase):
  def order(self, seed, num):
    rng = np.random.default_rng(seed)
    return [s for _ in range(-(-num // 3)) for s in rng.permutation(3)][:num]

  @parameterized.parameters((0.0, None), (0.8, 4.0))
  def test_astra_is_its_recurrence(self, momentum, decay):
    solver = solvers.make(
      'astra', rate=0.1, momentum=momentum, decay=decay, seed=5
    )
    got, products = _iterates(solver, _problem(), _right_sides(), 9)
    X_KxP = _right_sides() @ _preconditioner()
    trace_KxP = 0 * X_KxP
    for step, s in enumerate([*self.order(5, 8), None]):
      testing.assert_near(self, got[step], X_KxP, what=f'step {step}')
      self.assertEqual(products[step], round(step * _N / 3))
      if s is None:
        break
      slope_KxP = X_KxP @ _sampled()[s] - _right_sides()
      trace_KxP = slope_KxP @ _preconditioner() + momentum * trace_KxP
      rate = 0.1 if decay is None else 0.1 / (1 + step / decay)
      X_KxP = X_KxP - rate * trace_KxP

  def test_lissa_is_its_recurrence(self):
    solver = solvers.make('lissa', scale=0.2, seed=5)
    got, products = _iterates(solver, _problem(), _right_sides(), 9)
    R_KxP = _right_sides()
    for step, s in enumerate([*self.order(5, 8), None]):
      testing.assert_near(self, got[step], 0.2 * R_KxP, what=f'step {step}')
      self.assertEqual(products[step], round(step * _N / 3))
      if s is not None:
        R_KxP = _right_sides() + R_KxP - 0.2 * R_KxP @ _sampled()[s]

  def test_lissas_scale_is_as_large_as_the_worst_batch_allows(self):
    largest = max(np.linalg.eigvalsh(A_PxP)[-1] for A_PxP in _sampled())
    first, _ = _iterates(solvers.make('lissa'), _problem(), _right_sides(), 1)
    scale = (first[0, 0] / _right_sides()[0]).mean()
    # The power iteration comes from below: a little too large a step, below 2.
    self.assertBetween(scale * largest, 1 - 1e-9, 1.1)

  def test_lissa_says_that_it_diverged_and_when(self):
    """It trebles each step: a long way before there is no number for it."""
    top = np.linalg.eigvalsh(_matrix())[-1]
    solver = solvers.make('lissa', scale=4 / top)
    with self.assertRaisesRegex(
      solvers.Diverged, r'LiSSA .*step 1?\d, scale \d.*lower the scale'
    ):
      _iterates(solver, _problem(), _right_sides(), 1000)

  def test_astra_says_that_it_diverged_and_when(self):
    solver = solvers.make('astra', rate=5.0)
    with self.assertRaisesRegex(
      solvers.Diverged, r'ASTRA .*step \d, rate 5, momentum 0.*lower the rate'
    ):
      _iterates(solver, _problem(), _right_sides(), 1000)


class ArnoldiTest(parameterized.TestCase):
  @parameterized.parameters(True, False)
  def test_of_a_small_space_it_is_exact_within_and_damped_beside(
    self, complete
  ):
    solver = solvers.make('arnoldi', size=4, complete=complete, seed=2)
    X, products = _iterates(solver, _problem(), _right_sides(), 6)
    self.assertEqual(products, [2, 5, 8, 11, 11, 11])
    D_P = exact_ggn.diagonal(_problem().layers, _damping())
    root_P = np.sqrt(D_P)
    M_PxP = (_matrix() - np.diag(D_P)) / root_P / root_P[:, None]
    q_P = np.random.default_rng(2).normal(size=_P)
    Q_PxJ = np.linalg.qr(q_P[:, None])[0]
    for j in range(4):
      if j:
        more_Px1 = M_PxP @ Q_PxJ[:, -1:]
        Q_PxJ = np.linalg.qr(np.concatenate([Q_PxJ, more_Px1], 1))[0]
      B_PxK = _right_sides().T / root_P[:, None]
      inside_JxK = Q_PxJ.T @ B_PxK
      T_JxJ = Q_PxJ.T @ M_PxP @ Q_PxJ + np.eye(j + 1)
      X_PxK = Q_PxJ @ np.linalg.solve(T_JxJ, inside_JxK)
      if complete:
        X_PxK += B_PxK - Q_PxJ @ inside_JxK
      testing.assert_near(self, X[j], (X_PxK / root_P[:, None]).T)
    testing.assert_near(self, X[5], X[3])

  @parameterized.parameters(4, 1)
  def test_eigenvalues_that_come_twice_are_found_twice(self, num_inputs):
    """One dense layer, a squared error: G is A (x) 1, every eigenvalue twice.

    The Krylov space of one start closes half way; with inputs that are always
    0 so does the whole range of G.
    """
    model, params, batches = _linear(num_inputs)
    identity = curvature.make('identity')
    factors = {path: {} for path in model.layers}
    damping = {path: jnp.asarray(0.1) for path in model.layers}
    problem = solvers.problem(
      model, params, ggn.stack(batches), damping, identity, factors
    )
    B_KxP = np.random.default_rng(1).normal(size=(2, 10))
    X, _ = _iterates(solvers.make('arnoldi', size=20), problem, B_KxP, 20)
    G_PxP = exact_ggn.matrix(model, params, exact_ggn.joined(batches))
    wanted = np.linalg.solve(G_PxP + 0.1 * np.eye(10), B_KxP.T).T
    testing.assert_near(self, X[-1], wanted)


def _linear(num_inputs):
  """Of four inputs the first so many are not 0."""
  net = models.make('mlp', widths=(), num_outputs=2, dtype='float64')
  like = jax.ShapeDtypeStruct((1, 4), float)
  model, params = testing.model_of(net, like, losses.squared_error)
  batches = [
    batch._replace(inputs=batch.inputs * (np.arange(4) < num_inputs))
    for batch in exact_ggn.case('squared')[2]
  ]
  return model, params, batches


class ProblemTest(parameterized.TestCase):
  def test_its_products_are_those_of_the_dense_matrix(self):
    problem = _problem()
    self.assertEqual((problem.num_batches, problem.num_sequences), (3, _N))
    vectors = exact_ggn.vectors(problem.layers, _right_sides())

    @jax.jit
    def run(data):
      def of(x):
        return [
          solvers.damped(problem.product, data, x),
          *(solvers.damped(problem.sampled, data, x, s) for s in range(3)),
        ]

      return jax.vmap(of)(vectors), problem.dense(data), problem.root(data)

    products, dense, root = run(problem.data)
    for got, matrix in zip(products, [_matrix(), *_sampled()], strict=True):
      testing.assert_near(self, exact_ggn.raveled(got), _right_sides() @ matrix)
    # Of the batches too, else a sequence counts more in a smaller one
    whole, *parts = map(exact_ggn.raveled, products)
    testing.assert_near(self, sum(parts) / 3, whole)
    D_P = exact_ggn.diagonal(problem.layers, _damping())
    testing.assert_near(self, dense + jnp.diag(D_P), _matrix())
    rows_JxP = exact_ggn.raveled({path: x['g'] for path, x in root.items()})
    testing.assert_near(self, rows_JxP.T @ rows_JxP, dense)

  def test_it_preconditions_as_influence_does(self):
    problem = _problem()
    b_K = exact_ggn.vectors(problem.layers, _right_sides())
    got = jax.vmap(problem.precondition, (None, 0))(problem.data, b_K)
    wanted = influence.precondition(
      curvature.make('ekfac'), problem.layers, problem.data['factors'],
      layer_arrays.trail(problem.layers, b_K), _damping(),
    )  # fmt: skip
    wanted = layer_arrays.lead(problem.layers, wanted)
    for path, x in wanted.items():
      testing.assert_near(self, got[path], x, what=path)

  def test_the_residual_is_that_of_the_dense_matrix(self):
    X_KxP = np.random.default_rng(3).normal(size=(_K, _P))
    B_KxP = np.random.default_rng(4).normal(size=(_K, _P))
    x_K, b_K = (exact_ggn.vectors(_problem().layers, x) for x in (X_KxP, B_KxP))
    got = solvers.residual(_problem(), x_K, b_K)
    away = np.linalg.norm(X_KxP @ _matrix() - B_KxP, axis=1)
    wanted = away / np.linalg.norm(B_KxP, axis=1)
    testing.assert_near(self, got, wanted)

  def test_a_second_residual_is_not_traced_again(self):
    product = mock.Mock(side_effect=_problem().product)
    problem = _problem()._replace(product=product)
    b_K = exact_ggn.vectors(problem.layers, _right_sides())
    for _ in range(2):
      solvers.residual(problem, b_K, b_K)
    self.assertEqual(product.call_count, 1)


class MakeTest(parameterized.TestCase):
  @parameterized.parameters(_NAMES)
  def test_an_unknown_hyperparameter_is_refused(self, name):
    with self.assertRaisesRegex(ValueError, f"{name} .* parameter .*'deph'"):
      solvers.make(name, deph=3)

  def test_an_unknown_name_is_refused_with_those_that_there_are(self):
    with self.assertRaisesRegex(ValueError, "'gmres'.*'cg'.*'lissa'"):
      solvers.make('gmres')

  def test_a_file_outside_the_package_is_found_by_its_dotted_name(self):
    folder = pathlib.Path(self.create_tempdir().full_path)
    (folder / 'my_study').mkdir()
    (folder / 'my_study' / 'stays.py').write_text(
      'from influence_jax import solvers\n'
      'def make(times):\n'
      '  def solver(problem):\n'
      '    return lambda b_K: iter([solvers.Iterate(b_K, problem)] * times)\n'
      '  return solver\n'
    )
    with (
      mock.patch.object(sys, 'path', [str(folder), *sys.path]),
      mock.patch.dict(sys.modules),
    ):
      made = solvers.make('my_study.stays', times=3)
      self.assertEqual([x.products for x in made(7)(None)], [7, 7, 7])
      with self.assertRaisesRegex(ValueError, "'size'.*'times'"):
        solvers.make('my_study.stays', size=3)

  def test_the_package_has_what_the_papers_compare(self):
    self.assertContainsSubset({'lissa', 'cg', 'arnoldi', 'astra'}, _NAMES)


if __name__ == '__main__':
  absltest.main()
