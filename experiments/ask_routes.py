"""Pages of the live viewer on which a query is typed in (interactive.py).

  GET  /ask                 a form; the queries asked so far
  POST /ask                 its fields, or JSON: prompt, completion and, if they
                            are not the config's, candidates {method, per_query}
                            and num; answers with the job's page (303), or JSON
  GET  /ask/JOB             how far it is, then its sequences
  GET  /ask/JOB/progress    JSON
  POST /ask/JOB/cancel

A POST must come from a page of this server, or from no page at all: `server`
sees to that.
"""

import contextlib
import json
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import Any
from urllib import parse

from ml_collections import ConfigDict
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from experiments import interactive, live
from influence_jax.report import records, server

LINKS = {'/ask': 'Ask'}
STAGES = {
  'candidates': 'choosing candidates',
  'gradient': 'gradient of the completion',
  'solve': 'inverse curvature',
  'scan': 'scoring candidates',
  'refine': 'scoring the best ones again',
}
METHODS = {
  'tf_idf': 'the best by TF-IDF',
  'bm25': 'the best by BM25',
  'all': 'all sequences',
}
_QUICK = 1000  # candidates, unless the config says which
_MOST = 2**20  # bytes of a request
_FILES = {'ask.js': 'text/javascript', 'ask.css': 'text/css'}


def routes(asked: interactive.Interactive) -> list[Route]:
  """For `server.app`, with LINKS."""
  pages = _Pages(asked)
  files = [
    Route(f'/{name}', _file(name, media_type))
    for name, media_type in _FILES.items()
  ]
  return [
    Route('/ask', pages.form),
    Route('/ask', pages.start, methods=['POST']),
    *files,
    Route('/ask/{job}', pages.job),
    Route('/ask/{job}/progress', pages.progress),
    Route('/ask/{job}/cancel', pages.cancel, methods=['POST']),
  ]


@contextlib.contextmanager
def app(config: ConfigDict, workdir: str | os.PathLike) -> Iterator[Callable]:
  """The live viewer with these pages; jobs are cancelled at the end."""
  workdir = pathlib.Path(workdir)
  asked = interactive.Interactive(config, workdir)
  store = Nothing(workdir.resolve().name)
  if (workdir / config.score.folder).exists():
    store = live.Store(config, workdir)
  try:
    yield server.app(store, routes(asked), LINKS)
  finally:
    asked.close()


class Nothing:
  """A `server.Store` for a workdir in which nothing has been scored."""

  def __init__(self, title: str):
    self.title = title
    self.queries, self.sources, self.answers = {}, {}, []

  def topics(self):
    return []


class _Pages:
  """What answers; functions that are not `async` run in threads."""

  def __init__(self, asked: interactive.Interactive):
    self._asked = asked
    config, num = asked.config.score, len(asked.ours.corpus.sequences)
    method, per_query = config.candidates.method, config.candidates.per_query
    if method == 'all':
      method = 'all' if num <= _QUICK else 'tf_idf'
      per_query = min(num, _QUICK)
    self._blank = {
      'prompt': '', 'completion': '', 'method': method,
      'per_query': str(per_query), 'num': str(config.num_top or 10),
    }  # fmt: skip

  def form(self, request: Request) -> Response:
    return self._form(request, self._fields(request.query_params.get('again')))

  async def start(self, request: Request) -> Response:
    body, kind = await _body(request), request.headers.get('content-type', '')
    is_json = kind.split(';')[0].strip() == 'application/json'
    given = _of_json(body) if is_json else _of_form(body)
    try:
      wanted = given if is_json else _wanted(given)
      job = await run_in_threadpool(lambda: self._asked.start(**wanted))
    except ValueError as error:
      if is_json:
        return JSONResponse({'error': str(error)}, 400)
      fields = {**self._blank, **given}
      return self._form(request, fields, 400, f'Not asked: {error}.')
    if is_json:
      return JSONResponse({'job': job.id, **_progress(job)}, 202)
    return RedirectResponse(f'/ask/{job.id}', 303)

  def job(self, request: Request) -> Response:
    job = self._find(request)
    rows = [
      {
        **row,
        'bound': max(map(abs, row['token_scores']), default=0.0),
        'cells': server.cells(
          [x.replace('\n', '↵\n') for x in row['tokens']], row['token_scores']
        ),
        'layers': server.cells(self._asked.layer_names, row['layer_scores']),
      }
      for row in job.result or []
    ]
    kinds = {
      kind: [row for row in rows if row['kind'] == kind]
      for kind in records.KINDS
    }
    return server.page(
      request, 'ask_job.html.j2', job=job, kinds=kinds,
      progress=_progress(job), stages=STAGES, methods=METHODS,
    )  # fmt: skip

  def progress(self, request: Request) -> Response:
    return JSONResponse(_progress(self._find(request)))

  def cancel(self, request: Request) -> Response:
    job = self._find(request)
    job.cancel()
    return RedirectResponse(f'/ask/{job.id}', 303)

  def _find(self, request: Request) -> interactive.Job:
    name = request.path_params['job']
    job = self._asked.job(name)
    if job is None:
      raise HTTPException(
        404, f'There is no query {name[:100]!r}: it is forgotten, or was of '
        'another run of this server.'
      )  # fmt: skip
    return job

  def _form(self, request, fields, status=200, error='') -> Response:
    return server.page(
      request, 'ask.html.j2', status, fields=fields, error=error,
      jobs=self._asked.jobs(), methods=METHODS,
      total=len(self._asked.ours.corpus.sequences),
      most=interactive.MOST_SHOWN,
    )  # fmt: skip

  def _fields(self, again: str | None) -> dict[str, str]:
    """Of the form: those of the job `again`, if it is known."""
    job = self._asked.job(again or '')
    if job is None:
      return self._blank
    section = job.config.score
    return {
      'prompt': job.query.prompt,
      'completion': job.query.completion,
      'method': section.candidates.method,
      'per_query': str(section.candidates.per_query),
      'num': str(section.num_top),
    }


def _progress(job: interactive.Job) -> dict[str, Any]:
  progress, words = job.progress, 'waiting for its turn'
  if progress.stage:
    at = 1 + [*STAGES].index(progress.stage)
    words = f'{STAGES[progress.stage]} ({at} of {len(STAGES)})'
  return {
    'state': job.state, 'error': job.error, 'words': words,
    **progress._asdict(),
  }  # fmt: skip


def _wanted(fields: dict[str, str]) -> dict[str, Any]:
  """Arguments of `Interactive.start`; ValueError if a number is none."""
  for name, words in (('per_query', 'candidates'), ('num', 'sequences shown')):
    if not (fields[name].isascii() and fields[name].isdigit()):
      raise ValueError(
        f'the number of {words} is {fields[name]!r}, expected a whole number'
      )
  return {
    'prompt': fields['prompt'],
    'completion': fields['completion'],
    'candidates': {
      'method': fields['method'],
      'per_query': int(fields['per_query'][:18]),
    },
    'num': int(fields['num'][:18]),
  }


def _of_form(body: bytes) -> dict[str, str]:
  names = 'prompt', 'completion', 'method', 'per_query', 'num'
  try:
    found = parse.parse_qs(
      body.decode('ascii'), keep_blank_values=True, max_num_fields=len(names),
      errors='strict',
    )  # fmt: skip
  except ValueError as error:
    raise HTTPException(400, 'The form cannot be read.') from error
  if {*found} != {*names}:
    raise HTTPException(400, f'Expected a form of {", ".join(names)}.')
  # A browser sends the ends of lines as two characters
  return {name: found[name][0].replace('\r\n', '\n') for name in names}


def _of_json(body: bytes) -> dict[str, Any]:
  try:
    found = json.loads(body)
  except (ValueError, RecursionError) as error:
    raise HTTPException(400, 'The request is not JSON.') from error
  required, known = {'prompt', 'completion'}, {'candidates', 'num'}
  if not isinstance(found, dict) or not (
    required <= {*found} <= required | known
    and isinstance(found.get('candidates') or {}, dict)
  ):
    raise HTTPException(
      400, 'Expected an object with prompt, completion and perhaps candidates '
      '(an object) and num.'
    )  # fmt: skip
  return found


async def _body(request: Request) -> bytes:
  found = b''
  async for part in request.stream():
    found += part
    if len(found) > _MOST:
      raise HTTPException(413, f'Expected at most {_MOST:,} bytes.')
  return found


def _file(name: str, media_type: str) -> Callable[[Request], Response]:
  def answer(request: Request) -> Response:
    environment = request.app.state.environment
    text, *_ = environment.loader.get_source(environment, name)
    return Response(text, media_type=media_type)

  return answer
