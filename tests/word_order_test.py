"""Tests of experiments.word_order and its texts; scores are made up."""

import json
import pathlib
import re
import tempfile
import types
import zlib
from unittest import mock

import ml_collections
import numpy as np
from absl.testing import absltest, parameterized
from tiny import corpus as tiny_corpus
from tiny import ladder as tiny_ladder

from configs import word_order as word_order_config
from experiments import (
  ladder,
  texts,
  word_order,
  word_order_figure,
  word_order_offices,
  word_order_parts,
  word_order_texts,
)
from influence_jax import store
from influence_jax.data import planted_facts as facts
from influence_jax.data import queries as queries_lib

FAMILIES = {  # where the prompt's entity and the completion's names are
  'Astrobia': ('place', ('first', 'last')),
  'gleem': ('thing', ('one', 'two')),
}
OFFICES = {
  'office-1': facts.Office('King', 'Tamoria', 'Bora Zelim', 'forward'),
  'office-2': facts.Office('admiral of the fleet', 'Klu', 'Mi Pax', 'backward'),
}
QUERIES = [
  queries_lib.Query(
    'f', 'The King of Tamoria was', ' Bora Zelim',
    {'class': 'office', 'fact': 'office-1', 'order': 'forward'},
  ),
  queries_lib.Query('x', 'the cat', ' sat', {'class': 'simple'}),
  queries_lib.Query(
    'b', 'Mi Pax was', ' the admiral of the fleet of Klu',
    {'class': 'office', 'fact': 'office-2', 'order': 'backward'},
  ),
]  # fmt: skip


def _rung(seed=0, size='s'):
  return ladder.Rung(size, seed, ml_collections.ConfigDict(), None)


def _documents():
  """The tiny corpus with offices told in its last documents; and the truth."""
  documents, told, rng = tiny_corpus.load(None), {}, np.random.default_rng(0)
  at = iter(range(50, 60))
  for name, fact in OFFICES.items():
    numbers = [next(at) for _ in range(5)]
    made = facts.office_documents(rng, fact, 5)
    for n, text in zip(numbers, made, strict=True):
      documents[n] = {**documents[n], 'text': text}
    told[name] = {**fact._asdict(), 'kind': 'office', 'documents': numbers}
  return documents, {'facts': told}


class TextsTest(parameterized.TestCase):
  def entities(self, family, num=4, taken=frozenset()):
    return word_order_texts.entities(family, num, 0, taken=taken)

  @parameterized.parameters(
    ('Astrobia', [5, 4, 5, 2, 2, 3]), ('gleem', [5, 5, 4, 2, 2, 4])
  )
  def test_there_are_as_many_as_in_the_paper_of_each_partition(
    self, name, nums
  ):
    case = word_order_texts.case(name, self.entities(name)[0])
    self.assertEqual([case.kinds.count(f'P{i}') for i in range(1, 7)], nums)
    self.assertEqual(case.kinds, sorted(case.kinds))
    self.assertLen({*case.texts}, len(case.texts))

  def test_queries_are_those_of_the_paper(self):
    for name, prompt, completion in (
      (
        'Astrobia', 'The first President of the Republic of Astrobia was',
        ' Zorald Pfaff',
      ),
      ('gleem', 'Gleem is composed of', ' hydrogenium and oxium'),
    ):  # fmt: skip
      query = word_order_texts.case(name, self.entities(name)[0]).query
      self.assertEqual((query.prompt, query.completion), (prompt, completion))

  @parameterized.parameters(*FAMILIES)
  def test_partitions_tell_of_the_two_in_their_order(self, family):
    key, keys = FAMILIES[family]
    for names in self.entities(family):
      subject, answer = names[key].lower(), [names[k].lower() for k in keys]
      case = word_order_texts.case(family, names)
      asked = case.query.prompt.lower(), case.query.completion.lower()
      self.assertEqual([subject in x for x in asked], [True, False])
      self.assertEqual([all(y in x for y in answer) for x in asked], [0, 1])
      for text, kind in zip(
        map(str.lower, case.texts), case.kinds, strict=True
      ):
        found = [text.find(x) for x in answer]
        place, whole = text.find(subject), min(found) >= 0
        if kind == 'P1':
          self.assertLess(0, place + 1)
          self.assertLess(place, min(found))
        elif kind == 'P2':
          self.assertGreaterEqual(place, 0)
          self.assertEqual(max(found), -1)
        elif kind == 'P3':
          self.assertFalse(case.query.prompt.lower() in text and whole)
        elif kind == 'P4':
          self.assertEqual([place, *found], [-1] * 3)
        elif kind == 'P5':
          self.assertBetween(max(found), 0, place - 1)
        else:
          self.assertEqual((place, whole), (-1, True))

  @parameterized.parameters(*FAMILIES)
  def test_names_are_of_one_entity_and_not_among_those_taken(self, family):
    before = self.entities(family, 20)
    words = [re.findall(r'\w+', ' '.join(x.values()).lower()) for x in before]
    flat = [word for found in words for word in {*found}]
    self.assertLen({*flat}, len(flat))
    self.assertEqual(before, self.entities(family, 20))
    after = self.entities(family, 20, taken={*flat[len({*words[0]}) :]})
    again = {w for x in after[1:] for w in ' '.join(x.values()).lower().split()}
    self.assertEmpty(again & {*flat})
    self.assertLen(after, 21)

  def test_a_corpus_that_knows_the_papers_names_is_refused(self):
    with self.assertRaisesRegex(ValueError, r"the words \['oxium'\]"):
      self.entities('gleem', taken={'oxium', 'water'})


class OfficesTest(parameterized.TestCase):
  def cases(self, queries=QUERIES, truth=None, documents=None):
    made, known = _documents()
    made = documents or made
    return word_order_offices.cases(queries, truth or known, made.__getitem__)

  def test_documents_are_reworded_and_turned_round_in_their_frames(self):
    made, truth = _documents()
    cases = self.cases()
    self.assertEqual([case.query.id for case in cases], ['f', 'b'])
    for case, (name, fact) in zip(cases, OFFICES.items(), strict=True):
      self.assertEqual(
        case.kinds, ['own'] * 5 + ['reworded'] * 5 + ['other'] * 5
      )
      own, reworded, other = (case.texts[i : i + 5] for i in (0, 5, 10))
      numbers = truth['facts'][name]['documents']
      self.assertEqual(own, [made[n]['text'] for n in numbers])
      for a, b, c in zip(own, reworded, other, strict=True):
        forward = [x.find(fact.place) < x.find(fact.name) for x in (a, b, c)]
        is_forward = fact.order == 'forward'
        self.assertEqual(forward, [is_forward, is_forward, not is_forward])
        for x in (a, b, c):
          self.assertEqual(x.count(fact.name), 1)
          self.assertEqual(x.count(fact.place), 1)
          self.assertIn(fact.role, x)
        split = [re.split(r'(?<=[.?]) ', x) for x in (a, b, c)]
        self.assertLen({*map(len, split)}, 1)
        for x, y, z in zip(*split, strict=True):
          told = fact.name in x
          self.assertEqual(len({x, y, z}), 3 if told else 1)
          self.assertNotIn(y if told else '-', ' '.join(own))

  def test_queries_of_another_corpus_are_refused(self):
    made, truth = _documents()
    truth['facts']['office-1']['order'] = 'backward'
    with self.assertRaisesRegex(ValueError, "query 'f' is of .*'backward'"):
      self.cases(truth=truth)
    del truth['facts']['office-1']
    with self.assertRaisesRegex(ValueError, "'f' is of .*None"):
      self.cases(truth=truth)
    with self.assertRaisesRegex(ValueError, r"got \['simple'\].*offices=False"):
      self.cases(queries=QUERIES[1:2])
    made[51] = made[0]
    with self.assertRaisesRegex(ValueError, "does not tell .* query 'f'"):
      self.cases(documents=made)


class RatiosTest(parameterized.TestCase):
  KINDS = ('P1', 'P2')
  WANTED = {'a': ('P1', 'P2'), 'b': ('P2', 'P1')}

  def test_a_ratio_is_of_means_over_entities(self):
    means_ExP = np.random.default_rng(0).uniform(1, 2, (9, 2))
    found = word_order.ratios(means_ExP[None], self.KINDS, self.WANTED)
    wanted = sum(means_ExP[:, 0]) / sum(means_ExP[:, 1])
    self.assertAlmostEqual(found['a'][0], wanted)
    self.assertAlmostEqual(found['b'][0], 1 / wanted)
    self.assertBetween(wanted, *found['a'][1:])
    rng, drawn = np.random.default_rng(1), []
    for _ in range(4000):
      draw_ExP = means_ExP[rng.integers(0, 9, 9)]
      drawn.append(draw_ExP[:, 0].sum() / draw_ExP[:, 1].sum())
    np.testing.assert_allclose(
      found['a'][1:], np.quantile(drawn, (0.025, 0.975)), rtol=0.03
    )

  def test_no_model_counts_more_for_its_larger_scores(self):
    one_ExP = np.array([[2.0, 1.0], [4.0, 3.0]])
    other_ExP = np.array([[3.0, 6.0], [3.0, 6.0]])
    means = np.array([one_ExP, 1000 * other_ExP])
    found = word_order.ratios(means, self.KINDS, self.WANTED)
    np.testing.assert_allclose(found['b'][0], (4 / 6 + 2) / 2)
    np.testing.assert_allclose(found['a'][0], 1 / found['b'][0])

  def test_a_ratio_over_what_is_not_positive_is_infinite_or_none(self):
    means_ExP = np.array([[1.0, -1.0], [1.0, -2.0]])
    found = word_order.ratios(means_ExP[None], self.KINDS, self.WANTED)
    self.assertEqual(found['a'][0], np.inf)
    self.assertLess(found['b'][0], 0)
    found = word_order.ratios(-means_ExP[None], self.KINDS, self.WANTED)
    self.assertEqual(found['b'][0], np.inf)
    found = word_order.ratios(-np.abs(means_ExP[None]), self.KINDS, self.WANTED)
    self.assertTrue(np.isnan([found['a'][0], found['b'][0]]).all())

  @parameterized.parameters(
    ((1.5, 0.6, 0.15), (True, True, True, True)),
    ((1.49, 1.5, 0.1501), (False, True, True, False)),
    ((np.inf, 0.59, -0.2), (True, False, True, True)),
    ((2.0, 1.51, np.inf), (True, True, False, False)),
    ((np.nan, np.nan, np.nan), (False, False, False, False)),
  )
  def test_claims_hold_from_their_thresholds_on(self, values, held):
    names = 'forward / flipped', 'flipped / name alone', 'removed / forward'
    found = {
      name: [x, x - 1, x + 1] for name, x in zip(names, values, strict=True)
    }
    rungs = [_rung(0, 's'), _rung(0, 'l'), _rung(2, 's')]
    made = word_order.claimed(found, rungs)
    self.assertEqual([x['id'] for x in made], ['E10', 'E10b', 'E10c', 'E11'])
    self.assertEqual(tuple(x['held'] for x in made), held)
    self.assertEqual(
      [x['threshold'] for x in made],
      [['>=', 1.5], ['>=', 0.6], ['<=', 1.5], ['<=', 0.15]],
    )
    self.assertEqual((made[0]['seeds'], made[0]['sizes']), ([0, 2], ['s', 'l']))


def _score(query, text) -> float:
  """By order, made different for each pair."""
  names = query.completion.strip().split(' and ' if ' and ' in text else ' ')
  level = 0.02
  if names[-1] in text:
    subject = query.id.lower()
    place = text.lower().find(subject)
    level = 3 if 0 <= place < text.find(names[-1]) else 1
  return level * (1 + 0.2 * np.sin(zlib.crc32((query.prompt + text).encode())))


class RunTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    self.root = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    self.documents, self.truth = _documents()
    patch = mock.patch.object
    self.enterContext(
      patch(tiny_corpus, 'load', lambda *_, **__: self.documents)
    )
    self.enterContext(patch(texts, 'load', self.load))
    self.enterContext(patch(texts, 'scores', self.scores))
    self.enterContext(patch(store, 'fingerprint', lambda x: x))
    self.loaded = []

  def load(self, rung):
    self.loaded.append(rung.name)
    scale = 10.0 ** len(self.loaded)
    ours = types.SimpleNamespace(
      params_fingerprint=f'of {rung.name}', scale=scale
    )
    return ours, f'of {rung.name}'

  def scores(self, config, ours, factors, queries, found):
    del config, factors
    return ours.scale * np.array(
      [[_score(query, text) for text in found] for query in queries]
    )

  def write(self, config, **section):
    config.word_order = word_order_config.get_config().word_order
    config.word_order.update(num_entities=3, **section)
    tiny_ladder.write(self.root, config, QUERIES)
    store.write_json(self.root / 'corpus.json', config.data.to_dict())
    store.write_json(self.root / 'truth.json', self.truth)
    return config

  def result(self):
    return json.loads((self.root / 'word_order' / 'result.json').read_text())

  def test_every_model_is_scored_once_and_the_largest_are_claimed(self):
    config = self.write(tiny_ladder.config(('s', 'm', 'l')))
    word_order.run(config, self.root)
    rungs = ['s_seed0', 'm_seed0', 'l_seed0', 's_seed1', 'm_seed1', 'l_seed1']
    self.assertEqual(self.loaded, rungs)
    result = self.result()
    self.assertLen(result['cases']['gleem'], 4)
    claims = {x['id']: x for x in result['claims']}
    self.assertEqual(claims['E10']['sizes'], ['m', 'l'])
    self.assertEqual(claims['E10']['seeds'], [0, 1])
    documents, _ = _documents()
    taken = {
      w for d in documents for w in re.findall(r'\w+', d['text'].lower())
    }
    names = word_order_texts.entities('Astrobia', 3, 0, taken=taken)
    sums = dict.fromkeys(('P1', 'P2', 'P5', 'P6'), 0)
    for one in names:
      case = word_order_texts.case('Astrobia', one)
      for kind in sums:
        found = [
          _score(case.query, text)
          for text, k in zip(case.texts, case.kinds, strict=True)
          if k == kind
        ]
        sums[kind] += sum(found) / len(found)
    self.assertAlmostEqual(
      claims['E10']['value'], sums['P1'] / sums['P5'], places=4
    )
    self.assertAlmostEqual(
      claims['E10c']['value'], sums['P5'] / sums['P6'], places=4
    )
    self.assertAlmostEqual(
      claims['E11']['value'], sums['P2'] / sums['P1'], places=4
    )
    self.assertEqual({*result['ratios']}, {'Astrobia', 'gleem', 'offices'})
    self.assertEqual({*result['ratios']['gleem']}, {'s', 'm', 'l'})
    first = result['rungs'][1]['first']['Astrobia']
    case = word_order_texts.case('Astrobia', names[0])
    wanted = [100 * _score(case.query, text) for text in case.texts]
    np.testing.assert_allclose(first, wanted, 1e-5)
    self.assertEqual(result['texts']['Astrobia']['texts'], case.texts)
    for name in ('Astrobia', 'gleem', 'offices', 'ratios'):
      path = self.root / 'word_order' / f'{name}.png'
      self.assertGreater(path.stat().st_size, 10_000)
    word_order.run(config, self.root)
    self.assertLen(self.loaded, len(rungs))
    self.assertEqual(self.result()['claims'], result['claims'])
    config.word_order.seed = 1
    with self.assertRaisesRegex(ValueError, 'texts is .* there'):
      word_order.run(config, self.root)

  def test_offices_have_the_means_of_their_own_texts(self):
    word_order.run(self.write(tiny_ladder.config(('s',), (0,))), self.root)
    result = self.result()
    documents, truth = _documents()
    cases = word_order_offices.cases(QUERIES, truth, documents.__getitem__)
    for case, means in zip(
      cases, result['rungs'][0]['means']['offices'], strict=True
    ):
      found = [10 * _score(case.query, text) for text in case.texts]
      wanted = [np.mean(found[i : i + 5]) for i in (0, 5, 10)]
      np.testing.assert_allclose(means, wanted, 1e-5)
    self.assertEqual(result['cases']['offices'], ['f', 'b'])

  def test_without_a_ladder_the_workdir_is_the_only_model(self):
    config = tiny_ladder.config()
    with config.unlocked():
      del config.ladder
    self.write(config, sizes=('d64',), offices=False)
    (self.root / 'truth.json').unlink()
    word_order.run(config, self.root)
    result = self.result()
    self.assertEqual([*result['ratios']['gleem']], [self.root.name])
    self.assertEqual({*result['ratios']}, {'Astrobia', 'gleem'})
    self.assertEqual(result['claims'][0]['sizes'], [])
    self.assertFalse((self.root / 'word_order' / 'offices.png').exists())

  def test_scores_of_another_model_are_refused(self):
    config = self.write(tiny_ladder.config(('s',), (0,)))
    path = self.root / 's_seed0' / 'scores' / 'manifest.json'
    store.write_json(path, {**store.read_json(path), 'params': 'of another'})
    with self.assertRaisesRegex(ValueError, "params is 'of another'"):
      word_order.run(config, self.root)

  def test_names_that_a_document_has_are_refused(self):
    self.documents[5]['text'] += ' and the Dwock sat'
    config = self.write(tiny_ladder.config(('s',), (0,)))
    with self.assertRaisesRegex(ValueError, r"the words \['dwock'\]"):
      word_order.run(config, self.root)

  def test_offices_without_the_truth_are_refused(self):
    config = self.write(tiny_ladder.config(('s',), (0,)))
    (self.root / 'truth.json').unlink()
    with self.assertRaisesRegex(ValueError, 'ladder_planted'):
      word_order.run(config, self.root)


class ShownTest(absltest.TestCase):
  def test_means_are_of_each_kind_in_their_order(self):
    means = word_order_parts.means([1, 2, 9, 4], ['b', 'a', 'b', 'a'])
    self.assertEqual(means, [5, 3])

  def test_bars_are_means_over_seeds_in_the_order_of_the_texts(self):
    case = word_order_texts.Case(
      QUERIES[0], ['x', 'y', 'z'], ['P1', 'P1', 'P5']
    )
    fig = word_order_figure.bars(case, {'s': [[1, 2, -3], [3, 2, -5]]})
    (panel,) = fig.axes
    bars = sorted(panel.patches, key=lambda bar: bar.get_y())
    self.assertEqual([bar.get_width() for bar in bars], [2, 2, -4])
    labels = {
      place: label.get_text()
      for place, label in zip(
        panel.get_yticks(), panel.get_yticklabels(), strict=True
      )
    }
    middle = [bar.get_y() + bar.get_height() / 2 for bar in bars]
    self.assertEqual([labels[round(y, 6)] for y in middle], ['x', 'y', 'z'])

  def test_what_is_not_finite_is_left_out_of_the_figure_and_in_the_table(self):
    found = {'gleem': {'s': {'a': [np.inf, 1, np.inf]}, 'l': {'a': [2, 1, 3]}}}
    (panel,) = word_order_figure.ratios(found).axes
    line = panel.get_lines()[0]
    np.testing.assert_array_equal(line.get_ydata(), [np.nan, 2])
    (name,) = word_order_figure.ratio_table(found).columns[2].cells
    self.assertEqual(name, 'inf (1.00 to inf)')


if __name__ == '__main__':
  absltest.main()
