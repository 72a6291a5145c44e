from absl.testing import absltest

from influence_jax import by_name, curvature, solvers
from influence_jax.solvers import cg


class ByNameTest(absltest.TestCase):
  def test_names_are_the_modules_of_the_package(self):
    self.assertIn('ekfac', by_name.names('influence_jax.curvature'))
    self.assertEqual(curvature.names(), sorted(curvature.names()))
    self.assertNotIn('ekfac', solvers.names())

  def test_hyperparameters_reach_make_and_a_dotted_path_is_taken(self):
    for name in ('cg', cg.__name__):
      solve = by_name.make(
        'influence_jax.solvers', 'solver', name, {'preconditioned': False}
      )
      self.assertEqual(solve.__module__, cg.__name__)
      self.assertIn(False, [x.cell_contents for x in solve.__closure__])

  def test_what_is_not_there_is_named_with_what_is(self):
    with self.assertRaisesRegex(ValueError, "unknown solver 'gc'.*'cg'"):
      solvers.make('gc')
    with self.assertRaisesRegex(
      ValueError, r"cg has no .*\['depth'\].*precond"
    ):
      solvers.make('cg', depth=3)


if __name__ == '__main__':
  absltest.main()
