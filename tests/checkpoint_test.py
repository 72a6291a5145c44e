import json
import os
import pathlib
import tempfile
from unittest import mock

import gguf_file_test
import jax
import numpy as np
import safetensors.numpy
from absl.testing import absltest, parameterized

from influence_jax import checkpoint, gguf_tokenizer, pretrained
from influence_jax.data import chat
from influence_jax.data import tokenizer as tokenizer_lib

TEMPLATE = '{{ bos_token }}{{ messages[0].content }}{{ eos_token }}'
TOKENS = dict(bos_token=gguf_file_test.TURN, eos_token=gguf_file_test.TURN)


def write(folder, template=TEMPLATE):
  """One model twice: tiny.gguf, and beside it what a folder has."""
  folder.mkdir(parents=True, exist_ok=True)
  fields = dict(gguf_file_test.FIELDS)
  if template is not None:
    fields['tokenizer.chat_template'] = template
  weights = gguf_file_test.random_weights(tied=True)
  gguf_file_test.write(folder / 'tiny.gguf', weights, fields=fields)
  safetensors.numpy.save_file(weights, folder / 'model.safetensors')
  tokenizer = gguf_tokenizer.tokenizer(folder / 'tiny.gguf')
  tokenizer_lib.save(tokenizer, folder / 'tokenizer.json')
  for name, content in {
    'config': {**gguf_file_test.CONFIG, 'tie_word_embeddings': True},
    'tokenizer_config': {'chat_template': template, **TOKENS},
  }.items():
    (folder / f'{name}.json').write_text(json.dumps(content))


class CheckpointTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    self.path = self.folder / 'tiny.gguf'

  def test_a_folder_and_a_gguf_of_one_model_say_the_same(self):
    write(self.folder)
    folder, file = map(checkpoint.open, (self.folder, self.path))
    self.assertEqual(file.config_json, folder.config_json)
    self.assertEqual([folder.layout, file.layout], ['llama', 'gguf/llama'])
    shapes = [
      sorted(str(x.shape) for x in one.headers().values())
      for one in (folder, file)
    ]
    self.assertEqual(*shapes)
    self.assertEqual(file.tokenizer().to_str(), folder.tokenizer().to_str())
    messages = [{'role': 'user', 'content': 'ab'}]
    turn = gguf_file_test.TURN
    for one in folder, file:
      self.assertEqual(one.template()(messages), f'{turn}ab{turn}')
    loaded = [pretrained.load(x)[1] for x in (self.folder, self.path)]
    jax.tree.map(np.testing.assert_array_equal, *loaded)

  def test_without_a_template_messages_are_written_as_in_the_paper(self):
    write(self.folder, template=None)
    for path in self.folder, self.path:
      template = checkpoint.open(path).template()
      self.assertIs(template, chat.human_assistant)

  def test_of_a_folder_only_the_configuration_is_read_at_once(self):
    write(self.folder)
    for name in 'model.safetensors', 'tokenizer.json', 'tokenizer_config.json':
      (self.folder / name).unlink()
    opened = checkpoint.open(self.folder)
    self.assertEqual(opened.config_json['vocab_size'], gguf_file_test.V)
    with self.assertRaisesRegex(ValueError, 'has no model.safetensors'):
      opened.headers()
    with self.assertRaisesRegex(ValueError, 'no tokenizer.json in'):
      opened.tokenizer()

  @parameterized.parameters(
    ('gone', "gone' is not there, expected a folder with config.json"),
    ('model.safetensors', "model.safetensors' is a file, expected a folder"),
    (
      'model.bin',
      'a file, expected .*[.]gguf file; files .bin are pickles',
    ),
    ('gone.gguf', 'there is no file .*gone.gguf'),
    ('', 'there is no .*config.json'),
  )
  def test_what_is_no_checkpoint_is_refused(self, name, message):
    for file in 'model.safetensors', 'model.bin':
      (self.folder / file).touch()
    with self.assertRaisesRegex(ValueError, message):
      checkpoint.open(self.folder / name)

  def test_a_path_may_begin_at_home(self):
    write(self.folder)
    self.enterContext(
      mock.patch.dict(os.environ, {'HOME': str(self.folder.parent)})
    )
    for path in f'~/{self.folder.name}', f'~/{self.folder.name}/tiny.gguf':
      self.assertLen(checkpoint.open(path).headers(), 20)
      self.assertIn('blocks_0', pretrained.load(path)[1])

  def test_none_is_refused(self):
    with self.assertRaisesRegex(ValueError, 'no checkpoint is given, expected'):
      checkpoint.open(None)


if __name__ == '__main__':
  absltest.main()
