import gzip
import json
import os
import pathlib
import tempfile
from unittest import mock

import ml_collections
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tokenizer_test
from absl.testing import absltest, parameterized

from configs import files as files_config
from experiments import corpus
from influence_jax.data import files, pretrained_tokenizer
from influence_jax.data import tokenizer as tokenizer_lib

TEXTS = ['one cat', 'zwei Hüte 😀', '', 'drei\nlines', 'four', 'five  ']


def lines(texts, **more):
  rows = [{'text': text, **more} for text in texts]
  return ''.join(json.dumps(row, ensure_ascii=False) + '\n' for row in rows)


def read():
  """Bytes that this process has read from files."""
  found = pathlib.Path('/proc/self/io').read_text().split()
  return int(found[found.index('rchar:') + 1])


def write(path, texts):
  """The texts as `path` ends; a text with a broken character as bytes."""
  data = [x.encode() if isinstance(x, str) else x for x in texts]
  binary = pa.array(data, pa.binary())
  column = pa.Array.from_buffers(pa.string(), len(data), binary.buffers())
  table = pa.table({'other': list(range(len(data))), 'text': column})
  text = b''.join(b'{"text": "%s"}\n' % x for x in data)
  if path.name.endswith('.jsonl'):
    path.write_bytes(text)
  elif path.name.endswith('.gz'):
    path.write_bytes(gzip.compress(text))
  elif path.name.endswith('.zst'):
    with pa.CompressedOutputStream(os.fspath(path), 'zstd') as file:
      file.write(text)
  elif path.name.endswith('.parquet'):
    pq.write_table(table, path, row_group_size=300)
  else:
    is_file = path.name.endswith('.feather')
    new = pa.ipc.new_file if is_file else pa.ipc.new_stream
    with new(os.fspath(path), table.schema) as writer:
      writer.write_table(table, max_chunksize=300)


ROWS = ('a.jsonl', 'a.jsonl.gz', 'a.jsonl.zst', 'a.parquet', 'a.arrow',
        'a.feather')  # fmt: skip


class FilesTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    directory = self.enter_context(tempfile.TemporaryDirectory())
    self.root = pathlib.Path(directory).resolve()
    self.dir = self.root / 'texts'
    self.dir.mkdir()

  def load(self, pattern='', **more):
    pattern = os.fspath(self.dir / pattern)
    return files.load(self.root / 'index', pattern=pattern, **more)

  def refused(self, message, pattern='', **more):
    with self.assertRaisesRegex(ValueError, message):
      list(files.documents(self.load(pattern, **more)))

  @parameterized.parameters(*ROWS)
  def test_rows_come_back_by_number_in_this_process_and_in_another(self, name):
    texts = [f'text {n} ' * (n % 5) for n in range(700)]
    write(self.dir / name, texts)
    source = self.load()
    found = list(files.documents(source))
    expected = [(n, text) for n, text in enumerate(texts) if text]
    self.assertEqual([(x['id'], x['text']) for x in found], expected)
    for again in source, self.load(), self.load(name):
      for n in (699, 1, 257, 256, 511, 303, 598):
        self.assertEqual(again[n]['text'], texts[n])
        self.assertEqual(again[n]['title'], f'{name}:{n + 1}')
        origin = again.origin(n)
        self.assertEqual(origin[:2], (os.fspath(self.dir / name), n + 1))
        if name == 'a.jsonl':
          data = (self.dir / name).read_bytes()[origin.offset :]
          self.assertEqual(json.loads(data.split(b'\n')[0])['text'], texts[n])
        else:
          self.assertIsNone(origin.offset)

  def test_files_go_by_name_and_each_document_tells_where_it_stands(self):
    (self.dir / 'b.jsonl').write_text(lines(TEXTS[:3]))
    (self.dir / 'a.txt').write_bytes(b'\xef\xbb\xbfwhole\r\nfile')
    (self.dir / 'c').mkdir()
    (self.dir / 'c' / 'a.jsonl').write_text('\n' + lines(TEXTS[3:], name='n'))
    (self.dir / 'ignored.md').write_text('x')
    (self.dir / '.hidden.txt').write_text('x')
    with self.assertLogs('absl', 'WARNING') as logs:
      found = list(files.documents(self.load('**/*.[tj]*')))
    self.assertIn('2 of 8 rows have no text', logs.output[0])
    expected = [
      (0, 'whole\r\nfile', 'a.txt', 'a.txt'),
      (1, TEXTS[0], 'b.jsonl:1', 'b.jsonl'),
      (2, TEXTS[1], 'b.jsonl:2', 'b.jsonl'),
      (5, TEXTS[3], 'c/a.jsonl:2', 'c/a.jsonl'),
      (6, TEXTS[4], 'c/a.jsonl:3', 'c/a.jsonl'),
      (7, TEXTS[5], 'c/a.jsonl:4', 'c/a.jsonl'),
    ]
    self.assertEqual([tuple(x.values()) for x in found], expected)
    self.assertEqual(list(found[0]), ['id', 'text', 'title', 'topic'])
    folder = [x['title'] for x in files.documents(self.load())]
    self.assertEqual(folder, ['a.txt', 'b.jsonl:1', 'b.jsonl:2'])

  def test_a_title_is_read_where_the_corpus_has_one(self):
    text = lines(['a'], title='T') + lines(['b'], title='')
    (self.dir / 'a.jsonl').write_text(text + '{"text": "c", "title": null}\n')
    table = pa.table({'title': ['U'], 'text': ['d']})
    pq.write_table(table, self.dir / 'b.parquet')
    found = files.documents(self.load(title='title'))
    titles = ['T', 'a.jsonl:2', 'a.jsonl:3', 'U']
    self.assertEqual([x['title'] for x in found], titles)

  @parameterized.parameters(*ROWS)
  def test_three_documents_are_read_without_the_rest(self, name):
    draw = np.random.default_rng(0)
    texts = [draw.bytes(4000).hex() for n in range(600)]
    write(self.dir / name, texts)
    write(self.dir / f'later_{name}', texts)
    list(files.documents(self.load(name)))  # what is imported late, is now
    before = read()
    stream = files.documents(self.load('*' + name))
    for n in range(3):
      self.assertEqual(next(stream)['text'], texts[n])
    size = (self.dir / name).stat().st_size
    # Of columns a group of 300 rows, one half, is read; twice if it is decoded
    # by page. The other file is not opened.
    self.assertLess(read() - before, size * (0.7 if name[2] in 'paf' else 0.3))
    with mock.patch.object(files, 'EDGE', 1):
      list(files.documents(whole := self.load('*' + name)))
      before = read()
      self.assertEqual(whole[602]['text'], texts[2])
      self.assertLess(read() - before, size * 0.7)
      if name in ('a.jsonl', 'a.parquet'):
        before = read()
        self.assertEqual(whole[1199]['text'], texts[599])
        self.assertLess(read() - before, size * 0.7)

  def test_a_document_is_found_without_a_stream_before(self):
    for name in 'abc':
      texts = [f'{name}{n}' * 9 for n in range(5)]
      (self.dir / f'{name}.jsonl').write_text(lines(texts))
    source = self.load()
    with mock.patch.object(
      files, '_identity', side_effect=files._identity
    ) as opened:
      self.assertEqual(source[6]['text'], 'b1' * 9)
    paths = {call.args[0].name for call in opened.mock_calls}
    self.assertEqual(paths, {'a.jsonl', 'b.jsonl'})
    for n in -1, 15:
      with self.assertRaisesRegex(IndexError, f'document {n}, expected 0 to'):
        source[n]

  def test_a_changed_file_is_a_value_error_that_says_what(self):
    self.enter_context(mock.patch.object(files, 'EDGE', 8))
    path = self.dir / 'a.jsonl'
    path.write_text(lines(['one', 'two']))
    source = self.load()
    list(files.documents(source))
    os.utime(path, (1, 1))  # a copy
    self.assertEqual(self.load()[1]['text'], 'two')
    edited = ' {"text":"one"}\n' + lines(['two']), lines(['one', 'owt'])
    for text in edited:  # of the same size: the head, the tail
      path.write_text(text)
      for again in source, self.load():
        with self.assertRaisesRegex(
          ValueError, 'has changed: its head or tail'
        ):
          again[1]
    self.refused('has changed.*Sequences made before .* new workdir')
    path.write_text(lines(['one', 'three']))
    with self.assertRaisesRegex(ValueError, 'it has 34 bytes, had 32'):
      source[1]
    path.unlink()
    with self.assertRaisesRegex(ValueError, 'a.jsonl cannot be read.*put it b'):
      source[1]

  def test_other_files_than_before_are_a_value_error(self):
    (self.dir / 'a.txt').write_text('a')
    list(files.documents(self.load()))
    (self.dir / 'b.txt').write_text('b')
    self.refused(r"matches 2 files, expected 1: new are \['.*b.txt'\]")
    (index,) = (self.root / 'index' / 'files').iterdir()
    index.unlink()
    self.assertLen(list(files.documents(self.load())), 2)
    index.write_text('[{}')
    self.refused(f'{index.name} is damaged.*remove it')

  def test_what_matches_nothing_is_a_value_error(self):
    (self.dir / 'a.md').write_text('x')
    (self.dir / 'folder.txt').mkdir()
    for pattern in '', '*.jsonl', 'none/**', 'folder.txt', '*.txt':
      self.refused('no files match .*expected a file, a folder', pattern)
    self.refused(r"a.md has an unknown ending, expected one of \['.txt'", '*')
    self.refused('unknown ending', 'a.md')
    with self.assertRaisesRegex(ValueError, 'give --config.data.source.patter'):
      files.load(self.root, pattern=None)
    self.refused("errors='ignore', expected", errors='ignore')

  @parameterized.parameters('.pkl', '.PT', '.bin', '.pickle', '.pth')
  def test_a_pickle_is_refused_also_behind_a_link(self, ending):
    weights = self.root / f'weights{ending}'
    weights.write_bytes(b'x')
    self.refused('may be a pickle', weights)
    (self.dir / 'a.jsonl').symlink_to(weights)
    for pattern in '', '*', 'a.jsonl':
      self.refused(f'a.jsonl .*weights{ending}.* may be a pickle', pattern)

  def test_links_are_followed_and_a_file_is_read_once(self):
    (self.root / 'blob').write_text(lines(['a']))
    for name in 'ab':
      (self.dir / f'{name}.jsonl').symlink_to(self.root / 'blob')
    (self.dir / 'up').symlink_to(self.dir)
    found = files.documents(self.load('**/*.jsonl'))
    self.assertEqual([x['title'] for x in found], ['a.jsonl:1'])

  def test_a_name_with_brackets_is_a_name(self):
    (self.dir / 'a[1].txt').write_text('a')
    self.assertLen(list(files.documents(self.load('a[1].txt'))), 1)

  @parameterized.parameters(*ROWS)
  def test_invalid_utf8_is_named_or_replaced(self, name):
    write(self.dir / name, ['a', b'b\xffc', b'\xc3'])
    self.refused(rf"{name}, row 2: invalid UTF-8.*source.errors to 'replace'")
    found = files.documents(self.load(errors='replace'))
    texts = [x['text'] for x in found]
    self.assertEqual(texts, ['a', 'b\ufffdc', '\ufffd'])

  def test_invalid_utf8_in_a_text_file_is_named_or_replaced(self):
    (self.dir / 'a.txt').write_text('a', encoding='utf-16')
    self.refused('a.txt, row 1: invalid UTF-8.* at byte 0')
    (found,) = files.documents(self.load(errors='replace'))
    self.assertEqual(found['text'], '\ufffd\ufffda\x00')

  @parameterized.parameters(
    ('{"text": "a"', 'not JSON.*mend or remove the line'),
    ('["a"]', r'expected an object, got .\["a"\]. *$'),
    ('{"txt": "a", "id": 1}', r"no field 'text', it has \['id', 'txt'\]"),
    ('{"text": 1}', "field 'text' is 1, expected a string"),
    (r'{"text": "\ud800"}', "field 'text' has a lone surrogate"),
    ('[' * 100_000, 'not JSON'),
    ('__import__("os")', 'not JSON'),
  )
  def test_a_bad_line_is_a_value_error_with_its_row(self, line, message):
    (self.dir / 'a.jsonl').write_text(f'{lines(["a"])}\n{line}\n')
    self.refused(f'a.jsonl, row 3: {message}')

  def test_half_a_character_is_replaced_if_asked(self):
    (self.dir / 'a.jsonl').write_text(r'{"text": "a\ud800b \ud83d\ude00"}')
    (found,) = files.documents(self.load(errors='replace'))
    self.assertEqual(found['text'], 'a\ufffdb 😀')

  def test_bad_columns_are_a_value_error_with_the_file(self):
    path = self.dir / 'a.parquet'
    pq.write_table(pa.table({'txt': ['a'], 'id': [1]}), path)
    self.refused(r"a.parquet .*no column 'text', it has \['txt', 'id'\]")
    self.refused(r"columns \['id'\] .*int64.* must be text", text='id')
    self.refused("no column 'title'", text='txt', title='title')

  @parameterized.parameters(*ROWS[1:])
  def test_a_truncated_file_is_a_value_error_with_its_name(self, name):
    draw = np.random.default_rng(0)
    write(self.dir / name, [draw.bytes(90).hex() for _ in range(3000)])
    size = (self.dir / name).stat().st_size
    os.truncate(self.dir / name, size * 3 // 4)
    self.refused(f'{name} cannot be read.*fetch it again')
    (self.dir / name).write_bytes(b'something else')
    self.refused(f'{name} cannot be read.*fetch it again')

  def test_rows_that_are_all_empty_or_none_are_a_value_error(self):
    for folder, text, num in (
      ('none', '', 0),
      ('empty', lines(['', '']), 4),
      ('blank', '\n\n\n', 6),
    ):
      (self.dir / folder).mkdir()
      for name in 'a', 'b':
        (self.dir / folder / f'{name}.jsonl').write_text(text)
      message = f'none of {num} rows of 2 files has text, .*a.jsonl: .*another'
      self.refused(message, folder)

  def test_columns_of_other_types_of_text_and_nulls_are_read(self):
    texts = pa.array(['a', None, 'b', 'a'])
    types = [pa.large_string(), pa.string_view(), pa.binary()]
    columns = [texts.cast(x) for x in types] + [texts.dictionary_encode()]
    for n, column in enumerate(columns):
      with pa.ipc.new_stream(
        os.fspath(self.dir / f'{n}.arrow'), pa.schema([('text', column.type)])
      ) as writer:
        writer.write_table(pa.table({'text': column}))
    found = [x['text'] for x in files.documents(self.load())]
    self.assertEqual(found, ['a', 'b', 'a'] * 4)

  def test_two_files_become_sequences_and_go_back_to_their_text(self):
    texts = [f'the cat number {n} sat on a mat. ' * (n % 4) for n in range(40)]
    (self.dir / 'a.jsonl').write_text(lines(texts[:25]))
    (self.dir / 'b.jsonl').write_text(lines(texts[25:]))
    config = files_config.get_config().data
    config.update(max_len=16, buckets=(), vocab_size=300)
    config.data_dir = os.fspath(self.root / 'data')
    config.source.pattern = os.fspath(self.dir / '*.jsonl')
    for _ in range(2):  # made, then found
      ours = corpus.load(config, self.root / 'work')
      joined = {}
      for n, record in enumerate(ours.sequences.records):
        row = ours.sequences.row(n)
        text = tokenizer_lib.decode(ours.tokenizer, row[row != 0])
        joined.setdefault(int(record['document']), {})[record['chunk']] = text
      self.assertLen(joined, 30)
      for number, chunks in joined.items():
        text = ''.join(chunks[chunk] for chunk in sorted(chunks))
        self.assertEqual(text, texts[number])
        self.assertEqual(ours.document(number)['text'], text)
        origin = ours.source.origin(number)
        name, row = ('a', number) if number < 25 else ('b', number - 25)
        self.assertEqual(origin.file, os.fspath(self.dir / f'{name}.jsonl'))
        self.assertEqual(origin.row, row + 1)

  def test_a_pretrained_tokenizer_laid_in_the_workdir_is_used(self):
    (self.dir / 'a.jsonl').write_text(lines(['a b', '</s> c']))
    folder = tokenizer_test.checkpoint(
      self.root / 'checkpoint', config={'eos_token_id': 1}
    )
    pretrained = pretrained_tokenizer.load(folder)
    tokenizer_lib.save(pretrained, self.root / 'work' / 'tokenizer.json')
    config = files_config.get_config().data
    config.data_dir = os.fspath(self.root / 'data')
    config.source.pattern = os.fspath(self.dir)
    ours = corpus.load(config, self.root / 'work')
    expected = tokenizer_lib.encode(pretrained, ['a b', '</s> c'])
    rows = [ours.sequences.row(n).tolist() for n in range(2)]
    self.assertEqual(rows, [[0, *tokens, 1] for tokens in expected])

  def test_the_config_takes_its_pattern_from_a_flag(self):
    config = files_config.get_config()
    self.assertIsInstance(config, ml_collections.ConfigDict)
    self.assertIsNone(config.to_dict()['data']['source']['pattern'])
    config.update_from_flattened_dict({'data.source.pattern': 'x'})
    self.assertEqual(dict(config.data.source)['pattern'], 'x')


if __name__ == '__main__':
  absltest.main()
