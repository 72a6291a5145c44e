"""The live viewer in a browser, as experiments.live serves it.

Needs a Chromium of the machine (Debian's package); skipped where there is none.
"""

import pathlib
import shutil
import tempfile
import threading
import time
from unittest import mock

import accessibility
import live_test
import numpy as np
import uvicorn
import view_test
from absl.testing import absltest, parameterized
from playwright import sync_api

from experiments import live
from influence_jax.report import records, server_address

_CHROMIUM = shutil.which('chromium') or shutil.which('chromium-browser')
_FIRST, _SECOND = view_test.IDS


@absltest.skipUnless(
  _CHROMIUM, 'NO BROWSER TEST OF THE LIVE VIEWER: install chromium (apt)'
)
class BrowserTest(parameterized.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    root = cls.enterClassContext(tempfile.TemporaryDirectory())
    workdir = pathlib.Path(root) / 'of <run>'
    workdir.mkdir()
    cls.scores, cls.rows = live_test.write(workdir)
    settings, socket, cls.address = live.bound(live_test.CONFIG, workdir, 0)
    running = uvicorn.Server(settings)
    thread = threading.Thread(target=running.run, args=([socket],))
    thread.start()
    cls.addClassCleanup(thread.join)
    cls.addClassCleanup(setattr, running, 'should_exit', True)
    while not running.started:
      time.sleep(0.01)
    driver = cls.enterClassContext(sync_api.sync_playwright())
    cls.browser = driver.chromium.launch(
      executable_path=_CHROMIUM, args=['--no-sandbox']
    )
    cls.addClassCleanup(cls.browser.close)

  def setUp(self):
    super().setUp()
    # Few rows a page, so that these scores have several pages.
    self.enterContext(mock.patch.object(server_address, 'PAGE', 10))
    self.wrong = []  # what no test may see
    context = self.browser.new_context(viewport={'width': 1200, 'height': 800})
    self.page = context.new_page()
    self.page.set_default_timeout(5_000)
    self.page.on(
      'console',
      lambda x: self.wrong.append(x.text) if x.type == 'error' else None,
    )
    self.page.on('pageerror', lambda x: self.wrong.append(str(x)))
    self.page.on('dialog', lambda x: self.wrong.append(x.message))
    self.page.on(
      'request',
      lambda x: x.url.startswith(self.address) or self.wrong.append(x.url),
    )
    self.page.goto(self.address)

  def tearDown(self):
    self.assertEqual(self.wrong, [])
    self.page.context.close()
    super().tearDown()

  def shown(self):
    """Numbers of the sequences on the page, in its order."""
    return self.page.eval_on_selector_all(
      '.card', 'all => all.map((one) => Number(one.dataset.sequence))'
    )

  def choose(self, name, label):
    with self.page.expect_navigation():
      self.page.select_option(f'[name={name}]', label=label)

  def open_query(self, name):
    self.page.goto(self.address)
    self.page.click(f'.name a >> nth={view_test.IDS.index(name)}')
    self.assertEqual(self.page.text_content('h2'), name)

  def test_queries_are_listed_searched_and_opened(self):
    names = self.page.locator('.card .name a').all_text_contents()
    self.assertEqual(names, [*view_test.IDS])
    self.page.fill('[name=words]', 'IMG SRC')
    self.page.press('[name=words]', 'Enter')
    self.page.wait_for_url('**/?words=*')
    names = self.page.locator('.card .name a').all_text_contents()
    self.assertEqual(names, [_FIRST])
    self.page.click('.card .name a')
    self.assertEqual(self.page.text_content('h2'), _FIRST)
    self.assertEqual(self.page.text_content('h1'), 'of <run>')
    wide = 'document.documentElement.scrollWidth'
    self.assertLessEqual(self.page.evaluate(wide), 1200)

  @parameterized.parameters('light', 'dark')
  def test_axe_finds_nothing_serious(self, scheme):
    self.page.emulate_media(color_scheme=scheme)
    self.assertEqual(accessibility.serious(self.page), [])
    self.open_query(_FIRST)
    self.assertEqual(accessibility.serious(self.page), [])
    self.choose('source', 'top, with scores by token')
    self.assertEqual(accessibility.serious(self.page), [])
    self.page.click('.card .title a >> nth=0')
    self.page.wait_for_url('**/sequence?*')
    self.assertEqual(accessibility.serious(self.page), [])

  def test_pages_are_turned_by_links_keys_and_number(self):
    scores_N = self.scores[0, 1]
    order = np.argsort(-scores_N, kind='stable')
    order = order[scores_N[order] >= 0].tolist()
    last = -(-len(order) // 10)
    self.assertGreater(last, 2)
    self.open_query(_SECOND)
    self.assertEqual(self.shown(), order[:10])
    self.page.click('[rel=next] >> nth=0')
    self.page.wait_for_url('**page=2')
    self.assertEqual(self.shown(), order[10:20])
    self.page.keyboard.press('[')
    self.page.wait_for_url('**page=1')
    self.assertEqual(self.shown(), order[:10])
    self.page.fill('[name=page] >> nth=0', str(last))
    self.page.press('[name=page] >> nth=0', 'Enter')
    self.page.wait_for_url(f'**page={last}')
    self.assertEqual(self.shown(), order[10 * (last - 1) :])
    self.assertEqual(self.page.locator('[rel=next]').count(), 0)

  def test_signs_answers_and_searches_are_chosen(self):
    self.open_query(_SECOND)
    self.choose('sign', 'negative')
    self.choose('answer', 'identity relative 0.1')
    order = np.argsort(self.scores[1, 1], kind='stable')[:10].tolist()
    self.assertEqual(self.shown(), order)
    scores = self.page.locator('.head .score').all_text_contents()
    expected = [records.number(self.scores[1, 1, n]) for n in order]
    self.assertEqual(scores, expected)
    self.page.keyboard.press('/')
    self.page.keyboard.type('"the CAT" <script>')
    self.page.keyboard.press('Enter')
    self.page.wait_for_url('**words=%22the*')
    self.assertEqual(
      self.page.input_value('[name=words]'), '"the CAT" <script>'
    )
    for card in self.page.locator('.card').all():
      self.assertIn('<script>', card.locator('.title').text_content())
      self.assertEqual(card.locator('mark').first.text_content(), 'the cat')
    self.assertGreater(self.page.locator('.card').count(), 0)

  @parameterized.parameters(0, 1)
  def test_an_opened_sequence_has_the_colours_of_its_scores(self, n):
    self.open_query(_FIRST)
    self.choose('source', 'top, with scores by token')
    for _ in range(n + 1):
      self.page.keyboard.press('j')
    self.page.keyboard.press('Enter')
    self.page.wait_for_url('**/sequence?*')
    row = self.rows[n]
    most = max(map(abs, row['token_scores']))
    tokens = self.page.locator('[data-token]')
    self.assertEqual(
      tokens.all_text_contents(),
      [records.plain(x).replace('\n', '↵\n') for x in row['tokens']],
    )
    found = tokens.evaluate_all(
      'all => all.map((one) => getComputedStyle(one).backgroundColor)'
    )
    titles = tokens.evaluate_all('all => all.map((one) => one.title)')
    coloured = 0
    for score, title, colour in zip(
      row['token_scores'], titles, found, strict=True
    ):
      self.assertEqual(title, f'{records.number(score)} nats')
      level = round(10 * abs(score) / most)
      if not level:
        self.assertEqual(colour, 'rgba(0, 0, 0, 0)')
        continue
      red, _, blue, alpha = map(float, colour[11:-1].replace('/', '').split())
      self.assertEqual(red > blue, score > 0)
      self.assertAlmostEqual(alpha, 0.068 * level, delta=3e-3)
      coloured += 1
    self.assertGreater(coloured, 0)
    self.page.keyboard.press('u')
    self.page.wait_for_url('**/rows?*')
    self.assertEqual(self.shown()[n], row['sequence'])

  def test_a_sequence_without_token_scores_is_plain(self):
    mine = {x['sequence'] for x in self.rows if x['query_id'] == _SECOND}
    self.open_query(_SECOND)
    n = next(i for i, x in enumerate(self.shown()) if x not in mine)
    self.page.click(f'.card .title a >> nth={n}')
    self.page.wait_for_url('**/sequence?*')
    classes = self.page.locator('[data-token]').evaluate_all(
      'all => all.map((one) => one.className)'
    )
    self.assertEqual({*classes}, {''})
    self.assertIn('Tokens have no scores', self.page.text_content('.foot'))
    self.page.click('text=all of this title')
    self.page.wait_for_url('**/rows?*')
    self.assertGreater(self.page.locator('.card').count(), 0)
    self.choose('title', 'any title')
    self.assertEqual(self.page.locator('.card').count(), 10)


if __name__ == '__main__':
  absltest.main()
