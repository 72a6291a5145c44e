"""What the address of a page of the live viewer asks for, read and written.

A field that cannot be read is a 400, one that names what is not there a 404,
both with a sentence for the reader.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from urllib import parse

from starlette.exceptions import HTTPException

from influence_jax.report import records

PAGE = 50  # rows of one
SIGNS = records.KINDS
SORTS = {'score': 'score', 'length': 'length of the text', 'title': 'title'}
_MAX_WORDS, _MAX_SEARCH = 10, 1000  # of one search; characters of it


class Wanted(NamedTuple):
  """Which sequences of a query, in which order."""

  query: str  # its id
  source: str  # which of the store's sources
  answer: int  # whose scores, where the source has those of all answers
  sign: str  # of the scores, one of SIGNS; 0 is positive
  words: str  # each of `words(...)` is in text, title or topic
  topic: str | None  # None is any
  title: str | None
  sort: str  # of SORTS


def words(search: str) -> list[str]:
  """What is looked for: words, and phrases in "double quotes"."""
  found = re.findall(r'"([^"]+)"|(\S+)', search)
  return [phrase or word for phrase, word in found]


def read(
  given: Mapping[str, str],
  queries: Mapping[str, Any],
  sources: Sequence[str],
  num_answers: int,
) -> Wanted:
  """Of the address's fields; those not given are the first that there is."""
  query = given.get('query', '')
  if query not in queries:
    raise HTTPException(404, f'There is no query {query[:100]!r} here.')
  answer = number(given, 'answer', 0)
  if answer >= max(1, num_answers):
    raise HTTPException(404, f'There is no answer {answer} here.')
  return Wanted(
    query,
    _one_of(given, 'source', sources),
    answer,
    _one_of(given, 'sign', SIGNS),
    search(given),
    _text(given, 'topic'),
    _text(given, 'title'),
    _one_of(given, 'sort', [*SORTS]),
  )


def fields(wanted: Wanted) -> dict[str, str]:
  """What `read` makes `wanted` of."""
  made = {k: str(v) for k, v in wanted._asdict().items() if v is not None}
  for name in made.keys() & {'topic', 'title'}:  # '' is a topic, not any
    made[name] = f'={made[name]}'
  return made


def write(wanted: Wanted, **changes) -> str:
  """What follows the '?'; changes are of `wanted`, or other fields."""
  own = {k: changes.pop(k) for k in Wanted._fields if k in changes}
  return parse.urlencode({**fields(wanted._replace(**own)), **changes})


def number(
  given: Mapping[str, str], name: str, default: int | None = None
) -> int:
  found = given.get(name, '')
  if not found and default is not None:
    return default
  if not re.fullmatch('[0-9]{1,18}', found):  # 64 bits hold them
    raise _malformed(name, 'a whole number')
  return int(found)


def search(given: Mapping[str, str]) -> str:
  found = given.get('words', '').strip()
  if len(found) > _MAX_SEARCH or len(words(found)) > _MAX_WORDS:
    raise _malformed(
      'words', f'at most {_MAX_WORDS}, of {_MAX_SEARCH} characters together'
    )
  return found


def paged(given: Mapping[str, str], total: int) -> dict[str, Any]:
  """Of the page's rows start and stop; its number, the last one's, `total`."""
  n, last = number(given, 'page', 1), max(1, -(-total // PAGE))
  if n < 1:
    raise _malformed('page', 'a whole number from 1')
  if n > last:
    raise HTTPException(404, f'There is no page {n}: the last one is {last}.')
  start, stop = (n - 1) * PAGE, min(total, n * PAGE)
  return dict(start=start, stop=stop, number=n, last=last, total=total)


def _text(given, name) -> str | None:
  found = given.get(name, '')
  if found and found[0] != '=':
    raise _malformed(name, "'=' and a text")
  return found[1:] if found else None


def _one_of(given, name, known) -> str:
  found = given.get(name) or known[0]
  if found not in known:
    raise _malformed(name, f'one of {", ".join(known)}')
  return found


def _malformed(name: str, expected: str) -> HTTPException:
  return HTTPException(
    400, f'The field {name!r} of the address cannot be read: expected '
    f'{expected}.'
  )  # fmt: skip
