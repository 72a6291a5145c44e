import json
import pathlib
import tempfile

from absl.testing import absltest, parameterized

from influence_jax.data import chat

ASK = [{'role': 'user', 'content': 'Who are you?'}]
TALK = [
  {'role': 'system', 'content': 'Be kind.'},
  {'role': 'user', 'content': 'Hi'},
  {'role': 'assistant', 'content': 'Hello.'},
  {'role': 'user', 'content': '{{ 7 * 7 }}'},
]
TEMPLATE = """{%- if tools is not none %}{{ 1 / 0 }}{% endif %}
{{- bos_token }}
{%- for m in messages %}
<|{{ m['role'] }}|>{{ m.content | trim }}{{ eos_token }}
{% endfor %}
{% if add_generation_prompt %}<|assistant|>{% endif %}"""


class ChatTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    directory = self.enter_context(tempfile.TemporaryDirectory())
    self.folder = pathlib.Path(directory)

  def config(self, template, **more):
    text = json.dumps({'chat_template': template, **more})
    (self.folder / 'tokenizer_config.json').write_text(text)
    return self.folder

  def test_human_assistant_is_as_in_the_paper(self):
    text = chat.human_assistant(ASK)
    self.assertEqual(text, 'Human: Who are you?\n\nAssistant:')
    self.assertEqual(
      chat.human_assistant(TALK),
      'Be kind.\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: {{ 7 * 7 }}\n\n'
      'Assistant:',
    )
    with self.assertRaisesRegex(ValueError, "role 'tool', expected system"):
      chat.human_assistant([{'role': 'tool', 'content': '1'}])

  def test_a_template_is_rendered_as_the_model_was_taught(self):
    tokens = dict(bos_token='<s>', eos_token={'content': '</s>'})
    prompt = chat.template(self.config(TEMPLATE, **tokens))
    expected = '<s><|user|>Who are you?</s>\n<|assistant|>'
    self.assertEqual(prompt(ASK), expected)
    self.assertIn('<|user|>{{ 7 * 7 }}</s>\n', prompt(TALK))

  def test_the_template_is_the_file_or_the_default_of_several(self):
    several = [
      {'name': 'tool_use', 'template': 'tool'},
      {'name': 'default', 'template': 'ours'},
    ]
    self.assertEqual(chat.template(self.config(several))(ASK), 'ours')
    (self.folder / 'chat_template.jinja').write_text('file é', 'utf-8')
    self.assertEqual(chat.template(self.folder)(ASK), 'file é')

  def test_a_folder_without_a_template_has_the_papers_if_any_will_do(self):
    for absent in None, '', []:
      folder = self.config(absent)
      self.assertIs(chat.template_if_any(folder), chat.human_assistant)
    self.assertEqual(chat.template_if_any(self.config('own'))(ASK), 'own')
    with self.assertRaisesRegex(ValueError, 'no chat template in'):
      chat.template_if_any(self.config(3))
    (self.folder / 'tokenizer_config.json').unlink()
    self.assertIs(chat.template_if_any(self.folder), chat.human_assistant)
    (self.folder / 'chat_template.jinja').write_text('file')
    self.assertEqual(chat.template_if_any(self.folder)(ASK), 'file')

  def test_no_template_is_a_value_error(self):
    message = 'no chat template in .*chat.human_assistant'
    with self.assertRaisesRegex(ValueError, message):
      chat.template(self.folder)
    for absent in None, [], 3:
      with self.assertRaisesRegex(ValueError, message):
        chat.template(self.config(absent))
    (self.folder / 'tokenizer_config.json').write_text('{')
    with self.assertRaisesRegex(ValueError, 'tokenizer_config.json is no JSON'):
      chat.template(self.folder)

  def test_a_template_that_is_not_utf_8_is_a_value_error(self):
    path = self.folder / 'chat_template.jinja'
    path.write_bytes(b'Caf\xe9 {{ messages[0].content }}')
    message = 'chat_template.jinja is not UTF-8: .*0xe9 .*save it as UTF-8'
    for read in chat.template, chat.template_if_any:
      with self.assertRaisesRegex(ValueError, message):
        read(self.folder)

  def test_a_broken_template_is_a_value_error(self):
    with self.assertRaisesRegex(ValueError, 'template in .* is broken'):
      chat.template(self.config('{% for m in messages %}'))

  @parameterized.parameters(
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    '{{ raise_exception.__globals__["jinja2"] }}',
    '{{ messages.append(1) }}',
    '{{ messages[0].update(role="x") }}',
    '{{ self.__init__.__globals__.x }}',
    '{{ "{0.__class__.__mro__.x}".format(1) }}',
  )
  def test_an_unsafe_template_is_a_value_error(self, template):
    asked = [dict(message) for message in ASK]
    with self.assertRaisesRegex(ValueError, 'is unsafe'):
      chat.template(self.config(template))(asked)
    self.assertEqual(asked, ASK)

  @parameterized.parameters(
    ("{{ raise_exception('roles must alternate') }}", 'roles must alternate'),
    ('{{ strftime_now("%Y") }}', "'strftime_now' is undefined"),
    ('{{ 1 / 0 }}', 'division by zero'),
    ('{% for i in range(10 ** 9) %}{% endfor %}', 'Range too big'),
    ("{% include '/etc/passwd' %}", 'no loader'),
  )
  def test_a_template_that_fails_is_a_value_error(self, template, message):
    prompt = chat.template(self.config(template))
    with self.assertRaisesRegex(
      ValueError, rf"refuses these messages: .*{message}.*roles are \['user'\]"
    ):
      prompt(ASK)

  @parameterized.parameters(
    ([], 'expected a list of some'),
    ('hi', 'expected a list of some'),
    (['hi'], 'expected an object of two strings'),
    ([{'role': 'user'}], 'expected an object of two strings'),
    ([{'role': 'user', 'content': None}], 'object of two strings'),
    ([{'role': 'user', 'content': 'a', 'name': 'b'}], 'object of two strings'),
    (TALK[:3], "the last message is the assistant's"),
  )
  def test_bad_messages_are_a_value_error(self, messages, message):
    for prompt in chat.human_assistant, chat.template(self.config(TEMPLATE)):
      with self.assertRaisesRegex(ValueError, message):
        prompt(messages)


if __name__ == '__main__':
  absltest.main()
