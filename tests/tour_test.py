"""The notebook of the documentation runs, and was kept as it ran."""

import pathlib

import nbclient
import nbformat
from absl.testing import absltest

_PATH = pathlib.Path(__file__).parents[1] / 'docs' / 'tour.ipynb'


class TourTest(absltest.TestCase):
  def test_it_runs_from_top_to_bottom_and_its_checks_hold(self):
    notebook = nbformat.read(_PATH, as_version=4)
    client = nbclient.NotebookClient(
      notebook, timeout=300, kernel_name='python3'
    )
    client.execute()  # raises at the first cell that does

  def test_outputs_are_kept_whole_in_order_and_small(self):
    self.assertLess(_PATH.stat().st_size, 300_000)
    notebook = nbformat.read(_PATH, as_version=4)
    nbformat.validate(notebook)
    cells = [x for x in notebook.cells if x.cell_type == 'code']
    self.assertEqual(
      [cell.execution_count for cell in cells], [*range(1, len(cells) + 1)]
    )
    outputs = [output for cell in cells for output in cell.outputs]
    self.assertNotIn('error', [output.output_type for output in outputs])
    self.assertNotIn('stderr', [output.get('name') for output in outputs])
    images = [x for x in outputs if 'image/png' in x.get('data', {})]
    self.assertLen(images, 2)


if __name__ == '__main__':
  absltest.main()
