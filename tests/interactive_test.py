"""Typed queries: as those of a file, compiled once, stopped at will."""

import atexit
import contextlib
import functools
import json
import pathlib
import shutil
import tempfile
import threading
import time

import jax
import numpy as np
import tiny_config
from absl.testing import absltest, parameterized
from starlette import testclient

from experiments import (
  ask_routes,
  fit_curvature,
  interactive,
  refine,
  score,
  top_table,
  train,
)
from influence_jax.data import queries as queries_lib
from influence_jax.report import server

HOSTILE = '<b>"cat" & </textarea>', '<script>alert(1)</script>'


@functools.cache
def made():
  """(config, workdir) with a model and a fit, and nothing scored."""
  root = pathlib.Path(tempfile.mkdtemp())
  atexit.register(shutil.rmtree, root)
  config, workdir = tiny_config.get_config(), root / 'run'
  config.score.refine = 60  # all: both lengths of batches come up
  train.run(config, workdir)
  fit_curvature.run(config, workdir)
  return config, workdir


def files(folder: pathlib.Path) -> dict:
  return {
    path.relative_to(folder): path.read_bytes()
    for path in folder.rglob('*')
    if path.is_file()
  }


@contextlib.contextmanager
def compilations():
  """A list that grows by one with each program that is compiled."""
  compiled = []

  def listen(event, seconds, **unused):
    del seconds, unused
    if event == '/jax/core/compile/backend_compile_duration':
      compiled.append(event)

  jax.monitoring.register_event_duration_secs_listener(listen)
  try:
    yield compiled
  finally:
    jax.monitoring.unregister_event_duration_listener(listen)


class InteractiveTest(parameterized.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.config, cls.workdir = made()
    cls.asked = interactive.Interactive(cls.config, cls.workdir)
    cls.addClassCleanup(cls.asked.close)
    cls.before = files(cls.workdir)
    cls.queries = queries_lib.read_queries(cls.config.score.queries)

  def tearDown(self):
    self.assertEqual(files(self.workdir), self.before)  # nothing is written
    super().tearDown()

  def ask(self, *args, asked=None, **kwargs) -> interactive.Job:
    job = (asked or self.asked).start(*args, **kwargs)
    self.assertTrue(job.wait(60))
    return job

  def held(self):
    """A lock: while it is held, jobs stop before their scan."""
    lock = threading.Lock()
    choose = score.candidates

    def wait(*args):
      with lock:
        return choose(*args)

    self.enterContext(absltest.mock.patch.object(score, 'candidates', wait))
    return lock

  def until(self, condition):
    for _ in range(3000):
      if condition():
        return
      time.sleep(0.01)
    self.fail('it never came')

  @parameterized.named_parameters(
    ('without_rank_or_refinement', {'rank': None, 'refine': 0}),
    ('with_bm25', {'candidates': {'method': 'bm25', 'per_query': 30}}),
    ('refined_in_float64', {'refine_float64': True}),
  )
  def test_results_are_those_of_a_file(self, changes):
    config = self.config.copy_and_resolve_references()
    config.score.update(changes)
    query = self.queries[0]
    asked = self.asked
    if changes.keys() - {'candidates'}:
      asked = interactive.Interactive(config, self.workdir)
      self.addCleanup(asked.close)
    copy = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    workdir = shutil.copytree(self.workdir, copy / 'run')
    # Of more queries a filter would scan all their candidates
    config.score.queries = str(copy / 'queries.jsonl')
    pathlib.Path(config.score.queries).write_text(json.dumps(query._asdict()))
    score.run(config, workdir)
    rows, _ = top_table.read(workdir / 'scores' / 'top.parquet')
    job = self.ask(
      query.prompt, query.completion, asked=asked,
      candidates=changes.get('candidates'),
    )  # fmt: skip
    self.assertEqual((job.state, job.error), ('done', ''))
    self.assertLen(rows, 6)
    for row, mine in zip(rows, job.result, strict=True):
      self.assertEqual(row.keys(), mine.keys())
      for key in set(row) - {'query_id'}:
        if 'score' in key:
          np.testing.assert_allclose(
            mine[key], row[key], rtol=1e-4, atol=1e-6, err_msg=key
          )
        else:
          self.assertEqual(mine[key], row[key], key)

  def test_two_queries_of_a_file_are_answered_alike(self):
    """A batch of both is of another shape than that of each."""
    copy = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    workdir = shutil.copytree(self.workdir, copy / 'run')
    score.run(self.config, workdir)
    rows, _ = top_table.read(workdir / 'scores' / 'top.parquet')
    for query in self.queries:
      wanted = [row for row in rows if row['query_id'] == query.id]
      mine = self.ask(query.prompt, query.completion).result
      for key in ('sequence', 'kind', 'rank'):
        self.assertEqual([x[key] for x in mine], [x[key] for x in wanted])
      for key in ('score', 'scan_score'):
        np.testing.assert_allclose(
          [x[key] for x in mine], [x[key] for x in wanted], rtol=1e-4
        )

  def test_a_second_query_compiles_nothing(self):
    asked = interactive.Interactive(self.config, self.workdir)
    self.addCleanup(asked.close)
    with compilations() as compiled:
      self.ask('the cat', ' sat on a mat', asked=asked)
      self.assertNotEmpty(compiled)
      first = len(compiled)
      self.ask('', ' dog', asked=asked, num=1)
      self.ask('red tree', ' ran from', asked=asked,
               candidates={'method': 'tf_idf', 'per_query': 60})  # fmt: skip
      self.assertLen(compiled, first)
      long = self.ask('the cat ' * 10, ' sat', asked=asked)  # another bucket
      self.assertEqual(long.state, 'done')
      self.assertLess(first, len(compiled))

  def test_progress_goes_through_the_stages_to_their_ends(self):
    seen, job = [], self.asked.start('the cat', ' sat')
    while not job.wait(0):
      seen.append(job.progress)
    seen.append(job.progress)
    stages = [x.stage for x in seen if x.stage]
    order = [interactive.STAGES.index(stage) for stage in stages]
    self.assertEqual(order, sorted(order))
    self.assertEqual([*job.seconds], [*interactive.STAGES])
    self.assertTrue(all(0 <= x.done <= x.total for x in seen))
    seconds = [x.seconds for x in seen]
    self.assertEqual(seconds, sorted(seconds))
    last = job.progress
    self.assertEqual((last.stage, last.done), ('refine', last.total))
    self.assertGreater(last.total, 1)
    self.assertEqual(job.progress, last)  # it has ended
    self.assertAlmostEqual(sum(job.seconds.values()), last.seconds)

  @parameterized.parameters('scan', 'refine')
  def test_cancelling_ends_a_job_between_batches(self, stage):
    job = interactive.Job(self.queries[0], self.config)
    taken = []
    items = iter(range(10))
    with self.assertRaises(interactive._Cancelled):
      for item in job.each(stage, items, 10):
        taken.append(item)
        if item == 3:
          job.cancel()
    self.assertEqual(taken, [0, 1, 2, 3])
    self.assertEqual(job.progress[:3], (stage, 4, 10))
    update, seen = interactive.topk.update, []

    def slow(*args):
      seen.append(1)
      if len(seen) == 2:
        running.cancel()
      return update(*args)

    with absltest.mock.patch.object(interactive.topk, 'update', slow):
      running = self.asked.start('the', ' cat')
      self.assertTrue(running.wait(60))
    self.assertEqual(running.state, 'cancelled')
    self.assertIsNone(running.result)
    self.assertLen(seen, 2)
    self.assertEqual(running.progress[:2], ('scan', 2))
    self.assertEqual(self.ask('the', ' cat').state, 'done')

  def test_a_second_job_waits_and_may_be_cancelled_before_its_turn(self):
    lock = self.held()
    with lock:
      first = self.asked.start('the', ' cat')
      self.until(lambda: first.state == 'running')
      second, third = (self.asked.start('a', ' dog') for _ in range(2))
      self.assertEqual(second.progress, ('', 0, 1, 0))
      self.assertEqual((second.state, third.state), ('waiting', 'waiting'))
      second.cancel()
      many = [
        self.asked.start('a', ' dog')
        for _ in range(interactive.MOST_WAITING - 3)
      ]
      with self.assertRaisesRegex(ValueError, '8 queries are under way'):
        self.asked.start('a', ' dog')
      for job in many:
        job.cancel()
    for job in (first, second, third, *many):
      self.assertTrue(job.wait(60))
    self.assertEqual((first.state, third.state), ('done', 'done'))
    self.assertEqual({x.state for x in (second, *many)}, {'cancelled'})
    self.assertEqual(second.seconds, {})

  @parameterized.parameters(
    (('the', ''), {}, 'the completion is empty, expected.*type at least one'),
    (('the', 3), {}, 'completion is 3, expected a text'),
    (('\ud800', 'a'), {}, 'prompt holds half of a surrogate'),
    (
      ('the cat ' * 40, ' sat'), {},
      r'has \d\d+ tokens of prompt and \d of completion, expected at most 32.*'
      'shorten the prompt',
    ),
    (('a', 'b'), {'num': 0}, 'num=0, expected a whole number from 1 to 500'),
    (('a', 'b'), {'num': '3'}, "num='3', expected a whole number"),
    (('a', 'b'), {'candidates': {'method': 'x'}}, "'x'.*expected a method of"),
    (('a', 'b'), {'candidates': {'perquery': 1}}, 'expected a method of'),
    (('a', 'b'), {'candidates': {'per_query': 0}}, 'per_query=0, expected'),
  )  # fmt: skip
  def test_what_cannot_be_asked_is_said_at_once(self, args, kwargs, message):
    before = self.asked.jobs()
    with self.assertRaisesRegex(ValueError, message):
      self.asked.start(*args, **kwargs)
    self.assertEqual(self.asked.jobs(), before)

  @parameterized.parameters(
    (ValueError('no <words>'), 'no <words>'),
    (KeyError('secret'), 'the log of this program says why'),
  )
  def test_an_error_is_the_jobs_and_the_next_one_goes_on(self, error, wanted):
    with absltest.mock.patch.object(refine, 'of_query', side_effect=error):
      job = self.ask('the', ' cat')
    self.assertEqual(job.state, 'failed')
    self.assertIn(wanted, job.error)
    self.assertNotIn('secret', job.error)
    self.assertEqual(self.ask('the', ' cat').state, 'done')

  def test_old_jobs_are_forgotten(self):
    first = self.ask('the', ' cat')
    run = absltest.mock.patch.object(
      interactive.Interactive, '_answer', lambda self, job, batch: []
    )
    with run:
      for _ in range(25):
        last = self.ask('the', ' dog')
    self.assertIsNone(self.asked.job(first.id))
    self.assertIs(self.asked.job(last.id), last)
    self.assertLen(self.asked.jobs(), 20)

  def test_a_workdir_without_a_fit_is_refused_and_left_alone(self):
    empty = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    with self.assertRaisesRegex(ValueError, 'no factors.*fit_curvature'):
      interactive.Interactive(self.config, empty)
    self.assertEqual(files(empty), {})
    other = self.config.copy_and_resolve_references()
    other.fit.seed = 7
    with self.assertRaisesRegex(ValueError, 'of another run'):
      interactive.Interactive(other, self.workdir)


class RoutesTest(parameterized.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.asked = interactive.Interactive(*made())
    cls.addClassCleanup(cls.asked.close)
    app = server.app(
      ask_routes.Nothing('<run>'),
      routes=ask_routes.routes(cls.asked),
      links=ask_routes.LINKS,
    )
    cls.client = testclient.TestClient(
      app, base_url='http://127.0.0.1:8000', follow_redirects=False
    )

  def post(self, path='/ask', headers=None, **fields):
    form = {
      'prompt': 'the', 'completion': ' cat', 'method': 'all', 'per_query': '5',
      'num': '2', **fields,
    }  # fmt: skip
    return self.client.post(path, data=form, headers=headers)

  def done(self, answer) -> str:
    """The page of a job that was begun, at its end."""
    self.assertEqual(answer.status_code, 303)
    path = answer.headers['location']
    self.assertTrue(self.asked.job(path.removeprefix('/ask/')).wait(60))
    page = self.client.get(path)
    self.assertEqual(page.status_code, 200)
    return page.text

  def test_a_form_becomes_a_page_of_sequences(self):
    page = self.client.get('/ask')
    self.assertEqual(page.status_code, 200)
    self.assertIn("script-src 'self'", page.headers['content-security-policy'])
    text = self.done(self.post(prompt='the\r\ncat'))
    job = self.asked.jobs()[0]
    self.assertEqual(job.query.prompt, 'the\ncat')
    self.assertEqual(text.count('<article'), len(job.result))
    self.assertLen(job.result, 4)
    for row in job.result:
      self.assertIn(f'id="sequence-{row["sequence"]}"', text)
      self.assertEqual(len(row['layer_scores']), len(self.asked.layer_names))
    again = self.client.get(f'/ask?again={job.id}').text
    self.assertIn('>\nthe\ncat</textarea>', again)

  def test_json_is_answered_by_json(self):
    wanted = {'prompt': '', 'completion': ' cat', 'num': 3,
              'candidates': {'method': 'tf_idf', 'per_query': 9}}  # fmt: skip
    answer = self.client.post('/ask', json=wanted)
    self.assertEqual(answer.status_code, 202)
    job = self.asked.job(answer.json()['job'])
    self.assertTrue(job.wait(60))
    found = self.client.get(f'/ask/{job.id}/progress').json()
    self.assertEqual(found['state'], 'done')
    self.assertEqual(found['done'], found['total'])
    self.assertEqual(job.config.score.candidates.per_query, 9)
    refused = self.client.post('/ask', json={**wanted, 'completion': ''})
    self.assertEqual(refused.status_code, 400)
    self.assertIn('completion is empty', refused.json()['error'])

  @parameterized.parameters('[]', '{', '{"prompt": ""}', '[' * 100_000)
  def test_json_of_another_form_is_refused(self, content):
    answer = self.client.post(
      '/ask', content=content, headers={'content-type': 'application/json'}
    )
    self.assertEqual(answer.status_code, 400)

  def test_texts_are_escaped_in_every_state(self):
    text = self.done(self.post(prompt='', completion=HOSTILE[1]))
    self.assertIn('&lt;script&gt;', text)
    pages = [text, self.done(self.post(prompt=HOSTILE[0]))]
    pages.append(self.client.get('/ask').text)
    for job in self.asked.jobs():
      pages.append(self.client.get(f'/ask?again={job.id}').text)
    for hostile in HOSTILE:
      pages.append(self.post(prompt=hostile, completion='').text)
      pages.append(self.post(prompt=hostile, num=hostile).text)
      pages.append(self.client.get(f'/ask/{hostile[:9]}').text)
      error = ValueError(hostile)
      with absltest.mock.patch.object(refine, 'of_query', side_effect=error):
        pages.append(self.done(self.post()))
    for page in pages:
      self.assertNotIn('<script>', page)
      self.assertNotIn('<b>"cat"', page)
      self.assertNotIn('& </textarea>', page)

  @parameterized.parameters(
    ({'completion': ''}, 'completion is empty'),
    ({'num': 'x'}, 'expected a whole number'),
    ({'method': 'x'}, 'expected a method of'),
    ({'prompt': 'cat ' * 200}, 'shorten the prompt'),
  )
  def test_a_form_that_cannot_be_asked_comes_back_filled(self, fields, words):
    answer = self.post(**{'prompt': 'the very cat', **fields})
    self.assertEqual(answer.status_code, 400)
    self.assertIn(words, answer.text)
    self.assertIn(fields.get('prompt', 'the very cat'), answer.text)

  @parameterized.parameters(
    {'origin': 'http://evil.example'},
    {'origin': 'null'},
    {'sec-fetch-site': 'cross-site'},
    {'sec-fetch-site': 'same-site'},
    {'origin': 'http://127.0.0.1:8001'},
  )
  def test_another_sites_page_cannot_ask_or_cancel(self, **headers):
    before = self.asked.jobs()
    self.assertEqual(self.post(headers=headers).status_code, 403)
    self.assertEqual(self.asked.jobs(), before)
    job = interactive.Job(queries_lib.Query('a', 'b', 'c'), self.asked.config)
    with absltest.mock.patch.dict(self.asked._jobs, {job.id: job}):
      path = f'/ask/{job.id}/cancel'
      self.assertEqual(self.post(path, headers).status_code, 403)
      self.assertFalse(job._stop.is_set())
      ours = {'origin': 'http://127.0.0.1:8000',
              'sec-fetch-site': 'same-origin'}  # fmt: skip
      self.assertEqual(self.post(path, ours).status_code, 303)
      self.assertTrue(job._stop.is_set())

  def test_jobs_that_are_not_there_are_404(self):
    for path in ('/ask/0', '/ask/0/progress', '/ask/%3Cb%3E', '/ask/../x'):
      self.assertEqual(self.client.get(path).status_code, 404)
    self.assertEqual(self.post('/ask/0/cancel').status_code, 404)
    self.assertEqual(self.client.get('/ask/0/cancel').status_code, 405)

  def test_a_large_request_is_refused(self):
    self.assertEqual(self.post(prompt='x' * 2**20).status_code, 413)


if __name__ == '__main__':
  absltest.main()
