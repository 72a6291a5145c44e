"""Tests of experiments.view and of what its page holds, on made-up scores."""

import base64
import hashlib
import html.parser
import json
import pathlib
import tempfile

import numpy as np
from absl.testing import absltest, parameterized
from ml_collections import ConfigDict
from scipy import stats
from tiny import scores as tiny_scores

from experiments import token_parts_table, top_table, view_answers, view_page
from influence_jax import score_store, store, types
from influence_jax.data import batches, sequences
from influence_jax.report import records, viewer, viewer_distribution

HOSTILE = (
  '</script><script>document.title = "taken"</script>',
  '\'"><img src=x onerror=alert(1)>',
  '<!-- &amp; {{ 7*7 }} {% raw %}',
  ' שלום עולם', '漢字かな', '👩‍👩‍👧🎉', 'x' * 10_000,
  '\u2028\u2029', '\x1b[31m\x7f\u202e', '\n', '',
)  # fmt: skip
IDS = '<b>id</b> & "x" #=%', 'b'
LAYERS = {f'block_{i}/<i>mlp': types.Layer(f'block_{i}/<i>mlp', 2, 2, False)
          for i in range(3)}  # fmt: skip
NUM_TOP = 8
DIGITS = [chr(x) for x in range(32, 127) if chr(x) not in '"\\<>&']
WORDS = 'one', 'two', 'three', '<i>four'


def write(workdir: pathlib.Path) -> tuple[np.ndarray, list[dict]]:
  """A workdir as of experiments.score; scores [A, K, N] and rows of the top.

  The tokens of the first query's best sequence are HOSTILE, and all titles.
  """
  scores = tiny_scores.write(workdir).astype(np.float32)
  scores = scores.reshape(2, 2, -1)
  folder = workdir / 'scores'
  manifest = store.read_json(folder / 'manifest.json')
  for query, name in zip(manifest['queries'], IDS, strict=True):
    query[0] = name
  manifest |= {
    'commit': 'abc123',
    'queries': [[*q, {}] for q in manifest['queries']],
  }
  store.write_json(folder / 'manifest.json', manifest)
  prompts = (HOSTILE[0], '')
  store.write_json(
    folder / 'queries.json',
    [
      {'id': name, 'prompt': prompt, 'completion': f' {HOSTILE[3]}',
       'loss': 2.5 + k, 'labels': {'class': HOSTILE[1 + k]}}
      for k, (name, prompt) in enumerate(zip(IDS, prompts, strict=True))
    ],
  )  # fmt: skip
  rng = np.random.default_rng(1)
  rows = [
    _row(rng, name, kind, rank, int(n), float(scores[0, k, n]))
    for k, name in enumerate(IDS)
    for kind, sign in (('positive', 1), ('negative', -1))
    for rank, n in enumerate(np.argsort(-sign * scores[0, k])[:NUM_TOP], 1)
    if sign * scores[0, k, n] > 0
  ]
  top_table.write(folder / 'top.parquet', rows, LAYERS)
  token_parts_table.write(folder, [token_parts_of(row) for row in rows], {})
  store.write_json(workdir / 'config.json', {'fit': {'seed': 0, 'x': {}}})
  health = [{'layer': name, 'damping': 0.12345, 'condition': float('inf')}
            for name in LAYERS]  # fmt: skip
  store.write_json(workdir / 'factor_health.json', health)
  return scores, rows


def _row(rng, name, kind, rank, n, score) -> dict:
  """`rng` draws the scores; the texts are those of sequence n."""
  tokens = [f' {x}' for x in np.random.default_rng(n).choice(WORDS, 3 + n % 9)]
  if (name, kind, rank) == (IDS[0], 'positive', 1):
    tokens = [*HOSTILE, ' word']
  parts = rng.standard_t(2, len(tokens))
  if rank == 2:  # one token holds nearly all
    parts = np.where(np.arange(len(tokens)) == 1, 1.0, 1e-3)
  layers = rng.standard_normal(len(LAYERS))
  return {
    'query_id': name, 'kind': kind, 'rank': rank, 'score': score,
    'scan_score': score * (1 + 0.01 * rng.standard_normal()),
    'sequence': n, 'document': 10 + n, 'chunk': 0,
    'title': HOSTILE[n % len(HOSTILE)], 'topic': ('even', 'odd')[n % 2],
    'text': ''.join(tokens), 'tokens': tokens,
    'token_scores': (score * parts / parts.sum()).tolist(),
    'layer_scores': (score * layers / layers.sum()).tolist(),
  }  # fmt: skip


def token_parts_of(row) -> dict:
  rng = np.random.default_rng(row['sequence'])
  num = len(row['tokens'])
  output, given = rng.standard_t(2, (2, num))
  output *= row['score'] / output.sum()
  return {
    'query_id': row['query_id'], 'sequence': row['sequence'],
    'output': output.astype(np.float32), 'input': given.astype(np.float32),
    'last': f' {HOSTILE[0]}', 'gradient_norm': float(rng.gamma(3)),
  }  # fmt: skip


def unpacked(found: list) -> np.ndarray:
  """The numbers that the page holds."""
  unit, parts = found[:2]
  digits = [DIGITS.index(x) for x in parts]
  whole = np.array(digits[::2]) * 90 + np.array(digits[1::2]) - 4050
  return whole * unit


class Page(html.parser.HTMLParser):
  """What a browser makes of a page: (tag, attributes, text) of each element."""

  def __init__(self, text: str):
    super().__init__()
    self.elements = []
    self.feed(text)

  def handle_starttag(self, tag, attrs):
    self.elements.append([tag, dict(attrs), ''])

  def handle_endtag(self, tag):
    self.elements.append([None, {}, ''])  # what comes after is not in it

  def handle_data(self, data):
    if self.elements:
      self.elements[-1][2] += data

  def of(self, tag):
    return [element for element in self.elements if element[0] == tag]

  def data(self):
    (found,) = [x for x in self.of('script') if x[1].get('id') == 'data']
    return json.loads(found[2])


class ViewTest(absltest.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    root = cls.enterClassContext(tempfile.TemporaryDirectory())
    cls.workdir = pathlib.Path(root)
    cls.scores, cls.rows = write(cls.workdir)
    cls.config = ConfigDict({'score': {'folder': 'scores'}})
    view_page.write(cls.config, cls.workdir)
    cls.text = (cls.workdir / 'view.html').read_text()
    cls.page = Page(cls.text)
    cls.data = cls.page.data()

  def shown(self):
    """(row of top.parquet, row of the page), each."""
    shown = [
      dict(zip(self.data['columns'], row, strict=True))
      for query in self.data['queries']
      for row in query['rows']
    ]
    return zip(self.rows, shown, strict=True)

  def test_rows_are_those_of_the_table_by_query_kind_and_rank(self):
    for row, shown in self.shown():
      for key in ('kind', 'rank', 'sequence'):
        self.assertEqual(shown[key], row[key])
      for key in ('score', 'scan_score'):
        self.assertAlmostEqual(shown[key] / row[key], 1, 5)
    self.assertEqual([x['id'] for x in self.data['queries']], [*IDS])
    self.assertEqual(self.data['layers'], [*LAYERS])

  def test_token_and_layer_scores_are_right_to_a_2000th_of_the_largest(self):
    for row, shown in self.shown():
      for kind in ('token', 'layer'):
        scores = np.array(row[f'{kind}_scores'])
        parts = unpacked(shown[f'{kind}s'])
        self.assertLessEqual(
          abs(parts - scores).max(), abs(scores).max() / 2000
        )

  def test_parts_of_tokens_are_those_of_their_table(self):
    self.assertTrue(self.data['has_parts'])
    for row, shown in self.shown():
      wanted = token_parts_of(row)
      for kind in ('input', 'output'):
        scores, found = wanted[kind], shown[kind]
        error = abs(unpacked(found) - scores).max()
        self.assertLessEqual(error, abs(scores).max() / 2000)
        self.assertAlmostEqual(found[2] / scores.sum(), 1, 4)
      self.assertAlmostEqual(shown['norm'] / wanted['gradient_norm'], 1, 5)
      source = self.data['sequences'][str(row['sequence'])]
      self.assertEqual(source['last'], wanted['last'])
    for query in self.data['queries']:
      rows = [x for x in self.rows if x['query_id'] == query['id']]
      norms = [token_parts_of(row)['gradient_norm'] for row in rows]
      wanted = stats.spearmanr([abs(x['score']) for x in rows], norms).statistic
      self.assertAlmostEqual(query['norm_correlation'], wanted, 9)

  def test_parts_of_tokens_are_of_this_table_whole_or_refused(self):
    copy = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    self.assertIsNone(token_parts_table.read(copy))
    top_table.write(copy / 'top.parquet', self.rows, LAYERS)
    token_parts_table.write(
      copy, [token_parts_of(row) for row in self.rows], {}
    )
    self.assertLen(token_parts_table.read(copy), len(self.rows))
    top_table.write(copy / 'top.parquet', self.rows[1:], LAYERS)
    with self.assertRaisesRegex(ValueError, 'token_parts.parquet is of anothe'):
      token_parts_table.read(copy)
    path = copy / token_parts_table.NAME
    whole = path.read_bytes()
    for damaged in (whole[:-9], whole[: len(whole) // 2], b''):
      path.write_bytes(damaged)
      with self.assertRaisesRegex(ValueError, 'is damaged.*remove it and run'):
        token_parts_table.read(copy)

  def test_without_parts_of_tokens_the_page_has_none(self):
    queries = [{'id': x, 'prompt': '', 'completion': '', 'loss': 1.0,
                'labels': {}} for x in IDS]  # fmt: skip
    found = viewer.data(
      '', queries, self.rows, [*LAYERS], viewer.Answers((), {}, {}), ()
    )
    self.assertFalse(found['has_parts'])
    self.assertNotIn('input', found['columns'])
    self.assertLen(found['queries'][0]['rows'][0], len(found['columns']))

  def other(self, **changes):
    """A folder of other scores of the same, but for the manifest's changes."""
    root = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    manifest = store.read_json(self.workdir / 'scores' / 'manifest.json')
    manifest = {**manifest, 'answers': ['kfac relative 0.1'], **changes}
    folder = root / 'd64_0' / 'scores'
    store.write_json(folder / 'manifest.json', manifest)
    num = manifest['score']['num_sequences'] or self.scores.shape[2]
    scores = np.random.default_rng(3).standard_normal((2, num))
    score_store.create(folder / 'scores.zarr', 2, num, 16).put(0, scores)
    return folder, scores

  def answers(self, **others):
    folder = self.workdir / 'scores'
    return view_answers.answers(self.workdir, folder, self.rows, others)

  def test_another_models_scores_stand_beside_under_its_name(self):
    folder, scores = self.other()
    found = self.answers(d64_0=folder)
    own = self.workdir.name
    self.assertEqual(
      found.labels,
      [f'{own}: ekfac relative 0.1', f'{own}: identity relative 0.1',
       'd64_0: kfac relative 0.1'],
    )  # fmt: skip
    lengths = sequences.open(self.workdir / 'sequences').records['size'] - 1
    for k, name in enumerate(IDS):
      theirs = np.float32(scores[k])
      described = found.distributions[name][2]
      wanted = viewer_distribution.describe(theirs, lengths)
      self.assertEqual(described | wanted, described)
      for row in self.rows:
        if row['query_id'] == name:
          sign = 1 if row['kind'] == 'positive' else -1
          score, rank = found.of_rows[name, row['sequence']][2]
          self.assertAlmostEqual(score, scores[k, row['sequence']], 5)
          self.assertEqual(rank, 1 + sum(sign * theirs > sign * score))

  def test_another_models_scores_of_something_else_are_refused(self):
    manifest = store.read_json(self.workdir / 'scores' / 'manifest.json')
    queries = [[name, 'another prompt', 'end', {}] for name in IDS]
    few = {**manifest['score'], 'num_sequences': 20}
    filtered = {**manifest['score'], 'candidates': {'method': 'tf_idf'}}
    for changes, message in (
      ({'data': 'f' * 64}, 'of the corpus ffffffffffff, those in .* of '),
      ({'queries': queries}, 'not the same ones in the same order'),
      ({'queries': manifest['queries'][::-1]}, 'not the same ones'),
      ({'score': few}, '20 sequences are scored in'),
      ({'score': filtered}, 'only candidates found by tf_idf'),
    ):
      folder, _ = self.other(**changes)
      with self.assertRaisesRegex(ValueError, f'--others: .*{message}'):
        self.answers(x=folder)
    with self.assertRaisesRegex(ValueError, 'experiments.score did not run'):
      self.answers(x=folder.parent)
    labels = [[*query[:3], {'class': 'other'}] for query in manifest['queries']]
    self.answers(x=self.other(queries=labels)[0])  # labels are no matter

  def test_workdirs_of_one_name_are_told_apart_by_their_paths(self):
    found = view_answers.named(['a/s', 'b/s', 'c/l', 'd/own'], 'scores', 'own')
    self.assertEqual(
      found,
      {name: pathlib.Path(path) / 'scores' for name, path in (
        ('a/s', 'a/s'), ('b/s', 'b/s'), ('l', 'c/l'), ('d/own', 'd/own'))},
    )  # fmt: skip

  def test_answers_are_scores_and_ranks_in_the_store(self):
    num_checked = 0
    for row, shown in self.shown():
      k = IDS.index(row['query_id'])
      sign = 1 if row['kind'] == 'positive' else -1
      self.assertLen(shown['answers'], 2)
      for a, (score, rank) in enumerate(shown['answers']):
        all_N = self.scores[a, k]
        mine = all_N[row['sequence']]
        self.assertAlmostEqual(score, float(mine), 4)
        self.assertEqual(rank, 1 + sum(sign * x > sign * mine for x in all_N))
        num_checked += 1
      self.assertEqual(shown['answers'][0][1], row['rank'])
    self.assertGreater(num_checked, 40)

  def test_answers_of_a_part_of_the_corpus_are_of_its_sequences(self):
    made = sequences.open(self.workdir / 'sequences')
    copy = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    (copy / 'sequences').symlink_to(self.workdir / 'sequences')
    manifest = store.read_json(self.workdir / 'scores' / 'manifest.json')
    manifest['score']['num_sequences'] = 20
    store.write_json(copy / 'scores' / 'manifest.json', manifest)
    numbers = batches.spread(len(made), 20)
    scores = np.random.default_rng(2).standard_normal((4, 20))
    score_store.create(copy / 'scores' / 'scores.zarr', 4, 20, 16).put(
      0, scores
    )
    row = {'query_id': 'b', 'sequence': int(numbers[7]), 'kind': 'positive'}
    found = view_answers.answers(copy, copy / 'scores', [row])
    (first, second) = found.of_rows['b', numbers[7]]
    self.assertAlmostEqual(first[0], scores[1, 7], 5)
    self.assertAlmostEqual(second[0], scores[3, 7], 5)
    lengths = [len(made.row(n)) - 1 for n in numbers]
    wanted = viewer_distribution.describe(np.float32(scores[3]), lengths)
    described = found.distributions['b'][1]
    agreement = stats.spearmanr(scores[1], scores[3]).statistic
    self.assertAlmostEqual(described.pop('agreement'), agreement, 9)
    self.assertEqual(described, wanted)

  def test_hostile_texts_are_data_alone(self):
    self.assertLen(self.page.of('script'), 2)
    self.assertLen(self.page.of('img'), 0)
    (data,) = [x for x in self.page.of('script') if x[1].get('id') == 'data']
    for character in '<>&\u2028\u2029':
      self.assertNotIn(character, data[2])
    best = self.rows[0]['sequence']
    self.assertEqual(
      self.data['sequences'][str(best)]['tokens'].split('\x7f'),
      [records.plain(token) for token in (*HOSTILE, ' word')],
    )
    self.assertEqual(self.data['queries'][0]['prompt'], HOSTILE[0])

  def test_policy_allows_this_script_and_style_and_no_network(self):
    (policy,) = [x[1]['content'] for x in self.page.of('meta')
                 if 'http-equiv' in x[1]]  # fmt: skip
    (script,) = [x for x in self.page.of('script') if not x[1]]
    (style,) = self.page.of('style')
    for name, (_, _, text) in (('script', script), ('style', style)):
      digest = base64.b64encode(hashlib.sha256(text.encode()).digest())
      self.assertIn(f"{name}-src 'sha256-{digest.decode()}';", policy)
    self.assertTrue(policy.startswith("default-src 'none';"))
    for _, attributes, _ in self.page.elements:
      self.assertNoCommonElements(attributes, {'src', 'style', 'onclick'})
      self.assertStartsWith(attributes.get('href', '#'), '#')

  def test_facts_of_the_run_are_tables(self):
    tables = {x['title']: x for x in self.data['tables']}
    self.assertIn(['commit', 'abc123'], tables['The run']['rows'])
    self.assertIn(['fit.seed', '0'], tables['Config']['rows'])
    self.assertIn(['fit.x', '{}'], tables['Config']['rows'])
    (health,) = [x for title, x in tables.items() if 'health' in title]
    self.assertEqual(health['header'], ['layer', 'condition', 'damping'])
    self.assertEqual(health['rows'][0], [[*LAYERS][0], 'inf', '0.123'])

  def test_where_nothing_was_scored_it_says_what_to_run(self):
    empty = self.enterContext(tempfile.TemporaryDirectory())
    with self.assertRaisesRegex(ValueError, 'no top seq.*experiments.score'):
      view_page.write(self.config, empty)

  def test_without_scores_of_all_sequences_it_says_why(self):
    copy = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    manifest = store.read_json(self.workdir / 'scores' / 'manifest.json')
    manifest['score']['candidates'] = {'method': 'tf_idf'}
    store.write_json(copy / 'manifest.json', manifest)
    found = view_answers.answers(copy, copy, self.rows)
    self.assertIn('score.matrix was False', found.absent)
    (copy / 'scores.zarr').mkdir()
    found = view_answers.answers(copy, copy, self.rows)
    self.assertIn('candidates found by tf_idf', found.absent)
    self.assertEmpty(found.of_rows)

  def test_scores_that_are_not_finite_are_refused(self):
    rows = [{**self.rows[0], 'score': float('nan')}]
    queries = [{'id': IDS[0], 'loss': 1.0}]
    none = viewer.Answers((), {}, {})
    with self.assertRaisesRegex(ValueError, 'score of sequence.*finite'):
      viewer.render('', queries, rows, [*LAYERS], none, ())

  def test_fifty_queries_of_fifty_sequences_are_under_5_mb(self):
    rng = np.random.default_rng(0)
    letters = rng.choice([*'abcdefghijklm'], (4096, 8))
    sizes = rng.integers(2, 8, 4096)  # characters of a token
    words = [''.join(x[:n]) for x, n in zip(letters, sizes, strict=True)]
    rows = [
      {
        'query_id': str(k), 'kind': kind, 'rank': i + 1, 'score': 1.0,
        'scan_score': 1.0, 'sequence': 100 * k + i + 50 * (kind == 'negative'),
        'document': 10**6 + i, 'chunk': 3, 'title': 'A title of a document',
        'topic': 'a topic',
        'tokens': rng.choice(words, 128).tolist(),
        'token_scores': rng.standard_t(2, 128).tolist(),
        'layer_scores': rng.standard_t(2, 24).tolist(),
      }
      for k in range(50) for kind in records.KINDS for i in range(25)
    ]  # fmt: skip
    queries = [
      {'id': str(k), 'prompt': 'p' * 200, 'completion': 'c', 'loss': 1.0,
       'labels': {}}
      for k in range(50)
    ]  # fmt: skip
    scores_N = rng.standard_t(2, 5000)
    described = viewer_distribution.describe(
      scores_N, rng.integers(9, 129, 5000)
    )
    answers = viewer.Answers(
      ['ekfac', 'kfac', 'identity'],
      {
        (row['query_id'], row['sequence']): 3 * [(-1.2345, 5000)]
        for row in rows
      },
      {query['id']: 3 * [described] for query in queries},
    )
    layers = [f'blocks/mlp/fc_in[{i}]' for i in range(24)]
    token_parts = {
      (row['query_id'], row['sequence']): {
        'input': rng.standard_t(2, 128), 'output': rng.standard_t(2, 128),
        'last': ' token', 'gradient_norm': 123.456,
      }
      for row in rows
    }  # fmt: skip
    page = viewer.render(
      'large', queries, rows, layers, answers, (), token_parts
    )
    size = len(page.encode()) / 1e6
    print(f'50 x 50 sequences of 128 tokens: {size:.2f} MB')
    self.assertLess(size, 5)


class PackedTest(parameterized.TestCase):
  @parameterized.parameters(
    ([19507.3, -42.0, 0.03], 10, [1951, -4, 0]),
    ([1.0, -0.25], 1e-3, [1000, -250]),
    ([4.049, -4.049], 1e-3, [4049, -4049]),
    ([4.0495, -0.01], 2.5e-3, [1620, -4]),
    ([-9.9999e-7, 1e-9], 2.5e-10, [-4000, 4]),
    ([0.0, 0.0], 1, [0, 0]),
    ([], 1, []),
  )
  def test_parts_times_the_unit(self, scores, unit, whole):
    found = viewer.packed(scores)
    self.assertEqual(found[0], unit)
    self.assertLen(found[1], 2 * len(whole))
    np.testing.assert_allclose(unpacked(found), np.array(whole) * unit)


class DistributionTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    rng = np.random.default_rng(0)
    self.lengths = rng.integers(3, 60, 4000)
    sign = np.where(rng.random(4000) < 0.7, 1, -1)
    self.scores = sign * (1 + rng.pareto(1.5, 4000)) * self.lengths**0.5
    self.found = viewer_distribution.describe(self.scores, self.lengths)

  def test_curve_is_the_share_of_positive_scores_at_least_as_large(self):
    positive = self.scores[self.scores > 0]
    self.assertEqual(self.found['num'], 4000)
    self.assertEqual(self.found['num_positive'], len(positive))
    for x, share in self.found['ccdf']:
      self.assertAlmostEqual(share, np.mean(positive >= x), 12)
    xs = [x for x, _ in self.found['ccdf']]
    self.assertEqual((xs[0], xs[-1]), (positive.max(), positive.min()))
    self.assertGreater(len(xs), 30)

  def test_line_is_the_power_law_on_the_scale_of_the_curve(self):
    tail, ordered = self.found['tail'], np.sort(self.scores)[::-1]
    alpha = 1 / np.mean(np.log(ordered[:80] / ordered[80]))
    self.assertAlmostEqual(tail['alpha'], alpha, 9)
    self.assertAlmostEqual(tail['error'], alpha / 80**0.5, 9)
    (x, high), (end, low) = tail['line']
    self.assertEqual((x, end), (ordered[80], ordered[0]))
    self.assertAlmostEqual(high, 80 / (self.scores > 0).sum(), 12)
    self.assertAlmostEqual(np.log(low / high) / np.log(end / x), -alpha, 9)

  def test_top_fractions_hold_their_share(self):
    ordered = np.sort(self.scores)[::-1]
    positive = ordered[ordered > 0].sum()
    tops = [top for top, _, _ in self.found['held']]
    self.assertEqual(tops, [0.001, 0.01, 0.1])  # a 10,000th is no sequence
    for top, share, gaussian in self.found['held']:
      num = round(top * 4000)
      self.assertAlmostEqual(share, ordered[:num].sum() / positive, 9)
      z = stats.norm.isf(top)
      self.assertAlmostEqual(gaussian, np.exp(-(z**2) / 2), 9)

  def test_bins_of_length_hold_each_sequence_once(self):
    num = 0
    for first, last, size, *quantiles in self.found['by_length']:
      inside = self.scores[(first <= self.lengths) & (self.lengths <= last)]
      self.assertLen(inside, size)
      expected = np.quantile(inside, [0.01, 0.25, 0.5, 0.75, 0.99])
      np.testing.assert_allclose(quantiles, expected)
      num += size
    self.assertEqual(num, 4000)
    self.assertGreater(len(self.found['by_length']), 8)

  def test_correlation_is_of_the_ranks_of_size_and_length(self):
    ranks = [stats.rankdata(x) for x in (abs(self.scores), self.lengths)]
    expected = np.corrcoef(*ranks)[0, 1]
    self.assertAlmostEqual(self.found['rank_correlation'], expected, 9)

  def test_few_or_negative_scores_of_one_length_are_said_to_have_no_tail(self):
    found = viewer_distribution.describe(-np.arange(1.0, 9), [5] * 8)
    self.assertIn('expected at least 2', found['tail']['none'])
    self.assertEqual((found['ccdf'], found['held']), ([], []))
    self.assertIsNone(found['rank_correlation'])
    self.assertEqual(found['by_length'][0][:3], [5, 5, 8])


if __name__ == '__main__':
  absltest.main()
