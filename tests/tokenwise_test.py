import json
import pathlib
import tempfile

import jax
import numpy as np
from absl.testing import absltest, parameterized
from tiny import ladder as tiny_ladder

from configs import tokenwise as tokenwise_config
from configs import tokenwise_quickstart
from experiments import (
  claims,
  fit_curvature,
  ladder,
  score,
  solve,
  tokenwise,
  tokenwise_figure,
  tokenwise_parts,
  top_table,
  train_ladder,
  trained,
)
from influence_jax import gradients, influence, token_influence
from influence_jax.data import batches as batches_lib
from influence_jax.data import queries as queries_lib
from influence_jax.report import figures

_QUERIES = [
  queries_lib.Query('a', 'the cat', ' sat', {'class': 'x'}),
  queries_lib.Query('b', 'a dog', ' ran', {'class': 'y'}),
  queries_lib.Query('c', '', 'mat', {'class': 'x'}),
]


def _tops(rows, rung=None):
  return tokenwise_parts.Tops(
    rung, _QUERIES, rows, tokenwise_parts._spurious(rows), {}
  )


def _rows(*token_scores):
  return [
    {'token_scores': scores, 'sequence': n}
    for n, scores in enumerate(token_scores)
  ]


def _sequence(**values):
  return {
    'query': 'a', 'sequence': 7, 'title': 'a title', 'score': 3.0,
    'tokens': ['<|endoftext|>', 'The', ' cat', ' sa', 't'],
    'simple': [0.0, 2.0, -1.0, 0.1], 'input': [1.0, -4.0, 0.0, 2.0],
    'output': [-5.0, 0.0, 0.0, 8.0],
    'layers': {'l0': [0.0, 1.0, -1.0, 0.0], 'l1': [0.0, 1.0, 0.0, 0.1]},
    **values,
  }  # fmt: skip


class PartsTest(parameterized.TestCase):
  def test_marks_are_those_of_each_row_alone(self):
    rng = np.random.default_rng(0)
    rows = {
      'a': _rows([5.0, 0.1, 0], [1.0, 1, 1, 1, -1]),
      'b': [],
      'c': _rows(*[(rng.standard_t(1, n) ** 3).tolist() for n in range(2, 30)]),
    }
    for query, marks in _tops(rows).spurious.items():
      wanted = [
        np.linalg.norm(row['token_scores']) / np.abs(row['token_scores']).sum()
        > 2 / 3
        for row in rows[query]
      ]
      self.assertEqual(marks, wanted)
    self.assertIn(True, wanted)
    self.assertIn(False, wanted)

  @parameterized.parameters(
    (1, [1], 1), (2, [1, 3], 2), (3, [1, 3, 4], 2), (9, [1, 3, 4], 3)
  )
  def test_first_sound_ones_are_taken(self, num, places, passed):
    bad, good = [9.0, 0, 0], [1.0, 1, 1]
    tops = _tops({'a': _rows(bad, good, bad, good, good, bad)})
    rows, found = tokenwise_parts.first_sound(tops, 'a', num)
    self.assertEqual([row['sequence'] for row in rows], places)
    self.assertEqual(found, passed)

  def test_queries_are_the_ones_named_or_the_first(self):
    section = tokenwise_quickstart.get_config().tokenwise
    tops = _tops({})
    section.num_queries = 2
    chosen = tokenwise_parts.choose(tops, section)
    self.assertEqual([query.id for query in chosen], ['a', 'b'])
    section.queries = ('c', 'a')
    chosen = tokenwise_parts.choose(tops, section)
    self.assertEqual([query.id for query in chosen], ['c', 'a'])
    section.queries = ('c', 'd')
    with self.assertRaisesRegex(ValueError, r"\['d'\].*'a', 'b', 'c'"):
      tokenwise_parts.choose(tops, section)

  def test_error_is_relative_to_the_exact_one(self):
    found, exact = np.array([3.0, 4.5]), np.array([3.0, 4.0])
    self.assertAlmostEqual(tokenwise_parts.relative_error(found, exact), 0.1)

  def test_shares_are_means_over_rungs_then_queries(self):
    bad, good = [9.0, 0, 0], [1.0, 1, 1]
    tops = [
      _tops({'a': _rows(bad, good), 'b': _rows(bad), 'c': []}),
      _tops({'a': _rows(good, good), 'b': _rows(good), 'c': _rows(good)}),
    ]
    found = tokenwise.spurious(tops, 'class')
    self.assertEqual(found['x']['queries'], 2)
    self.assertAlmostEqual(found['x']['share'][0], (0.25 + 0) / 2)
    self.assertEqual(found['y']['share'], [0.5])
    self.assertAlmostEqual(found['all queries']['share'][0], 0.25)
    self.assertEqual(
      [*tokenwise.spurious(tops, 'kind')], ["no label 'kind'", 'all queries']
    )


class ClaimTest(parameterized.TestCase):
  @parameterized.parameters((0.0099, True), (0.01, False))
  def test_worst_sequence_and_side_decide_at_their_best_step(self, error, held):
    def of(output, input):
      return {'differences': {'steps': [], 'output': output, 'input': input}}

    found = {
      'r': [of([0.5, 1e-4, 0.1], [0.1, 0.2, 1e-3])],
      's': [of([1e-4, 1e-5, 1e-3], [0.9, error, 0.3]), of([1e-9], [1e-9])],
    }
    claim = tokenwise._claim([], found)
    self.assertEqual(claim['value'], error)
    self.assertEqual((claim['id'], claim['held']), ('U10', held))

  def test_peak_is_the_token_itself(self):
    one = _sequence()
    found = {kind: tokenwise.peak(one, kind) for kind in tokenwise_figure.KINDS}
    self.assertEqual(found, {'simple': 'The', 'input': 'The', 'output': 't'})

  def test_deepest_rung_is_shown(self):
    shallow = _sequence(layers={'l0': [0.0] * 4})
    other = _sequence(query='b', sequence=8)
    second = _sequence(sequence=9)
    rungs = [ladder.Rung(size, 0, None, None) for size in ('s', 'l', 'm')]
    found = {
      's_seed0': [shallow],
      'l_seed0': [_sequence(), second, other],
      'm_seed0': [shallow],
    }
    tops = [_tops({}, rung) for rung in rungs]
    shown = tokenwise._shown(found, tops, 3)
    self.assertEqual(
      [(query.id, one['sequence']) for query, one in shown],
      [('a', 7), ('b', 8)],
    )
    self.assertLen(tokenwise._shown(found, tops, 1), 1)


class CellsTest(parameterized.TestCase):
  @parameterized.parameters(
    (['one', ' two', ' three'], 10, ['one two', ' three']),
    (['one', ' t', 'wo', 'x'], 6, ['one', ' twox']),
    (['one', ' t', 'wo', 'x'], 7, ['one', ' twox']),
    (['one', ' t', 'wo', 'x'], 8, ['one twox']),
    (['ab', 'cdefgh', ' i'], 5, ['ab', 'cdefg', 'h i']),
    (['abcdefghijkl'], 5, ['abcde', 'fghij', 'kl']),
  )
  def test_lines_begin_with_words(self, tokens, columns, wanted):
    found = tokenwise_figure.cells(tokens, columns)
    lines = {}
    for cell in found:
      line = lines.get(cell.line, '')
      self.assertEqual(cell.column, len(line))
      lines[cell.line] = line + cell.text
    self.assertEqual([*lines.values()], wanted)

  @parameterized.parameters(1, 7, 40)
  def test_nothing_is_lost_and_all_fits(self, columns):
    rng = np.random.default_rng(columns)
    tokens = [
      ' ' * rng.integers(2) + 'x' * rng.integers(1, 12) for _ in range(200)
    ]
    found = tokenwise_figure.cells(tokens, columns)
    for i, token in enumerate(tokens):
      texts = [cell.text for cell in found if cell.token == i]
      self.assertEqual(''.join(texts), token)
    for cell in found:
      self.assertLessEqual(cell.column + len(cell.text), columns)

  def test_unseen_characters_are_shown(self):
    found = [tokenwise_figure.visible(x) for x in ('<|endoftext|>', '\n', '\r')]
    self.assertEqual(found, ['<end>', '↵', r'\r'])


class FigureTest(absltest.TestCase):
  def test_tokens_are_coloured_where_they_have_a_value(self):
    (axes,) = tokenwise_figure.tokens([(_QUERIES[2], _sequence())]).axes
    places = {(x.get_x(), x.get_y()): x for x in axes.patches[:12]}
    texts = {}
    for text in axes.texts:
      texts.setdefault(text.get_text(), []).append(text)
    for name, values in (
      ('The', [1, -1, -5 / 8]), (' cat', [-0.5, 0, 0]), ('t', [None, None, 1]),
      ('<end>', [0, 0.25, None]),
    ):  # fmt: skip
      for text, value in zip(texts[name], values, strict=True):
        x, y = text.get_position()
        patch = places.get((x, round(y - 0.7, 9)))
        self.assertEqual(patch is None, value is None, (name, value))
        if value is not None:
          red, _, blue, _ = patch.get_facecolor()
          self.assertEqual(np.sign(red - blue), np.sign(value), (name, value))
          self.assertEqual(patch.get_width(), len(name))
    # simple: ' cat'; input: 'The'; output: 'The'.
    self.assertLen(axes.get_lines(), 3)

  def test_dollars_are_letters(self):
    one = _sequence(tokens=['$x^{$', '$', r' $\y$', ' [b]', '\n'], title='$^{$')
    query = queries_lib.Query('$^{$', '$a_{$', '$c^$')
    for draw in (tokenwise_figure.tokens, tokenwise_figure.layers):
      figures.png(draw([(query, one)]))  # mathematics would be an error

  def test_layers_show_their_scores_first_at_the_bottom(self):
    fig = tokenwise_figure.layers([(_QUERIES[0], _sequence())])
    axes = fig.axes[0]
    shown = axes.images[0].get_array()
    np.testing.assert_allclose(shown, [[0, 1, -1, 0], [0, 1, 0, 0.1]])
    self.assertLess(axes.get_ylim()[0], axes.get_ylim()[1])
    labels = [label.get_text() for label in axes.get_xticklabels()]
    self.assertEqual(labels, ['<end>', 'The', 'cat', 'sa'])

  def test_window_holds_the_most(self):
    values = [0.0, -9, 1, 0, 5, -6, 0]
    self.assertEqual(tokenwise_figure.window(values, 2), range(4, 6))
    self.assertEqual(tokenwise_figure.window(values, 1), range(1, 2))
    self.assertEqual(tokenwise_figure.window(values, 9), range(7))


class BinaryTest(absltest.TestCase):
  def check_against_the_library(self, rung, one):
    """Input and output tokens of one record, solved without experiments.solve's
    solver."""
    config = rung.config
    ours = trained.load(config, rung.workdir)
    approximation = solve.answers(config)[0].approximation
    layers = ours.model.layers
    factors = fit_curvature.restore(
      approximation, layers, rung.workdir,
      fit_curvature.expected_meta(config, ours), complete=True,
    ).factors  # fmt: skip
    queries = queries_lib.read_queries(config.score.queries)
    k = [query.id for query in queries].index(one['query'])
    sequences = ours.corpus.sequences
    (spec,) = batches_lib.split(sequences, np.array([one['sequence']]), 1)

    @jax.jit
    def run(params, factors, queries, batch):
      g_KxIxO = gradients.layer_gradients(ours.model, params, queries)
      damping = influence.damping_of(
        approximation, layers, factors, **config.damping
      )
      solved = influence.precondition(
        approximation, layers, factors, g_KxIxO, damping
      )
      solved = {path: x[..., k, :, :] for path, x in solved.items()}
      direction = token_influence.direction(params, layers, solved)
      args = ours.model, params, direction, batch
      return (
        token_influence.output_tokens(*args)[0],
        token_influence.input_tokens(*args, 'tok_emb')[0],
      )

    found = run(
      ours.params, factors, score.query_batch(config, ours, queries),
      batches_lib.get(sequences, spec),
    )  # fmt: skip
    for name, wanted in zip(('output', 'input'), found, strict=True):
      bound = np.abs(wanted).max()
      num = len(one[name])
      np.testing.assert_allclose(
        one[name], wanted[:num], atol=1e-4 * bound, rtol=0
      )
    self.assertEqual(num, len(sequences.row(one['sequence'])) - 1)

  def test_it_adds_up_goes_on_and_runs_on_one_model(self):
    workdir = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    config = tiny_ladder.config(sizes=('s',), seeds=(0,))
    config.data.buckets = ()  # one shape to compile for
    tokenwise_config.with_tokenwise(config)
    config.tokenwise.update(
      sizes=('s',), queries=('dog', 'cat'), num_sequences=2
    )
    train_ladder.run(config, workdir)
    result = tokenwise.run(config, workdir)
    (rung,) = ladder.rungs(config, workdir)
    folder = workdir / 'tokenwise'
    for name in ('tokens.png', 'layers.png'):
      self.assertGreater((folder / name).stat().st_size, 10_000)
    rows, _ = top_table.read(rung.workdir / 'scores' / 'top.parquet')
    by_place = {
      (row['query_id'], row['sequence']): row
      for row in rows
      if row['kind'] == 'positive'
    }
    found = json.loads((folder / 'tokens.json').read_text())['s_seed0']
    names = [(one['query'], one['rank']) for one in found]
    self.assertEqual(names, [('dog', 1), ('dog', 2), ('cat', 1), ('cat', 2)])
    for one in found:
      row = by_place[one['query'], one['sequence']]
      score_, bound = row['score'], np.abs(row['token_scores']).max()
      self.assertLess(one['sum_error'], 1e-4)
      self.assertAlmostEqual(sum(one['output']) / score_, 1, places=3)
      np.testing.assert_allclose(
        np.sum([*one['layers'].values()], 0), row['token_scores'],
        atol=1e-4 * bound,
      )  # fmt: skip
      self.assertEqual(one['tokens'][:-1], row['tokens'])
      self.assertLen(one['tokens'], len(one['input']) + 1)
    shortest = min(found, key=lambda one: len(one['input']))
    self.assertLess(len(shortest['input']), 32)  # so there is padding
    self.check_against_the_library(rung, shortest)
    (claim,) = claims.gather([workdir])
    self.assertTrue(claim['held'], claim)
    self.assertEqual((claim['seeds'], claim['sizes']), ([0], ['s']))
    self.assertLen(result['sequences'], 4)

    def fail(*args):
      raise AssertionError('computed again')

    with absltest.mock.patch.object(tokenwise_parts, '_compute', fail):
      again = tokenwise.run(config, workdir)
      self.assertEqual(again['sequences'], result['sequences'])
      config.tokenwise.num_sequences = 1
      with self.assertRaisesRegex(ValueError, 'sequences.dog is .*another'):
        tokenwise.run(config, workdir)

    alone = rung.config.copy_and_resolve_references()
    alone.tokenwise.update(
      queries=(), num_queries=1, num_sequences=1, sizes=('other',)
    )
    tokenwise.run(alone, rung.workdir)
    mine = json.loads((rung.workdir / 'tokenwise/tokens.json').read_text())
    self.assertEqual(
      [one['query'] for one in mine['s_seed0']],
      ['cat'],
    )
    self.assertEqual(mine['s_seed0'][0], found[2])

    manifest = json.loads((rung.workdir / 'scores/manifest.json').read_text())
    manifest['factors'] = 'of another fit'
    (rung.workdir / 'scores/manifest.json').write_text(json.dumps(manifest))
    (rung.workdir / 'tokenwise/s_seed0.json').unlink()
    with self.assertRaisesRegex(ValueError, "factors is 'of another fit'"):
      tokenwise.run(alone, rung.workdir)
    (rung.workdir / 'scores/top.parquet').unlink()
    with self.assertRaisesRegex(ValueError, 'top.parquet.*num_top'):
      tokenwise.run(alone, rung.workdir)


if __name__ == '__main__':
  absltest.main()
