import math
from unittest import mock

import numpy as np
from absl.testing import absltest, parameterized

from influence_jax.data import candidates
from influence_jax.data import sequences as sequences_lib

VOCAB = 40
END = 0


def corpus(documents, begin=END, end=END):
  """Sequences of the documents, lists of tokens, as `build` lays them out."""
  rows = [[begin, *document, end] for document in documents]
  records = np.zeros(len(rows), sequences_lib.RECORD)
  records['size'] = [len(row) for row in rows]
  records['start'] = np.cumsum(records['size']) - records['size']
  tokens = np.concatenate(rows).astype(np.uint16)
  info = {'vocab_size': VOCAB, 'borders': [begin, end]}
  return sequences_lib.Sequences(tokens, records, info)


def random_documents(num=60, seed=0):
  """Of 1 to 30 tokens out of 1 to 37, the smaller ones more often."""
  rng = np.random.default_rng(seed)
  return [
    (1 + rng.geometric(0.15, rng.integers(1, 31)) % (VOCAB - 3)).tolist()
    for _ in range(num)
  ]


def idf(token, documents):
  count = sum(token in document for document in documents)
  return math.log((len(documents) - count + 0.5) / (count + 0.5) + 1)


def tf_idf_oracle(query, document, documents):
  """Eq. 28 by the letter, k1 and all, over the query's tokens."""
  score, k1 = 0.0, 1.5
  for token in query:
    exists = 1 if token in document else 0
    score += (k1 + 1) * exists / (k1 + exists) * idf(token, documents)
  return score


def bm25_oracle(query, document, documents):
  score, k1, b = 0.0, 1.5, 0.75
  mean = sum(len(document) for document in documents) / len(documents)
  for token in query:
    count = document.count(token)
    share = 1 - b + b * len(document) / mean
    score += idf(token, documents) * count / (count + k1 * share)
  return score


METHODS = ('tf_idf', 'bm25')
ORACLES = {'tf_idf': tf_idf_oracle, 'bm25': bm25_oracle}
RTOL = {'tf_idf': 1e-12, 'bm25': 1e-6}  # bm25s is float32
QUERIES = ([3, 1, 4, 1, 5], [9], [VOCAB - 1, 2], list(range(1, 20)))


def scores(method, documents, queries, *borders):
  score_fn = getattr(candidates, method)
  return np.hstack(list(score_fn(corpus(documents, *borders), queries)))


def brute_top(scores_N, per_query):
  """By Python's sort of (score, number)."""
  order = sorted(range(len(scores_N)), key=lambda n: (-scores_N[n], n))
  return order[:per_query]


class CandidatesTest(parameterized.TestCase):
  @parameterized.parameters(*METHODS)
  def test_scores_are_those_of_plain_loops(self, method):
    documents = random_documents()
    wanted_KxN = [
      [ORACLES[method](query, document, documents) for document in documents]
      for query in QUERIES
    ]
    got_KxN = scores(method, documents, QUERIES)
    np.testing.assert_allclose(got_KxN, wanted_KxN, RTOL[method])
    self.assertLess(np.mean(got_KxN == 0), 0.9)

  @parameterized.parameters(*METHODS)
  def test_chosen_are_the_best_of_plain_loops(self, method):
    documents = random_documents()
    got = candidates.choose(method, corpus(documents), QUERIES[3:], 7)
    wanted_N = [ORACLES[method](QUERIES[3], d, documents) for d in documents]
    self.assertEqual(got.tolist(), [brute_top(wanted_N, 7)])
    self.assertEqual(got.dtype, np.int64)

  def test_bm25_of_two_documents_is_the_number_worked_out_by_hand(self):
    documents = [[5, 5, 6, 7], [6, 8]]  # mean length 3
    got_KxN = scores('bm25', documents, [[5], [6]])
    two = math.log(1.5 / 1.5 + 1) * 2 / (2 + 1.5 * (0.25 + 0.75 * 4 / 3))
    long = math.log(0.5 / 2.5 + 1) / (1 + 1.5 * (0.25 + 0.75 * 4 / 3))
    short = math.log(0.5 / 2.5 + 1) / (1 + 1.5 * (0.25 + 0.75 * 2 / 3))
    np.testing.assert_allclose(got_KxN, [[two, 0], [long, short]], 1e-6)

  @parameterized.parameters(*METHODS)
  def test_a_token_twice_in_the_query_counts_twice(self, method):
    documents = random_documents()
    once, twice, other = scores(method, documents, [[3], [3, 3, 4], [4]])
    self.assertGreater(once.max(), 0)
    np.testing.assert_allclose(twice, 2 * once + other, 1e-6)

  def test_how_often_the_document_has_a_token_counts_for_bm25_alone(self):
    documents = [[3, 4, 4, 4], [3, 3, 3, 4], [5, 5, 5, 5]]
    once, thrice, none = scores('tf_idf', documents, [[3]])[0]
    self.assertGreater(once, 0)
    self.assertEqual([thrice, none], [once, 0])
    once, thrice, none = scores('bm25', documents, [[3]])[0]
    self.assertGreater(thrice, once)

  def test_length_of_the_document_counts_for_bm25_alone(self):
    documents = [[3], [3, 4, 5, 6, 7, 8], [9]]
    short, long, _ = scores('tf_idf', documents, [[3]])[0]
    self.assertEqual(short, long)
    short, long, _ = scores('bm25', documents, [[3]])[0]
    self.assertGreater(short, long)

  @parameterized.parameters(*METHODS)
  def test_a_rare_token_counts_more(self, method):
    rare, common, _ = scores(method, [[3], [4], [4]], [[3, 4]])[0]
    self.assertGreater(rare, common)

  @parameterized.product(method=METHODS, chunk=(1, 7, 59, 60, 1000))
  def test_chunk_size_does_not_matter(self, method, chunk):
    documents = random_documents(30) * 2  # each one ties with another
    whole = candidates.choose(method, corpus(documents), QUERIES, 13)
    self.enter_context(mock.patch.object(candidates, 'CHUNK', chunk))
    got = candidates.choose(method, corpus(documents), QUERIES, 13)
    np.testing.assert_array_equal(got, whole)

  @parameterized.parameters(*METHODS)
  def test_borders_are_no_tokens(self, method):
    documents = random_documents()
    plain, ended = scores(method, documents, [[3, 4], [0, 3, 0, 4]])
    np.testing.assert_array_equal(ended, plain)
    for borders in (38, 38), (38, 39), (39, 38), (0, 38), (38, 0):
      got = scores(method, documents, [[3, 4], [*borders, 3, 4]], *borders)
      np.testing.assert_array_equal(got, [plain, plain])

  @parameterized.parameters(*METHODS)
  def test_queries_do_not_change_one_another(self, method):
    made = corpus(random_documents())
    together = candidates.choose(method, made, QUERIES, 20)
    for query, numbers in zip(QUERIES, together, strict=True):
      alone = candidates.choose(method, made, [query], 20)
      np.testing.assert_array_equal(alone[0], numbers)

  @parameterized.parameters(*METHODS)
  def test_a_token_that_no_document_has_adds_nothing(self, method):
    documents = random_documents()
    got = scores(method, documents, [[3, VOCAB - 1], [VOCAB - 1]])
    np.testing.assert_array_equal(got[0], scores(method, documents, [[3]])[0])
    np.testing.assert_array_equal(got[1], 0)

  @parameterized.parameters(*METHODS)
  def test_fewer_sequences_than_asked_for_are_all_chosen(self, method):
    got = candidates.choose(method, corpus([[3], [4], [3, 4]]), [[3], [5]])
    self.assertEqual(got[1].tolist(), [0, 1, 2])
    self.assertCountEqual(got[0].tolist(), [0, 1, 2])

  @parameterized.product(width=(1, 2, 5, 12), per_query=(1, 3, 12, 99))
  def test_ties_go_to_the_smaller_number(self, width, per_query):
    scores_KxN = np.random.default_rng(0).integers(0, 3, (4, 12)).astype(float)
    parts = [scores_KxN[:, i : i + width] for i in range(0, 12, width)]
    got = candidates.top(parts, per_query)
    wanted = [brute_top(scores_N, per_query) for scores_N in scores_KxN]
    self.assertEqual(got.tolist(), wanted)

  def test_union_is_sorted_and_has_each_sequence_once(self):
    got = candidates.union(np.array([[5, 2, 9], [9, 5, 0]]))
    self.assertEqual(got.tolist(), [0, 2, 5, 9])
    self.assertEqual(got.dtype, np.int64)

  @parameterized.parameters(
    ('tfidf', [[3]], 1, r"'tfidf': expected one of \['tf_idf', 'bm25'\]"),
    ('bm25', [[3]], 0, 'per_query=0, expected 1 or more'),
    ('tf_idf', [[3], []], 1, 'query 1 has the tokens .*encode it'),
    ('bm25', [[3], [0]], 1, 'query 1 has the tokens .*encode it'),
    ('tf_idf', [[VOCAB]], 1, f'from 0 to {VOCAB - 1}'),
    ('bm25', [[-1, 3]], 1, f'from 0 to {VOCAB - 1}'),
  )
  def test_wrong_input_is_a_value_error(self, method, queries, num, message):
    with self.assertRaisesRegex(ValueError, message):
      candidates.choose(method, corpus([[3], [4]]), queries, num)


if __name__ == '__main__':
  absltest.main()
