"""Tests of the figures: of what is drawn, read back from the axes."""

import os
import pathlib
import tempfile
import warnings
from unittest import mock

import matplotlib
import numpy as np
from absl.testing import absltest, parameterized
from PIL import Image
from scipy import integrate

from influence_jax.report import curves, figures


def _heavy(num_queries=3, num=1000):
  rng = np.random.default_rng(0)
  return rng.standard_t(2.0, (num_queries, num))


def _labels(fig):
  return [text.get_text() for text in fig.legends[0].get_texts()]


class CurvesTest(parameterized.TestCase):
  def test_ccdf_of_a_hand_example(self):
    x, share = curves.ccdf([3.0, -1.0, 1.0, 2.0, 0.0, 1.0])
    np.testing.assert_array_equal(x, [3.0, 2.0, 1.0, 1.0])
    np.testing.assert_array_equal(share, [0.25, 0.5, 0.75, 1.0])

  def test_ccdf_of_a_power_law_has_its_exponent(self):
    scores = np.random.default_rng(0).pareto(2.0, 100_000) + 1  # P(> x) = x^-2
    x, share = curves.ccdf(scores)
    at = np.searchsorted(-x, -10.0)  # the first score below 10
    np.testing.assert_allclose(share[at], 0.01, rtol=4 / np.sqrt(1000))

  def test_held_of_a_hand_example(self):
    top, share = curves.held([1.0, -10.0, 4.0, 2.0, 3.0])
    np.testing.assert_allclose(top, [0, 0.2, 0.4, 0.6, 0.8, 1.0])
    np.testing.assert_allclose(share, [0, 0.4, 0.7, 0.9, 1.0, 1.0])

  @parameterized.parameters(1e-9, 1e7)
  def test_held_does_not_depend_on_the_unit_of_scores(self, unit):
    scores = _heavy(1)[0]
    _, share = curves.held(scores)
    _, share_of_scaled = curves.held(unit * scores)
    np.testing.assert_allclose(share_of_scaled, share, rtol=1e-9)

  def test_held_is_not_a_number_where_nothing_is_positive(self):
    _, share = curves.held([-1.0, 0.0])
    self.assertTrue(np.isnan(share).all())

  def test_gaussian_scores_hold_6_7_percent_at_1_percent(self):
    self.assertAlmostEqual(float(curves.gaussian_held(0.01)), 0.067, places=3)

  @parameterized.parameters((0.01, 2.3263478740), (0.5, 0.0))
  def test_gaussian_held_is_the_ratio_of_integrals(self, top, z):
    def density(x):
      return x * np.exp(-(x**2) / 2)

    above, _ = integrate.quad(density, z, np.inf)
    positive, _ = integrate.quad(density, 0, np.inf)
    np.testing.assert_allclose(
      curves.gaussian_held(top), above / positive, rtol=1e-8
    )

  def test_gaussian_held_is_what_gaussian_samples_hold(self):
    scores = np.random.default_rng(0).standard_normal(400_000)
    top, share = curves.held(scores)
    # 4,000 scores lie in the top 1 %: a standard error of 1 % of 0.067.
    self.assertAlmostEqual(np.interp(0.01, top, share), 0.0668, delta=0.003)


class FiguresTest(parameterized.TestCase):
  def test_tail_draws_the_ccdf_of_each_query_on_log_axes(self):
    fig = figures.tail([[3.0, -1.0, 1.0], [0.5, 0.25, 2.0]], ['a', 'b'])
    (axes,) = fig.axes
    self.assertEqual((axes.get_xscale(), axes.get_yscale()), ('log', 'log'))
    first, second = [line.get_xydata() for line in axes.lines]
    np.testing.assert_allclose(first, [[3, 0.5], [1, 1]])
    np.testing.assert_allclose(second, [[2, 1 / 3], [0.5, 2 / 3], [0.25, 1]])

  def test_tail_of_many_scores_keeps_the_largest_exactly(self):
    scores = _heavy(1, 100_000)
    x, share = curves.ccdf(scores[0])
    line = figures.tail(scores, ['a']).axes[0].lines[0].get_xydata()
    np.testing.assert_array_equal(line[:20], np.stack([x, share], 1)[:20])
    np.testing.assert_array_equal(line[-1], [x[-1], 1.0])
    self.assertLess(len(line), 5000)

  def test_coverage_draws_percent_of_percent_and_names_the_null(self):
    scores = np.full((1, 1000), 1e-3)
    scores[0, 17] = 999e-3  # the first holds half, as much as 999 others
    fig = figures.coverage(scores, ['a'])
    x, y = fig.axes[0].lines[0].get_xydata().T
    np.testing.assert_allclose(np.interp(0.1, x, y), 50.0, rtol=1e-6)
    self.assertAlmostEqual(x[-1], 1.0)
    self.assertEqual(_labels(fig), ['a 50%', 'Gaussian scores 6.7%'])
    area = fig.axes[0].collections[0].get_paths()[0].vertices
    self.assertAlmostEqual(area[:, 1].max(), 6.68, places=2)

  @parameterized.named_parameters(
    ('all_zero', [[0.0, 0.0, 0.0], [1.0, 2.0, 3.0]]),
    ('all_negative', [[-1.0, -2.0, -3.0], [1.0, 2.0, 3.0]]),
    ('nothing_positive', [[-1.0, 0.0, -3.0], [0.0, 0.0, 0.0]]),
    ('one_positive', [[1.0, -2.0, 0.0], [-1.0, -1.0, -1.0]]),
    ('far_apart', [[1e7, -1e7, 2e7], [1e-9, 2e-9, -1e-9]]),
    ('equal', [[2.0, 2.0, 2.0], [2.0, 2.0, 2.0]]),
    ('one_sequence', [[2.0], [3.0]]),
  )
  def test_extreme_scores_are_drawn_without_a_warning(self, scores):
    with warnings.catch_warnings():
      warnings.simplefilter('error')
      for draw in (figures.tail, figures.coverage):
        figures.png(draw(np.array(scores, np.float32), ['a', 'b']))

  def test_query_without_positive_scores_is_said_to_have_none(self):
    scores = [[-1.0, -2.0], [1.0, 2.0]]
    for draw in (figures.tail, figures.coverage):
      self.assertIn('a (none positive)', _labels(draw(scores, ['a', 'b'])))

  def test_query_has_one_colour_in_all_figures_and_no_other_query_has_it(self):
    scores, names = _heavy(8), list('abcdefgh')
    tail, coverage = [
      [line.get_color() for line in draw(scores, names).axes[0].lines]
      for draw in (figures.tail, figures.coverage)
    ]
    self.assertEqual(tail, coverage)
    self.assertLen(set(tail), 8)

  def test_queries_beyond_the_colours_are_drawn_and_counted(self):
    fig = figures.tail(_heavy(12), [f'q{i}' for i in range(12)])
    self.assertLen(fig.axes[0].lines, 12)
    self.assertIn('4 others', _labels(fig))

  @parameterized.parameters(
    '_hidden', r'$\nonsense$', 'a$5', r'\$', '<b>\x1b', '<script>x</script>',
    'שלום', 'مرحبا',
  )  # fmt: skip
  def test_any_name_is_drawn(self, name):
    with warnings.catch_warnings():
      warnings.simplefilter('error')
      fig = figures.tail(_heavy(1), [name])
      figures.png(fig)
      figures.png(figures.layers({name: [[1.0]]}, [name]))
    self.assertStartsWith(_labels(fig)[0], name[:1].replace('$', r'\$'))

  @parameterized.parameters(figures.tail, figures.coverage)
  def test_scores_and_names_must_agree(self, draw):
    with self.assertRaisesRegex(ValueError, r'shape \(3, 1000\), expected \(2'):
      draw(_heavy(3), ['a', 'b'])

  @parameterized.product(
    draw=(figures.tail, figures.coverage), bad=(np.nan, np.inf, -np.inf)
  )
  def test_scores_that_are_not_finite_are_refused_by_name(self, draw, bad):
    scores = _heavy(2)
    scores[1, 17] = bad
    with self.assertRaisesRegex(ValueError, "'b'.*sequence 17"):
      draw(scores, ['a', 'b'])

  def test_layer_shares_of_a_hand_example(self):
    fig = figures.layers(
      {'a': [[1.0, 2.0], [2.0, 5.0]], 'b': [[6.0, -2.0]], 'c': [[-1.0, 0.0]]},
      ['low', 'high'],
    )
    (image,) = fig.axes[0].images
    shares = np.ma.filled(image.get_array(), np.nan)
    np.testing.assert_allclose(shares, [[30, 70], [150, -50], [np.nan, np.nan]])
    self.assertEqual(image.get_clim(), (-150, 150))
    cells = [text.get_text() for text in fig.axes[0].texts]
    self.assertEqual(cells, ['30', '70', '150', '-50'])

  @parameterized.named_parameters(
    ('all_zero', np.zeros((5, 2))),
    ('huge', np.full((5, 2), 1e7)),
    ('tiny', np.full((5, 2), 1e-9)),
    ('many_layers', np.ones((5, 200))),
  )
  def test_extreme_layer_scores_are_drawn_without_a_warning(self, scores):
    names = [f'decoder/layers_{i}/mlp/kernel' for i in range(scores.shape[1])]
    with warnings.catch_warnings():
      warnings.simplefilter('error')
      figures.png(figures.layers({'a': scores}, names))

  def test_layer_scores_and_names_must_agree(self):
    with self.assertRaisesRegex(ValueError, r"'a' have shape \(1, 3\)"):
      figures.layers({'a': [[1.0, 2.0, 3.0]]}, ['low', 'high'])
    with self.assertRaisesRegex(ValueError, "'a' must be finite, got 1"):
      figures.layers({'a': [[1.0, np.nan]]}, ['low', 'high'])
    with self.assertRaisesRegex(ValueError, 'no layer scores'):
      figures.layers({}, ['low', 'high'])

  def test_training_curve_draws_batches_and_held_out_text(self):
    fig = figures.training_curve([0, 1, 2], [5.0, 4.0, 3.5], [0, 2], [5.5, 4.0])
    train, held_out = [line.get_xydata() for line in fig.axes[0].lines]
    np.testing.assert_array_equal(train, [[0, 5], [1, 4], [2, 3.5]])
    np.testing.assert_array_equal(held_out, [[0, 5.5], [2, 4]])
    self.assertIn('nats per token', fig.axes[0].get_ylabel())

  def test_drawing_leaves_the_settings_of_others_alone(self):
    before = dict(matplotlib.rcParams)
    figures.png(figures.tail(_heavy(), ['a', 'b', 'c']))
    self.assertEqual(dict(matplotlib.rcParams), before)


class SaveTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    self.path = self.folder / 'new' / 'tail.png'

  def test_saved_figure_is_a_png_of_200_dots_an_inch_and_a_pdf(self):
    figures.save(figures.tail(_heavy(), ['a', 'b', 'c']), self.path)
    with Image.open(self.path) as image:
      self.assertEqual((image.format, image.size), ('PNG', (1350, 500)))
    pdf = self.path.with_suffix('.pdf').read_bytes()
    self.assertStartsWith(pdf, b'%PDF')
    self.assertIn(b'/MediaBox [ 0 0 486 180 ]', pdf)  # points
    self.assertLen([*self.folder.rglob('*.*')], 2)

  def test_failed_save_leaves_the_old_figure_and_nothing_else(self):
    self.path.parent.mkdir()
    self.path.write_bytes(b'old')
    fig = figures.tail(_heavy(), ['a', 'b', 'c'])
    with mock.patch.object(os, 'replace', side_effect=OSError('disk')):
      with self.assertRaises(OSError):
        figures.save(fig, self.path)
    self.assertEqual(self.path.read_bytes(), b'old')
    self.assertEqual(list(self.path.parent.iterdir()), [self.path])


if __name__ == '__main__':
  absltest.main()
