"""Tests of experiments.scaling on made-up scores, and of what it measures."""

import collections
import html.parser
import json
import math
import pathlib
import re
import tempfile
from unittest import mock

import numpy as np
from absl.testing import absltest, parameterized
from tiny import corpus as tiny_corpus
from tiny import ladder as tiny_ladder

from configs import scaling as scaling_config
from experiments import (
  corpus,
  ladder,
  scaling,
  scaling_figure,
  scaling_measures,
  scaling_sequences,
  scaling_slopes,
  scored,
)
from influence_jax import store
from influence_jax.data import encoder, queries
from influence_jax.data import sequences as sequences_lib
from influence_jax.data import tokenizer as tokenizer_lib
from influence_jax.report import figures

TOPICS = [{'topic': 'tales'}, {'topic': 'songs'}, {'class': 'other'}]
QUERIES = [
  query._replace(labels=labels)
  for query, labels in zip(tiny_ladder.QUERIES, TOPICS, strict=True)
]
WORDS = 'the cat dog sat on a mat ran to from red blue house tree and'.split()
SIZES = {'s': 1000, 'm': 10_000, 'l': 1_000_000}


def config(sizes=tuple(SIZES), seeds=(0, 1)):
  c = tiny_ladder.config(sizes, seeds)
  c.scaling = scaling_config.get_config().scaling
  c.scaling.update(num_top=4, num_random=9, num_shown=2)
  return c


def write(root, c, scores_fn=None, found=tuple(QUERIES)):
  """A ladder of made-up scores, with the files that the tiny one lacks."""
  tiny_ladder.write(root, c, found, scores_fn)
  store.write_json(root / 'corpus.json', c.data.to_dict())
  rows = [
    {'rung': rung.name, 'parameters': SIZES[rung.size]}
    for rung in ladder.rungs(c, root)
    if rung.size
  ]
  store.write_json(root / 'ladder.json', {'rungs': rows})


def embed(_, texts):
  """Stands for the encoder: how often a text has each word, of length 1."""
  rows = [[text.split().count(word) for word in WORDS] for text in texts]
  return np.array(rows) / np.linalg.norm(rows, axis=1, keepdims=True)


def sets(root, made):
  """Distinct tokens of the queries and of all sequences, without END."""
  tokenizer = tokenizer_lib.load(root / 'tokenizer.json')
  asked = [set(x) for x in scored.tokens(tokenizer, QUERIES)]
  rows = [set(made.row(n).tolist()) - {0} for n in range(len(made))]
  return asked, rows


class Page(html.parser.HTMLParser):
  """The elements of a page, each with its text."""

  def __init__(self, text):
    super().__init__()
    self.elements, self.open = [], []
    self.feed(text)
    assert not self.open, self.open

  def handle_starttag(self, tag, attrs):
    element = dict(tag=tag, attrs=dict(attrs), text='')
    self.elements.append(element)
    if tag != 'meta':
      self.open.append(element)

  def handle_endtag(self, tag):
    assert self.open.pop()['tag'] == tag

  def handle_data(self, data):
    for element in self.open:
      element['text'] += data

  def texts(self, tag, kind=None):
    return [
      x['text']
      for x in self.elements
      if x['tag'] == tag and kind in (None, x['attrs'].get('class'))
    ]


class ScalingCase(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.root = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    patch = mock.patch.object
    self.load = self.enterContext(patch(encoder, 'load'))
    self.embed = self.enterContext(patch(encoder, 'embed', side_effect=embed))


class MeasuresTest(ScalingCase):
  def setUp(self):
    super().setUp()
    c = config()
    write(self.root, c)
    self.made = corpus.load(c.data, self.root)
    self.asked, self.rows = sets(self.root, self.made.sequences)
    self.tokens = scored.tokens(self.made.tokenizer, QUERIES)

  def test_overlaps_are_those_of_sets_counted_one_by_one(self):
    numbers = [1, 4, 5, 30, 59]
    found = scaling_measures.tokens(self.made.sequences, numbers, self.tokens)
    rows = [self.rows[n] for n in numbers]
    counts = collections.Counter(token for row in rows for token in row)

    def weight(tokens):
      ns = [counts[token] for token in tokens]
      return sum(math.log((5 - n + 0.5) / (n + 0.5) + 1) for n in ns)

    for k, asked in enumerate(self.asked):
      for c, row in enumerate(rows):
        both, either = asked & row, asked | row
        self.assertAlmostEqual(
          found['overlap'][k, c], len(both) / len(either), delta=1e-12
        )
        self.assertAlmostEqual(
          found['weighted'][k, c], weight(both) / weight(either), delta=1e-9
        )
    self.assertGreater(np.abs(found['weighted'] - found['overlap']).max(), 0.02)

  def test_the_token_that_ends_is_none_where_another_begins(self):
    made, numbers = self.made.sequences, [1, 4, 5, 30, 59]
    end = made.info['vocab_size']
    info = {**made.info, 'borders': [0, end], 'vocab_size': end + 1}
    tokens = made.tokens.copy()
    lasts = made.records['start'] + made.records['size'] - 1
    tokens[lasts[tokens[lasts] == 0]] = end
    ended = sequences_lib.Sequences(tokens, made.records, info)
    asked = [[*tokens, end] for tokens in self.tokens]
    got = scaling_measures.tokens(ended, numbers, asked)
    wanted = scaling_measures.tokens(made, numbers, self.tokens)
    for name, wanted_KxC in wanted.items():
      np.testing.assert_array_equal(got[name], wanted_KxC, name)

  def test_bm25_takes_its_idf_and_lengths_from_the_scanned_alone(self):
    numbers = np.array([1, 4, 5, 30, 59])
    found = scaling_measures.tokens(self.made.sequences, numbers, self.tokens)
    rows = [self.made.sequences.row(n) for n in numbers]
    rows = [row[row != 0].tolist() for row in rows]
    mean = np.mean([len(row) for row in rows])
    for k, asked in enumerate(self.tokens):
      for c, row in enumerate(rows):
        expected = 0
        for token in asked:
          n, f = sum(token in x for x in rows), row.count(token)
          length = 1.5 * (0.25 + 0.75 * len(row) / mean)
          expected += math.log((5 - n + 0.5) / (n + 0.5) + 1) * f / (f + length)
        self.assertAlmostEqual(found['bm25'][k, c], expected, places=5)

  def test_topics_are_of_the_document_and_each_is_read_once(self):
    read = mock.Mock(side_effect=lambda n: {'topic': f't{n}'} if n else {})
    found = scaling_measures.topics(read, np.array([3, 0, 3, 5]))
    self.assertEqual(found, ['t3', '', 't3', 't5'])
    self.assertEqual(read.call_count, 3)

  def test_query_without_topic_agrees_with_none(self):
    found = scaling_measures.same_topic(QUERIES, ['songs', 'tales', 'songs'])
    np.testing.assert_array_equal(found, [[0, 1, 0], [1, 0, 1], [math.nan] * 3])

  def test_topic_that_no_sequence_has_is_an_error(self):
    wrong = [queries.Query('q', '', 'a', {'topic': 'Songs'})]
    with self.assertRaisesRegex(ValueError, "'q' has the topic 'Songs'"):
      scaling_measures.same_topic(wrong, ['songs', 'tales'])

  def test_cosines_are_of_each_query_with_its_own_sequences(self):
    rng = np.random.default_rng(0)
    numbers_KxM = rng.integers(0, 9, (3, 4))
    texts = [' '.join(rng.choice(WORDS, 12)) for _ in range(9)]
    asked = ['the cat', 'a blue tree', 'red house']
    found = scaling_measures.cosines(
      lambda x: embed(None, x), asked, texts.__getitem__, numbers_KxM
    )
    for (k, m), cosine in np.ndenumerate(found):
      pair = embed(None, [asked[k], texts[numbers_KxM[k, m]]])
      self.assertAlmostEqual(cosine, pair[0] @ pair[1], delta=1e-12)

  def test_text_is_embedded_once(self):
    embed_fn = scaling_measures.embedder('cache')
    self.load.assert_not_called()
    first = embed_fn(['the cat', 'a dog', 'the cat'])
    again = embed_fn(['a dog', 'red house'])
    np.testing.assert_array_equal(first[[0, 1]], first[[2, 1]])
    np.testing.assert_array_equal(again[0], first[1])
    self.load.assert_called_once_with('cache')
    self.assertEqual(
      [call.args[1] for call in self.embed.call_args_list],
      [['the cat', 'a dog'], ['red house']],
    )


class SlopesTest(parameterized.TestCase):
  def test_slopes_are_those_of_fitted_lines(self):
    rng = np.random.default_rng(0)
    values = {name: rng.uniform(1, 2, (4, 3)) for name in ('overlap', 'score')}
    values['overlap'][:, 2] = math.nan
    numbers = [1e3, 2e3, 7e4, 1e6]
    found = scaling_slopes.slopes(numbers, values)
    for k in range(2):
      line = np.polyfit(np.log10(numbers), values['overlap'][:, k], 1)
      self.assertAlmostEqual(found['overlap'][k], line[0], delta=1e-12)
    self.assertTrue(np.isnan(found['overlap'][2]))
    logs = np.log10(values['score'][:, 2])
    line = np.polyfit(np.log10(numbers), logs, 1)
    self.assertAlmostEqual(found['score'][2], line[0], delta=1e-12)

  def test_what_stays_the_same_neither_falls_nor_rises(self):
    same_SxK = np.tile(np.linspace(0.01, 0.9, 50), (3, 1))
    values = {'overlap': same_SxK, 'score': np.ones((3, 50))}
    found = scaling_slopes.slopes([100, 1234, 99_999], values)
    summary = scaling_slopes.summary(found['overlap'])
    self.assertEqual(summary['falling'][0], 0)
    self.assertEqual(summary['rising'][0], 0)

  def test_summary_is_over_the_queries_that_have_a_slope(self):
    summary = scaling_slopes.summary(np.array([-1, math.nan, 3, -5, -3]))
    self.assertEqual(summary['mean'][0], -1.5)
    self.assertEqual(summary['falling'][0], 0.75)
    self.assertIsNone(scaling_slopes.summary(np.array([math.nan]))['mean'])

  def test_values_are_means_over_the_seeds_that_a_size_has(self):
    rungs = [ladder.Rung(x, n, None, None) for x, n in ('s0', 'l0', 's1')]
    each = [{'x': np.array([x, 1.0])} for x in (3.0, 10.0, 5.0)]
    found = scaling_slopes.by_size(['s', 'l'], rungs, each)
    np.testing.assert_array_equal(found['x'], [[4, 1], [10, 1]])

  def test_ratio_is_over_shared_seeds_and_geometric(self):
    rungs = [ladder.Rung(x, n, None, None) for x, n in ('s0', 'l0', 's1', 'm1')]
    rungs += [ladder.Rung('l', '2', None, None), ladder.Rung('s', '2', '', '')]
    scores = [4, 1, 100, 100, 2, 18]  # 4 of seed 0, 9 of seed 2
    each = [{'score': np.array([x, 1.0])} for x in scores]
    found = scaling_slopes.ratios(['s', 'm', 'l'], rungs, each)
    np.testing.assert_allclose(found, [6, 1], rtol=1e-12)
    with self.assertRaisesRegex(ValueError, r"\['1'\].*expected one in common"):
      scaling_slopes.shared_seeds(['m', 'l'], rungs)


class ClaimsTest(parameterized.TestCase):
  @parameterized.parameters(
    ([-1, -1, 1], True), ([-1, 0, 1], False), ([-1, -1, -1, 1, 1], False)
  )
  def test_two_thirds_of_the_queries_are_enough(self, signs, held):
    found = self._claims(signs, [-x for x in signs], [1.0] * len(signs))
    self.assertEqual([x['held'] for x in found[:2]], [held, held])
    other = self._claims([-x for x in signs], signs, [1.0] * len(signs))
    self.assertFalse(other[0]['held'] or other[1]['held'])
    self.assertAlmostEqual(found[0]['value'], np.mean(np.array(signs) < 0))

  @parameterized.parameters(([1, 1, 5], 1, False), ([0.1, 1.5, 9], 1.5, True))
  def test_median_of_the_ratios_must_be_more_than_one(self, ratio, value, held):
    found = self._claims([0.1] * 3, [0.1] * 3, ratio)[2]
    self.assertAlmostEqual(found['value'], value)
    self.assertEqual(found['held'], held)
    self.assertLessEqual(found['interval'][0], value)

  def test_records_name_the_seeds_and_sizes_behind_them(self):
    found = self._claims([1] * 3, [1] * 3, [1] * 3)
    self.assertEqual([x['id'] for x in found], ['E15', 'E15b', 'E17'])
    self.assertEqual(found[0]['seeds'], [0, 1])
    self.assertEqual(found[0]['sizes'], ['s', 'm', 'l'])
    self.assertEqual(found[2]['seeds'], [0])
    self.assertEqual(found[2]['sizes'], ['s', 'l'])

  def _claims(self, overlap, similarity, ratio):
    names = (('s', 0), ('m', 0), ('l', 0), ('s', 1), ('m', 1))
    rungs = [ladder.Rung(*name, None, None) for name in names]
    ones = np.ones(len(ratio))
    each = [{'score': ones * np.array(ratio)}, *[{'score': ones}] * 4]
    slopes = {'overlap': overlap, 'similarity': similarity}
    slopes = {name: np.array(x) for name, x in slopes.items()}
    return scaling.find_claims(['s', 'm', 'l'], rungs, each, slopes)


class FigureTest(absltest.TestCase):
  def _draw(self, num_sizes, topics=True):
    rng = np.random.default_rng(0)
    names = ('overlap', 'topic', 'similarity', 'score')
    values = {name: rng.uniform(0.1, 0.5, (num_sizes, 5)) for name in names}
    if not topics:
      values['topic'][:] = math.nan
    sizes = [
      {'size': 's', 'parameters': 10 ** (n + 5)}
      | {x: scaling_slopes.centre(x, values[x][n]) for x in names}
      for n in range(num_sizes)
    ]
    random = {name: np.full(5, 0.25) for name in names[:3]}
    return values, scaling_figure.draw(sizes, values, random)

  def test_panels_show_each_query_their_mean_and_the_floor(self):
    values, fig = self._draw(3)
    self.assertLen(fig.axes, 4)
    *lines, mean, floor = fig.axes[1].get_lines()
    for line, y_S in zip(lines, values['topic'].T, strict=True):
      np.testing.assert_allclose(line.get_data(), [[1e5, 1e6, 1e7], 100 * y_S])
    np.testing.assert_allclose(
      mean.get_ydata(), 100 * values['topic'].mean(axis=1)
    )
    np.testing.assert_allclose(floor.get_ydata(), 25)
    median = fig.axes[3].get_lines()[-1]
    np.testing.assert_allclose(
      median.get_ydata(), np.median(values['score'], axis=1)
    )
    ticks = [x.get_text() for x in fig.axes[3].get_xticklabels()]
    self.assertEqual(ticks, ['0.1 M', '1 M', '10 M'])

  def test_panel_without_topics_says_so(self):
    fig = self._draw(1, topics=False)[1]
    self.assertEqual(fig.axes[1].texts[0].get_text(), 'no query has the label')
    self.assertEmpty(fig.axes[0].texts)


class SequencesTest(absltest.TestCase):
  def test_hostile_texts_are_text(self):
    hostile = '"><script>alert(1)</script>{{ 7*7 }}\x1b\u202e'
    cell = dict.fromkeys(
      ('score', 'overlap', 'similarity', 'sequence'), hostile
    )
    cell |= {'title': hostile, 'topic': hostile}
    cell['pieces'] = [(hostile, True), ('plain', False)]
    query = dict.fromkeys(('id', 'prompt', 'completion', 'topic'), hostile)
    query['ranks'] = [[cell, cell]]
    text = scaling_sequences.render([hostile, 'l'], [query])
    page = Page(text)
    self.assertEmpty(page.texts('script'))
    shown = hostile[:-2] + r'\x1b\u202e'
    self.assertEqual(page.texts('h2'), [shown])
    self.assertEqual(page.texts('td')[0].count(shown), 7)
    self.assertEqual(page.texts('th'), [shown, 'l'])
    self.assertEqual(page.texts('mark')[1:], [shown, shown])
    self.assertIsNone(re.search(r'src=|url|href=(?!"#)', text))
    policy = page.elements[3]['attrs']['content']
    self.assertIn("default-src 'none'", policy)

  def test_pieces_are_the_text_and_shared_where_a_token_is(self):
    root = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    c = config()
    write(root, c)
    made = corpus.load(c.data, root)
    row = [int(x) for x in made.sequences.row(5) if x]
    shared = set(row[3:5] + row[8:9])
    expected = [
      (letter, token in shared)
      for token in row
      for letter in tokenizer_lib.decode(made.tokenizer, [token])
    ]
    found = scaling_sequences.pieces(made, 5, shared)
    self.assertEqual([(x, y) for text, y in found for x in text], expected)
    self.assertLess(len(found), len(row))


class RunTest(ScalingCase):
  def setUp(self):
    super().setUp()
    self.save = self.enterContext(mock.patch.object(figures, 'save'))

  def _scores(self, rung, shape):
    """Small models look at tokens, large ones at what shares none."""
    asked, rows = sets(self.root, self.made)
    overlap = np.array(
      [[len(x & row) / len(x | row) for row in rows] for x in asked]
    )
    weight = {'s': 1, 'm': 0, 'l': -1}[rung.size]
    noise = 0.01 * np.random.default_rng(rung.seed).random(shape)
    scale = {'s': 100, 'm': 10, 'l': 2}[rung.size]
    return scale * (2 + weight * overlap + noise)

  def _write(self, c):
    made = tiny_ladder.tiny_scores.sequences(self.root)
    self.made = made
    write(self.root, c, self._scores)

  def test_binary_finds_what_was_put_into_the_scores(self):
    c = config()
    self._write(c)
    result = scaling.run(c, self.root)
    kept = json.loads((self.root / 'scaling/result.json').read_text())
    self.assertEqual(kept['claims'], result['claims'])
    self.assertEqual(
      [(x['id'], x['held'], x['value']) for x in kept['claims'][:1]],
      [('E15', True, 1)],
    )
    ratio = kept['claims'][2]
    self.assertTrue(50 < ratio['value'] < 150, ratio)
    asked, rows = sets(self.root, self.made)
    for found in kept['rungs']:
      rung = next(
        x for x in ladder.rungs(c, self.root) if x.name == found['rung']
      )
      scores_KxN = self._scores(rung, (3, 3, len(rows)))[0]
      for k, x in enumerate(asked):
        best = sorted(range(len(rows)), key=lambda n: -scores_KxN[k, n])[:4]
        shared = [len(x & rows[n]) / len(x | rows[n]) for n in best]
        self.assertAlmostEqual(found['overlap'][k], np.mean(shared), places=4)
        self.assertAlmostEqual(
          found['score'][k] / np.median(scores_KxN[k, best]), 1, places=4
        )
        documents = [self.made.records['document'][n] for n in best]
        topics = [tiny_corpus.load(None)[n]['topic'] for n in documents]
        label = QUERIES[k].labels.get('topic')
        expected = None if label is None else topics.count(label) / 4
        self.assertEqual(found['topic'][k], expected)
    fig, path = self.save.call_args.args
    self.assertEqual(path, self.root / 'scaling' / 'scaling.png')
    ticks = [x.get_text() for x in fig.axes[3].get_xticklabels()]
    self.assertEqual(ticks, ['0.001 M', '0.01 M', '1 M'])

  def test_random_floor_is_of_all_scanned_sequences(self):
    c = config(('s', 'l'))
    self._write(c)
    random = scaling.run(c, self.root)['random']
    asked, rows = sets(self.root, self.made)
    for k, x in enumerate(asked):
      mean = np.mean([len(x & row) / len(x | row) for row in rows])
      self.assertAlmostEqual(random['overlap'][k], mean, places=4)
    c.scaling.num_random = 1000  # all of them
    (self.root / 'scaling' / 'random.json').unlink()
    random = scaling.run(c, self.root)['random']
    made = corpus.load(c.data, self.root)
    texts = [
      tokenizer_lib.decode(
        made.tokenizer, [x for x in made.sequences.row(n) if x]
      )
      for n in range(len(rows))
    ]
    asked_KxD = embed(None, [x.prompt + x.completion for x in QUERIES])
    mean_K = (asked_KxD @ embed(None, texts).T).mean(axis=1)
    np.testing.assert_allclose(random['similarity'], mean_K, rtol=1e-4)
    self.assertNotIn('score', random)

  def test_second_run_embeds_nothing_and_a_killed_one_only_the_rest(self):
    c = config()
    self._write(c)
    first = scaling.run(c, self.root)
    self.embed.reset_mock()
    self.assertEqual(scaling.run(c, self.root), first)
    self.embed.assert_not_called()
    (self.root / 'scaling' / 'm_seed1.json').unlink()
    self.assertEqual(scaling.run(c, self.root), first)
    self.embed.assert_called()

  def test_parts_of_other_tops_are_refused(self):
    c = config(('s', 'l'))
    self._write(c)
    scaling.run(c, self.root)
    c.scaling.num_top = 3
    with self.assertRaisesRegex(ValueError, 's_seed0.json is of another run'):
      scaling.run(c, self.root)

  def test_page_has_the_smallest_and_the_largest_size_side_by_side(self):
    c = config()
    self._write(c)
    scaling.run(c, self.root)
    path = self.root / 'scaling' / 'sequences.html'
    page = Page(path.read_text())
    self.assertEqual(page.texts('h2'), ['a', 'b', 'c'])
    names = ['s_seed0, 1,000 parameters', 'l_seed0, 1,000,000 parameters']
    self.assertEqual(page.texts('th'), names * 3)
    self.assertLen(page.texts('td'), 3 * 2 * 2)
    made, tokenizer = (
      self.made,
      tokenizer_lib.load(self.root / 'tokenizer.json'),
    )
    rungs = {x.name: x for x in ladder.rungs(c, self.root)}
    cells = page.texts('div', 'text')
    titles = page.texts('span', 'title')
    for column, name in enumerate(('s_seed0', 'l_seed0')):
      scores_KxN = self._scores(rungs[name], (3, 3, len(made)))[0]
      for k in range(3):
        for rank, n in enumerate(np.argsort(-scores_KxN[k])[:2]):
          place = 4 * k + 2 * rank + column
          text = [x for x in made.row(n) if x]
          self.assertEqual(cells[place], tokenizer_lib.decode(tokenizer, text))
          document = made.records['document'][n]
          self.assertEqual(titles[place], f'story {document}')
    marks = [x.count('<mark>') for x in path.read_text().split('<td>')[1:]]
    self.assertGreater(min(marks[::2]), 0)
    self.assertEqual(marks[1::2], [0] * 6)  # they share no token

  def test_model_of_ones_own_needs_no_ladder(self):
    c = config()
    del c.ladder
    write(self.root, c)
    (self.root / 'ladder.json').unlink()
    c.scaling.sizes = ('d64',)  # ignored
    result = scaling.run(c, self.root)
    self.assertEqual(result['claims'], [])
    self.assertEqual(result['slopes'], {})
    self.assertLen(result['rungs'], 1)
    page = Page((self.root / 'scaling' / 'sequences.html').read_text())
    self.assertEqual(page.texts('th'), [self.root.name] * 3)

  def test_ladder_that_is_not_trained_is_an_error(self):
    c = config(('s', 'l'))
    self._write(c)
    (self.root / 'ladder.json').unlink()
    with self.assertRaisesRegex(ValueError, 'run experiments.train_ladder'):
      scaling.run(c, self.root)

  def test_sizes_are_put_in_order_of_parameters(self):
    c = config(('l', 's'))
    self._write(c)
    result = scaling.run(c, self.root)
    self.assertEqual([x['size'] for x in result['sizes']], ['s', 'l'])
    self.assertEqual([x['parameters'] for x in result['sizes']], [1000, 10**6])
    c.scaling.sizes = ('s',)
    self.assertEqual(scaling.run(c, self.root)['slopes'], {})

  def test_scores_of_other_queries_are_an_error(self):
    c = config(('s', 'l'))
    self._write(c)
    path = self.root / 'l_seed1' / 'scores' / 'manifest.json'
    manifest = store.read_json(path)
    manifest['queries'][0][0] = 'renamed'
    store.write_json(path, manifest)
    with self.assertRaisesRegex(ValueError, 'l_seed1 are of other queries'):
      scaling.run(c, self.root)

  def test_top_scores_that_are_not_positive_are_an_error(self):
    c = config(('s', 'l'))
    write(self.root, c, lambda rung, shape: -np.ones(shape))
    with self.assertRaisesRegex(ValueError, 'config.scaling.num_top'):
      scaling.run(c, self.root)


if __name__ == '__main__':
  absltest.main()
