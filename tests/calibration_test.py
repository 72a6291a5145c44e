from unittest import mock

from absl.testing import absltest, parameterized

from influence_jax import calibration


class TimesTest(parameterized.TestCase):
  @parameterized.parameters((0.01, 8), (0.3, 3), (0.45, 2), (5.0, 2))
  def test_short_calls_are_timed_more_often(self, seconds, num):
    """After the first, which is not counted: up to 8, or a second in all."""
    clock = [0.0]

    def call():
      clock[0] += seconds

    with mock.patch.object(calibration.time, 'perf_counter', lambda: clock[0]):
      taken = calibration._times(call, 8)
    self.assertLen(taken, num)
    for x in taken:
      self.assertAlmostEqual(x, seconds)


if __name__ == '__main__':
  absltest.main()
