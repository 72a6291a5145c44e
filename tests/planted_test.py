import json
import pathlib
import re
import tempfile
import zipfile

from absl.testing import absltest, parameterized

from influence_jax.data import planted, wiki_leads
from influence_jax.data import planted_facts as facts
from influence_jax.data import planted_passages as passages
from influence_jax.data import planted_words as words
from influence_jax.data import queries as queries_lib

COUNTS = {
  'num_leads': 60,
  'copies': (1, 2, 12),
  'passages_per_k': 4,
  'num_offices': 40,
  'num_lookups': 20,
  'num_sums': 400,
}
PROBLEM = re.compile(r'(\d) (plus|minus) (\d) modulo 5 is ([0-4]) \.')
SIGNS = {'sum': 'plus', 'difference': 'minus'}


def prepare(directory, texts):
  """Leads of these texts, as wiki_leads prepares them from a wheel."""
  fields = {'description': '', 'topic': 'Tests'}
  articles = {
    str(n): {'title': f'Lead {n}', 'extract': text, **fields}
    for n, text in enumerate(texts)
  }
  wheel = directory / 'w.whl'
  with zipfile.ZipFile(wheel, 'w') as archive:
    archive.writestr(wiki_leads.MEMBER, json.dumps(articles))
  wiki_leads.load(directory / 'data', wheel)
  return directory / 'data'


def load(data_dir, seed=3, **counts):
  return planted.load(data_dir, seed=seed, **{**COUNTS, **counts})


def problem(text):
  """(a, sign, b, answer); the text must hold nothing else."""
  match = PROBLEM.fullmatch(text)
  if not match:
    raise AssertionError(f'no problem: {text!r}')
  return int(match[1]), match[2], int(match[3]), int(match[4])


class PlantedTest(parameterized.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    directory = cls.enterClassContext(tempfile.TemporaryDirectory())
    texts = [f'The lead {n} tells little.' for n in range(61)]
    cls.data_dir = prepare(pathlib.Path(directory), texts)
    cls.source = load(cls.data_dir)
    cls.truth = planted.truth(cls.source)
    cls.queries = planted.queries(cls.source, seed=5)
    cls.long = load(cls.data_dir, num_offices=4, num_sums=2_000)

  def generated(self, *kinds):
    return [it for it in self.source if it['id'] >= 60 and it['topic'] in kinds]

  def asked(self, *kinds):
    return [it for it in self.queries if it['labels']['class'] in kinds]

  def test_every_50th_lead_and_no_other_document_is_held_out(self):
    self.assertEqual([it['id'] for it in planted.held_out(self.source)], [49])
    expected = [n for n in range(len(self.source)) if n != 49]
    trained = [it['id'] for it in planted.documents(self.source)]
    self.assertEqual(trained, expected)

  def test_leads_come_first_and_ids_are_places(self):
    for n, document in enumerate(self.source):
      self.assertEqual(document['id'], n)
      self.assertEqual(set(document), {'id', 'title', 'topic', 'text'})
      self.assertEqual(document['topic'] in planted.KINDS, n >= 60)
    self.assertEqual(self.source[59]['text'], 'The lead 59 tells little.')

  def test_leads_may_be_spread_over_all(self):
    counts = dict(num_leads=20, copies=(), passages_per_k=0, num_sums=0)
    found = load(self.data_dir, spread_leads=True, num_offices=0, **counts)
    expected = [f'The lead {61 * n // 20} tells little.' for n in range(20)]
    self.assertEqual([found[n]['text'] for n in range(20)], expected)
    self.assertEqual([it['id'] for it in found], list(range(20 + 20 * 8)))

  def test_all_kinds_have_their_number_of_documents(self):
    numbers = {kind: len(self.generated(kind)) for kind in planted.KINDS}
    expected = [4 * (1 + 2 + 12), 40 * 5, 20 * 8, 400, 400]
    self.assertEqual(numbers, dict(zip(planted.KINDS, expected, strict=True)))
    self.assertLen(self.source, 60 + sum(expected))

  def test_documents_of_other_kinds_have_15_to_70_words(self):
    found = self.generated('memorised', 'office', 'lookup')
    lengths = [len(it['text'].split()) for it in found]
    self.assertBetween(min(lengths), 15, 70)
    self.assertBetween(max(lengths), 15, 70)

  def test_the_same_seed_gives_the_same_corpus(self):
    again = load(self.data_dir)
    self.assertEqual(list(again), list(self.source))
    self.assertEqual(planted.truth(again), self.truth)
    self.assertEqual(planted.queries(again, seed=5), self.queries)

  def test_another_seed_gives_other_documents_of_every_kind(self):
    other = load(self.data_dir, seed=4)
    self.assertLen(other, len(self.source))
    for kind in planted.KINDS:
      texts = [it['text'] for it in other if it['topic'] == kind]
      mine = [it['text'] for it in self.generated(kind)]
      self.assertNotEqual(texts, mine)

  def test_more_offices_leave_passages_and_sums_as_they_are(self):
    other = load(self.data_dir, num_offices=50)
    for kind in ('memorised', 'sum', 'difference'):
      texts = [it['text'] for it in other if it['topic'] == kind]
      self.assertEqual(texts, [it['text'] for it in self.generated(kind)])

  def test_a_passage_is_in_as_many_documents_as_it_has_copies(self):
    planned = {
      name: it['copies'] for name, it in self.truth['passages'].items()
    }
    self.assertEqual(
      sorted(planned.values()), sorted([0] * 12 + [1, 2, 12] * 4)
    )
    for passage in self.truth['passages'].values():
      found = [it for it in self.source if passage['text'] in it['text']]
      self.assertEqual([it['id'] for it in found], passage['documents'])
      self.assertLen({it['text'] for it in found}, passage['copies'])

  def test_half_of_the_passages_of_a_number_of_copies_are_real(self):
    real = [
      it['copies'] for it in self.truth['passages'].values() if it['real']
    ]
    self.assertEqual(sorted(real), [1, 1, 2, 2, 12, 12])

  def test_name_comes_once_and_after_role_and_place_only_if_forward(self):
    offices = [
      it for it in self.truth['facts'].values() if it['kind'] == 'office'
    ]
    self.assertLen(offices, 40)
    forward = sum(it['order'] == 'forward' for it in offices)
    self.assertEqual(forward, 20)
    for fact in offices:
      role, place, name = fact['role'], fact['place'], fact['name']
      found = [
        it for it in self.source if place in it['text'] or name in it['text']
      ]
      self.assertEqual([it['id'] for it in found], fact['documents'])
      self.assertLen({it['text'] for it in found}, 5)
      for document in found:
        parts = re.findall(f'{role}|{place}|{name}', document['text'])
        self.assertCountEqual(parts, [role, place, name])
        at = 2 if fact['order'] == 'forward' else 0
        self.assertEqual(parts[at], name)

  def test_answer_comes_after_the_key_in_all_documents_of_a_lookup(self):
    lookups = [
      it for it in self.truth['facts'].values() if it['kind'] == 'lookup'
    ]
    self.assertLen(lookups, 20)
    for fact in lookups:
      found = [it for it in self.source if fact['key'] in it['text']]
      self.assertEqual([it['id'] for it in found], fact['documents'])
      self.assertLen({it['text'] for it in found}, 8)
      for document in found:
        after = document['text'].split(fact['subject'][4:])[1]
        self.assertIn(fact['answer'], after)

  def test_unseen_names_never_occur(self):
    everything = ' '.join(it['text'] for it in self.source).lower()
    for name in (
      'astrobia zorald pfaff dwock dester quaze delbistan gleem '
      'hydrogenium oxium'
    ).split():
      self.assertIn(name, [it.lower() for it in self.truth['unseen']])
      self.assertNotIn(name, everything)

  @parameterized.parameters('sum', 'difference')
  def test_a_document_is_one_problem_and_its_answer_is_right(self, kind):
    for document in self.generated(kind):
      a, sign, b, told = problem(document['text'])
      self.assertEqual(sign, SIGNS[kind])
      made = a + b if kind == 'sum' else a - b
      self.assertIn(made - told, range(-10, 20, 5))
      self.assertEqual(document['title'], f'{a} {sign} {b}')
      entry = self.truth['documents'][str(document['id'])]
      self.assertEqual(entry, {'kind': kind, 'problems': [[a, b]]})

  @parameterized.parameters('sum', 'difference')
  def test_held_out_pairs_never_occur_and_all_others_do(self, kind):
    held = {tuple(it) for it in self.truth['held_out_pairs'][kind]}
    self.assertLen(held, 12)
    seen = {problem(it['text'])[::2] for it in self.long if it['topic'] == kind}
    self.assertLen(seen, 88)
    self.assertEmpty(held & seen)

  def test_sums_and_differences_hold_out_pairs_of_their_own(self):
    held = self.truth['held_out_pairs']
    self.assertNotEqual(held['sum'], held['difference'])

  def test_truth_knows_every_generated_document_and_survives_json(self):
    numbers = [int(it) for it in self.truth['documents']]
    self.assertEqual(numbers, list(range(60, len(self.source))))
    for number, entry in self.truth['documents'].items():
      self.assertEqual(entry['kind'], self.source[int(number)]['topic'])
      if 'passage' in entry:
        of = self.truth['passages'][entry['passage']]
        self.assertIn(int(number), of['documents'])
      if 'fact' in entry:
        of = self.truth['facts'][entry['fact']]
        self.assertIn(int(number), of['documents'])
        self.assertEqual(entry['order'], of['order'])
    self.assertEqual(json.loads(json.dumps(self.truth)), self.truth)

  def test_no_invented_word_is_in_a_lead(self):
    known = words.vocabulary(' '.join(passages.TEMPLATES + facts.TEMPLATES))
    kinds = ('memorised', 'office', 'lookup')
    mine = [it['text'] for it in self.generated(*kinds)]
    leads = ' '.join(sorted(words.vocabulary(' '.join(mine)) - known))
    self.assertGreater(len(leads.split()), 150)
    with tempfile.TemporaryDirectory() as directory:
      data_dir = prepare(pathlib.Path(directory), [leads] * 60)
      texts = [it['text'] for it in load(data_dir)][60:]
    invented = words.vocabulary(' '.join(texts)) - known
    self.assertEmpty(invented & set(leads.split()))

  def test_no_place_surname_or_key_comes_twice_in_the_corpus(self):
    found = self.truth['facts'].values()
    names = [it['place'] for it in found if 'place' in it]
    names += [it['name'].split()[1] for it in found if 'name' in it]
    names += [it['key'] for it in found if 'key' in it]
    self.assertLen(set(names), 40 + 40 + 20)

  def test_queries_are_lines_of_a_file_of_queries(self):
    with tempfile.TemporaryDirectory() as directory:
      path = pathlib.Path(directory) / 'q.jsonl'
      path.write_text('\n'.join(json.dumps(it) for it in self.queries))
      read = queries_lib.read_queries(path)
    self.assertEqual([it._asdict() for it in read], self.queries)
    classes = queries_lib.labels(read, 'class')
    numbers = {name: classes.count(name) for name in classes}
    expected = dict(memorised=18, office=16, lookup=12, sum=12, difference=12)
    self.assertEqual(numbers, {**expected, 'simple': 10})

  def test_memorised_queries_ask_for_the_rest_of_each_passage(self):
    asked = self.asked('memorised')
    for query in asked:
      passage = self.truth['passages'][query['labels']['passage']]
      self.assertEqual(query['prompt'] + query['completion'], passage['text'])
      self.assertEqual(query['labels']['copies'], str(passage['copies']))
    copies = [query['labels']['copies'] for query in asked]
    self.assertEqual(sorted(copies), sorted(['0'] * 6 + ['1', '2', '12'] * 4))

  def test_facts_are_asked_in_their_own_order(self):
    orders = []
    for query in self.asked('office'):
      fact = self.truth['facts'][query['labels']['fact']]
      orders.append(fact['order'])
      self.assertEqual(query['labels']['order'], fact['order'])
      known = f'The {fact["role"]} of {fact["place"]}'
      name = fact['name']
      forward, backward = (
        (f'{known} was', f' {name}'),
        (f'{name} was', f' t{known[1:]}'),
      )
      expected = forward if fact['order'] == 'forward' else backward
      self.assertEqual((query['prompt'], query['completion']), expected)
    self.assertEqual(orders, ['forward'] * 8 + ['backward'] * 8)

  def test_lookups_are_asked_by_key(self):
    for query in self.asked('lookup'):
      fact = self.truth['facts'][query['labels']['fact']]
      self.assertEqual(query['completion'], f' {fact["answer"]}')
      self.assertIn(fact['key'], query['prompt'])

  def test_sums_are_asked_of_held_out_pairs(self):
    for query in self.asked('sum', 'difference'):
      asked = f'{query["prompt"]}{query["completion"]} .'
      a, sign, b, told = problem(asked)
      made = a + b if sign == 'plus' else a - b
      self.assertIn(made - told, range(-10, 20, 5))
      self.assertEqual(query['labels']['answer'], str(told))
      kind = query['labels']['class']
      self.assertIn([a, b], self.truth['held_out_pairs'][kind])
      self.assertEqual(sign, SIGNS[kind])

  @parameterized.parameters('sum', 'difference')
  def test_every_answer_is_asked_for(self, kind):
    answers = {it['labels']['answer'] for it in self.asked(kind)}
    self.assertEqual(answers, set('01234'))

  def test_counts_of_queries_are_obeyed(self):
    counts = dict(num_controls=1, num_offices=2, num_lookups=3, num_sums=4)
    found = planted.queries(self.source, seed=5, **counts, num_simple=5)
    classes = [it['labels']['class'] for it in found]
    numbers = {kind: classes.count(kind) for kind in classes}
    expected = dict(memorised=13, office=4, lookup=3, sum=4, difference=4)
    self.assertEqual(numbers, {**expected, 'simple': 5})

  @parameterized.parameters(
    ({'num_leads': 62}, 'at most the 61'),
    ({'copies': (0, 1)}, 'each to be 1 or more'),
    ({'copies': (169,)}, '169 are asked of 168'),
    ({'documents_per_office': 11}, '11 are asked of 10'),
    ({'documents_per_lookup': 13}, '13 are asked of 12'),
    ({'share_held_out': 0.96}, '96 of 100 pairs'),
  )
  def test_asking_for_too_much_is_a_value_error(self, counts, message):
    with self.assertRaisesRegex(ValueError, message):
      load(self.data_dir, **counts)


if __name__ == '__main__':
  absltest.main()
