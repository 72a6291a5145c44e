"""The live viewer: pages of a store of scores too large for one HTML file.

`app` is an ASGI application; experiments.view --serve runs it on 127.0.0.1. It
answers with whole pages, made by the server*.j2 beside this file; server.js
adds keys and no more. What a page shows is in its address (server_address.py).

Texts and addresses are other people's: jinja2 escapes each, the content policy
allows no script and no style but server.js and style.css, requests must name
this machine as their host (no other site's name can be made to lead here), and
those that may change something must come from a page of it. What is not there
is a 404, what cannot be read a 400, each with a sentence; of an error in the
code the log gets the trace and the page none of it.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Protocol

from starlette import applications, datastructures, exceptions, middleware
from starlette.middleware import trustedhost
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from influence_jax.report import records, server_address, templates

_EXCERPT = 300  # characters of a text in a list
_HOSTS = ['127.0.0.1', 'localhost']
_HEADERS = {
  'Content-Security-Policy': "default-src 'none'; script-src 'self'; "
  "style-src 'self'; connect-src 'self'; form-action 'self'; "
  "base-uri 'none'; frame-ancestors 'none'",
  'X-Content-Type-Options': 'nosniff',
  'Referrer-Policy': 'no-referrer',
  'Cross-Origin-Resource-Policy': 'same-origin',
  'Cache-Control': 'no-store',
}


class Store(Protocol):
  """What is looked in; rows are dicts as in `records`."""

  title: str
  queries: Mapping[str, dict[str, Any]]  # by id, as in `records`, with labels
  sources: Mapping[str, str]  # {name: in words}; the first is shown first
  answers: Sequence[str]  # whose scores the source 'matrix' has

  def topics(self) -> list[tuple[str, int]]:
    """The most frequent topics, and how many sequences have each."""

  def count(self, wanted: server_address.Wanted) -> int:
    """How many rows there are."""

  def rows(
    self, wanted: server_address.Wanted, start: int, stop: int
  ) -> list[dict[str, Any]]:
    """Some of them, without tokens, token_scores and layer_scores."""

  def sequence(self, query: str, number: int) -> dict[str, Any] | None:
    """A row without rank and score, if there is such a sequence.

    It has `layers`, their names, and `scores`, (what, score, rank) each; its
    token_scores and layer_scores are None where they were not computed.
    """


def app(
  store: Store,
  routes: Sequence[Route] = (),
  links: Mapping[str, str] | None = None,
) -> Callable:
  """The application.

  Args:
    store: what is shown.
    routes: of other pages, which `page` makes; a Mount for static files is one.
    links: {path: in words}, to them, in the head of every page.
  """
  made = applications.Starlette(
    routes=[
      Route('/', queries),
      Route('/rows', rows),
      Route('/sequence', sequence),
      Route('/style.css', _style),
      Route('/server.js', _script),
      *routes,
    ],
    middleware=[
      middleware.Middleware(
        trustedhost.TrustedHostMiddleware,
        allowed_hosts=_HOSTS,
        www_redirect=False,
      )
    ],
    exception_handlers={
      exceptions.HTTPException: _refused,
      Exception: _failed,
    },
  )
  made.state.store = store
  made.state.links = {'/': 'Queries', **(links or {})}
  made.state.environment = templates.environment()
  made.state.environment.filters['address'] = server_address.write
  return _guarded(made)


def page(
  request: Request, template: str, status: int = 200, **context: Any
) -> HTMLResponse:
  """What a template makes that extends server.html.j2."""
  state = request.app.state
  text = state.environment.get_template(template).render(
    store=state.store, links=state.links, path=request.url.path, **context
  )
  return HTMLResponse(text.encode('utf-8'), status)


def excerpt(text: str, search: str) -> list[tuple[str, bool]]:
  """(part, whether it is looked for) of the text from the first such part on.

  The parts are some _EXCERPT characters together.
  """
  words = server_address.words(search)
  pattern = re.compile(f'({"|".join(map(re.escape, words)) or "(?!)"})', re.I)
  found = pattern.search(text)
  start = max(0, found.start() - 60) if found else 0
  stop = start + _EXCERPT
  parts = pattern.split(text[start:stop])
  shown = [(part, n % 2 == 1) for n, part in enumerate(parts) if part]
  before, after = ('…', False), ('…', False)
  return [before] * (start > 0) + shown + [after] * (stop < len(text))


# ---- pages


def queries(request: Request) -> Response:
  search = server_address.search(request.query_params)
  words = [word.lower() for word in server_address.words(search)]

  def is_found(query):
    texts = [query[name] for name in ('id', 'prompt', 'completion')]
    text = '\n'.join([*texts, *map(str, query['labels'].values())]).lower()
    return all(word in text for word in words)

  found = [x for x in request.app.state.store.queries.values() if is_found(x)]
  paged = server_address.paged(request.query_params, len(found))
  shown = found[paged['start'] : paged['stop']]
  return page(
    request, 'server_queries.html.j2', search=search, found=shown, **paged
  )


def rows(request: Request) -> Response:
  store, wanted = request.app.state.store, _wanted(request)
  paged = server_address.paged(request.query_params, store.count(wanted))
  ids = [None, *store.queries, None]
  at = ids.index(wanted.query)
  return page(
    request,
    'server_rows.html.j2',
    wanted=wanted,
    fields=server_address.fields(wanted),
    query=store.queries[wanted.query],
    before=ids[at - 1],
    after=ids[at + 1],
    rows=store.rows(wanted, paged['start'], paged['stop']),
    topics=store.topics(),
    signs=server_address.SIGNS,
    sorts=server_address.SORTS,
    excerpt=excerpt,
    **paged,
  )


def sequence(request: Request) -> Response:
  store, wanted = request.app.state.store, _wanted(request)
  number = server_address.number(request.query_params, 'sequence')
  row = store.sequence(wanted.query, number)
  if row is None:
    raise exceptions.HTTPException(404, f'There is no sequence {number} here.')
  tokens = [token.replace('\n', '↵\n') for token in row['tokens']]
  return page(
    request,
    'server_sequence.html.j2',
    wanted=wanted,
    query=store.queries[wanted.query],
    row=row,
    number=server_address.number(request.query_params, 'page', 1),
    tokens=cells(tokens, row['token_scores']),
    layers=cells(row['layers'], row['layer_scores']),
    bound=max(map(abs, row['token_scores'] or [0.0])),
  )


def _wanted(request) -> server_address.Wanted:
  store = request.app.state.store
  return server_address.read(
    request.query_params, store.queries, [*store.sources], len(store.answers)
  )


def cells(texts, scores) -> list[tuple[str, str, str]]:
  """(text, score in words, style classes) each; without scores, no colour."""
  if scores is None:
    return [(text, '', '') for text in texts]
  bound = max(map(abs, scores), default=0.0)
  shades = [templates.shade(score, bound) for score in scores]
  return [
    (text, records.number(score), f'{shade[0]} s{shade[1:]}' if shade else '')
    for text, score, shade in zip(texts, scores, shades, strict=True)
  ]


def _style(request) -> Response:
  return _files(request, 'text/css', 'viewer.css', 'server.css')


def _script(request) -> Response:
  return _files(request, 'text/javascript', 'server.js')


def _files(request, media_type, *names) -> Response:
  """Files beside this one, unchanged."""
  environment = request.app.state.environment
  texts = [environment.loader.get_source(environment, x)[0] for x in names]
  return Response(''.join(texts), media_type=media_type)


# ---- what is refused, what fails


def _refused(request, error) -> Response:
  sentence = error.detail
  if sentence == HTTPStatus(error.status_code).phrase:  # the library's own
    sentence = {
      404: 'There is nothing at this address.',
      405: 'This address takes no such request.',
    }.get(error.status_code, sentence)
  return _message(request, error.status_code, sentence)


def _failed(request, error) -> Response:
  """The library raises the error again, for the log."""
  return _message(
    request, 500, 'This page could not be made: the log of the server says why.'
  )


def _message(request, status, sentence) -> Response:
  return page(
    request, 'server_message.html.j2', status,
    code=status, phrase=HTTPStatus(status).phrase, sentence=sentence,
  )  # fmt: skip


def _guarded(inner: Callable) -> Callable:
  """`inner` with _HEADERS on all that it answers, errors too.

  What may change something is refused to pages of other sites.
  """

  async def outer(scope, receive, send):
    async def send_with_headers(message):
      if message['type'] == 'http.response.start':
        datastructures.MutableHeaders(scope=message).update(_HEADERS)
      await send(message)

    answer = inner
    if scope['type'] == 'http' and scope['method'] not in ('GET', 'HEAD'):
      given = datastructures.Headers(scope=scope)
      own = f'http://{given.get("host")}'
      site = given.get('sec-fetch-site', 'none')
      if given.get('origin', own) != own or site not in ('same-origin', 'none'):
        answer = Response('This came from the page of another site.\n', 403)
    await answer(scope, receive, send_with_headers)

  return outer
