import json
import pathlib
import tempfile

import numpy as np
import tokenizer_test
from absl.testing import absltest, parameterized

from influence_jax.data import chat, pretrained_tokenizer, queries
from influence_jax.data import tokenizer as tokenizer_lib

TOKENIZER = tokenizer_lib.train(['the cat'] * 3, 280)
CAT = queries.Query('cat', 'a ', 'the cat')
NOTHING = queries.Query('nothing before', '', 'b')


class ReadQueriesTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    directory = self.enter_context(tempfile.TemporaryDirectory())
    self.path = pathlib.Path(directory) / 'queries.jsonl'

  def test_labels_are_read_and_asked_for_by_name(self):
    line = {'id': 'a', 'prompt': '', 'completion': 'b'}
    found = self.read({**line, 'labels': {'class': 'x'}}, {**line, 'id': 'c'})
    self.assertEqual([q.labels for q in found], [{'class': 'x'}, {}])
    self.assertEqual(queries.labels(found[:1], 'class'), ['x'])
    with self.assertRaisesRegex(ValueError, r"1 queries.*'class'.*\['c'\]"):
      queries.labels(found, 'class')

  def test_labels_that_are_no_object_of_strings_are_refused(self):
    for labels in ('x', ['x'], {'class': 1}):
      line = {'id': 'a', 'prompt': '', 'completion': 'b', 'labels': labels}
      with self.subTest(str(labels)):
        with self.assertRaisesRegex(ValueError, 'line 1.*labels'):
          self.read(line)

  def read(self, *lines, newline='\n', encoding='utf-8'):
    lines = [x if isinstance(x, str) else json.dumps(x) for x in lines]
    self.path.write_bytes(newline.join(lines).encode(encoding))
    return queries.read_queries(self.path)

  @parameterized.parameters('\n', '\r\n')
  def test_queries_come_back_in_the_order_of_the_file(self, newline):
    written = [
      queries.Query('z', 'Où est ', 'Paris\u2028😀'),
      queries.Query('a', '', ' completion '),
    ]
    lines = [json.dumps(q._asdict(), ensure_ascii=False) for q in written]
    read = self.read('', *lines, '  ', '', newline=newline)
    self.assertEqual(read, written)
    read = self.read(*lines, newline=newline, encoding='utf-8-sig')
    self.assertEqual(read, written)

  @parameterized.parameters(
    ('{"id": "b", ', 'not JSON'),
    ('["id"]', 'expected an object'),
    ({'prompt': 'p', 'completion': 'c'}, "expected a string 'id', got None"),
    ({'id': 'b', 'completion': 'c'}, "expected a string 'prompt', got None"),
    ({'id': 'b', 'prompt': 'p'}, "expected a string 'completion', got None"),
    ({'id': 1, 'prompt': 'p', 'completion': 'c'}, "'id', got 1"),
    ({'id': 'b', 'prompt': 'p', 'completion': ''}, "'b' has an empty complet"),
    ({'id': 'a', 'prompt': 'p', 'completion': 'c'}, "'a' is used before"),
    (
      {'id': 'b', 'prompt': 'p', 'completion': 'c', 'x': 1},
      r"unknown keys \['x'\]",
    ),
  )
  def test_a_bad_line_is_a_value_error_with_its_number(self, line, message):
    good = {'id': 'a', 'prompt': 'p', 'completion': 'c'}
    with self.assertRaisesRegex(ValueError, f'queries.jsonl.* 3: .*{message}'):
      self.read(good, '', line)

  def test_messages_become_the_prompt_by_the_template(self):
    messages = [{'role': 'user', 'content': 'Hi'}]
    line = {'id': 'a', 'messages': messages, 'completion': ' b'}
    expected = queries.Query('a', 'Human: Hi\n\nAssistant:', ' b')
    self.assertEqual(self.read(line), [expected])
    found = queries.read_queries(self.path, lambda x: x[0]['content'])
    self.assertEqual(found, [queries.Query('a', 'Hi', ' b')])

  @parameterized.parameters(
    ({'messages': []}, 'expected a list of some'),
    ({'messages': [{'role': 'user'}]}, 'object of two strings'),
    ({'messages': [{'role': 'x', 'content': ''}]}, "role 'x', expected system"),
    ({'messages': None}, 'expected a list of some'),
    (
      {'messages': [{'role': 'user', 'content': ''}], 'prompt': ''},
      'a prompt and messages: expected one',
    ),
  )
  def test_bad_messages_are_a_value_error_with_the_line(self, more, message):
    line = {'id': 'b', 'completion': 'c', **more}
    with self.assertRaisesRegex(ValueError, f'line 2: .*{message}'):
      self.read('', line)

  def test_a_file_that_is_no_utf_8_is_named(self):
    line = '{"id": "a", "prompt": "x", "completion": "ÿ"}'
    with self.assertRaisesRegex(ValueError, 'jsonl is not UTF-8 .*0xff'):
      self.read(line, encoding='latin1')

  def test_a_file_without_queries_is_a_value_error(self):
    with self.assertRaisesRegex(ValueError, 'holds no queries'):
      self.read('', ' ')


class QueryBatchTest(parameterized.TestCase):
  def test_mask_is_1_exactly_where_the_target_is_of_the_completion(self):
    batch = queries.query_batch([CAT, NOTHING], TOKENIZER, 16)
    a, space, b = (tokenizer_lib.encode(TOKENIZER, [x])[0][0] for x in 'a b')
    the_cat = tokenizer_lib.encode(TOKENIZER, ['the cat'])[0]
    self.assertLess(len(the_cat), 4)
    masked = [
      targets[mask == 1].tolist()
      for targets, mask in zip(batch.targets, batch.mask, strict=True)
    ]
    self.assertEqual(masked, [the_cat, [b]])
    self.assertEqual(
      batch.inputs[0, : 2 + len(the_cat)].tolist(),
      [0, a, space, *the_cat[:-1]],
    )
    self.assertEqual(batch.inputs[1, :1].tolist(), [0])
    self.assertEqual(batch.mask.sum(axis=1).tolist(), [len(the_cat), 1])

  def test_targets_are_inputs_shifted_by_one(self):
    batch = queries.query_batch([CAT, NOTHING], TOKENIZER, 16)
    np.testing.assert_array_equal(
      batch.inputs[0, 1:][batch.mask[0, :-1] == 1][:-1],
      batch.targets[0][batch.mask[0] == 1][:-1],
    )

  def test_prompt_and_completion_are_tokenized_apart(self):
    apart = queries.Query('apart', 'the c', 'at')
    batch = queries.query_batch([apart], TOKENIZER, 16)
    prompt, completion = tokenizer_lib.encode(TOKENIZER, ['the c', 'at'])
    joined = tokenizer_lib.encode(TOKENIZER, ['the cat'])[0]
    self.assertNotEqual(prompt + completion, joined)
    self.assertEqual(
      batch.targets[0, : len(prompt + completion)].tolist(), prompt + completion
    )

  def test_text_of_the_end_token_in_a_prompt_is_text(self):
    forged = queries.Query('forged', tokenizer_lib.END, 'b')
    batch = queries.query_batch([forged], TOKENIZER, 32)
    used = np.flatnonzero(batch.mask[0])[0]
    self.assertNotIn(0, batch.targets[0, :used])
    self.assertGreater(used, 5)

  @parameterized.parameters((1, (4, 8), 4), (5, (4, 8), 8), (9, (4, 8), 16))
  def test_t_is_the_shortest_bucket_that_fits(self, size, buckets, expected):
    query = queries.Query('x', '', 'x' * size)
    batch = queries.query_batch(
      [NOTHING, query], TOKENIZER, 16, buckets=buckets
    )
    self.assertEqual(batch.inputs.shape, (2, expected))

  def test_ids_are_the_places_in_the_list_and_dtypes_those_of_a_batch(self):
    batch = queries.query_batch([NOTHING, CAT], TOKENIZER, 16)
    self.assertEqual(batch.ids.tolist(), [0, 1])
    self.assertEqual(
      [array.dtype for array in batch], ['int32', 'int32', 'float32', 'int32']
    )

  def test_a_query_may_fill_the_context_and_no_more(self):
    full = queries.Query('full', 'x' * 6, 'x' * 2)
    batch = queries.query_batch([full], TOKENIZER, 8)
    self.assertEqual(batch.mask.tolist(), [[0] * 6 + [1] * 2])
    long = queries.Query('long', 'x' * 6, 'x' * 3)
    message = "query 'long' has 6 tokens of prompt and 3 of .* at most 8 in all"
    with self.assertRaisesRegex(ValueError, message):
      queries.query_batch([full, long], TOKENIZER, 8)

  def test_a_completion_without_tokens_is_a_value_error(self):
    empty = queries.Query('empty', 'p', '')
    with self.assertRaisesRegex(ValueError, "'empty' has no tokens"):
      queries.query_batch([CAT, empty], TOKENIZER, 8)


class PretrainedTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    directory = self.enter_context(tempfile.TemporaryDirectory())
    self.folder = pathlib.Path(directory) / 'checkpoint'

  def load(self, **config):
    config = {'bos_token': '<s>', 'eos_token': '</s>', **config}
    tokenizer_test.checkpoint(self.folder, tokenizer_config=config)
    return pretrained_tokenizer.load(self.folder)

  def test_a_row_begins_with_its_own_begin_and_has_no_end(self):
    tokenizer = self.load()
    a, space, b = tokenizer_lib.encode(tokenizer, ['a b'])[0]
    asked = [queries.Query('x', 'a ', 'b'), queries.Query('y', '', 'b')]
    batch = queries.query_batch(asked, tokenizer, 4)
    self.assertEqual(batch.inputs.tolist(), [[0, a, space, 0], [0, 0, 0, 0]])
    self.assertEqual(batch.targets.tolist(), [[a, space, b, 0], [b, 0, 0, 0]])
    self.assertEqual(batch.mask.tolist(), [[0, 0, 1, 0], [1, 0, 0, 0]])

  def test_a_template_that_writes_the_begin_leaves_one(self):
    written = '{{ bos_token }}{{ messages[0].content }}{{ eos_token }}'
    messages = [{'role': 'user', 'content': 'a'}]
    rows = []
    for template in written, written.removeprefix('{{ bos_token }}'):
      tokenizer = self.load(chat_template=template)
      prompt = chat.template(self.folder)(messages)
      query = queries.Query('x', prompt, 'b</s>')
      batch = queries.query_batch([query], tokenizer, 16)
      rows.append([array.tolist() for array in batch])
    self.assertEqual(*rows)
    (before, completion) = queries.tokens([query], tokenizer)[0]
    (a,) = tokenizer_lib.encode(tokenizer, ['a'])[0]
    self.assertEqual(before, [0, a, 1])
    self.assertEqual(rows[0][0][0][:3], before)
    self.assertEqual(rows[0][2][0][:4], [0, 0, 1, 1])
    self.assertEqual(sum(rows[0][2][0]), len(completion))
    self.assertNotIn(1, completion)

  def test_no_begin_is_put_before_a_special_token_or_left_out_elsewhere(self):
    tokenizer = self.load()
    (a,) = tokenizer_lib.encode(tokenizer, ['a'])[0]
    for prompt, expected in [
      ('</s>a', [1, a]),
      ('<s>a', [0, a]),
      ('a<s>', [0, a, 0]),
      ('a', [0, a]),
      ('', [0]),
    ]:
      query = queries.Query('x', prompt, '<s>')
      (before, completion) = queries.tokens([query], tokenizer)[0]
      self.assertEqual(before, expected)
      self.assertNotIn(0, completion)

  def test_a_completion_goes_on_where_the_prompt_stops(self):
    tokenizer = pretrained_tokenizer.load(tokenizer_test.llama(self.folder))
    asked = [
      queries.Query('x', 'the a', ' b'),
      queries.Query('y', 'the a ', 'b'),
      queries.Query('z', '', 'the a b'),
    ]
    whole = tokenizer_lib.encode(tokenizer, ['the a b'])[0]
    for before, completion in queries.tokens(asked, tokenizer):
      self.assertEqual([*before, *completion], [1, *whole])

  def test_a_query_may_fill_the_context_whoever_wrote_the_begin(self):
    tokenizer = self.load()
    for prompt in '<s>####', '####':
      query = queries.Query('x', prompt, '$$')
      self.assertEqual(
        queries.query_batch([query], tokenizer, 6).mask.tolist(),
        [[0] * 4 + [1] * 2],
      )
      with self.assertRaisesRegex(ValueError, 'has 4 tokens of prompt and 2 '):
        queries.query_batch([query], tokenizer, 5)


if __name__ == '__main__':
  absltest.main()
