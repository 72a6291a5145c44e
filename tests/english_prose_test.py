import gzip
import io
import json
import pathlib
import subprocess
import sys
import tarfile
import tempfile
import zipfile
import zlib
from unittest import mock

import numpy as np
from absl.testing import absltest, parameterized

from influence_jax.data import english_prose, packages, wiki_leads

try:
  import rdata
except ImportError:
  rdata = None

MOBY = 'package/moby-dick/data/'
FAQ = 'usr/share/doc/anarchism/html/'
AUSTEN = 'usr/lib/R/site-library/janeaustenr/data/'


def write_tgz(path, files):
  with tarfile.open(path, 'w:gz') as archive:
    for name, data in files.items():
      data = data if isinstance(data, bytes) else data.encode()
      member = tarfile.TarInfo(name)
      member.size = len(data)
      archive.addfile(member, io.BytesIO(data))
  return path


def message(year, name, text):
  return json.dumps({'year': year, 'name': name, 'text': text})


def chapter(text):
  return json.dumps({'chapter': '1', 'title': 'Loomings.', 'text': text})


def lazy_load(novels):
  """R's .rdx and .rdb of the novels' lines, written by `rdata`."""
  if rdata is None:
    raise absltest.SkipTest("AUSTEN'S ARCHIVE IS NOT TESTED: rdata is not here")

  def rds(value):
    with tempfile.TemporaryDirectory() as directory:
      path = pathlib.Path(directory) / 'x.rds'
      rdata.write_rds(path, value, compression=None)
      return path.read_bytes()

  base, places = b'before', {}
  for name, lines in novels.items():
    plain = rds(np.array(lines))
    data = len(plain).to_bytes(4, 'big') + zlib.compress(plain)
    places[name] = np.array([len(base), len(data)], np.int32)
    base += data
  index = rds({'variables': places, 'compressed': True})
  return {
    AUSTEN + 'Rdata.rdx': gzip.compress(index),
    AUSTEN + 'Rdata.rdb': base + b'after',
  }


class PartsTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    directory = self.enter_context(tempfile.TemporaryDirectory())
    self.path = pathlib.Path(directory) / 'x.tgz'

  def parse(self, part, files):
    return list(getattr(english_prose, part)(write_tgz(self.path, files)))

  def test_messages_come_by_year_without_the_audience(self):
    folder = 'package/sotu/data/'
    text = 'We won [Applause] it. (applause.) A &quot;fair&quot;\n  deal ......'
    found = self.parse(
      'sotu',
      {
        folder + '1838_martin_van_buren_d.json': message(
          1838, 'Martin Van Buren', text
        ),
        folder + '1897_william_mc_kinley_r.json': message(
          1897, 'William Mc Kinley', 'b'
        ),
        folder + '1790_george_washington_n.json': message(
          1790, 'George Washington', 'a'
        ),
        folder + '1790_george_washington_n.txt': 'the same in other clothes',
      },
    )
    self.assertEqual(
      [x['title'] for x in found],
      [
        'State of the Union 1790 (Washington)',
        'State of the Union 1838 (Van Buren)',
        'State of the Union 1897 (McKinley)',
      ],
    )
    self.assertEqual(found[1]['text'], 'We won it. A "fair" deal')
    self.assertEqual(found[1]['topic'], 'State of the Union')

  def test_chapters_of_moby_dick_come_by_number(self):
    found = self.parse(
      'moby_dick',
      {
        MOBY + 'chapter_10.json': chapter('tenth'),
        MOBY + 'epilogue.json': chapter('Epilogue "AND I" Job.\n\nThe end.\n'),
        MOBY + 'etymology.json': chapter('whale'),
        MOBY + 'chapter_2.json': chapter('second\nline\n\nnew   one'),
      },
    )
    texts = ['second line\nnew one', 'tenth', 'The end.']
    self.assertEqual([x['text'] for x in found], texts)
    titles = [f'Moby-Dick, part {n}' for n in (1, 2, 3)]
    self.assertEqual([x['title'] for x in found], titles)

  def test_brown_loses_its_tags_and_keeps_its_paragraphs(self):
    text = (
      '\n\n\tThe/at 1/2/cd jury/nn said/vbd ,/, ``/`` No/rb '
      "/'' ./.\n"
      'It/pps did/dod ;/. ;/.\nso/rb ./.\n\n\n\tNew/jj (/( one/cd )/) ./.\n'
    ).replace(' /', " ''/")
    found = self.parse(
      'brown', {'package/cr09': 'A/at', 'package/ca01': text, 'package/c': ''}
    )
    self.assertEqual(
      found,
      [
        {
          'title': 'ca01',
          'topic': 'Brown: Press reportage',
          'text': 'The 1/2 jury said, "No." It did; so.\nNew (one).',
        },
        {'title': 'cr09', 'topic': 'Brown: Humor', 'text': 'A'},
      ],
    )

  def test_faq_pages_are_text_without_navigation(self):
    page = (
      '<html><head><title>A.1 What &amp; why?\n | Anarchist Writers</title>'
      '</head><body><div class="content"><h2>A.1</h2>\n<p>One <i>"two\n'
      'three"</i>\n\nfour &lt;5&gt;<br />six</p><ul><li>seven<li>eight</ul>'
      '<table><tr><td>9</td></tr></table><blockquote><p> ten </p></blockquote>'
      '<p>Version 15 Copyright (C) 1995</p>'
      '<div id="b" class="book-navigation"><div><a>up</a></div></div>'
      '<p>below</p></body></html>'
    )
    found = self.parse(
      'anarchism',
      {
        FAQ + 'secA1.html': page,
        FAQ + 'secAcon.html': 'contents',
        FAQ + 'links.html': 'links',
        FAQ + 'append13.html': 'contents',
        FAQ + 'append131.html': 'as F.1',
        FAQ + 'secA1.html.gz': 'other',
      },
    )
    self.assertEqual(
      found,
      [
        {
          'title': 'A.1 What & why?',
          'topic': 'Anarchist FAQ',
          'text': 'A.1\nOne "two three" four <5> six\nseven\neight\nten',
        }
      ],
    )

  def test_novels_are_cut_at_chapters(self):
    novels = {
      name: [
        'TITLE',
        '',
        'CHAPTER 1',
        '',
        f'In {title} they',
        'met.',
        'THE END',
      ]
      for name, title in english_prose.NOVELS.items()
    }
    novels['emma'] += ['left out']
    novels['persuasion'] = ['Chapter 1', 'One.', 'Chapter 2', 'Two.', 'Finis']
    found = self.parse('austen', lazy_load(novels))
    titles = [f'{title}, part 1' for title in english_prose.NOVELS.values()]
    self.assertEqual(
      [x['title'] for x in found], [*titles, 'Persuasion, part 2']
    )
    self.assertEqual(found[3]['text'], 'In Emma they met.')
    self.assertEqual(found[6]['text'], 'Two.')

  def test_chapters_lose_headings_notes_and_emphasis(self):
    novel = (
      'EMMA\n\nby J\n\nVOLUME I\n\n\nCHAPTER I\n\n\nBetween _them_\nit was.\n\n'
      '  Chapter xi of it\n\n  [End volume one of this edition.]\n\nVOLUME II\n'
      '\nCHAPTER XIX.\n\nChapter 2 was read.\n\n[To Mrs. Weston.]\n\nFINIS\n\n'
      'A NOTE ON THE TEXT\n\nWritten in 1797.'
    )
    self.assertEqual(
      english_prose.chapters(novel),
      [
        'Between them it was.\nChapter xi of it',
        'Chapter 2 was read.\n[To Mrs. Weston.]',
      ],
    )


class UntokenizeTest(parameterized.TestCase):
  @parameterized.parameters(
    ("said , `` yes '' , and", 'said, "yes," and'),
    ("`` is it '' ? ? he asked : :", '"is it?" he asked:'),
    ("`` so '' ; ; then", '"so"; then'),
    ("the ' Met ' and `` a ' b ' '' .", "the 'Met' and \"a 'b'.\""),
    ("don't take the boys' 12'' :35 .22 gun", None),
    ('that that was', None),
    ('a ( b , [ c ] ) -- d !', 'a (b, [c]) -- d!'),
    ('where **zg is , say , **yf .', 'where is, say,.'),
    ('', ''),
  )
  def test_marks_join_their_words(self, spaced, text):
    if text is None:
      text = spaced.replace("''", '"')
    self.assertEqual(english_prose.untokenize(spaced.split()), text)


class LoadTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    directory = self.enter_context(tempfile.TemporaryDirectory())
    self.directory = pathlib.Path(directory)
    stdlib = {f'{MOBY}chapter_{n}.json': chapter(f'M{n}') for n in range(1, 51)}
    stdlib['package/sotu/data/1790_g_n.json'] = message(1790, 'G W', 'S')
    novels = {x: ['Chapter 1', x] for x in english_prose.NOVELS}
    files = {
      english_prose.STDLIB: stdlib,
      english_prose.BROWN: {'package/ca01': 'Brown/at'},
      english_prose.ANARCHISM: {FAQ + 'intro.html': '<p>Été</p>'},
      english_prose.AUSTEN: lazy_load(novels),
    }
    self.archives = {
      package: write_tgz(self.directory / f'{n}.tgz', members)
      for n, (package, members) in enumerate(files.items())
    }
    lead = {'title': 'T', 'description': 'd', 'topic': 'Arts'}
    leads = {n: {**lead, 'extract': f'W{n}\n x'} for n in range(60)}
    wheel = self.directory / 'w.whl'
    with zipfile.ZipFile(wheel, 'w') as archive:
      archive.writestr(wiki_leads.MEMBER, json.dumps(leads))
    self.archives[wiki_leads.PACKAGE] = wheel

  def load(self, **kwargs):
    fetch = mock.patch.object(
      packages, 'fetch', lambda package, cache_dir: self.archives[package]
    )
    with fetch:
      return english_prose.load(self.directory / 'data', **kwargs)

  def test_every_document_is_in_training_or_held_out(self):
    source = self.load()
    self.assertLen(source, 60 + 1 + 50 + 1 + 1 + 6)
    kept = list(english_prose.documents(source))
    held = list(english_prose.held_out(source))
    self.assertEqual([x['id'] for x in held], [49, 99])
    rest = [n for n in range(119) if n not in (49, 99)]
    self.assertEqual([x['id'] for x in kept], rest)
    order = list(dict.fromkeys(x['source'] for x in kept))
    self.assertEqual(order, list(english_prose.ALL))
    self.assertEqual(
      kept[0],
      {
        'id': 0,
        'title': 'T',
        'topic': 'Arts',
        'text': 'W0\nx',
        'source': 'wiki',
      },
    )
    self.assertEqual(kept[110]['text'], 'Été')

  def test_ids_are_of_all_documents_whatever_the_parts(self):
    everything = self.load()
    source = self.load(parts=['brown', 'moby_dick'])
    for n in range(119):
      self.assertEqual(source[n]['id'], n)
      self.assertEqual(source[n], everything[n])
    kept = list(english_prose.documents(source))
    moby = [n for n in range(61, 111) if n != 99]
    self.assertEqual([x['id'] for x in kept], [*moby, 111])
    held = list(english_prose.held_out(source))
    self.assertEqual([(x['id'], x['text']) for x in held], [(99, 'M39')])

  def test_prepared_documents_need_no_archive(self):
    self.load()
    self.archives.clear()
    self.assertLen(self.load(), 119)

  def test_unknown_part_is_a_value_error_before_anything_is_fetched(self):
    self.archives.clear()
    with self.assertRaisesRegex(ValueError, r"\['bible'\].*'austen'"):
      self.load(parts=['wiki', 'bible'])

  def test_import_needs_no_rdata(self):
    code = (
      'import sys; from influence_jax.data import english_prose; '
      'sys.exit("rdata" in sys.modules)'
    )
    subprocess.run([sys.executable, '-c', code], check=True)


if __name__ == '__main__':
  absltest.main()
