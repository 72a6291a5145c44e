import json
import pathlib
import tempfile
from unittest import mock

import numpy as np
from absl.testing import absltest, parameterized
from tiny import corpus
from tiny import ladder as tiny_ladder

from configs import dot_product as dot_product_config
from experiments import dot_product, dot_product_figure, ladder
from influence_jax.data import candidates
from influence_jax.data import queries as queries_lib
from influence_jax.data import sequences as sequences_lib
from influence_jax.data import tokenizer as tokenizer_lib

QUERIES = [
  queries_lib.Query('a', 'the cat', ' sat', {'keywords': 'blue tree|mat'}),
  queries_lib.Query('b', '', 'a blue tree', {'class': 'simple'}),
  queries_lib.Query(
    'c', 'red house', ' ran', {'keywords': 'red house|cat sat'}
  ),
]
NUM_TOP = 12


def _config(**kwargs):
  config = tiny_ladder.config(**kwargs)
  config.dot_product = dot_product_config.get_config().dot_product
  config.dot_product.update(sizes=(), num_top=NUM_TOP)
  return config


def _hits(**hits):
  zeros = np.zeros(len(hits['identity']))
  return {
    name: np.array(hits.get(name, zeros), float)
    for name in (*dot_product_figure.METHODS, 'chance')
  }


class MentionsTest(parameterized.TestCase):
  @parameterized.parameters(
    ('The Price of tea', True),
    ('PRICE, they said', True),
    ('prices rose', False),
    ('enterprice', False),
    ('consumer\n  Price index', True),
    ('a price_index', False),
    ('the price-index', True),
    ('', False),
  )
  def test_a_word_counts_whole_and_in_any_case(self, text, wanted):
    (got,) = dot_product.mentions([text], ['price'])
    self.assertEqual(got, wanted)

  @parameterized.parameters(
    ('home\nrun', True), ('Home  Run!', True), ('home', False),
    ('run home', False), ('homerun', False), ('home runs', False),
    ('a.b', True), ('axb', False),
  )  # fmt: skip
  def test_phrases_and_signs_are_taken_as_they_are(self, text, wanted):
    (got,) = dot_product.mentions([text], ['home run', 'a.b'])
    self.assertEqual(got, wanted)


class KeywordsTest(absltest.TestCase):
  def test_all_shipped_ones_can_be_read(self):
    shipped = queries_lib.read_queries('configs/english_queries.jsonl')
    found = [dot_product.keywords(x) for x in shipped if 'keywords' in x.labels]
    self.assertLen(found, 33)
    for words in found:
      self.assertEqual(words, [word.strip().lower() for word in words])

  def test_a_blank_one_would_be_everywhere_and_is_refused(self):
    for text in ('', 'cat||dog', 'cat| '):
      query = queries_lib.Query('a', '', 'x', {'keywords': text})
      with self.assertRaisesRegex(ValueError, "'a' has keywords.*blank"):
        dot_product.keywords(query)


class ClaimsTest(parameterized.TestCase):
  @parameterized.parameters(
    ([3, 1], [1, 1], 2, True),
    ([3, 0.9], [1, 1], 1.95, False),
    ([9, 1], [0, 5], 2, True),
    ([1, 0.9], [0, 0], 1.9, False),
    ([2, 0], [0, 0], 2, True),
  )
  def test_it_holds_from_twice_the_hits_on(self, ours, theirs, value, held):
    rungs = [ladder.Rung('d128', 1, None, None)]
    hits = _hits(ekfac=ours, identity=theirs)
    (found,) = dot_product.claimed(hits, rungs, 50)
    self.assertAlmostEqual(found['value'], value)
    self.assertEqual(found['held'], held)
    self.assertEqual((found['id'], found['threshold']), ('E13', ['>=', 2]))
    self.assertEqual((found['seeds'], found['sizes']), ([1], ['d128']))

  def test_its_interval_draws_both_hits_of_a_query_together(self):
    theirs = np.random.default_rng(0).uniform(1, 40, 20)
    got = dot_product.ratio(3 * theirs, theirs)
    np.testing.assert_allclose(got, [3, 3, 3])
    noise = np.random.default_rng(1).normal(size=20)
    value, low, high = dot_product.ratio(3 * theirs + noise, theirs)
    residual = (
      3 * theirs + noise - value * theirs
    )  # the ratio estimator's error
    error = residual.std(ddof=1) / np.sqrt(20) / theirs.mean()
    self.assertBetween((high - low) / (2 * 1.96 * error), 0.7, 1.2)

  def test_a_method_is_ahead_only_where_it_has_more(self):
    hits = _hits(kfac=[1, 2, 3], identity=[1, 1, 5], chance=[1, 0.5, 0.5])
    found = dot_product.summary(hits, 'kfac')
    self.assertEqual(found['more_than_dot_product'], 1)
    self.assertEqual(found['hits'][0], 2)
    self.assertAlmostEqual(found['to_chance'][0], 3)
    self.assertAlmostEqual(found['to_dot_product'][0], 6 / 7)


class DrawTest(absltest.TestCase):
  def test_queries_are_in_the_order_of_our_hits(self):
    hits = _hits(ekfac=[1, 9, 4], identity=[2, 3, 0], chance=[0.5, 1, 1])
    fig = dot_product_figure.draw(['x', 'y', 'z'], hits, 12)
    (axes,) = fig.axes
    names = [label.get_text() for label in axes.get_yticklabels()]
    self.assertEqual(names, ['y', 'z', 'x'])
    lines = {line.get_label(): line for line in axes.get_lines()}
    np.testing.assert_allclose(lines['EK-FAC'].get_xdata(), [9, 4, 1])
    np.testing.assert_allclose(lines['dot product'].get_xdata(), [3, 0, 2])
    np.testing.assert_allclose(lines['by chance'].get_xdata(), [1, 1, 0.5])
    low, high = axes.get_ylim()
    self.assertGreater(low, high)  # the first on top


class RunTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    self.root = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    self.folder = self.root / 'dot_product'

  def write(self, config, queries=QUERIES):
    self.made = {}

    def kept(rung, shape):
      rng = np.random.default_rng(len(self.made))
      self.made[rung.name] = rng.standard_t(3, shape).astype(np.float32)
      return self.made[rung.name]

    tiny_ladder.write(self.root, config, queries=queries, scores_fn=kept)
    self.sequences = sequences_lib.open(self.root / 'sequences')

  def result(self):
    return json.loads((self.folder / 'result.json').read_text())

  def words(self):
    """Of each sequence, cut out of its document by counting tokens."""
    tokenizer = tokenizer_lib.load(self.root / 'tokenizer.json')
    documents = corpus.load(None)
    found = []
    for record in self.sequences.records:
      text = documents[record['document']]['text']
      offsets = tokenizer.encode(text).offsets
      first, chunk = int(record['first']), int(record['size']) - 1
      last = min(first + chunk, len(offsets)) - 1
      found.append(text[offsets[first][0] : offsets[last][1]].split())
    return found

  def has(self, query):
    pairs = query.labels['keywords'].split('|')
    phrases = [phrase.split() for phrase in pairs]
    return np.array(
      [
        any(
          words[n : n + len(phrase)] == phrase
          for phrase in phrases
          for n in range(len(words))
        )
        for words in self.words()
      ]
    )

  def test_hits_are_counted_in_every_order_and_averaged_over_models(self):
    config = _config(seeds=(0, 1))
    self.write(config)
    dot_product.run(config, self.root)
    result = self.result()
    tokenizer = tokenizer_lib.load(self.root / 'tokenizer.json')
    expected = {
      name: np.zeros(2) for name in (*dot_product_figure.METHODS, 'chance')
    }
    for row in result['queries']:
      k = 'abc'.index(row['query'])
      query, has_N = QUERIES[k], self.has(QUERIES[k])
      self.assertBetween(has_N.mean(), 0.05, 0.95)
      for a, name in enumerate(('ekfac', 'identity', 'kfac')):
        order = np.argsort(-self.made[row['rung']][a, k])[:NUM_TOP]
        self.assertEqual(row[name], has_N[order].sum())
        expected[name][k // 2] += row[name] / 4
      tokens = tokenizer_lib.encode(tokenizer, [query.prompt, query.completion])
      (bm25_KxN,) = candidates.bm25(self.sequences, [sum(tokens, [])])
      order = np.argsort(-bm25_KxN[0], kind='stable')[:NUM_TOP]
      self.assertEqual(row['bm25'], has_N[order].sum())
      self.assertAlmostEqual(row['chance'], has_N.mean() * NUM_TOP)
    self.assertLen(result['queries'], 4 * 2)  # the one without keywords is not
    (claim,) = result['claims']
    ratio = expected['ekfac'].sum() / expected['identity'].sum()
    self.assertAlmostEqual(claim['value'], ratio)
    self.assertEqual((claim['seeds'], claim['sizes']), ([0, 1], ['s', 'l']))
    found = result['methods']['kfac']
    self.assertAlmostEqual(found['hits'][0], expected['kfac'].mean())
    more = (expected['kfac'] > expected['identity']).sum()
    self.assertEqual(found['more_than_dot_product'], more)
    png = self.folder / 'dot_product.png'
    self.assertGreater(png.stat().st_size, 10_000)

  def test_every_word_of_the_sequences_is_seen_and_their_border_is_none(self):
    words = sorted({x for d in corpus.load(None) for x in d['text'].split()})
    queries = [
      queries_lib.Query(word, '', ' sat', {'keywords': word})
      for word in (*words, 'endoftext')
    ]
    config = _config(seeds=(0,))
    config.dot_product.sizes = ('l',)
    self.write(config, queries=queries)
    dot_product.run(config, self.root)
    rows = self.result()['queries']
    self.assertEqual({row['rung'] for row in rows}, {'l_seed0'})
    for query, row in zip(queries, rows, strict=True):
      self.assertAlmostEqual(row['chance'], self.has(query).mean() * NUM_TOP)
    self.assertEqual(rows[-1]['chance'], 0)

  def test_a_model_is_counted_once_and_other_scores_are_not_taken_for_it(self):
    config = _config(sizes=('s',), seeds=(0,))
    self.write(config)
    dot_product.run(config, self.root)
    first = self.result()
    again = mock.patch.object(
      dot_product, 'mentions', side_effect=AssertionError
    )
    with again:
      dot_product.run(config, self.root)
    self.assertEqual(self.result()['claims'], first['claims'])
    config.dot_product.num_top = NUM_TOP - 1
    with self.assertRaisesRegex(ValueError, 'num_top is 12 there, 11 here'):
      dot_product.run(config, self.root)
    config.dot_product.num_top = NUM_TOP
    twice = self.made['s_seed0'] * [[[1]], [[2]], [[1]]]
    tiny_ladder.write(
      self.root, config, queries=QUERIES, scores_fn=lambda *_: twice
    )
    with self.assertRaisesRegex(ValueError, 'scores.identity is .* there'):
      dot_product.run(config, self.root)

  def test_of_a_scan_of_some_sequences_only_they_count(self):
    config = _config(sizes=('s',), seeds=(0,))
    self.write(config)
    scores = self.root / 's_seed0' / 'scores'
    numbers = np.arange(0, len(self.sequences), 2)
    found = dot_product.scored.load(scores, self.sequences)
    kept = found._replace(numbers=numbers, scores=found.scores[..., numbers])
    with mock.patch.object(dot_product.scored, 'load', return_value=kept):
      dot_product.run(config, self.root)
    (row, _) = self.result()['queries']
    has_C = self.has(QUERIES[0])[numbers]
    order = np.argsort(-kept.scores[0, 0])[:NUM_TOP]
    self.assertEqual(row['ekfac'], has_C[order].sum())
    self.assertAlmostEqual(row['chance'], has_C.mean() * NUM_TOP)

  def test_without_a_ladder_the_workdir_is_the_only_model(self):
    config = _config(sizes=('s',), seeds=(0,))
    config.dot_product.sizes = ('d128',)
    self.write(config)
    del config.ladder
    dot_product.run(config, self.root / 's_seed0')
    path = self.root / 's_seed0' / 'dot_product' / 'result.json'
    result = json.loads(path.read_text())
    self.assertEqual([x['query'] for x in result['queries']], ['a', 'c'])
    self.assertEqual(result['claims'][0]['sizes'], [])

  def test_queries_without_keywords_are_named(self):
    config = _config(sizes=('s',), seeds=(0,))
    self.write(config, queries=QUERIES[1:2])
    with self.assertRaisesRegex(ValueError, "none of the 1 queries.*'keyw"):
      dot_product.run(config, self.root)

  def test_a_model_that_is_not_scored_is_named(self):
    config = _config()
    self.write(config)
    (self.root / 'l_seed1' / 'scores' / 'manifest.json').unlink()
    with self.assertRaisesRegex(ValueError, 'l_seed1.*train_ladder to the end'):
      dot_product.run(config, self.root)

  def test_a_scan_of_too_few_is_named(self):
    config = _config(sizes=('s',), seeds=(0,))
    self.write(config)
    config.dot_product.num_top = 10_000
    with self.assertRaisesRegex(ValueError, 'sequences were scanned.*10000'):
      dot_product.run(config, self.root)


if __name__ == '__main__':
  absltest.main()
