"""The page of all claims and what is copied, of made-up ladders and studies."""

import contextlib
import html.parser
import io
import json
import pathlib
import struct
import subprocess
import sys
import tempfile
from unittest import mock

import ml_collections
from absl.testing import absltest, parameterized

import configs
from configs import figures as figures_config
from experiments import claims, figures, figures_found

_ROOT = pathlib.Path(configs.__file__).parents[1]
_HOSTILE = '\'"><script>alert(1)</script><img src=x onerror=alert(1)>&amp;{{7}}'
_README = 'top\n<!-- claims -->\nold\n<!-- /claims -->\nbottom\n'
_PNG = b'\x89PNG\r\n\x1a\n\0\0\0\rIHDR' + struct.pack('>II', 300, 150)


def _section():
  return ml_collections.ConfigDict(
    dict(
      ladders=(('planted', 'p.py'), ('english', 'e.py')),
      studies=(
        ('sparsity', 'english', None), ('layerwise', 'planted', None),
        ('scaling', 'english', 60),
      ),
      validations=(('validate_pbrf', 'pbrf_concrete', 60),),
      only=(), dry=False,
    )
  )  # fmt: skip


def _claim(name='E8', value=(0.9, 0.8, 0.95), **changes):
  made = claims.claim(
    name, 'Fig. 9', 'share of queries', value, ('>=', 0.8), paper='12-52 %'
  )
  return {**made, 'seeds': [0, 2], 'sizes': ['d64'], **changes}


class _Page(html.parser.HTMLParser):
  """What a browser makes of a page: elements, and the text of each."""

  def __init__(self, text):
    super().__init__()
    self.elements, self.open = [], []
    self.feed(text)
    assert not self.open, f'elements left open: {self.open}'

  def handle_starttag(self, tag, attrs):
    element = dict(tag=tag, attrs=dict(attrs), text='')
    self.elements.append(element)
    if tag not in ('meta', 'img', 'br'):
      self.open.append(element)

  def handle_endtag(self, tag):
    element = self.open.pop()
    assert element['tag'] == tag, (element, tag)

  def handle_data(self, data):
    for element in self.open:
      element['text'] += data

  def of(self, tag):
    return [element for element in self.elements if element['tag'] == tag]


class FiguresTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    folder = self.enterContext(tempfile.TemporaryDirectory())
    self.root = pathlib.Path(folder)
    self.workdir, self.out = self.root / 'runs', self.root / 'results'
    self.readme = self.root / 'README.md'
    self.readme.write_text(_README)
    self.write_ladder('planted')
    self.write_study('planted', 'layerwise', [_claim('E12', 0.1)])
    self.write_study('english', 'sparsity', [_claim('E8'), _claim('E7')])

  def write_ladder(self, name):
    rungs = [
      dict(rung='d64_seed0', size='d64', seed=0, parameters=1234567, steps=40,
           tokens=5000, train=3.25, held_out=None, seconds=6789)
    ]  # fmt: skip
    section = dict(sizes=['d64', 'd96'], seeds={'d64': [0, 1], 'd96': [0]})
    result = dict(
      command=f'train {name}', commit=f'c_{name}', device='cpu x 2',
      config={'ladder': section}, rungs=rungs,
    )  # fmt: skip
    folder = self.workdir / name
    folder.mkdir(parents=True)
    (folder / 'ladder.json').write_text(json.dumps(result))
    (folder / 'ladder.png').write_bytes(_PNG)

  def write_study(self, ladder, name, made, **changes):
    folder = self.workdir / ladder / name
    folder.mkdir(parents=True)
    result = dict(
      command=f'run {name} {ladder}', commit=f'c_{name}', device='cpu x 2',
      claims=made,
    )  # fmt: skip
    (folder / 'result.json').write_text(json.dumps(result | changes))
    (folder / f'{name}_figure.png').write_bytes(_PNG + name.encode())
    (folder / 'd64_seed0.json').write_text('{}')
    return folder

  def run_it(self, **kwargs):
    with contextlib.redirect_stdout(io.StringIO()) as printed:
      found = figures.run(_section(), self.workdir, **kwargs)
    self.printed = printed.getvalue()
    return found

  def page(self):
    self.run_it()
    return _Page((self.workdir / 'index.html').read_text())

  def files(self):
    return {
      str(path.relative_to(self.root)): path.read_bytes()
      for path in self.root.rglob('*')
      if path.is_file()
    }

  def test_claims_that_the_workdir_does_not_make_stay_in_their_places(self):
    self.out.mkdir()
    kept = [_claim('D1', 0.5), _claim('E8', 0.2), _claim('P1', 0.7)]
    (self.out / 'claims.json').write_text(json.dumps(kept))
    self.run_it(out=self.out, readme=self.readme)
    found = json.loads((self.out / 'claims.json').read_text())
    self.assertEqual([x['id'] for x in found][:3], ['D1', 'E8', 'P1'])
    self.assertCountEqual([x['id'] for x in found][3:], ['E7', 'E12'])
    values = {x['id']: x['value'] for x in found}
    self.assertEqual([values[x] for x in ('D1', 'E8', 'P1')], [0.5, 0.9, 0.7])
    self.assertIn('| D1 |', self.readme.read_text())

  def test_sections_are_ladders_and_studies_in_the_order_of_the_config(self):
    self.write_study('planted', 'mine', [])
    headings = [element['text'] for element in self.page().of('h2')]
    self.assertEqual(
      headings,
      [
        'Ladder planted: 1 of 3 models',
        'From how many sequences does a completion come? Tails of influence '
        'scores.',
        'Through which blocks of the network does influence pass?',
        'mine',
      ],
    )

  def test_a_section_has_its_origin_figures_and_claims(self):
    page = self.page()
    ladder, sparsity, layerwise = page.of('section')
    for name, section in (('sparsity', sparsity), ('layerwise', layerwise)):
      self.assertIn(f'commit c_{name} · cpu x 2', section['text'])
      self.assertIn(f'{name}_figure', section['text'])
    self.assertIn('run sparsity english', sparsity['text'])
    self.assertIn('E7', sparsity['text'])
    self.assertNotIn('E7', layerwise['text'])
    for text in ('1,234,567', '5,000', '3.250', '6,789', 'train planted'):
      self.assertIn(text, ladder['text'])
    self.assertLen(page.of('img'), 3)
    for image in page.of('img'):
      self.assertStartsWith(image['attrs']['src'], 'data:image/png;base64,iVBO')
      self.assertEqual(image['attrs']['width'], '165')  # 300 of 200 an inch

  def test_all_claims_are_at_the_top_and_lead_to_their_study(self):
    page = self.page()
    rows = page.of('tr')[1:4]
    self.assertEqual(
      [row['text'].split()[0] for row in rows], ['E7', 'E8', 'E12']
    )
    cells = [element['text'] for element in page.of('td')[9:18]]
    self.assertEqual(
      cells,
      ['E8', 'Fig. 9', 'share of queries', '12-52 %', '0.90 (0.80 to 0.95)',
       '>= 0.80', 'yes', '0, 2', 'd64'],
    )  # fmt: skip
    self.assertEqual(page.of('td')[24]['text'], 'no')
    self.assertIn('2 of 3 claims hold', page.of('body')[0]['text'])
    links = {a['text']: a['attrs']['href'][1:] for a in page.of('a')}
    sections = {x['attrs']['id']: x['text'] for x in page.of('section')}
    self.assertIn('run sparsity', sections[links['E7']])
    self.assertIn('run layerwise', sections[links['E12']])

  def test_markup_of_a_study_is_text(self):
    hostile = _claim(
      'E9', statement=_HOSTILE, paper=_HOSTILE, figure=_HOSTILE,
      sizes=[_HOSTILE],
    )  # fmt: skip
    self.write_study(
      'english', '<script>x', [hostile], command=_HOSTILE, device=_HOSTILE
    )
    page = self.page()
    self.assertEmpty(page.of('script'))
    for element in page.elements:
      for name in element['attrs']:
        self.assertNotStartsWith(name, 'on')
    for image in page.of('img'):
      self.assertStartsWith(image['attrs']['src'], 'data:image/png;base64,')
    text = page.of('body')[0]['text']
    self.assertEqual(text.count(_HOSTILE), 2 * 4 + 2)
    self.assertIn('<script>x_figure', page.of('figcaption')[-1]['text'] + text)

  def test_the_page_needs_no_network_and_no_script(self):
    text = (self.page(), (self.workdir / 'index.html').read_text())[1]
    self.assertNotIn('http:', text)
    self.assertNotIn('https:', text)
    policy = _Page(text).of('meta')[1]['attrs']['content']
    self.assertStartsWith(policy, "default-src 'none'")

  def test_a_figure_that_is_too_large_is_named_not_shown(self):
    path = self.workdir / 'english' / 'sparsity' / 'large.png'
    path.write_bytes(_PNG + bytes(10**6))
    self.assertIn('large is too large', self.page().of('body')[0]['text'])
    self.assertLess((self.workdir / 'index.html').stat().st_size, 10**5)
    path.write_bytes(b'no picture')
    with self.assertRaisesRegex(ValueError, 'large.png is no PNG'):
      self.run_it()

  def test_what_has_not_run_is_said(self):
    lines = [
      'not run: ladder english', 'unfinished: ladder planted, 1 of 3 rungs',
      'not run: scaling (english)', 'not run: pbrf_concrete (validation)',
    ]  # fmt: skip
    items = [element['text'] for element in self.page().of('li')]
    self.assertEqual(items, lines)
    for line in lines:
      self.assertIn(line, self.printed)

  def test_claims_are_those_of_the_ladder_that_the_config_names(self):
    self.write_ladder('zebra')
    for ladder in ('english', 'zebra'):
      self.write_study(ladder, 'layerwise', [_claim('E12', 0.9)])
    found = {one['id']: one for one in self.run_it(out=self.out)}
    self.assertEqual(found['E12']['value'], 0.1)
    self.assertEqual(found['E12']['command'], 'run layerwise planted')
    page = self.page()
    links = {a['text']: a['attrs']['href'][1:] for a in page.of('a')}
    sections = {x['attrs']['id']: x['text'] for x in page.of('section')}
    self.assertIn('run layerwise planted', sections[links['E12']])
    for name, ladder in (
      ('layerwise', 'planted'),
      ('layerwise_zebra', 'zebra'),
    ):
      copied = json.loads((self.out / name / 'result.json').read_text())
      self.assertEqual(copied['command'], f'run layerwise {ladder}')

  def test_what_needs_no_ladder_is_shown_too(self):
    self.write_study('validation', 'pbrf_concrete', [_claim('E1 concrete')])
    self.write_study('validation', 'pbrf_other', [])  # not in the config
    found = {one['id']: one for one in self.run_it(out=self.out)}
    self.assertEqual(
      found['E1 concrete']['command'], 'run pbrf_concrete validation'
    )
    for name in ('pbrf_concrete', 'pbrf_other'):
      self.assertTrue((self.out / name / 'result.json').exists())
    self.assertEqual(
      self.page().of('h2')[-2]['text'],
      'pbrf_concrete: Do estimates agree with the proximal Bregman response? '
      'Fig. 6.',
    )

  def test_a_workdir_that_is_no_ladder_is_left_out(self):
    self.write_study('quickstart', 'sparsity', [_claim('E8', 0.2)])
    found = {one['id']: one for one in self.run_it()}
    self.assertEqual(found['E8']['value'], 0.9)
    self.assertNotIn('run sparsity quickstart', str(self.page().of('body')))

  def test_results_are_copied_whole(self):
    self.run_it(out=self.out)
    paths = {
      str(path.relative_to(self.out)): path.read_bytes()
      for path in self.out.rglob('*')
      if path.is_file()
    }
    source = self.workdir / 'english' / 'sparsity'
    self.assertEqual(
      paths.pop('sparsity/sparsity_figure.png'), _PNG + b'sparsity'
    )
    self.assertEqual(
      paths.pop('sparsity/result.json'), (source / 'result.json').read_bytes()
    )
    self.assertEqual(
      paths.pop('ladder_planted.json'),
      (self.workdir / 'planted' / 'ladder.json').read_bytes(),
    )
    self.assertEqual(paths.pop('ladder_planted.png'), _PNG)
    one = json.loads(paths.pop('claims.json'))[1]
    self.assertEqual(
      [one[key] for key in ('id', 'command', 'commit', 'device')],
      ['E8', 'run sparsity english', 'c_sparsity', 'cpu x 2'],
    )
    self.assertEqual((one['seeds'], one['sizes']), ([0, 2], ['d64']))
    self.assertEqual(
      {*paths}, {'layerwise/result.json', 'layerwise/layerwise_figure.png'}
    )
    self.assertEqual(self.readme.read_text(), _README)

  def test_small_pdfs_of_figures_are_copied_beside_them(self):
    folder = self.workdir / 'english' / 'sparsity'
    for name in ('sparsity_figure.pdf', 'other.pdf'):  # the other is no figure
      (folder / name).write_bytes(b'%PDF' + bytes(10**5 - 4))
    (self.workdir / 'planted' / 'ladder.pdf').write_bytes(b'%PDF')
    large = self.workdir / 'planted' / 'layerwise' / 'layerwise_figure.pdf'
    large.write_bytes(b'%PDF' + bytes(10**5))
    self.run_it(out=self.out)
    pdfs = {str(x.relative_to(self.out)): x for x in self.out.rglob('*.pdf')}
    self.assertEqual(
      {*pdfs}, {'ladder_planted.pdf', 'sparsity/sparsity_figure.pdf'}
    )
    self.assertEqual(pdfs['ladder_planted.pdf'].read_bytes(), b'%PDF')

  def test_the_table_replaces_what_is_between_the_markers(self):
    for _ in range(2):
      found = self.run_it(readme=self.readme)
      table = claims.markdown(found)
      self.assertIn('| **no** |', table)
      self.assertEqual(
        self.readme.read_text(),
        f'top\n<!-- claims -->\n{table}<!-- /claims -->\nbottom\n',
      )
    self.assertFalse(self.out.exists())

  @parameterized.parameters(
    'no markers\n', '<!-- claims -->\n', '<!-- /claims -->\n<!-- claims -->\n',
    _README + _README,
  )  # fmt: skip
  def test_a_readme_without_a_place_is_refused_before_anything_is_written(
    self, text
  ):
    self.readme.write_text(text)
    before = self.files()
    with self.assertRaisesRegex(ValueError, 'no place for the claims'):
      self.run_it(out=self.out, readme=self.readme)
    self.assertEqual(self.files(), before)

  def test_large_files_are_refused_before_anything_is_written(self):
    path = self.workdir / 'planted' / 'layerwise' / 'large.png'
    path.write_bytes(_PNG + bytes(10**6))
    before = self.files()
    with self.assertRaisesRegex(
      ValueError, r'large.png has 1,000,0\d\d bytes, expected at most 1,000,000'
    ):
      self.run_it(out=self.out, readme=self.readme)
    self.assertEqual(self.files(), before)

  def test_a_kill_leaves_whole_files(self):
    self.run_it(out=self.out)
    before = self.files()
    self.write_study('english', 'scaling', [_claim('E15')])
    real = pathlib.Path.write_bytes

    def dies(path, content):
      real(path, content[: len(content) // 2])
      raise KeyboardInterrupt

    with mock.patch.object(pathlib.Path, 'write_bytes', dies):
      with self.assertRaises(KeyboardInterrupt):
        self.run_it(out=self.out)
    self.assertEqual({**self.files(), **before}, self.files())

  def test_nothing_to_show_is_a_clear_error(self):
    with self.assertRaisesRegex(ValueError, 'nothing to show.*planted/ladder'):
      figures.run(_section(), self.workdir / 'planted')
    (self.workdir / 'english' / 'sparsity' / 'result.json').write_text('{')
    with self.assertRaisesRegex(ValueError, 'sparsity/result.json is missing'):
      self.run_it()

  def test_the_binary_reads_its_flags(self):
    flags = f'--workdir={self.workdir}', f'--out={self.out}'
    subprocess.run(
      [sys.executable, '-m', 'experiments.figures', *flags,
       f'--readme={self.readme}'],
      check=True, cwd=_ROOT, capture_output=True,
    )  # fmt: skip
    self.assertIn('share of queries', self.readme.read_text())
    self.assertTrue((self.out / 'claims.json').exists())


class ConfigTest(absltest.TestCase):
  def test_every_study_and_ladder_of_the_config_is_there(self):
    section = figures_config.get_config().figures
    for study, ladder, _ in section.studies:
      self.assertIn(ladder, dict(section.ladders))
      self.assertTrue((_ROOT / f'configs/{study}.py').exists(), study)
      self.assertNotEqual(figures_found.title(study), study)
    for binary, name, _ in section.validations:
      self.assertTrue((_ROOT / f'configs/{name}.py').exists(), name)
      self.assertNotEqual(figures_found.title(binary), binary)
    for _, path in section.ladders:
      self.assertTrue((_ROOT / path).exists(), path)


if __name__ == '__main__':
  absltest.main()
