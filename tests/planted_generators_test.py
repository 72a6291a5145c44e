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
    ('sum', 7, 8, '7 plus 8 modulo 5 is 0 .'),
    ('sum', 0, 4, '0 plus 4 modulo 5 is 4 .'),
    ('difference', 3, 9, '3 minus 9 modulo 5 is 4 .'),
    ('difference', 9, 3, '9 minus 3 modulo 5 is 1 .'),
    ('difference', 0, 0, '0 minus 0 modulo 5 is 0 .'),
  )
  def test_problems_are_told_as_by_hand(self, kind, a, b, expected):
    self.assertEqual(sums.told(kind, a, b), expected)

  @parameterized.product(kind=('sum', 'difference'), num=(5, 12, 50))
  def test_pairs_are_split_without_loss(self, kind, num):
    told, held = sums.split_pairs(rng(), kind, num / 100)
    self.assertLen(held, num)
    self.assertLen(told, 100 - num)
    everything = {(a, b) for a in range(10) for b in range(10)}
    self.assertEqual(set(told) | set(held), everything)

  @parameterized.parameters('sum', 'difference')
  def test_each_answer_is_held_out_as_often_or_once_more(self, kind):
    more = set()
    for seed in range(30):
      numbers = np.random.default_rng(seed)
      _, held = sums.split_pairs(numbers, kind, 0.12)
      sign = 1 if kind == 'sum' else -1
      counts = np.bincount([(a + sign * b) % 5 for a, b in held], minlength=5)
      self.assertEqual(sorted(counts), [2, 2, 2, 3, 3])
      more.update(np.flatnonzero(counts == 3).tolist())
    self.assertLen(more, 5)

  @parameterized.parameters('sum', 'difference')
  def test_operands_held_out_are_told_in_their_places(self, kind):
    for seed in range(30):
      numbers = np.random.default_rng(seed)
      told, held = sums.split_pairs(numbers, kind, 0.12)
      for side in (0, 1):
        operands = {pair[side] for pair in held}
        self.assertLessEqual(operands, {pair[side] for pair in told})

  @parameterized.parameters(0, 0.04, 0.96, 1)
  def test_too_few_or_too_many_held_out_is_a_value_error(self, share):
    with self.assertRaisesRegex(ValueError, f'share_held_out is {share}, '):
      sums.split_pairs(rng(), 'sum', share)


if __name__ == '__main__':
  absltest.main()
