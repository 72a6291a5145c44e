import json
import pathlib
import tempfile

import ml_collections
import numpy as np
import tiny_config
from absl.testing import absltest, parameterized
from tiny import corpus as tiny_corpus
from tiny import ladder as tiny_ladder

from configs import (
  layerwise as layerwise_config,
)
from configs import (
  layerwise_english,
  layerwise_quickstart,
)
from experiments import (
  claims,
  depth,
  ladder,
  layerwise,
  layerwise_figure,
  layerwise_measures,
  layerwise_tops,
  top_table,
)
from influence_jax import types
from influence_jax.data import queries as queries_lib
from influence_jax.data import tokenizer as tokenizer_lib

_QUERIES = [
  queries_lib.Query(f'{name}{n}', 'the cat', f' sat {n}', {'class': name})
  for name in ('memorised', 'sum', 'office')
  for n in range(4)
]


def _config(config, **section) -> ml_collections.ConfigDict:
  layerwise_config.with_layerwise(config)
  section = {'upper': ('memorised',), 'middle': ('sum',), **section}
  config.layerwise.update(sizes=(), num_top=5, num_permutations=199, **section)
  return config


def _section(**values):
  return _config(ml_collections.ConfigDict(), **values).layerwise


def _tops(scores, overlaps=None):
  overlaps = overlaps or [np.zeros(len(x)) for x in scores]
  return layerwise_tops.Tops(None, _QUERIES[: len(scores)], scores, overlaps)


class DepthTest(parameterized.TestCase):
  @parameterized.parameters(
    (['blocks_0/mlp/fc_in', 'blocks_0/mlp/fc_out', 'blocks_2/mlp/fc_in'], 1),
    (['blocks/mlp/fc_in[0]', 'blocks/mlp/fc_out[0]', 'blocks/mlp/fc_in[1]'], 1),
    (['blocks/mlp/fc1[0]', 'blocks/mlp/fc2[0]', 'blocks/mlp/fc1[1]'], 1),
    (['blocks/fc1/w[0]', 'blocks/fc2/w[0]', 'blocks/fc1/w[1]'], 1),
    (['h/3/mlp/Dense_0', 'h/3/mlp/Dense_1', 'h/10/mlp/Dense_0'], 1),
    (['Dense_0', 'Dense_1', 'Dense_2'], 2),
  )
  def test_layers_of_a_block_are_one_depth(self, names, last):
    block_M = depth.blocks(names)
    self.assertEqual(block_M.tolist(), [0, 1 if last == 2 else 0, last])

  def test_blocks_are_in_the_order_of_their_numbers(self):
    names = ['blocks_10/mlp', 'blocks_9/mlp', 'blocks_2/mlp', 'blocks_9/attn']
    self.assertEqual(depth.blocks(names).tolist(), [2, 1, 0, 1])

  @parameterized.parameters(
    (['blocks_0/mlp', 'lm_head'], r"\['lm_head'\].*layerwise.outside"),
    (['in/w', 'fc1/v'], r"no block number.*\['in/w'\]"),
    (['blocks_4/mlp/fc_in', 'blocks_4/mlp/fc_out'], r'all of block \[4\]'),
  )
  def test_names_without_blocks_are_refused(self, names, message):
    with self.assertRaisesRegex(ValueError, message):
      depth.blocks(names)

  def test_scores_by_block_add_up(self):
    scores_CxM = np.random.default_rng(0).normal(size=(4, 5))
    found = depth.by_block(scores_CxM, np.array([1, 0, 2, 1, 0]))
    wanted = scores_CxM[:, [1, 0, 2]]
    wanted[:, 0] += scores_CxM[:, 4]
    wanted[:, 1] += scores_CxM[:, 3]
    np.testing.assert_allclose(found, wanted, 1e-12)

  @parameterized.parameters(
    ([5, -9, 0, -1], 0.0),
    ([-9, -1, 0, 2], 1.0),
    ([1, 1, 1, 1], 0.5),
    ([0, 3, -7, 1], (3 * 1 / 3 + 1) / 4),
  )
  def test_centre_is_that_of_the_positive_scores(self, scores, wanted):
    for scale in (1, 1e4):
      found = depth.centre(scale * np.array([scores, scores]))
      np.testing.assert_allclose(found, wanted)

  def test_centre_of_nothing_positive_is_nan(self):
    self.assertTrue(np.isnan(depth.centre(np.array([[-1.0, 0.0]])))[0])

  @parameterized.parameters(
    (3, [[0], [1], [2]]),
    (4, [[0, 1], [2], [3]]),
    (6, [[0, 1], [2, 3], [4, 5]]),
  )
  def test_thirds_are_of_blocks_and_even(self, num, wanted):
    found = depth.thirds(num)
    self.assertEqual([x.tolist() for x in found.values()], wanted)
    self.assertEqual(list(found), ['lower', 'middle', 'upper'])

  def test_two_blocks_have_no_thirds(self):
    self.assertEqual(depth.thirds(2), {})


class LayerwiseTest(parameterized.TestCase):
  def test_centre_of_a_query_is_the_mean_over_its_sequences(self):
    scores = [np.array([[1.0, 0, 0], [0, 0, 9], [0, 2, 0]]), np.eye(3)[2:]]
    np.testing.assert_allclose(
      layerwise_measures.centres(_tops(scores)), [0.5, 1]
    )

  def test_unevenness_is_that_of_the_worst_rung_and_of_these_queries(self):
    profiles = [
      np.array([[3.0, 1, 2], [1, 3, 2]]),
      np.array([[1.0, 9], [3, 3]]),
    ]
    both, first = np.array([0, 1]), np.array([0, 0])
    self.assertAlmostEqual(layerwise_measures.unevenness(profiles, both), 6 / 4)
    self.assertAlmostEqual(
      layerwise_measures.unevenness(profiles, first), 9 / 5
    )
    self.assertAlmostEqual(layerwise_measures.unevenness(profiles[:1], both), 1)

  def test_thirds_put_the_same_sequences_in_their_own_order(self):
    # Each third has its own best pair; their overlaps tell which it was.
    scores_CxL = np.array(
      [
        [9.0, 0, 1, 0, 0],
        [0, 8, 0, 1, 0],
        [0, 0, 9, 0, 0],
        [0, 0, 0, 8, 0],
        [0, 0, 0, 0, 30],
        [0, 0, 0, 0, 29],
      ]
    )
    overlaps = np.array([0.1, 0.3, 0.5, 0.7, 0.2, 0.6])
    tops = _tops([scores_CxL], [overlaps])
    found = layerwise_measures.in_thirds([tops], 2)
    wanted = {'lower': 0.2, 'middle': 0.6, 'upper': 0.4, 'whole': 0.4}
    self.assertEqual(
      {name: x.tolist() for name, x in found.items()}.keys(), wanted.keys()
    )
    for name, value in wanted.items():
      np.testing.assert_allclose(found[name], [value], err_msg=name)
    shallow = _tops([np.ones((2, 2))], [np.ones(2)])
    self.assertEqual(layerwise_measures.in_thirds([shallow], 2), {})
    np.testing.assert_allclose(
      layerwise_measures.in_thirds([shallow, tops], 2)['middle'], [0.6]
    )

  def test_separation_is_the_share_of_permutations_that_reach_it(self):
    classes = ['memorised'] * 3 + ['office'] + ['sum'] * 3
    centre_K = np.array([0.9, 0.7, 0.8, 0.0, 0.2, 0.75, 0.1])
    section = _section()
    section.num_permutations = 999  # more than the 20 there are: all of them
    found = layerwise_measures.separation(centre_K, classes, section)
    self.assertAlmostEqual(found['difference'][0], 0.8 - 0.35)
    # Only the order itself and the exchange of .7 and .75 are as far apart.
    self.assertAlmostEqual(found['p'], 2 / 20)
    self.assertEqual(found['queries'], [3, 3])
    low, high = found['difference'][1:]
    self.assertTrue(low < 0.45 < high)
    section.upper, section.middle = section.middle, section.upper
    other = layerwise_measures.separation(centre_K, classes, section)
    self.assertAlmostEqual(other['p'], 19 / 20)

  @parameterized.parameters(
    (dict(upper=('none',)), r"\['none'\].*'memorised'"),
    (dict(middle=('office',)), 'two or more of each'),
  )
  def test_classes_that_are_not_there_are_refused(self, section, message):
    classes = ['memorised'] * 3 + ['office'] + ['sum'] * 3
    with self.assertRaisesRegex(ValueError, message):
      layerwise_measures.separation(np.ones(7), classes, _section(**section))

  def test_no_classes_mean_no_claim(self):
    section = _section(upper=(), middle=())
    self.assertIsNone(
      layerwise_measures.separation(np.ones(2), ['a', 'b'], section)
    )

  @parameterized.parameters(((5.0, 1, 1), True), ((5.1, 1, 1), False))
  def test_even_holds_up_to_two_and_a_half(self, means, held):
    # With 3 blocks: 5 / (7 / 3) < 2.5; so 2 more blocks of nothing.
    profile_KxL = np.array([[*means, 0.5, 2.5]])
    found = layerwise._claims([], [profile_KxL], None, _section())
    self.assertEqual([x['held'] for x in found], [held])

  @parameterized.parameters((0.0499, True), (0.05, False))
  def test_apart_holds_below_five_percent(self, p, held):
    apart = {'p': p, 'difference': [0.1, 0, 1]}
    profile_KxL = np.ones((2, 3))
    found = layerwise._claims([], [profile_KxL], apart, _section())
    self.assertEqual([x['id'] for x in found], ['E12', 'E14'])
    self.assertEqual(found[0]['held'], held)

  def test_tokens_in_common_are_counted_once(self):
    self.assertAlmostEqual(layerwise_tops.jaccard({1, 2}, {2, 3, 4}), 1 / 4)

  def test_configs_are_of_their_ladders(self):
    self.assertIn('ladder', layerwise_config.get_config())
    self.assertEqual(layerwise_english.get_config().layerwise.upper, ())
    quickstart = layerwise_quickstart.get_config()
    self.assertNotIn('ladder', quickstart)
    self.assertEqual(quickstart.layerwise.num_top, quickstart.score.num_top)


class FigureTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    rng = np.random.default_rng(0)
    self.scores = [rng.uniform(size=(6, 3)) for _ in range(4)]
    self.classes = ['a', 'b', 'a', 'b']

  def draw(self, thirds=None):
    profiles = [np.array([x.mean(0) for x in self.scores])] * 2
    return layerwise_figure.draw(
      ['s', 'l'], profiles, self.classes, np.array([0.1, 0.9, 0.3, 0.7]),
      thirds or {}, _tops(self.scores),
    )  # fmt: skip

  def test_sequences_of_a_class_are_sorted_by_their_centre(self):
    a, b, _ = self.draw()['sequences'].axes
    self.assertEqual([x.get_title() for x in (a, b)], ['a', 'b'])
    shown_LxC = a.images[0].get_array()
    mine_CxL = np.concatenate([self.scores[0], self.scores[2]])
    shares = mine_CxL / mine_CxL.sum(1, keepdims=True)
    order = sorted(range(12), key=lambda c: shares[c] @ [0, 0.5, 1])
    np.testing.assert_allclose(shown_LxC, shares[order].T)
    self.assertEqual(a.get_ylim(), (0.5, 3.5))  # the first block at the bottom
    line = a.get_lines()[0].get_ydata()
    self.assertTrue((np.diff(line) >= 0).all())

  def test_bars_are_means_and_classes_have_their_own_means(self):
    drawn = self.draw()
    self.assertEqual(list(drawn), ['blocks', 'centres', 'sequences'])
    heights = [bar.get_height() for bar in drawn['blocks'].axes[1].patches]
    wanted = np.mean([x.mean(0) for x in self.scores], axis=0)
    np.testing.assert_allclose(heights, wanted)
    means = [
      line.get_xdata()[0]
      for line in drawn['centres'].axes[0].get_lines()
      if line.get_marker() == 'D'
    ]
    np.testing.assert_allclose(means, [0.2, 0.8])

  def test_thirds_have_a_row_a_class_and_one_of_all(self):
    thirds = {'lower': np.arange(4.0), 'upper': np.arange(4.0) + 1}
    axes = self.draw(thirds)['thirds'].axes[0]
    rows = [label.get_text() for label in axes.get_yticklabels()]
    self.assertEqual(rows, ['a', 'b', 'all queries'])
    means = [
      line.get_xdata()[0]
      for line in axes.get_lines()
      if line.get_marker() in 'v^'
    ]
    np.testing.assert_allclose(means, [1, 2, 1.5, 2, 3, 2.5])


class BinaryTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    directory = self.enterContext(tempfile.TemporaryDirectory())
    self.workdir = pathlib.Path(directory)

  def deepen(self, rung, name_of):
    """A top table in which the class alone says which block holds a score."""
    folder = rung.workdir / 'scores'
    rows, _ = top_table.read(folder / 'top.parquet')
    names = [name_of(i, w) for i in range(3) for w in ('fc_in', 'fc_out')]
    for row in rows:
      block = {'m': 2, 's': 0, 'o': 1}[row['query_id'][0]]
      scores = np.zeros(6)
      scores[2 * block : 2 * block + 2] = row['score'] / 2
      row['layer_scores'] = scores.tolist()
    layers = {name: types.Layer(name, 9, 16, True) for name in names}
    top_table.write(folder / 'top.parquet', rows, layers)
    return rows

  def test_it_finds_what_was_planted_on_a_ladder(self):
    config = _config(tiny_ladder.config())
    tiny_ladder.write(self.workdir, config, _QUERIES)
    rungs = ladder.rungs(config, self.workdir)
    rows = [
      self.deepen(rung, lambda i, w: f'blocks_{i}/mlp/{w}') for rung in rungs
    ]
    layerwise.run(config, self.workdir)
    folder = self.workdir / 'layerwise'
    result = json.loads((folder / 'result.json').read_text())
    for name in ('blocks', 'centres', 'sequences', 'thirds'):
      self.assertGreater((folder / f'{name}.png').stat().st_size, 8_000, name)
    self.assertLess((folder / 'result.json').stat().st_size, 50_000)
    apart, even = result['claims']
    self.assertTrue(apart['held'])
    self.assertAlmostEqual(result['separation']['difference'][0], 1)
    self.assertEqual((apart['seeds'], apart['sizes']), ([0, 1], ['s', 'l']))
    classes = result['classes']
    for name, centre in (('memorised', 1), ('sum', 0), ('office', 0.5)):
      self.assertEqual(classes[name]['queries'], 4)
      np.testing.assert_allclose(classes[name]['centre'], [centre] * 3)
    # By block, straight from the rows: mean over queries, 5 sequences each.
    for rung, mine in zip(result['rungs'], rows, strict=True):
      wanted = [
        sum(row['score'] for row in mine if row['query_id'][0] == letter) / 60
        for letter in 'som'
      ]
      np.testing.assert_allclose(rung['blocks'], wanted)
    ratios = [row['ratio'] for row in result['rungs']]
    self.assertAlmostEqual(even['value'], max(ratios))
    self.assertLen(claims.gather([self.workdir]), 2)

  def test_overlaps_are_those_of_texts(self):
    config = _config(tiny_ladder.config(sizes=('s',), seeds=(0,)))
    tiny_ladder.write(self.workdir, config, _QUERIES[:3])
    (rung,) = ladder.rungs(config, self.workdir)
    rows = self.deepen(rung, lambda i, w: f'blocks/mlp/{w}[{i}]')
    (found,) = layerwise_tops.read([rung], config.layerwise)
    tokenizer = tokenizer_lib.load(self.workdir / 'tokenizer.json')
    words = [
      {*tokenizer.encode('the cat').ids, *tokenizer.encode(f' sat {n}').ids}
      for n in range(3)
    ]
    documents = tiny_corpus.load(None)
    for k, overlap_C in enumerate(found.overlaps):
      mine = [row for row in rows if row['query_id'] == f'memorised{k}']
      for row, overlap in zip(mine, overlap_C, strict=True):
        text = {*tokenizer.encode(documents[row['document']]['text']).ids}
        if row['chunk'] == 0 and len(text) < 15:
          wanted = len(text & words[k]) / len(text | words[k])
          self.assertAlmostEqual(overlap, wanted)

  def test_one_model_without_labels_will_do(self):
    config = _config(
      tiny_config.get_config(), label='', upper=(), middle=(), outside='_2/'
    )
    tiny_ladder.write(self.workdir, config)
    result = layerwise.run(config, self.workdir)
    self.assertEqual(list(result['classes']), ['all queries'])
    self.assertLen(result['rungs'][0]['blocks'], 2)
    self.assertIsNone(result['separation'])
    self.assertEqual([x['id'] for x in result['claims']], ['E14'])
    self.assertFalse((self.workdir / 'layerwise' / 'thirds.png').exists())

  def test_it_says_what_is_missing(self):
    config = _config(tiny_config.get_config(), label='topic')
    tiny_ladder.write(self.workdir, config)
    with self.assertRaisesRegex(ValueError, "no label 'topic'"):
      layerwise.run(config, self.workdir)
    (self.workdir / 'scores' / 'top.parquet').unlink()
    with self.assertRaisesRegex(ValueError, 'top.parquet.*num_top=5'):
      layerwise.run(config, self.workdir)

  def test_queries_without_top_sequences_are_left_out_everywhere(self):
    config = _config(tiny_ladder.config(sizes=('s',)), label='')
    config.layerwise.update(upper=(), middle=())

    def scores_fn(rung, shape):
      scores = np.random.default_rng(rung.seed).uniform(1, 2, shape)
      scores[0, rung.seed] *= -1  # the first query in one, the second in other
      return scores

    tiny_ladder.write(self.workdir, config, scores_fn=scores_fn)
    for rung in ladder.rungs(config, self.workdir):
      path = rung.workdir / 'scores' / 'top.parquet'
      rows, _ = top_table.read(path)
      positive = [row for row in rows if row['score'] > 0]
      top_table.write(path, positive, tiny_ladder.LAYERS)
    result = layerwise.run(config, self.workdir)
    self.assertEqual([row['query'] for row in result['queries']], ['c'])
    self.assertIsNone(result['claims'][0]['interval'])

  def test_rungs_of_different_queries_are_refused(self):
    config = _config(tiny_ladder.config(sizes=('s',)))
    tiny_ladder.write(self.workdir, config)
    path = self.workdir / 's_seed1' / 'scores' / 'manifest.json'
    manifest = json.loads(path.read_text())
    manifest['queries'][0][1] = 'the dog'
    path.write_text(json.dumps(manifest))
    with self.assertRaisesRegex(ValueError, 's_seed1 are of other queries'):
      layerwise.run(config, self.workdir)


if __name__ == '__main__':
  absltest.main()
