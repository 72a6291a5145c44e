"""The parts of english_prose, each parsed out of its package's archive.

A parser takes the archive's path and gives dicts of `title`, `topic` and
`text`, a paragraph a line, without markup, headings and editors' notes. A
damaged archive is a ValueError.
"""

import gzip
import html
import html.parser
import json
import os
import pathlib
import re
import warnings
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

from influence_jax.data import packages, wiki_leads

GENRES = {  # by the letter of a Brown id
  'a': 'Press reportage',
  'b': 'Press editorials',
  'c': 'Press reviews',
  'd': 'Religion',
  'e': 'Skills and hobbies',
  'f': 'Popular lore',
  'g': 'Belles lettres',
  'h': 'Government and house organs',
  'j': 'Learned',
  'k': 'General fiction',
  'l': 'Mystery fiction',
  'm': 'Science fiction',
  'n': 'Adventure fiction',
  'p': 'Romance fiction',
  'r': 'Humor',
}
NOVELS = {
  'sensesensibility': 'Sense and Sensibility',
  'prideprejudice': 'Pride and Prejudice',
  'mansfieldpark': 'Mansfield Park',
  'emma': 'Emma',
  'northangerabbey': 'Northanger Abbey',
  'persuasion': 'Persuasion',
}
# Without tables of contents, links and news; without append13*, an earlier
# section F, up to 2/3 the same.
PAGES = (
  r'(intro|10years|vol[12]intro|sec[A-J](int|\d+)|append(11|12|2|3\d|4\d))'
)


def wiki(wheel: str | os.PathLike) -> Iterator[dict[str, str]]:
  """A document an article's lead."""
  for article in wiki_leads.articles(wheel):
    text = _paragraphs(article['text'].replace('\n', '\n\n'))
    yield {'title': article['title'], 'topic': article['topic'], 'text': text}


def sotu(archive: str | os.PathLike) -> Iterator[dict[str, str]]:
  """A document a message, by year."""
  pattern = r'package/sotu/data/\d{4}_\w+[.]json'
  for _, data in sorted(packages.read_all(archive, pattern).items()):
    message = json.loads(data)
    name = message['name'].replace('Mc ', 'Mc')
    name = re.search(r'(Van )?\w+$', name)[0]
    text = html.unescape(message['text'])
    text = re.sub(r'(?i)[(\[](applause|laughter)[.]?[)\]]', '', text)
    text = re.sub(r'\[At this point[^]]*\]', '', text)
    text = re.sub(r'_{2,}|[.]{4,}', ' ', text)  # rules and leaders of tables
    yield {
      'title': f'State of the Union {message["year"]} ({name})',
      'topic': 'State of the Union',
      'text': _paragraphs(text),
    }


def moby_dick(archive: str | os.PathLike) -> Iterator[dict[str, str]]:
  """A document a chapter; the epilogue is the last part."""
  folder = 'package/moby-dick/data/'
  files = packages.read_all(archive, rf'{folder}(chapter_\d+|epilogue)[.]json')
  in_order = sorted(files, key=lambda x: ('epilogue' in x, len(x), x))
  for n, name in enumerate(in_order, 1):
    text = json.loads(files[name])['text']
    yield {
      'title': f'Moby-Dick, part {n}',
      'topic': 'Moby-Dick',
      'text': _paragraphs(re.sub('^Epilogue .*', '', text)),
    }


def brown(archive: str | os.PathLike) -> Iterator[dict[str, str]]:
  """A document a sample of 2,000 words, without tags."""
  files = packages.read_all(archive, r'package/c[a-r]\d\d')
  for name, data in sorted(files.items()):
    name = pathlib.PurePosixPath(name).name
    tagged = re.split(r'\n\s*\n', data.decode())
    words = ([w.rsplit('/', 1)[0] for w in x.split()] for x in tagged)
    yield {
      'title': name,
      'topic': f'Brown: {GENRES[name[1]]}',
      'text': _paragraphs('\n\n'.join(map(untokenize, words))),
    }


def anarchism(archive: str | os.PathLike) -> Iterator[dict[str, str]]:
  """A document a page of `PAGES`."""
  folder = 'usr/share/doc/anarchism/html/'
  files = packages.read_all(archive, folder + PAGES + '[.]html')
  for _, data in sorted(files.items()):
    page = Page()
    page.feed(data.decode())
    page.close()
    text = re.sub(
      '.*(Copyright .C.|GNU Free|[.]gnu[.]).*', '', ''.join(page.text)
    )
    yield {
      'title': ' '.join(page.title.removesuffix('| Anarchist Writers').split()),
      'topic': 'Anarchist FAQ',
      'text': _paragraphs(text),
    }


def austen(archive: str | os.PathLike) -> Iterator[dict[str, str]]:
  """A document a chapter, the novels in the order of their publication."""
  folder = 'usr/lib/R/site-library/janeaustenr/data/'
  index = packages.read(archive, folder + 'Rdata.rdx')
  data = packages.read(archive, folder + 'Rdata.rdb')
  places = _r_object(gzip.decompress(index))['variables']
  for novel, title in NOVELS.items():
    start, size = map(int, places[novel])
    # The first 4 bytes give the size before compression.
    lines = _r_object(zlib.decompress(data[start + 4 : start + size]))
    for n, chapter in enumerate(chapters('\n'.join(map(str, lines))), 1):
      yield {
        'title': f'{title}, part {n}',
        'topic': 'Austen',
        'text': chapter,
      }


def untokenize(words: Sequence[str]) -> str:
  """Brown's words, with marks set off and some doubled, as one writes them."""
  kept = []
  for word in words:
    doubled = kept and word == kept[-1] and word in (';', '?', '!', ':')
    if not doubled and not word.startswith('**'):  # **zg is some formula
      kept.append(word)
  text = ' '.join(kept)
  # The corpus has every mark after the quotation, printers some within.
  text = re.sub(r"'' ([,.?!])(?!\S)", r"\1 ''", text)
  text = re.sub(r"(?<!\S)' (.*?) '(?!\S)", r"'\1'", text)
  text = re.sub(r'(``|(?<!\S)[(\[]) ', r'\1', text)
  text = re.sub(r" (''|[,.;:?!)\]](?!\S))", r'\1', text)
  return re.sub(r"``|''", '"', text)


def chapters(novel: str) -> list[str]:
  """The chapters' texts; front matter, headings and notes left out."""
  notes = r'(?im)^\s*\[(end|at this point)[^]]*\]\s*$'
  novel = re.sub(notes, '\n', novel).replace('_', '')
  ends = r'(?ims)^\s*(finis|the end|a note on the text)\.?\s*$.*'
  headings = r'(?im)^\s*(?:volume|chapter) (?:[ivxlc]+|\d+)\.?\s*$'
  pieces = re.split(headings, re.sub(ends, '', novel))[1:]
  return [text for text in map(_paragraphs, pieces) if text]


class Page(html.parser.HTMLParser):
  """`title` and pieces of `text`, the blocks set off by blank lines."""

  BLOCKS = frozenset('p h1 h2 h3 h4 blockquote div li ul ol dt dd hr'.split())
  SKIPPED = frozenset(('title', 'table', 'script', 'style'))

  def __init__(self):
    super().__init__()
    self.title = ''
    self.text = []
    self._open = []  # of SKIPPED
    self._ended = False

  def handle_starttag(self, tag, attrs):
    if tag in self.SKIPPED:
      self._open.append(tag)
    self._ended |= dict(attrs).get('class') == 'book-navigation'
    self._break(tag)

  def handle_endtag(self, tag):
    if tag in self._open:
      self._open.remove(tag)
    self._break(tag)

  def handle_data(self, data):
    if self._open[-1:] == ['title']:
      self.title += data
    elif not self._open and not self._ended:
      self.text.append(re.sub(r'\s+', ' ', data))

  def _break(self, tag):
    if tag in self.BLOCKS:
      self.text.append('\n\n')
    elif tag == 'br':
      self.text.append(' ')


def _paragraphs(text: str) -> str:
  """Each paragraph on a line; blank lines part them in `text`."""
  text = re.sub('[\x02\xad\u2060]', '', text)  # not seen, but tokens
  lines = (' '.join(x.split()) for x in re.split(r'\n\s*\n', text))
  return '\n'.join(line for line in lines if line)


def _r_object(data: bytes) -> Any:
  import rdata  # for building only

  with warnings.catch_warnings():
    warnings.simplefilter('ignore')  # a package's classes are unknown to it
    return rdata.conversion.convert(rdata.parser.parse_data(data))
