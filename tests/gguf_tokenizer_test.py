import gguf_file_test
from absl.testing import absltest, parameterized
from gguf_file_test import END, KINDS, OWN, TEXTS, TURN, V

from influence_jax import gguf_tokenizer
from influence_jax.data import chat
from influence_jax.data import tokenizer as tokenizer_lib


class TokenizerTest(gguf_file_test.GgufTest):
  def read(self, **changes):
    changes = {f'tokenizer.ggml.{k}': x for k, x in changes.items()}
    self.write(**changes)
    return gguf_tokenizer.tokenizer(self.path)

  def test_text_is_merged_and_digits_stand_alone_as_in_smollm(self):
    for pre, expected in {
      'smollm': ['ab', '1', '2', 'Ġab', 'Ã©', 'Ġ', '1', '2'],
      'gpt-2': ['ab', '12', 'Ġab', 'Ã©', 'Ġ', '12'],
    }.items():
      made = self.read(pre=pre)
      (row,) = tokenizer_lib.encode(made, ['ab12 abé 12'])
      self.assertEqual([TEXTS[token] for token in row], expected)

  def test_any_text_comes_back(self):
    made = self.read()
    text = ''.join(map(chr, range(600))) + f'日本 \U0001f600 {END}{TURN}{OWN}'
    (row,) = tokenizer_lib.encode(made, [text])
    self.assertEqual(tokenizer_lib.decode(made, row), text)

  def test_text_makes_no_control_token_but_a_users_own(self):
    made = self.read()
    (row,) = tokenizer_lib.encode(made, [f'a{END}{TURN}{OWN}'])
    self.assertNotIn(0, row)
    self.assertNotIn(1, row)
    self.assertEqual(row[-1], 2)
    (row,) = tokenizer_lib.encode_prompt(made, [f'{TURN}{END}'])
    self.assertEqual(row, [1, 0])
    self.assertEqual(made.get_vocab_size(), V)

  def test_borders(self):
    for changes, borders in (
      ({}, (0, 0)),
      ({'add_bos_token': True}, (1, 0)),
      ({'token_type': [1, 3, 4, *KINDS[3:]]}, (1, 1)),  # END is text
    ):
      self.assertEqual(tokenizer_lib.borders(self.read(**changes)), borders)
    path = self.folder / 'tokenizer.json'
    tokenizer_lib.save(self.read(add_bos_token=True), path)
    self.assertEqual(tokenizer_lib.borders(tokenizer_lib.load(path)), (1, 0))

  @parameterized.parameters(
    ({'model': 'llama'}, r"it is \('llama', 'smollm'\); there are"),
    ({'pre': None}, r"it is \('gpt2', None\); there are"),
    ({'tokens': [END, END, *TEXTS[2:]]}, f'{V} tokens, {V - 1} different ones'),
    ({'token_type': KINDS[1:]}, f'{V} different ones, and kinds of {V - 1}'),
    ({'token_type': ['x'] * V}, 'token_type is no list of int'),
    ({'merges': None}, 'merges is no list of str'),
    ({'merges': ['a']}, 'merges are damaged'),
    ({'merges': ['a b c']}, 'merges are damaged'),
    ({'merges': ['a z']}, 'merges are damaged'),
    (
      {'tokens': TEXTS[:-1], 'token_type': KINDS[:-1]},
      f'{V - 1} tokens; expec',
    ),
    ({'add_bos_token': True, 'bos_token_id': V}, f'bos_token_id is {V}, which'),
    ({'token_type': [1, 1, 1, *KINDS[3:]]}, 'no special token .*im_end'),
  )
  def test_a_tokenizer_that_cannot_be_made_is_refused(self, changes, message):
    with self.assertRaisesRegex(ValueError, f'tiny.gguf.*{message}'):
      self.read(**changes)


TEMPLATE = (
  "{{ bos_token }}{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}"
  '{{ eos_token }}{% endfor %}'
)


class TemplateTest(gguf_file_test.GgufTest):
  def read(self, template=TEMPLATE, **changes):
    changes = {f'tokenizer.ggml.{k}': x for k, x in changes.items()}
    self.write(**{'tokenizer.chat_template': template}, **changes)
    return gguf_tokenizer.template(self.path)

  def test_messages_are_written_with_the_files_own_tokens(self):
    messages = [{'role': 'user', 'content': 'ab'}]
    text = self.read(bos_token_id=0)(messages)
    self.assertEqual(text, f'{END}user: ab{TURN}')
    text = self.read(bos_token_id=None)(messages)
    self.assertEqual(text, f'user: ab{TURN}')

  def test_without_one_they_are_written_as_in_the_paper(self):
    self.assertIs(self.read(template=None), chat.human_assistant)

  @parameterized.parameters(
    ({'template': '{% for m in messages %}'}, 'template in .* is broken'),
    ({'template': [1]}, r'template in .* is \[1\], expected a string'),
    ({'eos_token_id': V}, f'eos_token_id is {V}, which is no token'),
    ({'bos_token_id': 1.5}, 'bos_token_id is 1.5, which is no token'),
  )
  def test_a_template_that_cannot_be_used_is_refused(self, changes, message):
    with self.assertRaisesRegex(ValueError, message) as caught:
      self.read(**changes)
    self.assertIn('tiny.gguf', str(caught.exception))

  def test_an_unsafe_one_is_not_run(self):
    unsafe = "{{ ''.__class__.__mro__[1].__subclasses__() }}"
    with self.assertRaisesRegex(ValueError, 'tiny.gguf is unsafe'):
      self.read(unsafe)([{'role': 'user', 'content': 'ab'}])


if __name__ == '__main__':
  absltest.main()
