"""Tests of experiments.scored on scores made up, by hand or by tiny.ladder."""

import collections
import math
import pathlib
import shutil
import tempfile

import numpy as np
from absl.testing import absltest, parameterized
from tiny import ladder as tiny_ladder
from tiny import scores as tiny_scores

from experiments import ladder, scored
from influence_jax import score_store, store
from influence_jax.data import queries as queries_lib
from influence_jax.data import sequences as sequences_lib
from influence_jax.data import tokenizer as tokenizer_lib

_QUERIES = [queries_lib.Query(*query) for query in tiny_scores.QUERIES]


class AnswerTest(absltest.TestCase):
  def test_it_is_the_first_of_that_approximation_and_of_no_longer_name(self):
    answers = [
      'ekfac_mlp relative 0.1', 'ekfac relative 0.1', 'kfac relative 0.1',
      'ekfac absolute 2', 'identity relative 0.1', 'kfac absolute 2',
    ]  # fmt: skip
    scores = np.random.default_rng(0).standard_normal((6, 2, 5))
    found = scored.Scored(_QUERIES, answers, scores, np.arange(5), {})
    for name, place in (('ekfac', 1), ('kfac', 2), ('identity', 4)):
      np.testing.assert_array_equal(found.answer(name), scores[place])

  def test_one_that_was_not_asked_for_is_named_with_those_that_were(self):
    found = scored.Scored(_QUERIES, ['ekfac relative 0.1'], None, None, {})
    with self.assertRaisesRegex(
      ValueError, "'ekfac relative 0.1'.*none of 'kfac'.*name='kfac'"
    ):
      found.answer('kfac')


class LoadTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.root = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    self.folder = self.root / 'scores'
    self.scores = tiny_scores.write(self.root)
    self.sequences = sequences_lib.open(self.root / 'sequences')

  def load(self):
    return scored.load(self.folder, self.sequences)

  def change(self, **changes):
    """Writes changes to the section `score` of the manifest."""
    manifest = store.read_json(self.folder / 'manifest.json')
    manifest['score'].update(changes)
    store.write_json(self.folder / 'manifest.json', manifest)

  def write(self, scores, num_written=None):
    """In place of what is there; of the first sequences alone if asked to."""
    path = self.folder / 'scores.zarr'
    shutil.rmtree(path)
    made = score_store.create(path, *scores.shape, 16)
    made.put(0, scores[:, :num_written])

  def test_rows_are_by_answer_then_by_query_and_columns_are_all_sequences(self):
    found = self.load()
    rows = iter(self.scores)
    for a, answer in enumerate(found.answers):
      self.assertEqual(answer.split()[0], ('ekfac', 'identity')[a])
      for k, query in enumerate(found.queries):
        self.assertEqual(query, _QUERIES[k])
        np.testing.assert_allclose(found.scores[a, k], next(rows), 1e-6)
    self.assertEqual(found.numbers.tolist(), [*range(len(self.sequences))])

  def test_the_origin_is_whose_scores_they_are_and_not_how_many(self):
    expected = {
      'params': 'of no model',
      'data': self.sequences.fingerprint,
      'factors': 'of no fit',
      'damping': {'relative': 0.1, 'absolute': None},
    }
    self.assertEqual(self.load().origin, expected)

  @parameterized.parameters(1, 2, 7, 31, 70)
  def test_of_a_part_of_the_corpus_numbers_are_evenly_spread(self, num):
    whole = len(self.sequences)
    self.write(self.scores[:, :num])
    self.change(num_sequences=num)
    found = self.load()
    self.assertEqual(found.scores.shape, (2, 2, num))
    steps = np.diff([*found.numbers, whole])
    self.assertEqual(found.numbers[0], 0)
    self.assertLen(found.numbers, num)
    self.assertContainsSubset(
      steps, {math.floor(whole / num), math.ceil(whole / num)}
    )

  def test_where_nothing_was_scored_it_says_what_to_run(self):
    with self.assertRaisesRegex(ValueError, 'no scores in .*experiments.score'):
      scored.load(self.root / 'others', self.sequences)

  def test_of_another_corpus_the_scores_are_refused(self):
    other = self.root / 'other'
    other.mkdir()
    fewer = tiny_scores.sequences(other, num_documents=59)
    with self.assertRaisesRegex(ValueError, 'scores.*another run: data is'):
      scored.load(self.folder, fewer)

  def test_of_a_filters_candidates_the_scores_are_refused(self):
    self.change(candidates={'method': 'tf_idf', 'per_query': 9})
    with self.assertRaisesRegex(ValueError, 'by tf_idf: expected all'):
      self.load()

  def test_scores_that_are_not_complete_are_refused(self):
    self.write(self.scores, num_written=32)
    with self.assertRaisesRegex(ValueError, r'3 of 5 chunks.*range\(32, 48\)'):
      self.load()


class RungTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    self.root = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))

  def origin(self, scores, queries=tuple(tiny_ladder.QUERIES)):
    """Of the only rung, with these scores [A, K, N] written for it."""
    config = tiny_ladder.config(sizes=('s',), seeds=(0,))
    tiny_ladder.write(self.root, config, queries, lambda *_: scores)
    (rung,) = ladder.rungs(config, self.root)
    sequences, found, origin = scored.of_rung(rung)
    self.assertEqual(found.queries, list(queries))
    np.testing.assert_allclose(found.scores, scores, 1e-6)
    self.assertLen(sequences, len(found.numbers))
    return origin

  def test_the_origin_changes_with_queries_and_first_scores_alone(self):
    num = len(tiny_scores.sequences(self.root))
    scores = np.random.default_rng(0).standard_normal((3, 3, num))
    one, queries = self.origin(scores), tiny_ladder.QUERIES
    self.assertEqual(one['answer'], 'ekfac relative 0.1')
    self.assertEqual(one['queries'][0], ['a', 'the cat', ' sat'])
    self.assertEqual(one['params'], 'of s_seed0')
    first, second = scores.copy(), scores.copy()
    first[0, 1, 2] += 1
    second[1, 1, 2] += 1
    self.assertNotEqual(self.origin(first)['scores'], one['scores'])
    self.assertEqual(self.origin(second), one)
    relabelled = [query._replace(labels={'class': 'x'}) for query in queries]
    self.assertEqual(self.origin(scores, relabelled), one)
    asked = [*queries[:2], queries[2]._replace(completion=' sat')]
    self.assertNotEqual(self.origin(scores, asked)['queries'], one['queries'])


class AlikeTest(absltest.TestCase):
  def test_the_rung_that_differs_is_named_with_what_differs(self):
    rungs = [ladder.Rung('s', seed, None, None) for seed in range(3)]
    scored.check_alike(rungs, 'queries', [_QUERIES, [*_QUERIES], _QUERIES])
    for other in (_QUERIES[:1], _QUERIES[::-1]):
      message = f's_seed2 are of other queries .* s_seed0: {len(other)} and 2,'
      with self.assertRaisesRegex(ValueError, message):
        scored.check_alike(rungs, 'queries', [_QUERIES, _QUERIES, other])

  def test_queries_count_with_the_mean_over_models_that_all_have_them(self):
    rows = [{'query': query, 'x': x} for x, query in enumerate('abab')]
    self.assertEqual(scored.by_query(rows, lambda row: row['x']), [1, 2])
    with self.assertRaisesRegex(ValueError, "first 'b', have scores in 1 mod"):
      scored.grouped(rows[:3])


class FilteredOrderTest(absltest.TestCase):
  def test_words_are_weighted_by_all_and_the_scanned_alone_are_ranked(self):
    root = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    made = tiny_scores.sequences(root)
    numbers = np.arange(1, len(made), 3)
    found = scored.Scored(_QUERIES, [], None, numbers, {})
    rung = ladder.Rung('s', 0, None, root)
    got = scored.filtered_order('tf_idf', rung, made, found)
    tokenizer = tokenizer_lib.load(root / 'tokenizer.json')
    texts = [{*made.row(n).tolist()} for n in range(len(made))]
    in_texts = collections.Counter(token for text in texts for token in text)
    for tokens, order in zip(
      scored.tokens(tokenizer, _QUERIES), got, strict=True
    ):
      idf = {
        t: np.log((len(made) - in_texts[t] + 0.5) / (in_texts[t] + 0.5) + 1)
        for t in tokens
      }
      asked = [sum(idf[t] for t in tokens if t in texts[n]) for n in numbers]
      self.assertEqual({*order.tolist()}, {*range(len(numbers))})
      np.testing.assert_allclose(
        np.array(asked)[order], sorted(asked, reverse=True), 1e-9
      )


class TokensTest(absltest.TestCase):
  def test_prompt_and_completion_are_tokenized_apart(self):
    texts = ['the cat sat on the mat'] * 9
    tokenizer = tokenizer_lib.train(texts, 300)
    queries = [
      queries_lib.Query('split', 'the c', 'at sat'),
      queries_lib.Query('no prompt', '', 'the mat'),
    ]
    split, bare = scored.tokens(tokenizer, queries)
    (whole,) = tokenizer_lib.encode(tokenizer, ['the cat sat'])
    self.assertLess(len(whole), len(split))  # 'cat' is one token there
    self.assertEqual(tokenizer_lib.decode(tokenizer, split), 'the cat sat')
    pieces = [tokenizer_lib.decode(tokenizer, split[:n]) for n in range(9)]
    self.assertIn('the c', pieces)  # no token reaches over the border
    self.assertEqual(tokenizer_lib.decode(tokenizer, bare), 'the mat')


if __name__ == '__main__':
  absltest.main()
