import numpy as np
from absl.testing import absltest
from tiny import bible

from experiments import cross_lingual_figure


class DrawTest(absltest.TestCase):
  def test_lines_are_the_languages_and_the_mean_controls(self):
    rho = {
      size: {
        'forth': [1, n, 2 * n], 'back': [1, 5 * n, 6 * n],
        'random': [9, 0, 0.1], 'other': [9, 0.2, 0.4],
      }
      for n, size in enumerate('sml', start=1)
    }  # fmt: skip
    fig = cross_lingual_figure.draw_rho(rho, bible.PARAMETERS, bible.LANGUAGES)
    left, right = fig.axes
    drawn = {x.get_label(): x for x in left.get_lines()}
    np.testing.assert_allclose(drawn['fr'].get_xdata(), [1000, 5000, 9000])
    np.testing.assert_allclose(drawn['ko'].get_ydata(), [2, 4, 6])
    np.testing.assert_allclose(
      drawn['random sequences, mean'].get_ydata(), [0.05] * 3
    )
    np.testing.assert_allclose(
      drawn['another verse, mean'].get_ydata(), [0.3] * 3
    )
    drawn = {x.get_label(): x for x in right.get_lines()}
    np.testing.assert_allclose(drawn['fr'].get_ydata(), [5, 10, 15])

  def test_shades_are_shares_of_the_sources_largest_score(self):
    scores = [[4.0, 2.0], [1.0, 0.0], [-1.0, 8.0]]
    one = {
      'size': 's', 'query': 'q', 'titles': ['a', 'b'], 'scores': scores
    }  # fmt: skip
    fig = cross_lingual_figure.draw_sequences([one], bible.LANGUAGES)
    image = fig.axes[0].get_images()[0]
    np.testing.assert_allclose(image.get_array(), np.array(scores) / 4)
    self.assertEqual(image.get_clim(), (-1, 1))
    marked = [x.get_position() for x in fig.axes[0].texts]
    self.assertEqual(marked, [(0, 2)])

  def test_cells_of_the_matrices_say_their_numbers(self):
    auc = np.arange(9).reshape(3, 3) / 8
    fig = cross_lingual_figure.draw_retrieval(
      {'seen': auc, 'unseen': auc.T}, bible.LANGUAGES
    )
    cells = {x.get_position(): x.get_text() for x in fig.axes[0].texts}
    self.assertEqual(cells[1, 0], '.12')
    self.assertEqual(cells[0, 1], '.38')
    self.assertEqual(cells[2, 2], '1.00')


if __name__ == '__main__':
  absltest.main()
