"""Tests of the live viewer: its stores against numpy, pages, refusals."""

import html.parser
import logging
import os
import pathlib
import re
import sys
import tempfile
from unittest import mock

import numpy as np
import view_test
from absl.testing import absltest, parameterized
from ml_collections import ConfigDict
from starlette import testclient
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from experiments import live, live_texts, top_table, view
from influence_jax import store
from influence_jax.data import sequences as sequences_lib
from influence_jax.data import tokenizer as tokenizer_lib
from influence_jax.report import records, server, server_address

CONFIG = ConfigDict({'score': {'folder': 'scores'}})
FIRST, SECOND = view_test.IDS
HOSTILE = (*view_test.HOSTILE, "100%_ '; DROP TABLE top; --", '\\ \\% "q" $1')


def document(number: int) -> dict[str, str]:
  """Hostile titles and topics, some of them shared."""
  return {
    'title': HOSTILE[number % len(HOSTILE)],
    'topic': ('even', 'odd', HOSTILE[1])[number % 3],
  }


def write(workdir: pathlib.Path) -> tuple[np.ndarray, list[dict]]:
  """As `view_test.write`, with candidates and the texts of all sequences."""
  scores, rows = view_test.write(workdir)
  made = sequences_lib.open(workdir / 'sequences')
  tokenizer = tokenizer_lib.load(workdir / 'tokenizer.json')
  live_texts.write(workdir / 'texts.parquet', made, tokenizer, document)
  names = 'query_id', 'kind', 'rank', 'sequence', 'score', 'scan_score'
  candidates = [{name: row[name] for name in names} for row in rows]
  path = workdir / 'scores' / 'candidates.parquet'
  top_table.write(path, candidates, view_test.LAYERS)
  return scores, rows


class Page(html.parser.HTMLParser):
  """The elements of a page, (tag, attributes), and its text."""

  def __init__(self, text: str):
    super().__init__()
    self.elements, self.text = [], ''
    self.feed(text)

  def handle_starttag(self, tag, attrs):
    self.elements.append((tag, dict(attrs)))

  def handle_data(self, data):
    self.text += data


class LiveTest(parameterized.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    root = cls.enterClassContext(tempfile.TemporaryDirectory())
    cls.workdir = pathlib.Path(root) / "of [run] * 'x'"
    cls.workdir.mkdir()
    cls.scores, cls.rows = write(cls.workdir)
    cls.store = live.Store(CONFIG, cls.workdir)
    cls.client = testclient.TestClient(
      server.app(cls.store), 'http://127.0.0.1', raise_server_exceptions=False
    )
    made = sequences_lib.open(cls.workdir / 'sequences')
    tokenizer = tokenizer_lib.load(cls.workdir / 'tokenizer.json')
    cls.texts = [
      {
        **document(int(made.records[n]['document'])),
        'text': tokenizer_lib.decode(tokenizer, made.text_tokens(n)),
        'tokens': tokenizer_lib.pieces(tokenizer, made.row(n)[:-1]),
      }
      for n in range(len(made))
    ]

  def wanted(self, **fields):
    given = {'query': SECOND, **fields}
    return server_address.read(
      given, self.store.queries, [*self.store.sources], 2
    )

  def found(self, **fields):
    """Of the store: sequences in its order."""
    wanted = self.wanted(**fields)
    rows = self.store.rows(wanted, 0, self.store.count(wanted))
    return [row['sequence'] for row in rows]

  def get(self, path, **fields):
    return self.client.get(path, params=fields)

  @parameterized.product(
    answer=(0, 1), query=(0, 1), sign=('positive', 'negative')
  )
  def test_pages_of_the_matrix_are_the_order_that_numpy_finds(
    self, answer, query, sign
  ):
    scores_N = self.scores[answer, query].astype(float)
    factor = 1 if sign == 'positive' else -1
    order = sorted(range(len(scores_N)), key=lambda n: -factor * scores_N[n])
    signs = {'positive': lambda x: x >= 0, 'negative': lambda x: x < 0}
    expected = [n for n in order if signs[sign](scores_N[n])]
    wanted = self.wanted(
      query=view_test.IDS[query], answer=str(answer), sign=sign
    )
    self.assertEqual(self.store.count(wanted), len(expected))
    found = []
    for start in range(0, len(expected) + 1, 7):
      found += self.store.rows(wanted, start, start + 7)
    self.assertEqual([row['sequence'] for row in found], expected)
    for rank, (row, n) in enumerate(zip(found, expected, strict=True), 1):
      self.assertEqual((row['rank'], row['score']), (rank, scores_N[n]))
      for name in ('title', 'topic', 'text'):
        self.assertEqual(row[name], self.texts[n][name])

  @parameterized.product(source=('top', 'candidates'), sign=records.KINDS)
  def test_pages_of_a_table_are_its_rows(self, source, sign):
    expected = [
      (row['sequence'], row['rank'], row['score'])
      for row in self.rows
      if (row['query_id'], row['kind']) == (SECOND, sign)
    ]
    self.assertNotEmpty(expected)
    wanted = self.wanted(source=source, sign=sign)
    found = self.store.rows(wanted, 0, 99)
    self.assertEqual(
      [(row['sequence'], row['rank'], row['score']) for row in found], expected
    )

  @parameterized.parameters(
    'cat', 'CAT red', '"the cat"', 'cat "tree and"', 'nowhere', '%', '_',
    'c_t', "'", "'; DROP TABLE top; --", '"DROP TABLE"', '<script>',
    'onerror=alert(1)', 'שלום', '漢字', '🎉', 'x' * 900, '\\', '\\%',
    '$1', '{{', '\x1b', '"', '',
  )  # fmt: skip
  def test_search_finds_what_python_finds(self, search):
    words = re.findall(r'"([^"]+)"|(\S+)', search)
    words = [(a or b).lower() for a, b in words]
    names = 'title', 'topic', 'text'
    expected = [
      n for n in np.argsort(-self.scores[0, 1], kind='stable').tolist()
      if self.scores[0, 1, n] >= 0 and all(
        any(word in self.texts[n][x].lower() for x in names)
        for word in words
      )
    ]  # fmt: skip
    self.assertEqual(self.found(words=search), expected)
    shown = self.get('/rows', query=SECOND, words=search)
    self.assertEqual(shown.status_code, 200)
    self.assertIn(f'{len(expected)} positive sequences', shown.text)

  def test_search_of_the_top_is_of_its_own_texts(self):
    for search in ('three two', '"three two"', '<i>four'):
      words = [a or b for a, b in re.findall(r'"([^"]+)"|(\S+)', search)]
      expected = [
        row['sequence'] for row in self.rows
        if (row['query_id'], row['kind']) == (SECOND, 'positive')
        and all(word in row['title'] + row['text'] for word in words)
      ]  # fmt: skip
      self.assertEqual(self.found(source='top', words=search), expected)

  @parameterized.parameters('matrix', 'candidates')
  def test_filters_and_orders_are_as_python_has_them(self, source):
    by_score = self.found(source=source)
    for name, value in (('topic', HOSTILE[1]), ('title', ''), ('title', 'no')):
      expected = [n for n in by_score if self.texts[n][name] == value]
      self.assertEqual(
        self.found(source=source, **{name: f'={value}'}), expected
      )
    orders = {
      'title': lambda n: self.texts[n]['title'].lower(),
      'length': lambda n: -len(self.texts[n]['text']),
    }
    for name, key in orders.items():
      expected = sorted(by_score, key=key)
      self.assertNotEqual(expected, by_score)
      self.assertEqual(self.found(source=source, sort=name), expected)
    topics = [text['topic'] for text in self.texts]
    self.assertCountEqual(
      self.store.topics(), {(x, topics.count(x)) for x in topics}
    )

  def test_a_sequence_has_its_tokens_scores_and_ranks(self):
    best = self.rows[0]
    row = self.store.sequence(FIRST, best['sequence'])
    for name in ('tokens', 'token_scores', 'layer_scores', 'title'):
      self.assertEqual(row[name], best[name])
    self.assertEqual(row['layers'], [*view_test.LAYERS])
    scores = {what: (score, rank) for what, score, rank in row['scores']}
    self.assertEqual(scores['top: full rank'], (best['score'], 1))
    self.assertEqual(scores['candidates: scan'], (best['scan_score'], None))
    mine = self.scores[1, 0, best['sequence']]
    larger = self.scores[1, 0] > mine if mine > 0 else self.scores[1, 0] < mine
    self.assertEqual(
      scores['identity relative 0.1'], (mine, 1 + int(larger.sum()))
    )
    mine = {x['sequence'] for x in self.rows if x['query_id'] == FIRST}
    other = min({*range(len(self.texts))} - mine)
    row = self.store.sequence(FIRST, other)
    self.assertEqual(row['tokens'], self.texts[other]['tokens'])
    self.assertIsNone(row['token_scores'])
    self.assertIsNone(self.store.sequence(FIRST, len(self.texts)))

  def test_ranks_of_a_sequence_are_those_of_the_list_also_among_equals(self):
    scores_N = np.array([1.0, 3, 3, -2, 0, -2, 3], np.float32)
    with mock.patch.multiple(
      self.store, _numbers=np.arange(7), _read_scores=mock.DEFAULT,
      _scores=lambda answer, query: scores_N,
    ):  # fmt: skip
      for sign, expected in (
        ('positive', [1, 2, 6, 0, 4]), ('negative', [3, 5]),
      ):  # fmt: skip
        found = self.store._by_rank(self.wanted(sign=sign))
        self.assertEqual(found['sequence'].tolist(), expected)
        for rank, n in enumerate(expected, 1):
          (_, score, mine), _ = self.store._of_answers(SECOND, n)
          self.assertEqual((score, mine), (scores_N[n], rank))

  # ---- pages

  def test_hostile_texts_are_text(self):
    pages = [
      self.get('/'),
      self.get('/', words=HOSTILE[0]),
      self.get('/sequence', query=FIRST, sequence=self.rows[0]['sequence']),
      *(
        self.get('/rows', query=name, source=source, words=words, title=title)
        for name in view_test.IDS
        for source in self.store.sources
        for words in ('', HOSTILE[0], HOSTILE[-1])
        for title in ('', f'={HOSTILE[1]}')
      ),
      self.get('/rows', query=HOSTILE[0]),
      self.get(f'/{HOSTILE[1]}'),
    ]
    for shown in pages:
      page = Page(shown.text)
      self.assertNotIn('<i>four', shown.text)
      for tag, attributes in page.elements:
        self.assertNotIn(tag, ('img', 'style', 'iframe'))
        self.assertNoCommonElements(attributes, {'style', 'onerror', 'onclick'})
        for name in ('href', 'src'):
          self.assertRegex(attributes.get(name, '/'), '^[/?#]')
      scripts = [x for tag, x in page.elements if tag == 'script']
      self.assertEqual(scripts, [{'src': '/server.js', 'defer': None}])
    tokens = [records.plain(x).replace('\n', '↵\n') for x in HOSTILE[:11]]
    for token in tokens:
      self.assertIn(token, Page(pages[2].text).text)
    for character in '\x1b\x7f\u202e':
      self.assertNotIn(character, pages[2].text)

  def test_every_answer_has_the_policy_and_no_leave_to_be_kept(self):
    for path in ('/', '/rows', '/nothing', '/style.css', '/server.js'):
      given = self.get(path, query=FIRST).headers
      policy = given['content-security-policy']
      self.assertStartsWith(policy, "default-src 'none'; script-src 'self';")
      self.assertNotIn('unsafe', policy)
      self.assertEqual(given['x-content-type-options'], 'nosniff')
      self.assertEqual(given['cache-control'], 'no-store')
      self.assertNotIn('access-control-allow-origin', given)

  def test_links_lead_to_pages(self):
    seen, todo = set(), ['/']
    while todo:
      path = todo.pop()
      if path in seen or len(seen) > 150:
        continue
      seen.add(path)
      shown = self.client.get(path)
      self.assertEqual(shown.status_code, 200, path)
      for _, attributes in Page(shown.text).elements:
        to = attributes.get('href', '')
        todo.append(f'{path.split("?")[0]}{to}' if to[:1] == '?' else to)
      todo = [x.split('#')[0] for x in todo if x.split('#')[0]]
    for start in ('/sequence?', '/rows?'):
      self.assertTrue(any(x.startswith(start) for x in seen))

  @parameterized.parameters(
    ('/nothing', {}),
    ('/rows', {}),
    ('/rows', {'query': 'c'}),
    ('/rows', {'query': FIRST, 'page': '99'}),
    ('/rows', {'query': FIRST, 'page': '9' * 18}),
    ('/rows', {'query': FIRST, 'answer': '2'}),
    ('/', {'page': '2'}),
    ('/sequence', {'query': 'c', 'sequence': '1'}),
    ('/sequence', {'query': FIRST, 'sequence': '99999'}),
    ('/sequence', {'query': FIRST, 'sequence': '9' * 18}),
    ('/../../etc/passwd', {}),
    ('/server.html.j2', {}),
  )
  def test_what_is_not_there_is_404(self, path, fields):
    self.refused(404, self.get(path, **fields))

  @parameterized.parameters(
    ('/rows', {'page': 'x'}), ('/rows', {'page': '0'}),
    ('/rows', {'page': '-1'}), ('/rows', {'page': '9' * 5000}),
    ('/rows', {'page': '٣'}), ('/rows', {'page': '1.0'}),
    ('/rows', {'answer': 'x'}), ('/rows', {'sign': 'both'}),
    ('/rows', {'source': 'texts'}), ('/rows', {'sort': 'rank; DROP TABLE x'}),
    ('/rows', {'topic': 'odd'}), ('/rows', {'title': 'odd'}),
    ('/rows', {'words': 'a ' * 11}), ('/rows', {'words': 'a' * 1001}),
    ('/', {'words': 'a' * 1001}), ('/', {'page': 'x'}),
    ('/sequence', {}), ('/sequence', {'sequence': 'x'}),
    ('/sequence', {'sequence': '1', 'page': 'x'}),
  )  # fmt: skip
  def test_what_cannot_be_read_is_400(self, path, fields):
    self.refused(400, self.get(path, query=FIRST, **fields))

  def refused(self, status, shown):
    self.assertEqual(shown.status_code, status)
    self.assertRegex(Page(shown.text).text, f'{status}: [^.]*\n[^\n]+[.]\n')
    self.assertNotIn('Traceback', shown.text)
    self.assertNotIn('.py', shown.text)

  def test_errors_are_in_the_log_and_not_on_the_page(self):
    with mock.patch.object(
      self.store, 'topics', side_effect=RuntimeError('a secret')
    ):
      shown = self.get('/rows', query=FIRST)
      self.refused(500, shown)
      self.assertNotIn('secret', shown.text)
      self.assertIn('content-security-policy', shown.headers)
      loud = testclient.TestClient(server.app(self.store), 'http://127.0.0.1')
      with self.assertRaisesRegex(RuntimeError, 'a secret'):  # for the log
        loud.get('/rows', params={'query': FIRST})

  def test_other_hosts_sites_and_methods_are_refused(self):
    for host, status in (
      ('127.0.0.1:8000', 200), ('localhost:1', 200), ('localhost', 200),
      ('evil.example', 400), ('127.0.0.1.evil.example', 400), ('', 400),
      ('localhost.evil.example:8000', 400), ('0.0.0.0', 400),
    ):  # fmt: skip
      shown = self.client.get('/', headers={'Host': host})
      self.assertEqual(shown.status_code, status, host)
      self.assertEqual('influence' in shown.text, status == 200)
    self.refused(405, self.client.post('/'))
    for origin, status in (
      ('http://127.0.0.1', 405), ('null', 403), ('http://evil.example', 403),
    ):  # fmt: skip
      shown = self.client.post('/rows', headers={'Origin': origin})
      self.assertEqual(shown.status_code, status)

  def test_more_routes_have_their_link_and_the_same_guard(self):
    def more(request):
      return server.page(
        request,
        'server_message.html.j2',
        code=200,
        phrase='ask',
        sentence='<b>',
      )

    routes = [
      Route('/more', more, methods=['GET', 'POST']),
      Route('/plain', lambda request: PlainTextResponse('x')),
    ]
    client = testclient.TestClient(
      server.app(self.store, routes, {'/more': 'Ask <it>'}), 'http://127.0.0.1'
    )
    self.assertIn('<a href="/more">Ask &lt;it&gt;</a>', client.get('/').text)
    self.assertIn('aria-current', client.get('/more').text)
    self.assertEqual(client.post('/more').status_code, 200)
    shown = client.post('/more', headers={'Origin': 'http://evil.example'})
    self.assertEqual(shown.status_code, 403)
    self.assertIn('content-security-policy', client.get('/plain').headers)

  def test_excerpt_begins_before_what_is_looked_for_and_marks_it(self):
    text = f'{"a" * 500}The Cat.*{"b" * 500}the cat'
    found = server.excerpt(text, '"the cat" .*')
    self.assertEqual(
      found[:4],
      [('…', False), ('a' * 60, False), ('The Cat', True), ('.*', True)],
    )
    self.assertEqual(found[-1], ('…', False))
    self.assertLess(sum(len(part) for part, _ in found), 310)
    self.assertEqual(server.excerpt('short', ''), [('short', False)])
    self.assertEqual(server.excerpt('', 'x'), [])


class OpenTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    self.workdir = pathlib.Path(
      self.enterContext(tempfile.TemporaryDirectory())
    )
    _, self.rows = write(self.workdir)

  def test_top_alone_can_be_looked_at(self):
    for name in ('sequences', 'texts.parquet', 'scores/scores.zarr'):
      (self.workdir / name).rename(self.workdir / f'{name}.gone')
    opened = live.Store(CONFIG, self.workdir)
    self.assertEqual([*opened.sources], ['top'])
    client = testclient.TestClient(server.app(opened), 'http://127.0.0.1')
    shown = client.get('/rows', params={'query': FIRST, 'sort': 'title'})
    self.assertEqual(shown.status_code, 200)
    number = self.rows[0]['sequence']
    fields = {'query': FIRST, 'sequence': number}
    self.assertEqual(client.get('/sequence', params=fields).status_code, 200)
    fields['sequence'] = 9999
    self.assertEqual(client.get('/sequence', params=fields).status_code, 404)

  def test_where_nothing_was_scored_it_says_what_to_run(self):
    for name in ('top.parquet', 'candidates.parquet', 'scores.zarr'):
      (self.workdir / 'scores' / name).rename(self.workdir / name)
    with self.assertRaisesRegex(ValueError, 'nothing to look.*experiments.sc'):
      live.Store(CONFIG, self.workdir)

  def test_texts_of_other_sequences_are_made_again(self):
    made = sequences_lib.open(self.workdir / 'sequences')
    self.assertTrue(live_texts.is_of(self.workdir / 'texts.parquet', made))
    made.info['fingerprint'] = 'another'
    self.assertFalse(live_texts.is_of(self.workdir / 'texts.parquet', made))
    self.assertFalse(live_texts.is_of(self.workdir / 'none.parquet', made))
    (self.workdir / 'texts.parquet').unlink()
    data = {
      'name': 'tiny.corpus', 'data_dir': '', 'source': {}, 'max_len': 32,
      'buckets': (16,), 'vocab_size': 300,
    }  # fmt: skip
    opened = live.Store(ConfigDict({**CONFIG, 'data': data}), self.workdir)
    self.assertEqual(opened.sequence(FIRST, 0)['topic'], 'tales')
    made = sequences_lib.open(self.workdir / 'sequences')
    self.assertTrue(live_texts.is_of(self.workdir / 'texts.parquet', made))

  def test_scores_of_filtered_candidates_or_of_another_corpus(self):
    path = self.workdir / 'scores' / 'manifest.json'
    manifest = store.read_json(path)
    filtered = {'candidates': {'method': 'tf_idf'}, 'num_sequences': None}
    store.write_json(path, {**manifest, 'score': filtered})
    opened = live.Store(CONFIG, self.workdir)
    self.assertEqual([*opened.sources], ['top', 'candidates'])
    store.write_json(path, {**manifest, 'data': 'another'})
    with self.assertRaisesRegex(ValueError, 'the scores in'):
      live.Store(CONFIG, self.workdir)


class StartTest(absltest.TestCase):
  def test_a_server_starts_again_with_one_arena_and_only_once(self):
    with (
      mock.patch.dict(os.environ, clear=True),
      mock.patch.object(os, 'execv') as execv,
      mock.patch.object(sys, 'orig_argv', ['python', '-m', 'x', '--serve']),
    ):
      view.start_lean()
      execv.assert_called_once_with(
        sys.executable, [sys.executable, '-m', 'x', '--serve']
      )
      self.assertEqual(os.environ['MALLOC_ARENA_MAX'], '1')
      view.start_lean()
      execv.assert_called_once()


if __name__ == '__main__':
  logging.disable()
  absltest.main()
