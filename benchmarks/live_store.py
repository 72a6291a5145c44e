"""Seconds and memory of the live viewer on a store of a million rows.

    python -m benchmarks.live_store --live_out=results/live_store.json

Makes a workdir in a folder of its own under --folder and removes it afterwards
(5 GB): a corpus of --rows documents of 63 words, a sequence each, the words
drawn by Zipf's law from 20,000; 20 queries; scores.zarr of all sequences;
top.parquet of --rows rows, the first of each sign of each query, with tokens
and their scores; candidates.parquet of the same. Then starts experiments.view
--serve in a process of its own, twice: the first start writes texts.parquet.
The files are put out of the page cache before the second.

Each page is asked for once, so that nothing of it is kept; seconds are until
its last byte is here. Memory is of the server, at the end and at most:
`anonymous` without pages of files that are mapped.
"""

import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time
from urllib import parse, request

import numpy as np
import pyarrow
import pyarrow.parquet
from absl import app, flags
from ml_collections import ConfigDict

from benchmarks import live_corpus, machine
from experiments import corpus, top_table
from influence_jax import score_store, store
from influence_jax.data import tokenizer as tokenizer_lib
from influence_jax.report import files, records, server_address

_ROWS = flags.DEFINE_integer('rows', 1_000_000, 'of top.parquet; sequences')
_FOLDER = flags.DEFINE_string('folder', '/tmp', 'where the store is made')
_LIVE_OUT = flags.DEFINE_string('live_out', None, 'JSON file for the results')
_QUERIES, _LAYERS = 20, 12
_CONFIG = """
from ml_collections import ConfigDict
def get_config():
  return ConfigDict({'score': {'folder': 'scores'}, 'data': %r})
"""


def write(workdir: pathlib.Path, num: int) -> None:
  """The workdir of a scoring run; its config.py beside it."""
  data = {
    'name': 'benchmarks.live_corpus', 'data_dir': '', 'source': {'num': num},
    'max_len': live_corpus.LENGTH + 1, 'buckets': (), 'vocab_size': None,
  }  # fmt: skip
  (workdir / 'config.py').write_text(_CONFIG % data)
  words, _ = live_corpus.vocabulary()
  once = [f' {word}' for word in words]
  tokenizer = tokenizer_lib.train(once * 2, 2**16 - 1)
  made = corpus.load(ConfigDict(data), workdir, tokenizer)
  if len(made.sequences) != num:
    raise ValueError(f'{len(made.sequences)} sequences, expected {num}')
  queries = [
    {'id': f'query {k}', 'prompt': 'The capital of France is',
     'completion': ' Paris', 'loss': 2.0, 'labels': {}}
    for k in range(_QUERIES)
  ]  # fmt: skip
  folder = workdir / 'scores'
  store.write_json(
    folder / 'manifest.json',
    {
      'answers': ['ekfac relative 0.1'],
      'data': made.sequences.fingerprint,
      'score': {'candidates': {'method': 'all'}, 'num_sequences': None},
    },
  )
  store.write_json(folder / 'queries.json', queries)
  rng = np.random.default_rng(1)
  scores_KxN = rng.standard_t(3, (_QUERIES, num)).astype(np.float32)
  made_scores = score_store.create(folder / 'scores.zarr', _QUERIES, num, 4096)
  made_scores.put(0, scores_KxN)
  _write_tables(folder, queries, scores_KxN)


def _write_tables(folder, queries, scores_KxN) -> None:
  """A row group at a time, in the order of `top_table.rows`."""
  words, _ = live_corpus.vocabulary()
  pieces = pyarrow.array([tokenizer_lib.END, *(f' {word}' for word in words)])
  rng = np.random.default_rng(2)
  each = scores_KxN.shape[1] // len(queries) // 2
  writers = {}
  for query, scores_N in zip(queries, scores_KxN, strict=True):
    order = np.argsort(-scores_N)
    for kind, best in zip(records.KINDS, (order, order[::-1]), strict=True):
      for start in range(0, each, top_table.ROW_GROUP):
        numbers = best[start : min(start + top_table.ROW_GROUP, each)]
        plain = _plain(query['id'], kind, start, numbers, scores_N)
        tables = {
          'candidates': pyarrow.table(plain),
          'top': pyarrow.table({**plain, **_by_token(numbers, pieces, rng)}),
        }
        for name, table in tables.items():
          names = '\n'.join(f'layer {n}' for n in range(_LAYERS))
          table = table.replace_schema_metadata({'layers': names})
          if name not in writers:
            path = folder / f'{name}.parquet'
            writers[name] = pyarrow.parquet.ParquetWriter(path, table.schema)
          writers[name].write_table(table)
  for writer in writers.values():
    writer.close()


def _plain(query, kind, start, numbers, scores_N) -> dict:
  scores = scores_N[numbers].astype(float)
  return {
    'query_id': [query] * len(numbers),
    'kind': [kind] * len(numbers),
    'rank': np.arange(start + 1, start + 1 + len(numbers)),
    'score': scores,
    'scan_score': 0.99 * scores,
    'sequence': numbers,
  }


def _by_token(numbers, pieces, rng) -> dict:
  source = live_corpus.Documents(0)
  found = [source[int(n)] for n in numbers]
  ids = np.stack([live_corpus.word_ids(int(n)) for n in numbers]) + 1
  ids = np.insert(ids, 0, 0, axis=1)
  shapes = {'token_scores': ids.shape, 'layer_scores': (len(ids), _LAYERS)}
  lists = {name: _lists(rng.standard_t(3, x)) for name, x in shapes.items()}
  tokens = pyarrow.ListArray.from_arrays(
    np.arange(len(ids) + 1, dtype=np.int32) * ids.shape[1],
    pieces.take(pyarrow.array(ids.ravel())),
  )
  texts = {
    name: [x[name] for x in found] for name in ('title', 'topic', 'text')
  }
  zeros = np.zeros(len(ids), int)
  return {
    'document': numbers, 'chunk': zeros, **texts, 'tokens': tokens, **lists
  }  # fmt: skip


def _lists(values) -> pyarrow.ListArray:
  ends = np.arange(len(values) + 1, dtype=np.int32) * values.shape[1]
  return pyarrow.ListArray.from_arrays(ends, values.ravel())


class Server:
  """experiments.view --serve, in a process of its own."""

  def __init__(self, workdir: pathlib.Path):
    command = [sys.executable, '-m', 'experiments.view', '--serve']
    command += [f'--config={workdir}/config.py', f'--workdir={workdir}']
    start = time.perf_counter()
    self._process = subprocess.Popen(
      command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    for line in self._process.stdout:
      if found := re.search('http://[^ ]*/', line):
        self._address = found[0]
        break
    else:
      raise RuntimeError(f'the server ended with {self._process.wait()}')
    self.seconds = time.perf_counter() - start

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self._process.terminate()
    self._process.wait()

  def get(self, path: str = '', **fields) -> tuple[float, str]:
    """Seconds, and the page."""
    start = time.perf_counter()
    address = f'{self._address}{path}?{parse.urlencode(fields)}'
    with request.urlopen(address) as answer:
      text = answer.read().decode()
    return time.perf_counter() - start, text

  def memory(self) -> dict[str, int]:
    """Bytes."""
    path = pathlib.Path(f'/proc/{self._process.pid}/status')
    lines = dict(line.split(':', 1) for line in path.read_text().splitlines())
    names = {'resident': 'VmRSS', 'peak': 'VmHWM', 'anonymous': 'RssAnon'}
    return {name: int(lines[x].split()[0]) * 1024 for name, x in names.items()}


def measure(server: Server, source: str) -> dict[str, float]:
  """Seconds of each page; all are of different queries, so none is kept."""
  words, _ = live_corpus.vocabulary()
  later = max(1, _ROWS.value // _QUERIES // server_address.PAGE // 4)
  pages = {
    'first page': {},
    'a later page': {'page': later},
    'search: a frequent word': {'words': words[3]},
    'search: a rare word': {'words': words[-1]},
    'search: a phrase': {'words': f'"{words[1]} {words[5]}"'},
    'search: three words': {'words': ' '.join(words[10:13])},
    'search: no such word': {'words': 'qqqq'},
    'a topic': {'topic': '=topic 7'},
    'sorted by title': {'sort': 'title'},
    'sorted by length': {'sort': 'length'},
  }
  found = {}
  for k, (name, fields) in enumerate(pages.items()):
    found[name], text = server.get(
      'rows', query=f'query {k}', source=source, **fields
    )
    if 'search' not in name and 'class="card"' not in text:
      raise RuntimeError(f'{source}, {name}: an empty page')
  number = int(re.search('data-sequence="([0-9]+)"', text)[1])
  query = f'query {len(pages) - 1}'
  found['one sequence'], _ = server.get(
    'sequence', query=query, sequence=number
  )
  return found


def out_of_cache(folder: pathlib.Path) -> None:
  os.sync()
  for path in folder.rglob('*'):
    if path.is_file():
      with path.open('rb') as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def main(_):
  with tempfile.TemporaryDirectory(dir=_FOLDER.value) as folder:
    workdir = pathlib.Path(folder)
    write(workdir, _ROWS.value)
    with Server(workdir) as server:
      first_start = server.seconds
    sizes = {
      path.name: path.stat().st_size for path in workdir.rglob('*.parquet')
    }
    out_of_cache(workdir)
    with Server(workdir) as server:
      seconds, _ = server.get()
      result = {
        'command': f'python -m benchmarks.live_store {" ".join(sys.argv[1:])}',
        'commit': machine.commit(),
        'device': machine.device(),
        'rows': _ROWS.value,
        'queries': _QUERIES,
        'bytes': sizes,
        'seconds': {
          'start': server.seconds,
          'start that writes texts.parquet': first_start,
          'queries': seconds,
          **{x: measure(server, x) for x in ('matrix', 'top', 'candidates')},
        },
        'memory_bytes': server.memory(),
      }
  print(json.dumps(result, indent=2))
  if _LIVE_OUT.value:
    content = json.dumps(result, indent=2, sort_keys=True) + '\n'
    files.write(_LIVE_OUT.value, content.encode())


if __name__ == '__main__':
  app.run(main)
