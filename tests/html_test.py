"""Tests of the HTML report, read back with an HTML parser."""

import base64
import html.parser
import os
import pathlib
import re
import tempfile
from unittest import mock

import numpy as np
from absl.testing import absltest, parameterized

from influence_jax.report import figures, templates
from influence_jax.report import html as html_report

QUERY = dict(id='water', prompt='Water is', completion=' wet.', loss=2.5)
LAYERS = ['h_0/mlp', 'h_1/mlp']
HOSTILE = (
  '\'"><script>alert(1)</script><img src=x onerror=alert(1)>&amp;{{ 7*7 }}'
)


def _row(**changes):
  row = dict(
    query_id='water',
    kind='positive',
    rank=1,
    sequence=7,
    score=3.0,
    document=4711,
    chunk=12,
    title='Hydrogen',
    topic='chemistry',
    text='abc',
    tokens=['a', 'b', 'c'],
    token_scores=[4.0, -2.0, 1.0],
    layer_scores=[1.0, 2.0],
  )
  return row | changes


class _Page(html.parser.HTMLParser):
  """What a browser makes of a page: elements, and the text of each."""

  VOID = ('meta', 'img')

  def __init__(self, text):
    super().__init__()
    self.elements, self.open = [], []
    self.feed(text)
    assert not self.open, f'elements left open: {self.open}'

  def handle_starttag(self, tag, attrs):
    element = dict(tag=tag, attrs=dict(attrs), text='')
    self.elements.append(element)
    if tag not in self.VOID:
      self.open.append(element)

  def handle_endtag(self, tag):
    element = self.open.pop()
    assert element['tag'] == tag, (element, tag)

  def handle_data(self, data):
    for element in self.open:
      element['text'] += data

  def of(self, tag, kind=None):
    return [
      element
      for element in self.elements
      if element['tag'] == tag and kind in (None, element['attrs'].get('class'))
    ]


def _page(queries=(QUERY,), rows=(), summary=(), images=(), layers=LAYERS):
  return _Page(
    html_report.render(queries, rows, layers, dict(summary), dict(images))
  )


def _figure():
  return figures.tail(np.arange(10.0)[None], ['water'])


class HtmlTest(parameterized.TestCase):
  def test_rows_are_shown_by_kind_and_rank(self):
    rows = [
      _row(rank=2, title='second'),
      _row(rank=1, kind='negative', title='last', score=-2.0),
      _row(rank=1, title='first'),
    ]
    titles = [
      element['text'] for element in _page(rows=rows).of('span', 'title')
    ]
    self.assertEqual(titles, ['first', 'second', 'last'])

  def test_row_shows_score_place_and_topic(self):
    page = _page(rows=[_row(score=-1234567.0)])
    self.assertEqual(page.of('span', 'score')[0]['text'], '-1.23e6')
    self.assertEqual(page.of('span', 'topic')[0]['text'], 'chemistry')
    self.assertIn('document 4711, chunk 12', page.of('details')[0]['text'])
    self.assertIn('sequence 7', page.of('details')[0]['text'])

  def test_tokens_are_coloured_by_score_on_a_symmetric_scale(self):
    page = _page(rows=[_row()])
    (text,) = page.of('div', 'text')
    self.assertEqual(text['text'], 'abc')
    shades = {
      element['attrs']['title']: element['attrs']['class']
      for element in page.of('i')
      if element['text']
    }
    # The largest |score| is 4: -2 is half of it, 1 a quarter (2.5, to even).
    self.assertEqual(
      shades, {'a +4.00': 'p10', 'b -2.00': 'n5', 'c +1.00': 'p2'}
    )
    scale = page.of('span', 'scale')[0]['text']
    self.assertEqual(scale.split(), ['-4.00+4.00', 'nats', 'a', 'token'])

  def test_every_shade_used_is_in_the_style_sheet(self):
    (style,) = _page().of('style')
    for bound in (1.0, 1e7):
      for score in np.linspace(-bound, bound, 101):
        name = templates.shade(score, bound)
        if name:
          self.assertIn(f'.{name} {{ background', style['text'])

  @parameterized.parameters(
    (0.0, 0.0, ''),
    (1e-9, 1e-9, 'p10'),
    (-1e7, 1e7, 'n10'),
    (1e308, 1e308, 'p10'),
    (5e-324, 5e-324, 'p10'),
    (0.01, 1.0, ''),
  )
  def test_shade_at_the_extremes(self, score, bound, expected):
    self.assertEqual(templates.shade(score, bound), expected)

  def test_layer_strip_names_each_layer_and_its_score(self):
    page = _page(rows=[_row()])
    titles = [element['attrs'].get('title') for element in page.of('i')]
    self.assertContainsSubset(['h_0/mlp +1.00', 'h_1/mlp +2.00'], titles)

  def test_layers_can_be_left_out(self):
    page = _page(rows=[_row(layer_scores=[])], layers=[])
    self.assertEmpty(page.of('span', 'strip'))

  def test_row_without_tokens_shows_its_text(self):
    page = _page(rows=[_row(tokens=[], token_scores=[], text='whole <text>')])
    self.assertEqual(page.of('div', 'text')[0]['text'], 'whole <text>')

  def test_newline_tokens_can_be_seen(self):
    page = _page(rows=[_row(tokens=['a', '\n', 'b'])])
    self.assertEqual(page.of('div', 'text')[0]['text'], 'a↵\nb')

  def test_index_links_to_every_query(self):
    queries = [QUERY, QUERY | dict(id='fire')]
    page = _page(queries, [_row(), _row(query_id='fire')])
    links = {a['text']: a['attrs']['href'] for a in page.of('a')}
    ids = [section['attrs']['id'] for section in page.of('section')]
    self.assertEqual([links['water'], links['fire']], [f'#{i}' for i in ids])
    for href in links.values():
      self.assertIn(href[1:], [e['attrs'].get('id') for e in page.elements])

  @parameterized.named_parameters(
    ('title', {}, dict(title=HOSTILE)),
    ('topic', {}, dict(topic=HOSTILE)),
    ('text', {}, dict(text=HOSTILE, tokens=[], token_scores=[])),
    ('token', {}, dict(tokens=[HOSTILE, 'b', 'c'])),
    ('query_id', dict(id=HOSTILE), dict(query_id=HOSTILE)),
    ('prompt', dict(prompt=HOSTILE), {}),
    ('completion', dict(completion=HOSTILE), {}),
  )
  def test_markup_of_others_is_text(self, query_changes, row_changes):
    page = _page([QUERY | query_changes], [_row(**row_changes)])
    self._assert_harmless(page)
    (body,) = page.of('body')
    self.assertIn(HOSTILE, body['text'])

  def test_markup_of_others_is_text_in_attributes(self):
    page = _page(
      rows=[_row(tokens=[HOSTILE, 'b', 'c'])],
      layers=[HOSTILE, 'x'],
      images={HOSTILE: _figure()},
      summary={HOSTILE: {HOSTILE: HOSTILE}},
    )
    self._assert_harmless(page)
    titles = [e['attrs'].get('title') for e in page.of('i')]
    self.assertContainsSubset([f'{HOSTILE} +4.00', f'{HOSTILE} +1.00'], titles)
    self.assertEqual(page.of('img')[0]['attrs']['alt'], HOSTILE)

  def _assert_harmless(self, page):
    self.assertEmpty(page.of('script'))
    for element in page.elements:
      for name in element['attrs']:
        self.assertNotStartsWith(name, 'on')
    for image in page.of('img'):
      self.assertStartsWith(image['attrs']['src'], 'data:image/png;base64,')

  def test_page_asks_nothing_of_the_network(self):
    page = _page(rows=[_row()], images={'Tail': _figure()})
    self.assertEmpty(page.of('link'))
    for element in page.elements:
      for name in ('src', 'href'):
        self.assertRegex(element['attrs'].get(name, '#'), '^(#|data:)')
    (style,) = page.of('style')
    self.assertNotRegex(style['text'], r'url\(|@import')
    policies = [meta['attrs'].get('content', '') for meta in page.of('meta')]
    self.assertTrue(any("default-src 'none'" in policy for policy in policies))

  def test_unseen_characters_are_spelt_out(self):
    row = _row(title='a\u202eb', tokens=['\x1b', '\x00', '\ud800'])
    page = _page(rows=[row])
    self.assertEqual(page.of('span', 'title')[0]['text'], r'a\u202eb')
    self.assertEqual(page.of('div', 'text')[0]['text'], r'\x1b\x00\ud800')

  def test_figures_are_in_the_page_with_their_captions(self):
    page = _page(images={'Tail of scores': _figure()})
    (image,) = page.of('img')
    data = base64.b64decode(image['attrs']['src'].partition(',')[2])
    self.assertStartsWith(data, b'\x89PNG')
    self.assertEqual(page.of('figcaption')[0]['text'], 'Tail of scores')

  def test_facts_of_the_run_are_shown_to_any_depth(self):
    summary = dict(commit='abc123', seconds=dict(eigh=1.23456789), config={})
    text = _page(summary=summary).of('div', 'facts')[0]['text']
    self.assertEqual(
      text.split(),
      ['commitabc123', 'seconds1', 'entries', 'eigh1.23457']
      + ['config0', 'entries'],
    )

  def test_header_says_sign_and_unit(self):
    header = re.sub(r'\s+', ' ', _page().of('header')[0]['text'])
    self.assertIn('in nats', header)
    self.assertIn('Positive: training on one more copy', header)
    self.assertIn('not divided by the number of training sequences', header)

  @parameterized.named_parameters(
    ('all_zero', [0.0, 0.0, 0.0]),
    ('all_negative', [-1.0, -2.0, -3.0]),
    ('huge', [1e7, -1e7, 1e7]),
    ('tiny', [1e-9, -1e-9, 1e-9]),
  )
  def test_extreme_scores_are_shown(self, token_scores):
    row = _row(score=sum(token_scores), token_scores=token_scores)
    page = _page(rows=[row])
    self.assertEqual(page.of('div', 'text')[0]['text'], 'abc')

  def test_query_without_rows_says_so(self):
    self.assertIn('No sequences.', _page().of('section')[0]['text'])

  @parameterized.named_parameters(
    ('score', dict(score=np.nan)),
    ('token', dict(token_scores=[1.0, np.inf, 0.0])),
    ('layer', dict(layer_scores=[1.0, -np.inf])),
  )
  def test_numbers_that_are_not_finite_name_query_and_sequence(self, changes):
    with self.assertRaisesRegex(ValueError, "sequence 7 of query 'water'"):
      _page(rows=[_row(**changes)])

  @parameterized.named_parameters(
    ('tokens', dict(token_scores=[1.0]), '3 tokens and 1 token scores'),
    ('layers', dict(layer_scores=[1.0]), '1 layer scores, expected 2'),
  )
  def test_counts_that_do_not_match_are_refused(self, changes, message):
    with self.assertRaisesRegex(ValueError, message):
      _page(rows=[_row(**changes)])


class WriteTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    self.path = self.folder / 'report.html'

  def test_written_file_is_the_rendered_page_in_utf8(self):
    args = [QUERY], [_row(title='水 é')], LAYERS, dict(commit='abc'), {}
    html_report.write(self.path, *args)
    text = self.path.read_text(encoding='utf-8')
    self.assertEqual(text, html_report.render(*args))
    self.assertStartsWith(text, '<!doctype html>')
    self.assertIn('水 é', text)

  def test_failed_write_leaves_the_old_report_and_nothing_else(self):
    self.path.write_text('old')
    with mock.patch.object(os, 'replace', side_effect=OSError('disk')):
      with self.assertRaises(OSError):
        html_report.write(self.path, [QUERY], [_row()], LAYERS, {}, {})
    with self.assertRaises(ValueError):
      bad = _row(score=np.nan)
      html_report.write(self.path, [QUERY], [bad], LAYERS, {}, {})
    self.assertEqual(self.path.read_text(), 'old')
    self.assertEqual(list(self.folder.iterdir()), [self.path])


if __name__ == '__main__':
  absltest.main()
