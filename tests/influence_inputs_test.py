"""What experiments.influence is given: a checkpoint, texts, queries, flags."""

import os
import pathlib
import shutil
import tempfile

import checkpoint_test
import influence_binary_test as binary
from absl.testing import absltest, flagsaver, parameterized

from configs import influence as influence_config
from experiments import influence, trained
from influence_jax import fit
from influence_jax.data import smollm2


class InfluenceInputsTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.root = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    self.folder = binary.write_checkpoint(self.root / 'llama')
    self.config = binary.make_config(self.root, self.folder)
    binary.write_lines(self.root / 'a.jsonl', [{'text': 'w1 w2'}])
    query = {'id': 'x', 'prompt': 'w1', 'completion': 'w2'}
    binary.write_lines(self.root / 'queries' / 'q.jsonl', [query])

  @parameterized.parameters(
    ({'checkpoint.path': '/nowhere'}, "'/nowhere' is not there, expected a fo"),
    ({'checkpoint.path': ''}, 'checkpoint: no checkpoint is given, expected'),
    ({'checkpoint.path': __file__}, 'test.py. is a file, expected .*gguf'),
    ({'checkpoint.dtype': 'int8'}, 'checkpoint: dtype is .int8'),
    ({'score.queries': '/nowhere.jsonl'}, '/nowhere.jsonl.* give --queries'),
    ({'data.source.pattern': '/nowhere/*'}, 'no files match'),
    ({'data.max_len': 65}, '65 positions, but max_len is 64'),
    ({'layers': 'mpl'}, 'blocks/mlp/gate'),
  )
  def test_what_is_wrong_is_said_before_anything_is_read(self, change, message):
    config = self.config.copy_and_resolve_references()
    config.update_from_flattened_dict(change)
    self.assert_refused(config, message)

  def test_a_family_a_vocabulary_and_a_query_that_do_not_fit(self):
    folder = binary.write_checkpoint(
      self.root / 'large', words=[*binary.WORDS, 'w99']
    )
    self.assert_refused(
      binary.make_config(self.root, folder), 'w99.* less than 61'
    )
    (folder / 'config.json').write_text('{"model_type": "rwkv"}')
    self.assert_refused(
      binary.make_config(self.root, folder),
      "rwkv'; there are .*llama",
    )
    config = binary.make_config(self.root, self.folder)
    config.score.queries = str(self.root / 'queries' / 'long.jsonl')
    query = {'id': 'long', 'prompt': 'w1 ' * 16, 'completion': 'w1'}
    binary.write_lines(pathlib.Path(config.score.queries), [query])
    self.assert_refused(config, "'long' has 16 tokens of prompt")

  def assert_refused(self, config, message):
    workdir = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    load = absltest.mock.patch.object(trained, 'load', side_effect=KeyError)
    with load, self.assertRaisesRegex(ValueError, message):
      influence.run(config, workdir)
    self.assertEmpty([*workdir.iterdir()])

  def test_short_flags_fill_the_config(self):
    config = influence_config.get_config()
    config.score.queries = 'kept'
    with flagsaver.flagsaver(checkpoint='c', corpus='t/*', queries=None):
      influence.fill(config)
    self.assertEqual(config.checkpoint.path, 'c')
    self.assertEqual(config.data.source.pattern, 't/*')
    self.assertEqual(config.score.queries, 'kept')

  def test_smollm2_is_fetched_and_is_the_checkpoint(self):
    fetch = self.enterContext(
      absltest.mock.patch.object(smollm2, 'fetch', return_value=self.root / 'x')
    )
    config = influence_config.get_config()
    config.data.data_dir = '~/cache'
    with flagsaver.flagsaver(smollm2=True, checkpoint=None):
      influence.fill(config)
    self.assertEqual(config.checkpoint.path, str(self.root / 'x'))
    fetch.assert_called_once_with(pathlib.Path('~/cache').expanduser())
    with (
      flagsaver.flagsaver(smollm2=True, checkpoint='c'),
      self.assertRaisesRegex(ValueError, "both --smollm2 and .* 'c' are asked"),
    ):
      influence.fill(config)
    fetch.assert_called_once()

  def test_a_gguf_is_the_folder_that_it_was_made_of(self):
    checkpoint_test.write(self.root / 'twice')
    queries, texts = self.root / 'queries' / 'gguf.jsonl', self.root / 'letters'
    messages = [{'role': 'user', 'content': 'ab'}]
    asked = [
      {'id': 'x', 'prompt': 'ab ab', 'completion': '12'},
      {'id': 'y', 'messages': messages, 'completion': 'ab'},
    ]
    binary.write_lines(queries, asked)
    binary.write_lines(
      texts / 'a.jsonl', [{'text': 'ab 12 é'}, {'text': 'x' * 30}]
    )
    found = []
    for path in self.root / 'twice', self.root / 'twice' / 'tiny.gguf':
      config = binary.make_config(self.root, path)
      config.data.source.pattern = str(texts)
      config.score.queries = str(queries)
      influence.check(config)
      ours = trained.load(config, self.root / 'workdirs' / path.name)
      found.append(
        (
          ours.params_fingerprint,
          ours.corpus.sequences.fingerprint,
          ours.model.layers,
          trained.read_queries(config),
        )
      )
    self.assertEqual(*found)
    self.assertEqual(found[1][-1][1].prompt, '<|im_end|>ab<|im_end|>')
    self.assertLen(found[1][2], 3)

  def test_what_is_damaged_is_said_and_nothing_is_computed(self):
    fit_fn = self.enterContext(absltest.mock.patch.object(fit, 'fit'))
    texts = self.root / 'damaged'
    binary.write_lines(texts / 'empty.jsonl', [{'text': ''}] * 3)
    (texts / 'latin.jsonl').write_bytes(b'{"text": "w1"}\n{"text": "\xe9"}')
    shard = 'model-00002-of-00004.safetensors'
    checkpoint_test.write(self.root / 'cut')
    whole = (self.root / 'cut' / 'tiny.gguf').read_bytes()

    def pickles(folder):
      for path in folder.glob('*.safetensors*'):
        path.unlink()
      (folder / 'pytorch_model.bin').write_bytes(b'\x80\x04.')
      (folder / 'training_args.pkl').write_bytes(b'\x80\x04.')

    def damage(name, change):
      folder = shutil.copytree(self.folder, self.root / name)
      change(folder)
      return {'checkpoint.path': str(folder)}

    def cut(length):
      path = self.root / f'cut{length}.gguf'
      path.write_bytes(whole[:length])
      return {'checkpoint.path': str(path)}

    for changes, message in (
      (damage('pickles', pickles), "'pytorch_model.bin', 'training_args.pkl'. "
       'are pickles, which run code .*: convert them to safetensors'),
      (damage('shard', lambda x: os.truncate(x / shard, 9000)),
       f'{shard} is damaged or cut short, .*download it again'),
      (damage('lost', lambda x: (x / shard).unlink()),
       f'lacks .*{shard}.* of the 4 files .*download the rest'),
      (damage('words', lambda x: (x / 'tokenizer.json').unlink()),
       'no tokenizer.json in .*words: save it there'),
      (cut(9), 'cut9.gguf is no GGUF file, or is .*cut short.*download it aga'),
      (cut(len(whole) - 9), 'gguf is no GGUF file, or is damaged or cut short'),
      ({'data.source.pattern': str(texts / 'latin.jsonl')},
       'latin.jsonl, row 2: invalid UTF-8: .*mend it'),
      ({'data.source.pattern': str(texts / 'empty.jsonl')},
       'none of 3 rows of 1 files has text, .*empty.jsonl: expected some'),
    ):  # fmt: skip
      config = self.config.copy_and_resolve_references()
      config.update_from_flattened_dict(changes)
      with (
        self.subTest(message),
        tempfile.TemporaryDirectory() as workdir,
        self.assertRaisesRegex(ValueError, message),
      ):
        influence.run(config, workdir)
    fit_fn.assert_not_called()


if __name__ == '__main__':
  absltest.main()
