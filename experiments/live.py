"""The stores behind the live viewer (influence_jax/report/server.py).

  python -m experiments.view --serve --config=configs/quickstart.py \
    --workdir=runs/quickstart

What can be looked at is what is there of config.score.folder: `matrix`, all
sequences of scores.zarr; `top`, those of top.parquet; `candidates`, those of
candidates.parquet. Scores of a query are read from scores.zarr when they are
asked for. All else is asked of Parquet by DuckDB, each text of an address as a
parameter. Texts of matrix and candidates are in texts.parquet, which the first
start writes (live_texts.py).
"""

import dataclasses
import functools
import glob
import os
import pathlib
import socket
import tempfile
from collections.abc import Callable
from typing import Any

import duckdb
import numpy as np
import pyarrow
import pyarrow.parquet
import uvicorn
from absl import logging
from ml_collections import ConfigDict

from experiments import corpus, live_texts
from influence_jax import score_store, store
from influence_jax.data import batches as batches_lib
from influence_jax.data import sequences as sequences_lib
from influence_jax.data import tokenizer as tokenizer_lib
from influence_jax.report import server, server_address

_DUCKDB = {
  'memory_limit': '64MB',
  'threads': 2,
  'autoinstall_known_extensions': False,
  'autoload_known_extensions': False,
  'python_enable_replacements': False,
}
_MAX_TOPICS = 200
_ORDERS = {
  'score': 'rank',
  'length': 'length(text) DESC, rank',
  'title': 'lower(title), rank',
}


def serve(
  config: ConfigDict,
  workdir: str | os.PathLike,
  port: int,
  app: Callable | None = None,
) -> None:
  """Answers until it is stopped, and says where; arguments as in `bound`."""
  settings, socket, address = bound(config, workdir, port, app)
  print(f'live view: {address} (Ctrl-C ends it)', flush=True)
  uvicorn.Server(settings).run([socket])


def bound(
  config: ConfigDict,
  workdir: str | os.PathLike,
  port: int,
  app: Callable | None = None,
) -> tuple[uvicorn.Config, socket.socket, str]:
  """For uvicorn, a port of 127.0.0.1 (0 is any free one), and its address.

  `app` is one with more pages.
  """
  settings = uvicorn.Config(
    app or server.app(Store(config, workdir)),
    host='127.0.0.1',
    port=port,
    lifespan='off',
    log_level='warning',
    proxy_headers=False,
    server_header=False,
  )
  own = settings.bind_socket()
  own.listen()  # who comes before uvicorn has started waits
  return settings, own, f'http://127.0.0.1:{own.getsockname()[1]}/'


class Store:
  """As server.Store; threads may share one."""

  def __init__(self, config: ConfigDict, workdir: str | os.PathLike):
    """Opens what is there; ValueError if there is nothing to look at."""
    workdir = pathlib.Path(workdir)
    folder = workdir / config.score.folder
    self.title = workdir.resolve().name
    self.sources, self.answers = {}, []
    self._spill = tempfile.TemporaryDirectory()  # of what does not fit
    self._sql = duckdb.connect(
      config={**_DUCKDB, 'temp_directory': self._spill.name}
    )
    self._sequences, self._layers = None, []
    if (workdir / 'sequences').exists():
      self._open_texts(config, workdir)
      self._open_matrix(folder)
    self._open_table(folder / 'top.parquet', 'top, with scores by token')
    if self._sequences:
      self._open_table(folder / 'candidates.parquet', 'candidates')
    if not self.sources:
      raise ValueError(
        f'nothing to look at in {folder}: run experiments.score with this '
        '--config and --workdir'
      )
    queries = store.read_json(folder / 'queries.json')
    self.queries = {query['id']: {'labels': {}, **query} for query in queries}
    self.topics = functools.cache(self._topics)
    self._scores = functools.lru_cache(2)(self._read_scores)
    self._found = functools.lru_cache(2)(self._find)

  def count(self, wanted: server_address.Wanted) -> int:
    return len(self._found(wanted)['sequence'])

  def rows(
    self, wanted: server_address.Wanted, start: int, stop: int
  ) -> list[dict[str, Any]]:
    found = {
      name: column[start:stop].tolist()
      for name, column in self._found(wanted).items()
    }
    asked, condition = {'numbers': found['sequence']}, 'true'
    if wanted.source == 'top':
      asked['query'], condition = wanted.query, 'query_id = $query'
    texts = self._ask(
      'SELECT sequence, document, chunk, title, topic, text '
      f'FROM {_texts(wanted.source)} '
      f'WHERE sequence IN (SELECT unnest($numbers)) AND {condition}',
      asked,
    )
    by_number = {row['sequence']: row for row in texts}
    return [
      {**by_number[number], 'rank': rank, 'score': score}
      for number, rank, score in zip(
        found['sequence'], found['rank'], found['score'], strict=True
      )
    ]

  def sequence(self, query: str, number: int) -> dict[str, Any] | None:
    row, scores = None, []
    if self._sequences and number < len(self._sequences):
      row = self._plain(number)
    if 'matrix' in self.sources:
      scores += self._of_answers(query, number)
    for name in [x for x in self.sources if x != 'matrix']:
      for found in self._ask(
        f'SELECT * FROM {name} WHERE query_id = $query AND sequence = $number',
        {'query': query, 'number': number},
      ):
        row = found if name == 'top' else row
        scores.append((f'{name}: full rank', found['score'], found['rank']))
        scores.append((f'{name}: scan', found['scan_score'], None))
    return row and {**row, 'scores': scores, 'layers': self._layers}

  # ---- what is there

  def _open_texts(self, config, workdir) -> None:
    folder = workdir / 'sequences'
    checked = sequences_lib.open(folder)
    self._sequences = dataclasses.replace(  # mapped anew: none is resident
      checked,
      tokens=np.load(folder / sequences_lib.TOKENS, mmap_mode='r'),
      records=np.load(folder / sequences_lib.RECORDS, mmap_mode='r'),
    )
    del checked
    self._tokenizer = tokenizer_lib.load(workdir / 'tokenizer.json')
    path = workdir / 'texts.parquet'
    if not live_texts.is_of(path, self._sequences):
      made = corpus.load(config.data, workdir, self._tokenizer)
      live_texts.write(path, made.sequences, made.tokenizer, made.document)
    self._view(path)

  def _open_matrix(self, folder) -> None:
    if not (folder / 'scores.zarr').exists():
      return
    manifest = store.read_json(folder / 'manifest.json')
    expected = {'data': self._sequences.fingerprint}
    store.check(manifest, expected, f'the scores in {folder}')
    section = manifest['score']
    if section['candidates']['method'] != 'all':
      logging.info('scores.zarr is of filtered candidates: it is not shown')
      return
    total = len(self._sequences)
    self._numbers = batches_lib.spread(total, section['num_sequences'])
    self._matrix = score_store.open(folder / 'scores.zarr')
    self.answers = manifest['answers']
    self.sources['matrix'] = 'all sequences'

  def _open_table(self, path, words) -> None:
    if not path.exists():
      return
    file = pyarrow.parquet.ParquetFile(path)
    if not file.metadata.num_rows:  # and so no columns
      return
    if path.stem == 'top':
      self._layers = file.schema_arrow.metadata[b'layers'].decode().split('\n')
    self._view(path)
    self.sources[path.stem] = words

  def _view(self, path) -> None:
    self._sql.read_parquet(glob.escape(str(path))).create_view(path.stem)

  # ---- what is found in it

  def _ask(self, text: str, values: dict | None = None) -> list[dict]:
    cursor = self._sql.cursor().execute(text, values or {})
    names = [column[0] for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

  def _topics(self) -> list[tuple[str, int]]:
    table = 'texts' if self._sequences else 'top'
    found = self._ask(
      f'SELECT topic, count(*) AS num FROM {table} GROUP BY topic '
      f'ORDER BY num DESC, topic LIMIT {_MAX_TOPICS}'
    )
    return [(row['topic'], row['num']) for row in found]

  def _find(self, wanted) -> dict[str, np.ndarray]:
    """Sequence, rank and score of all that is wanted, in its order."""
    source, cursor = wanted.source, self._sql.cursor()
    conditions, values = _conditions(wanted)
    if source == 'matrix':
      if not conditions and wanted.sort == 'score':
        return self._by_rank(wanted)
      everything = wanted._replace(
        words='', topic=None, title=None, sort='score'
      )
      cursor.register('matrix', pyarrow.table(self._found(everything)))
    else:
      conditions += ['query_id = $query', 'kind = $sign']
      values |= {'query': wanted.query, 'sign': wanted.sign}
    joined = '' if source == 'top' else 'JOIN texts USING (sequence)'
    return cursor.execute(
      f'SELECT sequence, rank, score FROM {source} {joined} '
      f'WHERE {" AND ".join(conditions) or "true"} '
      f'ORDER BY {_ORDERS[wanted.sort]}',
      values,
    ).fetchnumpy()

  def _by_rank(self, wanted) -> dict[str, np.ndarray]:
    scores_N = self._scores(wanted.answer, wanted.query)
    order = np.argsort(
      scores_N if wanted.sign == 'negative' else -scores_N, kind='stable'
    )
    negative = int(np.count_nonzero(scores_N < 0))
    size = negative if wanted.sign == 'negative' else len(order) - negative
    order = order[:size]
    return {
      'sequence': self._numbers[order].astype(np.int32),
      'rank': np.arange(1, size + 1, dtype=np.int32),
      'score': scores_N[order],
    }

  def _read_scores(self, answer: int, query: str) -> np.ndarray:
    row = answer * len(self.queries) + [*self.queries].index(query)
    return self._matrix.row(row)

  def _of_answers(self, query, number) -> list[tuple[str, float, int]]:
    """Score and rank in the matrix, by answer."""
    at = int(np.searchsorted(self._numbers, number))
    if at == len(self._numbers) or self._numbers[at] != number:
      return []
    found = []
    for answer, label in enumerate(self.answers):
      scores_N = self._scores(answer, query)
      mine = scores_N[at]
      larger = scores_N < mine if mine < 0 else scores_N > mine
      before = np.count_nonzero(larger) + np.count_nonzero(
        scores_N[:at] == mine
      )
      found.append((label, float(mine), 1 + int(before)))
    return found

  def _plain(self, number: int) -> dict[str, Any]:
    (row,) = self._ask(
      'SELECT * FROM texts WHERE sequence = $number', {'number': number}
    )
    inputs = self._sequences.row(number)[:-1]
    return {
      **row,
      'tokens': tokenizer_lib.pieces(self._tokenizer, inputs),
      'token_scores': None,
      'layer_scores': None,
    }


def _texts(source: str) -> str:
  """The table that has the texts of the source."""
  return 'top' if source == 'top' else 'texts'


def _conditions(wanted) -> tuple[list[str], dict[str, Any]]:
  """SQL, and the values of its parameters."""
  conditions, values = [], {}
  for name in ('topic', 'title'):
    if getattr(wanted, name) is not None:
      conditions.append(f'{name} = ${name}')
      values[name] = getattr(wanted, name)
  for n, word in enumerate(server_address.words(wanted.words)):
    conditions.append(
      'contains(lower(concat_ws(chr(10), title, topic, text)), '
      f'lower($word_{n}))'
    )
    values[f'word_{n}'] = word
  return conditions, values
