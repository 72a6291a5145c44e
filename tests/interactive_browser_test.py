"""Queries typed into the live viewer, in a browser.

Needs a Chromium of the machine (Debian's package); skipped where there is none.
"""

import shutil
import threading
import time

import accessibility
import interactive_test
import uvicorn
from absl.testing import absltest
from playwright import sync_api

from experiments import ask_routes, live, score

_CHROMIUM = shutil.which('chromium') or shutil.which('chromium-browser')


@absltest.skipUnless(
  _CHROMIUM, 'NO BROWSER TEST OF TYPED QUERIES: install chromium (apt)'
)
class BrowserTest(absltest.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    config, workdir = interactive_test.made()
    app = cls.enterClassContext(ask_routes.app(config, workdir))
    settings, socket, cls.address = live.bound(config, workdir, 0, app)
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
    self.wrong = []  # what no test may see
    context = self.browser.new_context(viewport={'width': 1200, 'height': 800})
    self.page = context.new_page()
    self.page.set_default_timeout(60_000)  # programs are compiled
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
    self.page.click('nav a[href="/ask"]')

  def tearDown(self):
    self.assertEqual(self.wrong, [])
    self.page.context.close()
    super().tearDown()

  def ask(self, prompt, completion):
    self.page.fill('[name=prompt]', prompt)
    self.page.fill('[name=completion]', completion)
    self.page.click('#ask button')

  def hold(self):
    """Jobs wait at their first stage until the event is set."""
    event, choose = threading.Event(), score.candidates
    self.addCleanup(event.set)

    def wait(*args):
      event.wait(60)
      return choose(*args)

    self.enterContext(absltest.mock.patch.object(score, 'candidates', wait))
    return event

  def test_a_query_is_typed_its_progress_and_its_sequences_are_seen(self):
    event = self.hold()
    self.ask('<i>the</i>\ncat', ' sat <b>on')
    self.page.wait_for_selector('text=choosing candidates')
    self.assertTrue(self.page.is_visible('progress'))
    self.assertEqual(accessibility.serious(self.page), [])
    event.set()
    self.page.wait_for_selector('#seconds')
    self.assertEqual(accessibility.serious(self.page), [])
    self.assertFalse(self.page.is_visible('progress'))
    shown = self.page.text_content('.whole')
    self.assertEqual(shown, '<i>the</i>\ncat sat <b>on')
    cards = self.page.locator('.card')
    self.assertEqual(cards.count(), 6)
    score = self.page.text_content('.score')
    self.assertRegex(score, r'^\+')
    strongest = self.page.locator('.card .text .s10').first
    self.assertRegex(strongest.get_attribute('title'), r'[+-].* nats')
    colour = strongest.evaluate('x => getComputedStyle(x).backgroundColor')
    self.assertNotIn(colour, ('rgba(0, 0, 0, 0)', 'transparent'))
    self.page.click('text=change this one')
    self.assertEqual(self.page.input_value('[name=prompt]'), '<i>the</i>\ncat')
    self.page.click('.card a >> nth=0')  # the list of those asked so far
    self.page.wait_for_selector('#seconds')

  def test_one_is_cancelled_another_waits_and_is_answered(self):
    event = self.hold()
    self.ask('the', ' cat')
    self.page.wait_for_selector('text=choosing candidates')
    first = self.page.url
    self.page.goto(f'{self.address}ask')
    self.ask('a', ' dog')
    self.page.wait_for_selector('text=waiting for its turn')
    second = self.page.url
    self.page.goto(first)
    self.page.click('#cancel')
    event.set()
    self.page.wait_for_selector('text=Cancelled.')
    self.assertEqual(self.page.url, first)
    self.assertEqual(self.page.locator('.card').count(), 0)
    self.page.goto(second)
    self.page.wait_for_selector('#seconds')
    self.assertEqual(self.page.locator('.card').count(), 6)

  def test_what_cannot_be_asked_is_said_and_kept(self):
    self.ask('cat ' * 100, ' sat')
    error = self.page.text_content('#error')
    self.assertIn('shorten the prompt', error)
    self.assertEqual(accessibility.serious(self.page), [])
    self.assertEqual(self.page.input_value('[name=prompt]'), 'cat ' * 100)
    self.wrong = [x for x in self.wrong if '400 (Bad Request)' not in x]


if __name__ == '__main__':
  absltest.main()
