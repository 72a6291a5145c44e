"""The page of experiments.view in a browser: what it shows and what it obeys.

Needs a Chromium of the machine (Debian's package); skipped where there is none.
"""

import pathlib
import shutil
import tempfile

import accessibility
import numpy as np
import view_test
from absl.testing import absltest, parameterized
from ml_collections import ConfigDict
from playwright import sync_api

from experiments import token_parts_table, view_page
from influence_jax.report import records

_CHROMIUM = shutil.which('chromium') or shutil.which('chromium-browser')
_FIRST, _SECOND = view_test.IDS

# Contrast (WCAG 2) of the text of each element that `selector` finds, on the
# colours behind it, all laid over one another.
_CONTRAST = """(selector) => {
  const pixel = new OffscreenCanvas(1, 1).getContext('2d', {willReadFrequently: true});
  const shown = (colours) => {
    pixel.clearRect(0, 0, 1, 1);
    for (const one of colours) { pixel.fillStyle = one; pixel.fillRect(0, 0, 1, 1); }
    return [...pixel.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const light = (rgb) => rgb.map((x) => x / 255).map(
    (x) => x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4
  ).reduce((sum, x, i) => sum + x * [0.2126, 0.7152, 0.0722][i], 0);
  return [...document.querySelectorAll(selector)].map((one) => {
    const behind = [];
    for (let at = one; at; at = at.parentElement) behind.unshift(getComputedStyle(at).backgroundColor);
    const [a, b] = [shown(behind), shown([...behind, getComputedStyle(one).color])].map(light);
    return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  });
}"""  # noqa: E501, one expression of the browser's language


@absltest.skipUnless(
  _CHROMIUM, 'NO BROWSER TEST OF view.html: install chromium (apt)'
)
class BrowserTest(parameterized.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    root = cls.enterClassContext(tempfile.TemporaryDirectory())
    workdir = pathlib.Path(root) / 'of <run>'
    workdir.mkdir()
    cls.scores, cls.rows = view_test.write(workdir)
    config = ConfigDict({'score': {'folder': 'scores'}})
    # One without parts of tokens, beside whose scores another's stand.
    plain = pathlib.Path(root) / 'plain'
    shutil.copytree(workdir, plain)
    (plain / 'scores' / token_parts_table.NAME).unlink()
    view_page.write(config, plain, others=[str(workdir)])
    cls.plain = (plain / 'view.html').as_uri()
    view_page.write(config, workdir)
    cls.address = (workdir / 'view.html').as_uri()
    driver = cls.enterClassContext(sync_api.sync_playwright())
    cls.browser = driver.chromium.launch(
      executable_path=_CHROMIUM, args=['--no-sandbox']
    )
    cls.addClassCleanup(cls.browser.close)

  def setUp(self):
    super().setUp()
    self.wrong = []  # what no test may see
    self.page = self.open()

  def tearDown(self):
    self.assertEqual(self.wrong, [])
    self.page.context.close()
    super().tearDown()

  def open(self, link='', address=None, **context):
    address = address or self.address
    context = self.browser.new_context(
      viewport={'width': 1200, 'height': 800}, **context
    )
    page = context.new_page()
    page.set_default_timeout(5_000)
    page.on(
      'console',
      lambda x: self.wrong.append(x.text) if x.type == 'error' else None,
    )
    page.on('pageerror', lambda x: self.wrong.append(str(x)))
    page.on('dialog', lambda x: self.wrong.append(x.message))
    page.on(
      'request',
      lambda x: x.url.startswith(address) or self.wrong.append(x.url),
    )
    page.goto(address + link)
    return page

  def of(self, name, kind=None):
    """Rows of the table of a query."""
    return [
      row for row in self.rows
      if row['query_id'] == name and kind in (None, row['kind'])
    ]  # fmt: skip

  def choose(self, name):
    self.page.click(f'[data-query="{view_test.IDS.index(name)}"]')

  def shown(self):
    """Numbers of the sequences on the page, in its order."""
    return self.page.eval_on_selector_all(
      '.card', 'all => all.map((one) => Number(one.dataset.sequence))'
    )

  def current(self, page=None):
    return int(
      (page or self.page).get_attribute('.card[aria-current]', 'data-sequence')
    )

  def test_queries_are_listed_found_and_chosen(self):
    names = self.page.locator('#queries .name bdi').all_text_contents()
    self.assertEqual(names, [*view_test.IDS])
    for name in (_SECOND, _FIRST):
      self.choose(name)
      self.assertEqual(self.page.text_content('#query h2'), name)
      rows = [x['sequence'] for x in self.of(name)]
      self.assertEqual(self.shown(), rows)
    self.page.fill('#query-search', 'IMG SRC')
    names = self.page.locator('#queries .name bdi').all_text_contents()
    self.assertEqual(names, [_FIRST])
    self.assertEqual(self.page.text_content('#queries-found'), '1 of 2 queries')

  def test_hostile_texts_show_as_text(self):
    best = self.rows[0]
    tokens = self.page.locator('.card[aria-current] [data-token]')
    self.assertEqual(
      tokens.all_text_contents(),
      [records.plain(x).replace('\n', '↵\n') for x in best['tokens']],
    )
    titles = self.page.locator('.card .title a').all_text_contents()
    for row, title in zip(self.of(_FIRST), titles, strict=True):
      expected = records.plain(row['title'])
      if not expected.strip():
        expected = f'sequence {row["sequence"]}'
      self.assertEqual(title, expected)
    self.assertEqual(self.page.text_content('h1'), 'of <run>')
    self.assertEqual(self.page.title(), 'of <run>: influence')
    self.assertEqual(self.page.locator('img').count(), 0)
    wide = 'document.documentElement.scrollWidth'
    self.assertLessEqual(self.page.evaluate(wide), 1200)

  @parameterized.parameters(0, 1)
  def test_tokens_carry_the_scores_of_the_table(self, n):
    row = self.of(_FIRST)[n]
    most = max(map(abs, row['token_scores']))
    card = self.page.locator(f'.card[data-sequence="{row["sequence"]}"]')
    card.locator('.score').click()
    found = card.locator('[data-token]').evaluate_all(
      """all => all.map((one) => [
        one.className, Number(one.style.getPropertyValue('--a')),
        getComputedStyle(one).backgroundColor])"""
    )
    self.assertLen(found, len(row['tokens']))
    for score, (kind, size, colour) in zip(
      row['token_scores'], found, strict=True
    ):
      self.assertAlmostEqual(size, abs(score) / most, delta=2e-3)
      if size:
        self.assertEqual(kind, 'p' if score > 0 else 'n')
        red, _, blue, alpha = map(float, colour[11:-1].replace('/', '').split())
        self.assertEqual(red > blue, score > 0)
        self.assertAlmostEqual(alpha, 0.68 * abs(score) / most, delta=3e-3)
    strongest = int(np.argmax(np.abs(row['token_scores'])))
    tokens = card.locator('[data-token]')
    tokens.nth(strongest).hover(position={'x': 1, 'y': 1})
    token = records.plain(row['tokens'][strongest])
    value = records.number(row['token_scores'][strongest])
    tip = self.page.text_content('#tip')
    self.assertEqual(tip, f'{token} {value} nats')
    scale = card.locator('.scale').text_content()
    bound = records.number(most, '')
    self.assertEqual(scale, f'-{bound}+{bound} nats a token')

  def shown_parts(self, page, row):
    """(tokens, numbers of the scale's share) of the row's card, chosen."""
    card = page.locator(f'.card[data-sequence="{row["sequence"]}"]')
    card.locator('.score').click()
    return card, card.locator('[data-token]').evaluate_all(
      """all => all.map((one) => [one.textContent,
        (one.className === 'n' ? -1 : 1)
        * Number(one.style.getPropertyValue('--a'))])"""
    )

  def test_tokens_are_coloured_as_input_or_as_target_if_asked(self):
    row = self.of(_FIRST)[3]
    parts = view_test.token_parts_of(row)
    texts = [records.plain(x) for x in row['tokens']]
    last = records.plain(parts['last'])
    for kind, wanted, tokens, told in (
      ('input', parts['input'], texts, ' as input'),
      ('output', [0, *parts['output']], [*texts, last], ' as target'),
    ):
      self.page.select_option('[name=parts]', kind)
      card, found = self.shown_parts(self.page, row)
      self.assertEqual([text for text, _ in found], tokens)
      most = np.abs(wanted).max()
      shares = [share for _, share in found]
      np.testing.assert_allclose(shares, np.array(wanted) / most, atol=2e-3)
      strongest = int(np.argmax(np.abs(wanted)))
      card.locator('[data-token]').nth(strongest).hover()
      value = records.number(float(wanted[strongest]))
      self.assertEqual(
        self.page.text_content('#tip'),
        f'{tokens[strongest]} {value} nats{told}',
      )
      bound = records.number(float(most), '')
      foot = card.locator('.foot').text_content()
      self.assertIn(f'-{bound}+{bound} nats a token', foot)
      total = records.number(float(np.sum(wanted)))
      self.assertIn(f'parts add up to {total}', foot)
      share = 100 * most / np.abs(wanted).sum()
      self.assertIn(f'the largest holds {share:.3g} %', foot)

  def test_a_key_and_the_address_choose_the_parts(self):
    def chosen(page=self.page):
      note = page.text_content('#parts-note')
      return page.input_value('[name=parts]'), note

    notes = [chosen()]
    for _ in range(2):
      self.page.keyboard.press('t')
      notes.append(chosen())
    self.assertEqual([x for x, _ in notes], ['tokens', 'input', 'output'])
    self.assertLen({note for _, note in notes}, 3)
    again = self.open(self.page.evaluate('location.hash'))
    self.assertEqual(chosen(again), notes[2])
    self.page.keyboard.press('t')
    self.assertEqual(chosen(), notes[0])
    self.assertNotIn('parts', self.page.evaluate('location.hash'))

  def test_where_there_are_no_parts_it_says_so(self):
    page = self.open('#parts=output', self.plain)
    page.keyboard.press('t')
    self.assertEqual(page.input_value('[name=parts]'), 'tokens')
    self.assertEqual(page.locator('[name=parts] option:disabled').count(), 2)
    self.assertIn('experiments.token_parts', page.text_content('#parts-note'))
    page.keyboard.press('2')
    shown = page.text_content('#distribution')
    self.assertIn('No gradient norms', shown)
    self.assertEqual(page.locator('circle').count(), 0)

  def test_dots_are_scores_by_norms_of_the_top_sequences(self):
    self.choose(_SECOND)
    self.page.keyboard.press('2')
    dots = self.page.locator('circle').evaluate_all(
      """all => all.map((one) => [Number(one.getAttribute('cx')),
        -Number(one.getAttribute('cy')), one.textContent])"""
    )
    rows = self.of(_SECOND)
    self.assertLen(dots, len(rows))
    norms = [view_test.token_parts_of(row)['gradient_norm'] for row in rows]
    scores = [row['score'] for row in rows]
    for wanted, found in ((np.log(norms), 0), (scores, 1)):
      places = [dot[found] for dot in dots]
      self.assertAlmostEqual(np.corrcoef(wanted, places)[0, 1], 1, 6)
    for score, norm, dot in zip(scores, norms, dots, strict=True):
      told = f'{records.number(score)} nats, norm {records.number(norm, "")}'
      self.assertEndsWith(dot[2], told)
    self.assertIn(
      f'The {len(rows)} top sequences of this query alone',
      self.page.text_content('#distribution'),
    )

  def test_another_models_scores_are_beside(self):
    page = self.open('', self.plain)
    labels = [
      f'{name}: {answer} relative 0.1'
      for name in ('plain', 'of <run>')
      for answer in ('ekfac', 'identity')
    ]
    row, page_row = self.of(_FIRST)[2], '.card[aria-current]'
    page.locator(f'.card[data-sequence="{row["sequence"]}"] .score').click()
    cells = page.locator(f'{page_row} tbody tr').evaluate_all(
      'all => all.map((one) => [...one.children].map((x) => x.textContent))'
    )
    own = [
      records.number(float(self.scores[a, 0, row['sequence']])) for a in (0, 1)
    ]
    self.assertEqual([x[0] for x in cells], labels)
    self.assertEqual([x[1] for x in cells], own * 2)
    self.assertEqual(cells[0][2], str(row['rank']))
    self.assertEqual(page.locator('.card table').count(), 1)
    page.keyboard.press('2')
    page.select_option('#distribution select', label=labels[3])
    table = page.locator('#distribution table').first
    found = table.locator('tbody tr').evaluate_all(
      'all => all.map((one) => [...one.children].map((x) => x.textContent))'
    )
    self.assertEqual([x[0] for x in found], labels)
    self.assertEqual([x[1] for x in found][::2], ['1.00', '1.00'])

  @parameterized.parameters('light', 'dark')
  def test_axe_finds_nothing_serious(self, scheme):
    for address, steps in ((self.address, 'jt23?'), (self.plain, 'j2')):
      page = self.open('', address, color_scheme=scheme)
      for key in steps:
        page.keyboard.press(key)
        self.assertEqual(accessibility.serious(page), [], (address, key))
      page.context.close()

  def test_layers_carry_the_scores_of_the_table(self):
    row = next(
      row for row in self.of(_FIRST)
      if min(row['layer_scores']) < 0 < max(row['layer_scores'])
    )  # fmt: skip
    card = self.page.locator(f'.card[data-sequence="{row["sequence"]}"]')
    card.locator('.score').click()  # scrolls: what is hovered then stays put
    bars = card.locator('[data-layer]')
    for i, score in enumerate(row['layer_scores']):
      bars.nth(i).hover()
      name, told, unit = self.page.text_content('#tip').rsplit(' ', 2)
      self.assertEqual((name, unit), ([*view_test.LAYERS][i], 'nats'))
      step = max(map(abs, row['layer_scores'])) / 1000
      rounding = 10.0 ** np.ceil(np.log10(max(step, abs(score) / 1000)))
      self.assertAlmostEqual(float(told), score, delta=rounding)
      height = bars.nth(i).evaluate(
        "one => parseFloat(getComputedStyle(one, '::after').height)"
      )
      span = max(0, *row['layer_scores']) - min(0, *row['layer_scores'])
      whole = bars.nth(i).bounding_box()['height']
      self.assertAlmostEqual(height / whole, abs(score) / span, delta=0.03)

  @parameterized.parameters(
    ('scan_score', lambda row: -abs(row['scan_score'])),
    ('length', lambda row: -len(row['tokens'])),
    ('title', lambda row: records.plain(row['title']).lower()),
  )
  def test_sorting_is_within_a_sign(self, name, key):
    self.choose(_SECOND)
    self.page.select_option('[name=sort]', name)
    expected = [
      row['sequence']
      for kind in records.KINDS
      for row in sorted(self.of(_SECOND, kind), key=key)
    ]
    self.assertEqual(self.shown(), expected)

  def test_another_answers_scores_are_shown_and_sorted_by(self):
    self.choose(_SECOND)
    self.page.select_option('[name=shown]', label='identity relative 0.1')
    expected = []
    for kind, sign in (('positive', 1), ('negative', -1)):
      scores = {
        row['sequence']: float(self.scores[1, 1, row['sequence']])
        for row in self.of(_SECOND, kind)
      }
      ordered = sorted(scores.items(), key=lambda x: -sign * x[1])
      expected += [(n, records.number(score)) for n, score in ordered]
    scores = self.page.locator('.head .score').all_text_contents()
    self.assertEqual([*zip(self.shown(), scores, strict=True)], expected)
    self.page.select_option('[name=shown]', 'scan_score')
    self.assertEqual(
      self.page.text_content('.head .score'),
      records.number(
        max(row['scan_score'] for row in self.of(_SECOND, 'positive'))
      ),
    )

  def test_filters_keep_what_they_say_and_the_number_is_told(self):
    self.choose(_SECOND)
    rows = self.of(_SECOND)

    def expect(keep):
      expected = [row['sequence'] for row in rows if keep(row)]
      self.assertNotEmpty(expected)
      self.assertEqual(self.shown(), expected)
      self.assertIn(
        f'{len(expected)} of {len(rows)} sequences',
        self.page.text_content('#found'),
      )

    self.page.fill('[name=text]', 'THREE two')
    expect(lambda row: 'three two' in ''.join(row['tokens']))
    self.page.fill('[name=text]', '')
    self.page.select_option('[name=topic]', '=odd')
    expect(lambda row: row['topic'] == 'odd')
    self.page.select_option('[name=topic]', '')
    title = records.plain(rows[1]['title'])
    self.page.select_option('[name=title]', f'={title}')
    expect(lambda row: records.plain(row['title']) == title)
    self.page.select_option('[name=title]', '')

    def share(row):
      sizes = np.abs(row['token_scores'])
      return sizes.max() / sizes.sum()

    self.page.select_option('[name=sparse]', 'only')
    self.page.fill('[name=share]', '70')
    expect(lambda row: share(row) > 0.7)
    self.page.select_option('[name=sparse]', 'hide')
    expect(lambda row: share(row) <= 0.7)
    self.page.select_option('[name=sparse]', '')
    self.page.select_option('[name=kind]', 'negative')
    expect(lambda row: row['kind'] == 'negative')

  def test_keys_go_through_queries_sequences_and_tokens(self):
    press = self.page.keyboard.press
    rows = [row['sequence'] for row in self.of(_FIRST)]
    self.assertEqual(self.current(), rows[0])
    for key, n in (('j', 1), ('ArrowDown', 2), ('k', 1), ('ArrowUp', 0)):
      press(key)
      self.assertEqual(self.current(), rows[n])
    press('k')  # none before it
    self.assertEqual(self.current(), rows[0])
    scores = self.of(_FIRST)[0]['token_scores']
    strongest = int(np.argmax(np.abs(scores)))
    for key, n in (
      ('ArrowRight', strongest),
      ('ArrowLeft', strongest - 1),
      ('ArrowRight', strongest),
    ):
      press(key)
      at = self.page.get_attribute('.at', 'data-token')
      self.assertEqual(int(at), n)
    self.page.evaluate('scrollTo(0, 1e6)')
    press('ArrowLeft')  # scrolls back, and the value stays in sight
    self.page.wait_for_timeout(200)
    value = records.number(scores[strongest - 1])
    self.assertIn(f' {value} nats', self.page.text_content('#tip'))
    self.assertBetween(self.page.locator('#tip').bounding_box()['y'], 0, 800)
    press(']')
    self.assertEqual(self.page.text_content('#query h2'), _SECOND)
    press('[')
    self.assertEqual(self.page.text_content('#query h2'), _FIRST)
    press('/')
    self.page.keyboard.type('j]?')
    self.assertEqual(self.page.input_value('[name=text]'), 'j]?')
    press('Escape')
    press('?')
    self.assertTrue(self.page.is_visible('#keys'))
    press('j')
    press('Escape')
    self.assertFalse(self.page.is_visible('#keys'))

  def test_an_address_opens_its_query_and_sequence_again(self):
    self.choose(_SECOND)
    for _ in range(10):
      self.page.keyboard.press('j')
    wanted = self.current()
    self.assertEqual(wanted, self.of(_SECOND)[10]['sequence'])
    link = self.page.evaluate('location.hash')
    again = self.open(link)
    self.assertEqual(self.current(again), wanted)
    box = again.locator('.card[aria-current]').bounding_box()
    self.assertBetween(box['y'], 0, 800)
    self.choose(_FIRST)
    again = self.open(self.page.evaluate('location.hash'))
    self.assertEqual(again.text_content('#query h2'), _FIRST)
    again = self.open('#query=nowhere')
    self.assertIn('no query nowhere', again.text_content('#found'))

  def test_distribution_and_run_are_drawn(self):
    self.choose(_SECOND)
    self.page.click('[data-tab=distribution]')
    self.assertFalse(self.page.is_visible('#controls'))
    num = self.scores.shape[2]
    for a in range(2):
      self.page.select_option('#distribution select', str(a))
      positive = int((self.scores[a, 1] > 0).sum())
      caption = self.page.locator('figcaption').first.text_content()
      self.assertIn(f'{positive} of {num} scores are positive', caption)
    self.assertEqual(self.page.locator('svg').count(), 3)
    self.assertNotIn('NaN', self.page.inner_html('#distribution'))
    self.page.keyboard.press('3')
    self.assertTrue(self.page.is_visible('text=abc123'))
    self.assertFalse(self.page.is_visible('#side'))
    self.assertIn('tab=run', self.page.evaluate('location.hash'))

  @parameterized.parameters('light', 'dark')
  def test_text_can_be_read_in_both_themes(self, scheme):
    page = self.open(color_scheme=scheme)
    other = {'light': 'dark', 'dark': 'light'}[scheme]
    for shown in (scheme, other):
      paper = page.evaluate('getComputedStyle(document.body).backgroundColor')
      self.assertEqual(paper == 'rgb(255, 255, 255)', shown == 'light')
      for selector in (
        '.text span', '.foot span', '.foot b', '.title *', '.head .num',
        '#queries *', '#query *', '#found', 'label', 'button', 'a', 'select',
      ):  # fmt: skip
        contrasts = page.evaluate(_CONTRAST, selector)
        self.assertGreaterEqual(min(contrasts), 4.5, (shown, selector))
      page.click('#theme')

  def test_paper_holds_all_sequences_of_the_query_alone(self):
    self.page.emulate_media(media='print', color_scheme='dark')
    for selector in ('#side', '#controls', '#theme'):
      self.assertFalse(self.page.is_visible(selector))
    cards = self.page.locator('.card')
    self.assertEqual(cards.count(), len(self.of(_FIRST)))
    self.assertTrue(all(card.is_visible() for card in cards.all()))
    paper = 'getComputedStyle(document.body).backgroundColor'
    self.assertEqual(self.page.evaluate(paper), 'rgb(255, 255, 255)')

  def test_numbers_are_written_as_in_the_report(self):
    found = [
      0.0, 1.0, -4.5, 0.0123, 12_345.0, 1.2e7, 999_499.0, 999_500.0, 9.996,
      99.96, 0.001, 9.994e-4, 9.996e-4, -1.5e-9, 1e-300, 123.456, -0.5,
    ]  # fmt: skip
    for x in found:
      shown = self.page.evaluate('(x) => number(x)', x)
      self.assertEqual(shown, records.number(x))

  def test_tab_stops_do_not_grow_with_tokens(self):
    stops = self.page.locator('#sequences [tabindex], #sequences a').count()
    self.assertEqual(stops, len(self.of(_FIRST)) + 1)


if __name__ == '__main__':
  absltest.main()
