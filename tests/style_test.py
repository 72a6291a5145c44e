"""Every figure is in the one style: its size, its letters, its looks in grey.

The figures are those that experiments.redraw draws from the committed results.
"""

import hashlib
import itertools
import os
import pathlib
import subprocess
import sys
import tempfile
import warnings
from unittest import mock

import matplotlib
import numpy as np
from absl.testing import absltest, parameterized
from matplotlib import colors, figure, lines, text
from matplotlib.backends import backend_agg as agg
from PIL import Image

from experiments import redraw, role_play
from influence_jax.report import figures, style

_RESULTS = pathlib.Path(__file__).parents[1] / 'results'
_RESULT_FILES = [
  (str(path.relative_to(_RESULTS)), draw)
  for path, draw in redraw.drawn(_RESULTS)
]
_MARGIN = 10  # of L*, between two that differ in nothing else
_HOSTILE = (
  '$^{$',
  '<script>x</script>',
  'שלום',
  'مرحبا',
  '中文字',
  '\u202ex',
  'a\nb',
)


def lightness(color) -> float:
  """L* of CIELAB: what is left of a colour in grey."""
  rgb = np.array(colors.to_rgb(color))
  linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
  y = linear @ [0.2126, 0.7152, 0.0722]
  return 116 * np.cbrt(y) - 16 if y > 0.008856 else 903.3 * y


def look(handle) -> tuple:
  """(what is seen of its form, its lightness)."""
  if not isinstance(handle, lines.Line2D):
    face = handle.get_facecolor()
    face = face[0] if np.ndim(face) == 2 else face
    hatch = handle.get_hatch() if hasattr(handle, 'get_hatch') else None
    return (type(handle), hatch), lightness(face)
  hollow = colors.to_rgba(handle.get_markerfacecolor())[:3] == (1, 1, 1)
  marker = handle.get_marker()
  form = (
    lines.Line2D, handle.get_linestyle(), handle._unscaled_dash_pattern[1],
    marker, hollow if marker not in ('None', '', 'x', '+', '|') else None,
  )  # fmt: skip
  return form, lightness(handle.get_color())


def alike(one, other) -> bool:
  (form, light), (other_form, other_light) = look(one), look(other)
  return form == other_form and abs(light - other_light) < _MARGIN


def drawn_texts(fig) -> list[text.Text]:
  """Those that a drawing shows: tick labels beyond the axes are not."""
  found, real = [], text.Text.draw

  def record(self, renderer, *args, **kwargs):
    if self.get_visible() and self.get_text().strip():
      found.append(self)
    return real(self, renderer, *args, **kwargs)

  with mock.patch.object(text.Text, 'draw', record):
    agg.FigureCanvasAgg(fig).draw()
  return list(dict.fromkeys(found))


class ResultsTest(parameterized.TestCase):
  @parameterized.parameters(*_RESULT_FILES)
  def test_figures_of(self, _, draw):
    for path, fig in draw().items():
      with self.subTest(path.name):
        self.check_figure(fig)
        self.check_legends(fig)
        self.check_files(path)

  def check_figure(self, fig) -> None:
    width, height = fig.get_size_inches()
    self.assertIn(width, (style.ONE_COLUMN, style.TWO_COLUMNS))
    self.assertLess(height, 9)  # of a page
    texts = drawn_texts(fig)
    self.assertGreater(len(texts), 5)
    for one in texts:
      self.assertGreaterEqual(one.get_fontsize(), style.LEAST, one.get_text())
    boxes = [(one, one.get_window_extent()) for one in texts]
    for one, box in boxes:
      inside = box.x0 >= -1 and box.x1 <= fig.bbox.width + 1
      self.assertTrue(inside, f'cut off: {one}')
    for (one, box), (other, its) in itertools.combinations(boxes, 2):
      across = min(box.x1, its.x1) - max(box.x0, its.x0)
      along = min(box.y1, its.y1) - max(box.y0, its.y0)
      over = min(across, along) * 72 / fig.dpi  # points
      self.assertLess(over, 1.5, f'{one} and {other} lie on each other')

  def check_legends(self, fig) -> None:
    for legend in (*fig.legends, *(axes.get_legend() for axes in fig.axes)):
      handles = legend.legend_handles if legend else ()
      for i, j in itertools.combinations(range(len(handles)), 2):
        names = [legend.get_texts()[n].get_text() for n in (i, j)]
        self.assertFalse(alike(handles[i], handles[j]), names)

  def check_files(self, path) -> None:
    """As committed."""
    pdf = path.with_name(f'{path.name}.pdf')
    with Image.open(path.with_name(f'{path.name}.png')) as image:
      width = image.width / figures.DPI
    self.assertIn(width, (style.ONE_COLUMN, style.TWO_COLUMNS))
    self.assertLess(pdf.stat().st_size, 1e5)
    check_pdf(self, pdf.read_bytes())


class RedrawTest(parameterized.TestCase):
  @parameterized.parameters(
    ('word_order', 'ratios', 'forward / flipped', 'flipped / name alone'),
    ('memorization', 'memorization', 'd64', 'd96', 'd128', 'd160'),
    ('fact_recall', 'recall', 'EK-FAC', 'dot product', 'BM25', 'embedding'),
  )
  def test_series_are_in_the_order_of_the_study(self, study, name, *wanted):
    """A JSON file has them by their names."""
    draw = dict(_RESULT_FILES)[f'{study}/result.json']
    fig = {path.name: one for path, one in draw().items()}[name]
    legend = (fig.legends or [fig.axes[0].get_legend()])[0]
    labels = [one.get_text() for one in legend.get_texts()]
    self.assertEqual(labels[: len(wanted)], [*wanted])

  def test_sizes_are_from_the_smallest(self):
    draw = dict(_RESULT_FILES)['cross_lingual/result.json']
    fig = {path.name: one for path, one in draw().items()}['rho']
    labels = [one.get_text() for one in fig.axes[0].get_xticklabels()]
    self.assertEqual(
      [x.split()[0] for x in labels], 'd64 d96 d128 d160'.split()
    )


def check_pdf(case, content: bytes) -> None:
  case.assertStartsWith(content, b'%PDF')
  words = b'/FontFile2', b'/CIDFontType2', b'/Type3', b'Date'
  found = [word in content for word in words]  # the first two are of TrueType
  case.assertEqual(found, [True, True, False, False])


class LinesTest(parameterized.TestCase):
  @parameterized.parameters((style.line, 8), (style.marked, 40))
  def test_no_two_look_alike_in_grey(self, make, num):
    found = [lines.Line2D([], [], **make(i)) for i in range(num)]
    for one, other in itertools.combinations(found, 2):
      self.assertFalse(alike(one, other), (look(one), look(other)))

  def test_an_interval_is_a_band_and_of_one_place_a_bar(self):
    for x, kind in (([1], 'LineCollection'), ([1, 2], 'FillBetween')):
      _, axes = style.axes(style.ONE_COLUMN, 2)
      style.band(axes, x, [0.25] * len(x), [0.75] * len(x), 'black')
      (one,) = axes.collections
      self.assertIn(kind, type(one).__name__)
      ends = one.get_datalim(axes.transData).intervaly
      np.testing.assert_allclose(ends, [0.25, 0.75])

  @parameterized.parameters(
    ('#000000', 0), ('#ffffff', 100), ('#777777', 50.0), ('#ff0000', 53.2)
  )
  def test_lightness(self, color, wanted):
    self.assertAlmostEqual(lightness(color), wanted, delta=0.1)

  def test_negative_and_positive_are_the_ends_of_the_shades(self):
    ends = [colors.to_hex(style.SHADES(x)) for x in (0.0, 0.5, 1.0)]
    self.assertEqual(ends, [style.NEGATIVE, '#ffffff', style.POSITIVE])


class PdfTest(parameterized.TestCase):
  def test_letters_are_truetype_and_there_is_no_date(self):
    check_pdf(self, figures.pdf(_tail()))

  def test_bytes_are_the_same_every_time(self):
    fig = _tail()
    for write in (figures.pdf, figures.png):
      wanted = _sum(write(fig))
      self.assertEqual(_sum(write(fig)), wanted)
      self.assertEqual(_sum(write(_tail())), wanted)

  def test_a_figure_without_a_layout_is_given_none(self):
    fig = figure.Figure((2, 1), layout='none')
    fig.add_axes((0, 0, 1, 1))
    for write in (figures.pdf, figures.png):
      self.assertEqual(_sum(write(fig)), _sum(write(fig)))
      self.assertIsNone(fig.get_layout_engine())

  def test_bytes_are_the_same_in_another_process(self):
    code = (
      'import hashlib; from influence_jax.report import figures as f;'
      'one = f.training_curve([0, 1, 2], [5, 4, 3], [0, 2], [4, 3.5]);'
      'print(hashlib.sha256(f.pdf(one) + f.png(one)).hexdigest())'
    )
    found = {
      subprocess.run(
        [sys.executable, '-c', code], check=True, capture_output=True,
        env={**os.environ, 'PYTHONHASHSEED': seed}, cwd=_RESULTS.parent,
      ).stdout
      for seed in ('1', '2')
    }  # fmt: skip
    self.assertLen(found, 1)

  def test_settings_of_the_caller_change_no_file(self):
    before = _sum(figures.pdf(_tail())), _sum(figures.png(_tail()))
    theirs = {
      'savefig.bbox': 'tight', 'savefig.dpi': 10, 'figure.dpi': 10,
      'pdf.fonttype': 3, 'font.size': 30, 'savefig.transparent': True,
      'lines.linewidth': 9, 'axes.titlesize': 3,
    }  # fmt: skip
    with matplotlib.rc_context(theirs):
      after = _sum(figures.pdf(_tail())), _sum(figures.png(_tail()))
    self.assertEqual(after, before)

  def test_fonts_are_not_logged_letter_by_letter(self):
    with self.assertNoLogs(level='INFO'):  # of the root
      figures.pdf(_tail())


class HostileTest(absltest.TestCase):
  def test_labels_are_shown_letter_by_letter_in_both_files(self):
    rng = np.random.default_rng(0)
    rows = [{'class': x, 'overlap': 0.1, 'scanned': 0.05} for x in _HOSTILE]
    drawn = [
      figures.tail(rng.pareto(2.0, (len(_HOSTILE), 50)), _HOSTILE),
      figures.layers({x: [[1.0, 2.0]] for x in _HOSTILE}, _HOSTILE[:2]),
      role_play.draw(rows),
    ]
    folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    with warnings.catch_warnings():
      warnings.simplefilter('error')
      warnings.filterwarnings('ignore', 'Glyph .* missing')  # Chinese
      for n, fig in enumerate(drawn):
        figures.save(fig, folder / f'{n}.png')
        check_pdf(self, (folder / f'{n}.pdf').read_bytes())
    shown = {one.get_text() for one in drawn_texts(drawn[1])}
    self.assertContainsSubset(
      {r'\$^{\$', '<script>x</script>', 'שלום', '中文字', r'\u202ex', 'a b'},
      shown,
    )


def _sum(content: bytes) -> str:
  """In place of bytes, whose difference takes minutes to be printed."""
  return hashlib.sha256(content).hexdigest()


def _tail():
  scores = np.random.default_rng(0).standard_t(2.0, (3, 500))
  return figures.tail(scores, ['a', 'b', 'c'])


if __name__ == '__main__':
  absltest.main()
