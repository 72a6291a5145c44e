import gzip
import io
import json
import pathlib
import tarfile
import tempfile
import zlib

import numpy as np
from absl.testing import absltest, parameterized

from influence_jax.data import english_parts

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
    return list(getattr(english_parts, part)(write_tgz(self.path, files)))

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
      for name, title in english_parts.NOVELS.items()
    }
    novels['emma'] += ['left out']
    novels['persuasion'] = ['Chapter 1', 'One.', 'Chapter 2', 'Two.', 'Finis']
    found = self.parse('austen', lazy_load(novels))
    titles = [f'{title}, part 1' for title in english_parts.NOVELS.values()]
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
      english_parts.chapters(novel),
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
    self.assertEqual(english_parts.untokenize(spaced.split()), text)


if __name__ == '__main__':
  absltest.main()
