import io

from absl.testing import absltest
from rich import console

from influence_jax.report import terminal


def _printed(view, width):
  file = io.StringIO()
  console.Console(file=file, width=width).print(view)
  return file.getvalue()


class TableTest(absltest.TestCase):
  def test_a_long_label_is_folded_and_no_number_is_cut(self):
    view = terminal.table('title', 'layer', 'mean', 'damping')
    view.add_row('blocks/attention/query', '1.234', '5.6 (4 to 7)')
    printed = _printed(view, 36)
    self.assertStartsWith(printed, 'title')
    for text in ('blocks', '1.234', '5.6 (4 to 7)'):
      self.assertIn(text, printed)
    self.assertNotIn('…', printed)

  def test_where_columns_do_not_fit_numbers_are_broken_at_spaces_if_asked(self):
    names = ['x', *(f'top {n}' for n in range(4))]
    for wrap in (False, True):
      view = terminal.table(None, *names, wrap=wrap)
      view.add_row('a', *['100% (93% to 100%)'] * 4)
      self.assertEqual('…' not in _printed(view, 60), wrap)

  def test_texts_are_to_the_left_and_numbers_to_the_right(self):
    view = terminal.table(None, 'a', 'b', 'c', num_labels=2)
    justified = [column.justify for column in view.columns]
    self.assertEqual(justified, ['left', 'left', 'right'])


if __name__ == '__main__':
  absltest.main()
