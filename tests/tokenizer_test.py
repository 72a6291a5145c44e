import json
import os
import pathlib
import subprocess
import sys
import tempfile

import tokenizers
from absl.testing import absltest, parameterized

from influence_jax.data import pretrained_tokenizer, tokenizer

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


def checkpoint(folder, single='<s> $A', special=('<s>', '</s>'), **files):
  """A folder as pretrained models come in; its tokenizer has no END.

  Args:
    folder: to write.
    single: what the post-processor makes of a text.
    special: the special tokens, 0, 1, ...
    **files: what is in NAME.json.
  """
  one = tokenizers.Tokenizer(tokenizers.models.BPE())
  level = tokenizers.pre_tokenizers.ByteLevel
  one.pre_tokenizer = level(add_prefix_space=False)
  one.decoder = tokenizers.decoders.ByteLevel()
  trainer = tokenizers.trainers.BpeTrainer(
    special_tokens=list(special),
    initial_alphabet=level.alphabet(),
    vocab_size=290,
    show_progress=False,
  )
  one.train_from_iterator(TEXTS, trainer)
  one.post_processor = tokenizers.processors.TemplateProcessing(
    single=single, special_tokens=[(x, n) for n, x in enumerate(special)]
  )
  return _write(folder, one, files)


def llama(folder):
  """As `checkpoint`, of a tokenizer that puts a space before a text."""
  merges = [('▁', 'a'), ('h', 'e'), ('t', 'he'), ('▁', 'the'), ('▁', '▁')]
  pieces = ['<unk>', '<s>', '</s>', *(f'<0x{n:02X}>' for n in range(256))]
  pieces += [*'▁abcehtis', *map(''.join, merges)]
  vocabulary = {piece: n for n, piece in enumerate(pieces)}
  one = tokenizers.Tokenizer(
    tokenizers.models.BPE(
      vocabulary, merges, unk_token='<unk>', fuse_unk=True, byte_fallback=True
    )
  )
  normalizers, decoders = tokenizers.normalizers, tokenizers.decoders
  one.normalizer = normalizers.Sequence(
    [normalizers.Prepend('▁'), normalizers.Replace(' ', '▁')]
  )
  one.decoder = decoders.Sequence(
    [
      decoders.Replace('▁', ' '),
      decoders.ByteFallback(),
      decoders.Fuse(),
      decoders.Strip(' ', 1, 0),
    ]
  )
  one.add_special_tokens(pieces[:3])
  one.post_processor = tokenizers.processors.TemplateProcessing(
    single='<s> $A', special_tokens=[('<s>', 1)]
  )
  return _write(folder, one, {'tokenizer_config': {'eos_token': '</s>'}})


def _write(folder, one, files):
  folder.mkdir(exist_ok=True)
  one.save(os.fspath(folder / 'tokenizer.json'))
  for name, fields in files.items():
    (folder / f'{name}.json').write_text(json.dumps(fields))
  return folder


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

  def test_borders_of_a_trained_tokenizer_are_the_end_token(self):
    self.assertEqual(tokenizer.borders(self.tokenizer), (0, 0))


class PretrainedTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    directory = self.enter_context(tempfile.TemporaryDirectory())
    self.root = pathlib.Path(directory)

  def load(self, **files):
    return pretrained_tokenizer.load(checkpoint(self.root / 'a', **files))

  @parameterized.parameters(
    {'tokenizer_config': {'eos_token': '</s>'}},
    {'tokenizer_config': {'eos_token': {'content': '</s>', 'lstrip': False}}},
    {'special_tokens_map': {'eos_token': '</s>'}},
    {'config': {'eos_token_id': 1}},
    {'config': {'eos_token_id': [1, 0]}},
    {
      'tokenizer_config': {'eos_token': '</s>'},
      'special_tokens_map': {'eos_token': '<s>'},
      'config': {'eos_token_id': 0},
    },
  )
  def test_the_end_is_found_wherever_it_is_written(self, **files):
    self.assertEqual(tokenizer.borders(self.load(**files)), (0, 1))

  @parameterized.parameters(
    ('<s> $A', {}, 0),
    ('<s> $A </s>', {}, 0),
    ('$A </s>', {}, 1),
    ('$A', {}, 1),
    ('$A', {'add_bos_token': True}, 0),
    ('<s> $A', {'add_bos_token': False}, 1),
    ('<s> $A', {'add_bos_token': None}, 0),
  )
  def test_the_begin_is_what_the_tokenizer_adds_or_else_the_end(
    self, single, more, begin
  ):
    config = {'bos_token': '<s>', 'eos_token': '</s>', **more}
    one = self.load(single=single, tokenizer_config=config)
    self.assertEqual(tokenizer.borders(one), (begin, 1))

  def test_what_ends_documents_goes_before_what_ends_turns(self):
    for end in tokenizer.END, '<|end_of_text|>':
      one = self.load(
        single='$A',
        special=('<|im_end|>', end),
        tokenizer_config={'eos_token': '<|im_end|>'},
      )
      self.assertEqual(tokenizer.borders(one), (1, 1))

  def test_saved_and_loaded_it_has_its_borders(self):
    one = self.load(config={'eos_token_id': 1})
    tokenizer.save(one, self.root / 't.json')
    again = tokenizer.load(self.root / 't.json')
    self.assertEqual(tokenizer.borders(again), (0, 1))
    tokens = tokenizer.encode(one, ANY_TEXT)
    self.assertEqual(tokenizer.encode(again, ANY_TEXT), tokens)
    for text, row in zip(ANY_TEXT, tokens, strict=True):
      self.assertEqual(tokenizer.decode(again, row), text)

  def test_a_prompt_can_write_special_tokens_and_a_text_cannot(self):
    one = self.load(config={'eos_token_id': 1})
    text = '<s>a</s>'
    prompt = tokenizer.encode_prompt(one, [text])[0]
    self.assertEqual([prompt[0], prompt[-1], len(prompt)], [0, 1, 3])
    for _ in range(2):  # nor after a prompt
      tokens = tokenizer.encode(one, [text])[0]
      self.assertNoCommonElements(tokens, [0, 1])
      self.assertEqual(tokenizer.decode(one, tokens), text)
    own = tokenizer.train(TEXTS, 290)
    self.assertNotIn(0, tokenizer.encode_prompt(own, [tokenizer.END])[0])

  def test_the_rest_of_a_text_is_encoded_without_a_space_before(self):
    one = pretrained_tokenizer.load(llama(self.root / 'a'))
    self.assertEqual(tokenizer.borders(one), (1, 2))
    whole = tokenizer.encode(one, ['the a bé'])[0]
    for cut in 3, 5:
      first = tokenizer.encode(one, ['the a bé'[:cut]])[0]
      rest = tokenizer.encode_after(one, ['the a bé'[cut:], '\n', 'the'])
      self.assertEqual(first + rest[0], whole)
      self.assertEqual(tokenizer.decode(one, first + rest[1])[cut:], '\n')
      self.assertEqual(one.id_to_token(rest[2][0]), 'the')
    own = tokenizer.train(TEXTS, 290)
    texts = list(ANY_TEXT)
    self.assertEqual(
      tokenizer.encode_after(own, texts), tokenizer.encode(own, texts)
    )

  def test_pieces_keep_their_spaces(self):
    one = pretrained_tokenizer.load(llama(self.root / 'a'))
    tokens = tokenizer.encode(one, ['the a bé'])[0]
    pieces = tokenizer.pieces(one, [1, *tokens, 2])
    self.assertEqual(pieces[:4], ['<s>', ' the', ' a', ' '])
    self.assertEqual([pieces[4], pieces[-1]], ['b', '</s>'])

  def test_a_vocabulary_larger_than_the_model_is_a_value_error(self):
    ends = {'eos_token_id': 1}
    last = self.load(config=ends).get_vocab_size() - 1
    self.load(config={**ends, 'vocab_size': last + 1})
    message = f'is token {last}, expected less than {last}, the vocab_size'
    for fields in (
      {'vocab_size': last},
      {'text_config': {'vocab_size': last}},
    ):
      with self.assertRaisesRegex(ValueError, message):
        self.load(config={**ends, **fields})

  @parameterized.parameters(
    ({}, 'no token that ends a text in'),
    ({'config': {'eos_token_id': 10_000}}, 'no token that ends a text in'),
    ({'config': {'eos_token_id': []}}, 'no token that ends a text in'),
    ({'config': {'eos_token_id': 200}}, 'no special token .* text makes it'),
    ({'tokenizer_config': {'eos_token': '<e>'}}, "'<e>'.*not of one model"),
    (
      {'tokenizer_config': {'eos_token': '</s>'}, 'single': '<s> </s> $A'},
      'begins texts with .*expected one token',
    ),
    ({'config': [1]}, 'config.json holds no object'),
  )
  def test_a_folder_that_does_not_fit_is_a_value_error(self, files, message):
    with self.assertRaisesRegex(ValueError, message):
      self.load(**files)

  def test_a_missing_or_broken_tokenizer_is_a_value_error(self):
    with self.assertRaisesRegex(ValueError, 'no tokenizer.json in .*save it'):
      pretrained_tokenizer.load(self.root)
    (self.root / 'tokenizer.json').write_text('{}')
    with self.assertRaisesRegex(ValueError, 'is not a tokenizer.json'):
      pretrained_tokenizer.load(self.root)

  def test_a_pretrained_file_alone_is_not_loaded(self):
    folder = checkpoint(self.root / 'a')
    with self.assertRaisesRegex(
      ValueError, 'a/tokenizer.json.*pretrained_tokenizer'
    ):
      tokenizer.load(folder / 'tokenizer.json')


if __name__ == '__main__':
  absltest.main()
