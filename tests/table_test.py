"""Tests of the terminal tables, and of the words that all reports share."""

import io

from absl.testing import absltest, parameterized
from rich import console

from influence_jax.report import records, table

QUERY = dict(id='water', prompt='Water is', completion=' wet.', loss=2.5)


def _row(**changes):
  row = dict(
    query_id='water',
    kind='positive',
    rank=1,
    sequence=7,
    score=3.0,
    document=1,
    chunk=0,
    title='Hydrogen',
    topic='chemistry',
    text='ab',
    tokens=['a', 'b'],
    token_scores=[1.0, 2.0],
    layer_scores=[],
  )
  return row | changes


def _ranked(kind, scores):
  return [
    _row(kind=kind, rank=rank, score=score, title=f'{kind}-{rank}')
    for rank, score in enumerate(scores, start=1)
  ]


def _printed(rows, queries=(QUERY,), colour=False, **kwargs):
  out = io.StringIO()
  terminal = console.Console(file=out, width=200, force_terminal=colour)
  terminal.print(table.render(queries, rows, **kwargs))
  return out.getvalue()


class TableTest(parameterized.TestCase):
  def test_first_positive_rows_come_by_rank_and_then_the_most_negative(self):
    rows = _ranked('negative', [-9.0, -8.0]) + _ranked('positive', [4.0, 3, 2])
    text = _printed(rows[::-1], num=2)
    titles = ['positive-1', 'positive-2', 'negative-1']
    places = [text.index(title) for title in titles]
    self.assertEqual(places, sorted(places))
    self.assertNotIn('positive-3', text)
    self.assertNotIn('negative-2', text)

  def test_negative_rows_can_be_left_out(self):
    text = _printed(_ranked('negative', [-9.0]), num_negative=0)
    self.assertNotIn('negative-1', text)

  def test_prompt_is_followed_by_completion_and_its_loss(self):
    text = _printed([_row()])
    self.assertIn('Water is wet.', text)
    self.assertIn('2.50 nats', text)

  @parameterized.parameters('title', 'topic', 'text')
  def test_markup_in_a_row_is_shown_and_not_obeyed(self, field):
    row = _row(**{field: '[red]x[/red] [/]'}, tokens=[], token_scores=[])
    self.assertIn('[red]x[/red] [/]', _printed([row], colour=True))

  def test_markup_in_tokens_and_queries_is_shown_and_not_obeyed(self):
    row = _row(tokens=['[bold]', 'b[/]'])
    query = QUERY | dict(prompt='[blink]', completion='[link=http://x]')
    text = _printed([row], [query])
    for literal in ('[bold]b[/]', '[blink][link=http://x]'):
      self.assertIn(literal, text)

  @parameterized.parameters('\x1b', '\x07', '\x9b', '\u202e', '\ud800')
  def test_control_characters_reach_the_terminal_spelt_out(self, control):
    hostile = f'a{control}[2Jb'
    row = _row(title=hostile, topic=hostile, tokens=[hostile, 'b'])
    query = QUERY | dict(prompt=hostile, completion=hostile)
    text = _printed([row], [query])
    spelt = control.encode('unicode_escape').decode()
    self.assertNotIn(control, text)
    self.assertEqual(text.count(f'a{spelt}'), 5)

  def test_line_breaks_in_a_row_do_not_break_its_line(self):
    text = _printed([_row(title='one\r\ntwo', tokens=['x\n\n', 'y'])])
    self.assertIn('one two', text)
    self.assertIn('x y', text)

  @parameterized.parameters(0, 40, 99)
  def test_excerpt_holds_the_strongest_token(self, strongest):
    tokens = [f' w{i:02}' for i in range(100)]
    scores = [-5.0 if i == strongest else 0.01 for i in range(100)]
    part = table.excerpt(tokens, scores, width=30)
    self.assertIn(strongest, range(part.start, part.stop))
    self.assertLessEqual(len(''.join(tokens[part])), 30)

  def test_excerpt_prefers_many_strong_tokens_to_one(self):
    scores = [3.0, 0, 0, 0, 2.0, -2.0, 0, 0]
    part = table.excerpt(['word'] * 8, scores, width=8)
    self.assertEqual(part, slice(4, 6))

  def test_cut_excerpts_say_on_which_side_they_were_cut(self):
    row = _row(tokens=['aaaa', 'bbbb', 'cccc'], token_scores=[0.0, 1.0, 0.0])
    self.assertIn('…bbbb…', _printed([row], width=4))
    self.assertNotIn('…', _printed([row], width=12))

  @parameterized.named_parameters(
    ('one_long_token', ['x' * 500], [1.0]),
    ('no_tokens', [], []),
    ('empty_token', [''], [0.0]),
    ('all_zero', ['a', 'b'], [0.0, 0.0]),
  )
  def test_odd_tokens_are_shown(self, tokens, token_scores):
    row = _row(tokens=tokens, token_scores=token_scores, text='y' * 500)
    lines = _printed([row], width=20).splitlines()
    self.assertLess(max(map(len, lines)), 201)

  def test_query_without_rows_is_shown(self):
    self.assertIn('Water is wet.', _printed([]))


class RecordsTest(parameterized.TestCase):
  @parameterized.parameters(
    (0.0, '0'),
    (-0.0, '0'),
    (1e7, '+1.00e7'),
    (-1e7, '-1.00e7'),
    (999_999.0, '+1.00e6'),
    (12_345.6, '+12,346'),
    (-123.4, '-123'),
    (9.999, '+10.0'),
    (4.5, '+4.50'),
    (-0.0123, '-0.0123'),
    (0.001, '+0.00100'),
    (1e-9, '+1.00e-9'),
    (-5e-324, '-4.94e-324'),
  )
  def test_number_is_readable_at_any_magnitude(self, x, expected):
    self.assertEqual(records.number(x), expected)

  def test_number_can_leave_out_the_plus(self):
    self.assertEqual(records.number(2.0, sign='-'), '2.00')

  def test_plain_keeps_tabs_newlines_and_every_script(self):
    text = 'a\tb\nç 水 😀 שלום می\u200cخواهم'
    self.assertEqual(records.plain(text), text)

  def test_layer_scores_are_those_of_positive_rows_by_rank(self):
    rows = [
      _row(rank=2, layer_scores=[3.0, 4.0]),
      _row(rank=1, layer_scores=[1.0, 2.0]),
      _row(kind='negative', layer_scores=[5.0, 6.0]),
    ]
    scores = records.layer_scores(rows)
    self.assertEqual(scores['water'].tolist(), [[1.0, 2.0], [3.0, 4.0]])

  @parameterized.named_parameters(
    ('token_counts', dict(token_scores=[1.0]), '2 tokens and 1 token scores'),
    ('layer_counts', dict(layer_scores=[1.0]), '1 layer scores, expected 0'),
    ('unknown_query', dict(query_id='fire'), 'no such query'),
    ('unknown_kind', dict(kind='best'), "kind is 'best'"),
    ('nan_score', dict(score=float('nan')), 'score of sequence 7 of query'),
    (
      'inf_token',
      dict(token_scores=[1.0, float('inf')]),
      'token_scores of seq',
    ),
  )
  def test_row_that_cannot_be_shown_is_refused(self, changes, message):
    with self.assertRaisesRegex(ValueError, message):
      records.check([QUERY], [_row(), _row(**changes)], layer_names=[])

  def test_queries_of_one_id_or_without_a_loss_are_refused(self):
    with self.assertRaisesRegex(ValueError, 'unique'):
      records.check([QUERY, QUERY], [])
    with self.assertRaisesRegex(ValueError, "loss of query 'water'"):
      records.check([QUERY | dict(loss=float('nan'))], [])


if __name__ == '__main__':
  absltest.main()
