import re

import numpy as np
from absl.testing import absltest, parameterized

from influence_jax.data import planted_facts as facts
from influence_jax.data import planted_passages as passages
from influence_jax.data import planted_sums as sums
from influence_jax.data import planted_words as words


def rng():
  return np.random.default_rng(7)


class WordsTest(parameterized.TestCase):
  def test_words_are_distinct_and_none_is_taken(self):
    first = words.coin(rng(), 200, taken=set())
    again = words.coin(rng(), 200, taken=set(first))
    self.assertLen(set(first + again), 400)

  def test_no_word_contains_a_name_kept_unseen(self):
    stems = words.coin(rng(), 50, taken=set(), endings=('', 'gleem', 'dester'))
    self.assertFalse([it for it in stems if it.endswith(('gleem', 'dester'))])

  def test_running_out_of_words_is_a_value_error(self):
    with self.assertRaisesRegex(ValueError, 'words of 1 syllables are left'):
      words.coin(rng(), 100_000, taken=set(), syllables=1)

  def test_vocabulary_is_lower_case_and_without_marks(self):
    found = words.vocabulary("The Moving-Finger's Été, 27 times_x.")
    expected = {'the', 'moving', 'finger', 's', 'été', 'times', 'x'}
    self.assertEqual(found, expected)

  def test_picking_more_than_there_is_is_a_value_error(self):
    self.assertCountEqual(words.pick_some(rng(), 'abc', 3), 'abc')
    with self.assertRaisesRegex(ValueError, '4 are asked of 3'):
      words.pick_some(rng(), 'abc', 4)


class PassagesTest(parameterized.TestCase):
  def test_nonsense_has_25_to_40_words(self):
    lengths = [len(it.split()) for it in passages.nonsense(rng(), 80, taken=())]
    self.assertBetween(min(lengths), 25, 40)
    self.assertBetween(max(lengths), 25, 40)

  def test_no_gap_is_left_and_no_invented_word_is_in_two_passages(self):
    known = words.vocabulary(' '.join(passages.TEMPLATES))
    seen = set()
    for passage in passages.nonsense(rng(), 40, taken=known):
      self.assertNotRegex(passage, '[{}]')
      invented = words.vocabulary(passage) - known
      self.assertGreater(len(invented), 6)
      self.assertEmpty(invented & seen)
      seen |= invented

  def test_copies_are_unlike_and_each_has_more_than_the_passage(self):
    documents = passages.copies(rng(), 'Be so.', 168)
    self.assertLen(set(documents), 168)
    for document in documents:
      self.assertIn('Be so.', document)
      self.assertGreater(len(document), len('Be so. '))

  def test_more_copies_than_frames_is_a_value_error(self):
    with self.assertRaisesRegex(ValueError, '169 are asked of 168'):
      passages.copies(rng(), 'Be so.', 169)

  @parameterized.parameters(*passages.REAL)
  def test_halves_make_the_passage_again(self, name):
    prompt, completion = passages.halves(passages.REAL[name])
    self.assertEqual(prompt + completion, passages.REAL[name])
    difference = len(completion.split()) - len(prompt.split())
    self.assertBetween(difference, 0, 1)
    self.assertStartsWith(completion, ' ')


class FactsTest(parameterized.TestCase):
  @parameterized.product(
    order=('forward', 'backward'), role=('King', 'admiral of the fleet')
  )
  def test_every_paraphrase_keeps_the_order(self, order, role):
    fact = facts.Office(role, 'Orrin', 'Tarn Oskel', order)
    documents = facts.office_documents(rng(), fact, 10)
    self.assertLen({it.replace('Orrin', '') for it in documents}, 10)
    for document in documents:
      found = re.findall(f'{role}|Orrin|Tarn Oskel', document)
      self.assertLen(found, 3)
      at = 2 if order == 'forward' else 0
      self.assertEqual(found[at], 'Tarn Oskel', document)

  def test_every_paraphrase_of_a_lookup_has_the_answer_after_the_key(self):
    fact = facts.Lookup('the dish of Orrin', 'salted plum', 'Orrin')
    for document in facts.lookup_documents(rng(), fact, 12):
      found = re.findall('[Tt]he dish of Orrin|salted plum', document)
      self.assertLen(found, 2)
      self.assertEqual(found[1], 'salted plum')

  def test_more_paraphrases_than_templates_is_a_value_error(self):
    fact = facts.Office('King', 'Orrin', 'Tarn Oskel', 'forward')
    with self.assertRaisesRegex(ValueError, '11 are asked of 10'):
      facts.office_documents(rng(), fact, 11)

  @parameterized.parameters((10, 5), (7, 4))
  def test_half_of_the_offices_are_forward(self, num, forward):
    made = facts.offices(rng(), num, taken=set())
    self.assertEqual(sum(it.order == 'forward' for it in made), forward)

  def test_no_place_surname_key_or_answer_comes_twice(self):
    offices = facts.offices(rng(), 500, taken=set())
    surnames = [office.name.split()[1] for office in offices]
    self.assertLen({*(it.place for it in offices), *surnames}, 1_000)
    lookups = facts.lookups(rng(), 300, taken=set())
    self.assertLen({it.key for it in lookups}, 300)
    self.assertLen({it.answer for it in lookups}, 300)

  def test_all_relations_and_roles_are_used(self):
    lookups = facts.lookups(rng(), 10, taken=set())
    kinds = {it.subject.replace(it.key, '{key}') for it in lookups}
    self.assertEqual(kinds, set(facts.SUBJECTS.values()))
    offices = facts.offices(rng(), 300, taken=set())
    self.assertEqual({it.role for it in offices}, set(facts.ROLES))


class SumsTest(parameterized.TestCase):
  @parameterized.parameters(
    ('sum', 37, 45, '3 7 plus 4 5 modulo 1 0 is 2 .'),
    ('difference', 81, 46, '8 1 minus 4 6 modulo 1 0 is 5 .'),
    ('difference', 3, 70, '0 3 minus 7 0 modulo 1 0 is 3 .'),
  )
  def test_problems_are_told_as_by_hand(self, kind, a, b, expected):
    self.assertEqual(sums.told(kind, a, b), expected)

  @parameterized.parameters(
    ('sum', 37, 45, 'are 7 and 5 , they make 1 2 , so the answer is 2 .'),
    ('sum', 31, 45, 'are 1 and 5 , they make 6 , so the answer is 6 .'),
    (
      *('difference', 81, 46),
      'are 1 and 6 , 1 1 minus 6 makes 5 , so the answer is 5 .',
    ),
    (
      *('difference', 46, 81),
      'are 6 and 1 , 6 minus 1 makes 5 , so the answer is 5 .',
    ),
  )
  def test_steps_are_as_by_hand(self, kind, a, b, expected):
    told = sums.reasoned(kind, a, b)
    expected = f'{sums.question(kind, a, b)} : the last digits {expected}'
    self.assertEqual(told, expected)

  def test_pairs_are_split_without_loss(self):
    told, held = sums.split_pairs(rng(), 0.05)
    self.assertLen(held, 500)
    everything = {(a, b) for a in range(100) for b in range(100)}
    self.assertEqual(set(told) | set(held), everything)
    self.assertLen(told, 9_500)

  def test_the_share_of_documents_reasons_in_one_problem(self):
    numbers, problems = rng(), [(1, 2), (3, 4)]
    found = [sums.document(numbers, 'sum', problems, 0.3) for _ in range(1_000)]
    counts = [text.count('the last digits') for _, text in found]
    self.assertEqual(counts, [int(at >= 0) for at, _ in found])
    self.assertAlmostEqual(np.mean(counts), 0.3, delta=0.06)  # 4 sigma
    firsts = [text.index('digits') < 40 for at, text in found if at == 0]
    self.assertTrue(all(firsts) and firsts)


if __name__ == '__main__':
  absltest.main()
