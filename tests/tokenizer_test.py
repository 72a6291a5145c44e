import os
import pathlib
import subprocess
import sys
import tempfile

import tokenizers
from absl.testing import absltest, parameterized

from influence_jax.data import tokenizer

TEXTS = [
  f'{name} is the capital of {land}, 首都 of {land}.\n'
  for name, land in [('Paris', 'France'), ('Rome', 'Italy'), ('Bern', 'Swiss')]
] * 3
ANY_TEXT = (
  '',
  ' ',
  'Paris is the capital of France',
  '  two  spaces\tand\r\n\n\nlines ',
  'na\u00efve nai\u0308ve \ufeff\u202e\u200b',
  '日本語のテキスト، العربية',
  '😀👩‍👩‍👧‍👦🇨🇭',
  ''.join(map(chr, range(0x200))),
  '\U0010ffff\ufffe\ufffd',
  'a <|endoftext|> b<|endoftext|><|endoftext|>',
)


class TokenizerTest(parameterized.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.tokenizer = tokenizer.train(TEXTS, 290)

  def setUp(self):
    super().setUp()
    directory = self.enter_context(tempfile.TemporaryDirectory())
    self.path = pathlib.Path(directory) / 't.json'

  def test_end_is_token_0_and_merges_were_learnt(self):
    self.assertEqual(self.tokenizer.token_to_id(tokenizer.END), 0)
    self.assertEqual(self.tokenizer.get_vocab_size(), 290)
    tokens = tokenizer.encode(self.tokenizer, ['the capital of'])[0]
    self.assertLess(len(tokens), 6)

  @parameterized.parameters(*ANY_TEXT)
  def test_text_comes_back_exactly(self, text):
    tokens = tokenizer.encode(self.tokenizer, [text])[0]
    self.assertEqual(tokenizer.decode(self.tokenizer, tokens), text)

  @parameterized.parameters(*ANY_TEXT)
  def test_no_text_makes_the_end_token(self, text):
    tokenizer.save(self.tokenizer, self.path)
    for one in self.tokenizer, tokenizer.load(self.path):
      self.assertNotIn(0, tokenizer.encode(one, [text])[0])

  def test_training_text_with_the_end_token_changes_no_special_token(self):
    one = tokenizer.train([f'a{tokenizer.END}b'] * 9, 400)
    self.assertEqual(one.token_to_id(tokenizer.END), 0)
    self.assertNotIn(0, tokenizer.encode(one, [f'a{tokenizer.END}b'])[0])

  def test_lone_surrogate_is_a_value_error(self):
    with self.assertRaisesRegex(ValueError, r"'b\\ud800' has a lone surrogate"):
      tokenizer.encode(self.tokenizer, ['a', 'b\ud800'])

  def test_the_same_texts_make_the_same_file_in_any_process(self):
    program = (
      'import sys; from influence_jax.data import tokenizer;'
      'import tokenizer_test as t;'
      'tokenizer.save(tokenizer.train(t.TEXTS, 290), sys.argv[1])'
    )
    root = pathlib.Path(__file__).parent.parent
    for threads in '1', '2':
      path = self.path.with_name(f'{threads}.json')
      subprocess.run(
        [sys.executable, '-c', program, path],
        cwd=root,
        env={
          **os.environ,
          'PYTHONPATH': str(root / 'tests'),
          'RAYON_NUM_THREADS': threads,
        },
        check=True,
      )
      tokenizer.save(self.tokenizer, self.path)
      self.assertEqual(path.read_bytes(), self.path.read_bytes())

  def test_other_texts_make_another_file(self):
    other = tokenizer.train([*TEXTS, 'other other'], 300)
    self.assertNotEqual(other.to_str(), self.tokenizer.to_str())

  def test_saved_tokenizer_encodes_alike(self):
    tokenizer.save(self.tokenizer, self.path)
    loaded = tokenizer.load(self.path)
    self.assertEqual(
      tokenizer.encode(loaded, ANY_TEXT),
      tokenizer.encode(self.tokenizer, ANY_TEXT),
    )
    self.assertEqual(os.listdir(self.path.parent), ['t.json'])

  def test_loaded_tokenizer_cuts_and_pads_nothing(self):
    cutting = tokenizers.Tokenizer.from_str(self.tokenizer.to_str())
    cutting.enable_truncation(3)
    cutting.enable_padding(length=50)
    cutting.save(os.fspath(self.path))
    tokens = tokenizer.encode(tokenizer.load(self.path), ['Paris, Rome', 'a'])
    self.assertEqual(
      tokens, tokenizer.encode(self.tokenizer, ['Paris, Rome', 'a'])
    )

  def test_missing_file_is_a_value_error(self):
    with self.assertRaisesRegex(ValueError, 'no tokenizer at .*t.json'):
      tokenizer.load(self.path)

  @parameterized.parameters('', '{}', 'not json', '\xff')
  def test_file_that_is_no_tokenizer_is_a_value_error(self, text):
    self.path.write_text(text, encoding='latin-1')
    with self.assertRaisesRegex(ValueError, 'is not a tokenizer.json'):
      tokenizer.load(self.path)

  def test_tokenizer_without_a_special_end_is_a_value_error(self):
    plain = tokenizers.Tokenizer(tokenizers.models.WordLevel({'a': 0}, 'a'))
    plain.save(os.fspath(self.path))
    with self.assertRaisesRegex(ValueError, 'no special token'):
      tokenizer.load(self.path)
    plain.add_tokens([tokenizer.END])
    plain.save(os.fspath(self.path))
    with self.assertRaisesRegex(ValueError, 'no special token'):
      tokenizer.load(self.path)

  def test_smaller_vocabulary_than_asked_for_is_logged(self):
    with self.assertLogs('absl', 'WARNING') as logs:
      one = tokenizer.train(['ab', 'ab', 'cd'], 300)
    self.assertIn('yields 258 tokens, 300 were asked for', logs.output[0])
    self.assertEqual(tokenizer.encode(one, ['ab']), [[257]])

  def test_too_small_vocabulary_is_a_value_error(self):
    with self.assertRaisesRegex(ValueError, 'at least 257'):
      tokenizer.train(TEXTS, 256)

  def test_pieces_joined_are_the_text(self):
    text = 'Paris is the capital of France, 首都 of Italy.\n'
    tokens = tokenizer.encode(self.tokenizer, [text])[0]
    pieces = tokenizer.pieces(self.tokenizer, tokens)
    self.assertLen(pieces, len(tokens))
    self.assertEqual(''.join(pieces), text)

  def test_pieces_show_split_characters_as_replacement_characters(self):
    tokens = tokenizer.encode(self.tokenizer, ['a😀b'])[0]
    pieces = tokenizer.pieces(self.tokenizer, [0, *tokens])
    self.assertEqual(pieces, [tokenizer.END, 'a', *'\ufffd' * 4, 'b'])


if __name__ == '__main__':
  absltest.main()
