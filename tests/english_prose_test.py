import json
import pathlib
import subprocess
import sys
import tempfile
import zipfile
from unittest import mock

import english_parts_test as archives
from absl.testing import absltest, parameterized

from influence_jax.data import (
  english_parts,
  english_prose,
  packages,
  wiki_leads,
)


class LoadTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    directory = self.enter_context(tempfile.TemporaryDirectory())
    self.directory = pathlib.Path(directory)
    stdlib = {
      f'{archives.MOBY}chapter_{n}.json': archives.chapter(f'M{n}')
      for n in range(1, 51)
    }
    stdlib['package/sotu/data/1790_g_n.json'] = archives.message(
      1790, 'G W', 'S'
    )
    novels = {x: ['Chapter 1', x] for x in english_parts.NOVELS}
    files = {
      english_prose.STDLIB: stdlib,
      english_prose.BROWN: {'package/ca01': 'Brown/at'},
      english_prose.ANARCHISM: {archives.FAQ + 'intro.html': '<p>Été</p>'},
      english_prose.AUSTEN: archives.lazy_load(novels),
    }
    self.archives = {
      package: archives.write_tgz(self.directory / f'{n}.tgz', members)
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

  def test_long_texts_are_cut_by_characters_and_short_ones_stay(self):
    source = self.load(parts=['wiki', 'brown', 'anarchism'], max_chars=4)
    kept = {x['id']: x for x in english_prose.documents(source)}
    texts = [kept[n]['text'] for n in (0, 10, 111, 112)]
    self.assertEqual(texts, ['W0\nx', 'W10\n', 'Brow', 'Été'])
    self.assertEqual(kept[111]['topic'], 'Brown: Press reportage')
    held = [x['text'] for x in english_prose.held_out(source)]
    self.assertEqual(held, ['W49\n'])

  def test_source_stays_whole_whatever_is_cut(self):
    source = self.load(max_chars=2)
    everything = self.load()
    for n in range(119):
      self.assertEqual(source[n], everything[n])
    self.assertEqual(source[112]['text'].decode(), 'Été')
    (short,) = (x for x in english_prose.documents(source) if x['id'] == 112)
    self.assertEqual(short['text'], 'Ét')

  def test_prepared_documents_need_no_archive(self):
    self.load()
    self.archives.clear()
    self.assertLen(self.load(), 119)

  def test_unknown_part_is_a_value_error_before_anything_is_fetched(self):
    self.archives.clear()
    with self.assertRaisesRegex(ValueError, r"\['bible'\].*'austen'"):
      self.load(parts=['wiki', 'bible'])

  @parameterized.parameters(0, -1)
  def test_texts_of_no_characters_are_a_value_error(self, max_chars):
    self.archives.clear()
    with self.assertRaisesRegex(ValueError, f'max_chars is {max_chars} .* 1 '):
      self.load(max_chars=max_chars)

  def test_import_needs_no_rdata(self):
    code = (
      'import sys; from influence_jax.data import english_prose; '
      'sys.exit("rdata" in sys.modules)'
    )
    subprocess.run([sys.executable, '-c', code], check=True)


if __name__ == '__main__':
  absltest.main()
