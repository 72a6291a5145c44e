import json
import os
import pathlib
import random
import string
import tempfile
from unittest import mock

import numpy as np
import tokenizer_test
from absl.testing import absltest, parameterized

from influence_jax.data import pretrained_tokenizer, sequences
from influence_jax.data import tokenizer as tokenizer_lib

BYTES = tokenizer_lib.train(['a'], 257)  # a token a letter
MAX_LEN = 8
BUCKETS = (3, 5, 8)


def documents(lengths):
  """One document a length, of as many random letters; ids are 10, 20, ..."""
  draw = random.Random(0)
  return [
    {'id': 10 * (n + 1), 'text': ''.join(draw.choices(string.printable, k=k))}
    for n, k in enumerate(lengths)
  ]


class SequencesTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    directory = self.enter_context(tempfile.TemporaryDirectory())
    self.directory = pathlib.Path(directory) / 'sequences'

  def build(self, docs, max_len=MAX_LEN, buckets=BUCKETS, tokenizer=BYTES):
    return sequences.build(
      docs, tokenizer, max_len, self.directory, buckets=buckets
    )

  @parameterized.parameters(3, 4, 8)
  def test_chunks_of_a_document_joined_are_its_tokens(self, max_len):
    docs = documents(range(1, 4 * max_len))
    built = self.build(docs, max_len, buckets=())
    for document in docs:
      tokens = tokenizer_lib.encode(BYTES, [document['text']])[0]
      where = np.flatnonzero(built.records['document'] == document['id'])
      where = where[np.argsort(built.records['chunk'][where])]
      rows = [built.row(n).tolist() for n in where]
      joined = []
      for n, row in zip(where, rows, strict=True):
        self.assertEqual(row[0], 0)
        self.assertEqual(built.records['first'][n], len(joined))
        self.assertLessEqual(len(row) - 1, max_len)
        joined += row[1:]
      self.assertEqual(joined, [*tokens, 0])
      if len(rows) > 1:
        self.assertGreaterEqual(len(rows[-1]), 4)  # END, 2 tokens, END
      self.assertLen(rows, max(1, -(-(len(tokens) + 1) // max_len)))

  def test_only_the_last_chunk_ends_with_the_end_token(self):
    built = self.build(documents([20]))
    ends = [built.row(n)[-1] == 0 for n in range(len(built))]
    chunks = built.records['chunk'].tolist()
    self.assertEqual(dict(zip(chunks, ends, strict=True)), {0: 0, 1: 0, 2: 1})

  def test_rows_have_the_borders_of_a_pretrained_tokenizer(self):
    folder = self.directory.parent / 'checkpoint'
    tokenizer_test.checkpoint(folder, config={'eos_token_id': 1})
    tokenizer = pretrained_tokenizer.load(folder)
    docs = documents([3, 0]) + [{'id': 30, 'text': '<s></s>' + '#' * 9}]
    built = self.build(docs, tokenizer=tokenizer)
    order = np.lexsort((built.records['chunk'], built.records['document']))
    rows = [built.row(n).tolist() for n in order]
    self.assertEqual([row[0] for row in rows], [0] * 4)
    self.assertEqual([row[-1] == 1 for row in rows], [1, 0, 0, 1])
    joined = sum((row[1:] for row in rows[1:]), [])
    tokens = tokenizer_lib.encode(tokenizer, [docs[2]['text']])[0]
    self.assertEqual(joined, [*tokens, 1])
    self.assertNoCommonElements(tokens, [0, 1])
    self.assertEqual(built.borders, [0, 1])
    words = sum((built.text_tokens(n).tolist() for n in order[1:]), [])
    self.assertEqual(words, tokens)

  def test_of_a_folder_that_names_no_borders_the_first_token_is_both(self):
    self.build(documents([3]))
    path = self.directory / 'sequences.json'
    info = json.loads(path.read_text())
    self.assertEqual(info.pop('borders'), [0, 0])
    path.write_text(json.dumps(info))
    opened = sequences.open(self.directory)
    self.assertEqual(opened.borders, [0])
    self.assertEqual(
      opened.text_tokens(0).tolist(), opened.row(0)[1:-1].tolist()
    )

  def test_a_document_that_just_fits_is_not_cut(self):
    built = self.build(documents([MAX_LEN - 1, MAX_LEN]))
    found = built.records[['document', 'size']].tolist()
    whole, first, last = (10, MAX_LEN + 1), (20, MAX_LEN - 1), (20, 4)
    self.assertEqual(found, [last, whole, first])

  def test_numbers_go_by_bucket_then_document_then_chunk(self):
    built = self.build(documents(random.Random(1).choices(range(30), k=500)))
    keys = built.records[['bucket', 'document', 'chunk']].tolist()
    self.assertEqual(keys, sorted(keys))
    self.assertLen(set(keys), len(keys))
    lengths = built.records['size'] - 1
    fitting = np.array(BUCKETS)[np.searchsorted(BUCKETS, lengths)]
    np.testing.assert_array_equal(built.records['bucket'], fitting)

  def test_blocks_do_not_change_what_is_built(self):
    docs = documents(random.Random(1).choices(range(30), k=50))
    whole = self.build(docs).fingerprint
    self.enter_context(mock.patch.object(sequences, 'BLOCK', 7))
    self.assertEqual(self.build(iter(docs)).fingerprint, whole)

  def test_empty_and_cut_documents_are_counted(self):
    built = self.build(documents([0, 3, 20, 0, 4]))
    expected = {
      'documents': 5,
      'empty_documents': 2,
      'cut_documents': 1,
      'sequences': 5,
      'targets': (3 + 1) + (20 + 1) + (4 + 1),
    }
    self.assertEqual(built.info, {**built.info, **expected})
    self.assertLen(built, 5)

  @parameterized.parameters(((),), ((0, 0),))
  def test_corpus_without_text_is_a_value_error(self, lengths):
    with self.assertRaisesRegex(ValueError, f'{len(lengths)} documents'):
      self.build(documents(lengths))
    with self.assertRaisesRegex(ValueError, 'no finished sequences'):
      sequences.open(self.directory)

  @parameterized.parameters(10, 5, -1)
  def test_ids_that_do_not_increase_are_a_value_error(self, again):
    docs = documents([3]) + [{'id': again, 'text': 'a'}]
    with self.assertRaisesRegex(ValueError, f'document {again} comes after 10'):
      self.build(docs)

  @parameterized.parameters(
    ((9,), 8), ((2,), 8), ((), 2), ((-1,), 8), ((3, 9), 8)
  )
  def test_buckets_out_of_range_are_a_value_error(self, buckets, max_len):
    with self.assertRaisesRegex(ValueError, 'expected lengths from 3'):
      self.build(documents([3]), max_len, buckets)

  def test_opened_sequences_are_those_built_and_memory_mapped(self):
    built = self.build(documents(range(30)))
    opened = sequences.open(self.directory, 257)
    self.assertEqual(opened.info, built.info)
    np.testing.assert_array_equal(opened.tokens, built.tokens)
    np.testing.assert_array_equal(opened.records, built.records)
    self.assertIsInstance(opened.tokens, np.memmap)
    self.assertIsInstance(opened.records, np.memmap)
    self.assertEqual(opened.tokens.dtype, np.uint16)

  def test_vocabulary_beyond_16_bits_is_kept_in_32(self):
    big = tokenizer_lib.train(['a'], 257)
    big.add_tokens([f'token{n}' for n in range(70_000)])
    built = self.build([{'id': 0, 'text': 'token69999'}], tokenizer=big)
    self.assertEqual(built.tokens.dtype, np.uint32)
    self.assertEqual(built.row(0).tolist(), [0, 257 + 69_999, 0])

  def test_half_written_directory_is_refused_and_can_be_built_again(self):
    def broken():
      yield from documents([3, 20])
      raise RuntimeError('lost')

    whole = self.build(documents([3, 20])).fingerprint
    with self.assertRaisesRegex(RuntimeError, 'lost'):
      self.build(broken())
    with self.assertRaisesRegex(ValueError, r'no finished .*build them'):
      sequences.open(self.directory)
    self.build(documents([3, 20]))
    self.assertEqual(sequences.open(self.directory).fingerprint, whole)

  def test_building_leaves_three_files_whatever_was_there(self):
    self.build(documents([3]))
    with self.assertRaisesRegex(ValueError, 'comes after'):
      self.build(documents([3]) * 2, buckets=(4,))
    self.build(documents([3]))
    self.assertEqual(
      sorted(os.listdir(self.directory)),
      ['records.npy', 'sequences.json', 'tokens.npy'],
    )

  @parameterized.product(
    name=('tokens.npy', 'records.npy', 'sequences.json'), keep=(0, 0.5, 0.99)
  )
  def test_truncated_file_is_a_value_error(self, name, keep):
    self.build(documents(range(30)))
    path = self.directory / name
    os.truncate(path, int(path.stat().st_size * keep))
    with self.assertRaisesRegex(ValueError, 'damaged: .*build them again'):
      sequences.open(self.directory)

  def test_missing_file_is_a_value_error(self):
    self.build(documents(range(30)))
    (self.directory / 'tokens.npy').unlink()
    with self.assertRaisesRegex(ValueError, 'damaged: .*tokens.npy'):
      sequences.open(self.directory)

  @parameterized.parameters('tokens.npy', 'records.npy')
  def test_changed_file_is_a_value_error(self, name):
    self.build(documents(range(30)))
    array = np.load(self.directory / name, mmap_mode='r+')
    array.view(np.uint8)[-3] ^= 1
    array.flush()
    with self.assertRaisesRegex(ValueError, 'a file was changed'):
      sequences.open(self.directory)

  def test_fingerprint_changes_when_one_token_changes(self):
    docs = documents(range(30))
    first = self.build(docs).fingerprint
    self.assertEqual(self.build(docs).fingerprint, first)
    text = docs[7]['text']
    docs[7]['text'] = ('a' if text[0] != 'a' else 'b') + text[1:]
    self.assertNotEqual(self.build(docs).fingerprint, first)

  def test_fingerprint_changes_with_an_id_and_with_a_bucket(self):
    docs = documents(range(30))
    first = self.build(docs).fingerprint
    self.assertNotEqual(self.build(docs, buckets=(8,)).fingerprint, first)
    docs[-1]['id'] += 1
    self.assertNotEqual(self.build(docs).fingerprint, first)

  def test_token_outside_the_vocabulary_is_named_with_its_sequence(self):
    docs = [{'id': n, 'text': 'abc'} for n in range(5)]
    docs[3]['text'] = 'abz'
    token = tokenizer_lib.encode(BYTES, ['z'])[0][0]
    self.build(docs)
    message = f'sequence 3 has token {token}, expected less .* size {token}:'
    with self.assertRaisesRegex(ValueError, message):
      sequences.open(self.directory, vocab_size=token)
    sequences.open(self.directory, vocab_size=token + 1)

  def test_info_tells_the_tokenizer_and_the_buckets(self):
    built = self.build(documents([3]))
    self.assertEqual(built.info['vocab_size'], 257)
    self.assertEqual(built.info['buckets'], [3, 5, 8])
    other = tokenizer_lib.train(['ab', 'ab'], 258)
    self.assertNotEqual(
      self.build(documents([3]), tokenizer=other).info['tokenizer'],
      built.info['tokenizer'],
    )
    written = json.loads((self.directory / 'sequences.json').read_text())
    self.assertEqual(written['vocab_size'], 258)


if __name__ == '__main__':
  absltest.main()
