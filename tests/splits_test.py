import numpy as np
from absl.testing import absltest, parameterized

from influence_jax.data import splits


class DrawTest(parameterized.TestCase):
  def test_every_row_is_in_one_part(self):
    parts = splits.draw(20, 11, 4, seed=0)
    self.assertEqual([len(x) for x in parts], [11, 4, 5])
    self.assertCountEqual(np.concatenate(parts).tolist(), range(20))
    self.assertNotEqual(np.concatenate(parts).tolist(), [*range(20)])

  def test_a_larger_part_holds_a_smaller_one_whatever_the_other(self):
    train, test, _ = splits.draw(20, 9, 7, seed=3)
    for num in (1, 4):
      less, _, _ = splits.draw(20, num, 2, seed=3)
      np.testing.assert_array_equal(less, train[:num])
      _, less, _ = splits.draw(20, 5, num, seed=3)
      np.testing.assert_array_equal(less, test[:num])

  def test_seeds_draw_differently(self):
    one, two = (splits.draw(20, 9, 7, seed)[0].tolist() for seed in (0, 1))
    self.assertNotEqual(one, two)

  @parameterized.parameters(
    (0, 5, 'num_train is 0, expected 1 to 20'),
    (21, 5, 'num_train is 21, expected 1 to 20'),
    (15, 6, 'num_test is 6, expected 1 to 5'),
    (15, 0, 'num_test is 0, expected 1 to 5'),
  )
  def test_parts_that_cannot_be_are_refused(self, num_train, num_test, message):
    with self.assertRaisesRegex(ValueError, message):
      splits.draw(20, num_train, num_test, seed=0)

  def test_all_rows_may_be_taken(self):
    self.assertEmpty(splits.draw(20, 15, 5, seed=0)[2])


class BatchTest(absltest.TestCase):
  def test_every_row_counts_under_its_number(self):
    made = splits.batch(np.ones((3, 2)), np.zeros(3))
    np.testing.assert_array_equal(made.mask, [1, 1, 1])
    np.testing.assert_array_equal(made.ids, [0, 1, 2])
    self.assertEqual((made.mask.dtype, made.ids.dtype), (np.float32, np.int32))


if __name__ == '__main__':
  absltest.main()
