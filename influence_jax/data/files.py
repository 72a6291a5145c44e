"""A corpus of your own: text in files, read as a stream, never whole.

  source = files.load(data_dir, pattern='DIR/*.jsonl', text='text')
  for document in files.documents(source): ...

`pattern` is a file, a folder or a glob, ** for nested folders. Endings:

  .txt                              a file is a document
  .jsonl, .jsonl.gz, .jsonl.zst     an object a line
  .parquet, .arrow, .feather        a document a row; .arrow also as a stream

A document's id is its row's number among all rows of all files, sorted by name;
rows without text keep their number and are skipped. source[n] reads it again,
and `source.origin(n)` says where it stands. Of plain JSON lines and Parquet
little else is read for that; the others are read again up to the row.

What the first stream finds, rows a file and a byte offset for each
`file_formats.STRIDE` lines, is kept in data_dir/files. Whoever reads a file
later that has another size, head or tail, or finds other files, gets a
ValueError: sequences made before would be given the text of others. A change of
the same size in the middle of a file is not seen.

Nothing in the files is run: no pickle, and JSON is parsed by `json`.
"""

import bisect
import glob
import hashlib
import json
import os
import pathlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import pyarrow as pa
from absl import logging

from influence_jax.data import file_formats as formats

EDGE = 1 << 16  # bytes of a file's head and of its tail that identify it
PICKLES = ('.pkl', '.pickle', '.pt', '.pth', '.bin', '.ckpt', '.joblib')


class Origin(NamedTuple):
  """Where a document stands."""

  file: str
  row: int  # from 1: of JSON lines the line, blank ones counted
  offset: int | None  # bytes before it; None where compressed or in columns


def load(
  data_dir: str | os.PathLike,
  *,
  pattern: str,
  text: str = 'text',
  title: str | None = None,
  errors: str = 'strict',
) -> 'Source':
  """The files that `pattern` names; reads none of them.

  Args:
    data_dir: where the index is kept.
    pattern: a file, a folder, of which the files of known endings are taken,
      or a glob, all of whose files must have one.
    text: the field, or column, that is the text.
    title: the one that is the title; None, or a row whose title is empty, gives
      'FILE:ROW', rows from 1.
    errors: 'replace' reads what is not Unicode as U+FFFD.

  Raises:
    ValueError: nothing matches, a file is of no known ending, or they are other
      files than those first read.
  """
  if errors not in ('strict', 'replace'):
    raise ValueError(f"errors={errors!r}, expected 'strict' or 'replace'")
  names = [text] if title is None else [text, title]
  absolute = pathlib.Path(pattern or '').expanduser().absolute()
  key = hashlib.sha256(os.fsencode(absolute)).hexdigest()[:16]
  index = pathlib.Path(data_dir).expanduser() / 'files' / f'{key}.json'
  return Source(find(pattern), names, errors, index)


def documents(source: 'Source') -> Iterator[dict[str, Any]]:
  """Each document with text: `id` an int, `text`, `title` and `topic` str.

  The topic is the file's name. Documents without text are counted in the log.

  Raises:
    ValueError: names the file and row of what cannot be read; no document has
      text.
  """
  empty, n = 0, 0
  for k in range(len(source.paths)):
    for row, _, record in source.records(k):
      document = source.document(n, k, row, record)
      empty += not document['text']
      if document['text']:
        yield document
      n += 1
  if empty == n:
    raise ValueError(
      f'none of {n} rows of {len(source.paths)} files has text, the first file '
      f'is {source.paths[0]}: expected some text; choose another '
      'source.pattern, or another field with source.text'
    )
  if empty:
    logging.warning('%d of %d rows have no text: skipped', empty, n)


def find(pattern: str) -> list[pathlib.Path]:
  """The files that `pattern` names, by name; links to one file once."""
  if not pattern:
    raise ValueError(
      "no pattern of the corpus's files: give --config.data.source.pattern"
    )
  path = pathlib.Path(pattern).expanduser().absolute()
  if path.is_dir():
    found = [x for x in path.glob('[!.]*') if formats.ending(x)]
  elif path.exists():  # its name may have a bracket in it
    found = [path]
  else:
    found = map(pathlib.Path, glob.glob(os.fspath(path), recursive=True))
  found, paths = sorted(x for x in found if x.is_file()), {}
  if not found:
    raise ValueError(
      f'no files match {pattern!r}: expected a file, a folder or a glob of '
      f'files that end in {list(formats.READERS)}'
    )
  for path in found:
    target = path.resolve()
    if {path.suffix.lower(), target.suffix.lower()} & {*PICKLES}:
      raise ValueError(
        f'{path} (in fact {target}) may be a pickle, which can run code: it is '
        'not read; write its texts as JSON lines'
      )
    if not formats.ending(path):
      raise ValueError(
        f'{path} has an unknown ending, expected one of '
        f'{list(formats.READERS)}: make the pattern narrower, or convert it'
      )
    paths.setdefault(target, path)
  if len(paths) < len(found):
    logging.info('%d links to files named before', len(found) - len(paths))
  return list(paths.values())


class Source:
  """The documents of some files, by id; made by `load`."""

  def __init__(
    self,
    paths: list[pathlib.Path],
    names: list[str],
    errors: str,
    index_path: pathlib.Path,
  ):
    self.paths = paths
    self._names, self._errors = names, errors  # names: text, or text and title
    self._root = os.path.commonpath([path.parent for path in paths])
    self._index_path = index_path
    self._index = []  # of the first files: name, size, edges, rows, marks
    self._ends = []  # the number of rows of each of them and all before
    if index_path.exists():
      for entry in self._read_index():
        self._append(entry)

  def __getitem__(self, n: int) -> dict[str, Any]:
    """The document n, as in `documents`; '' if it is one without text."""
    k, row, _, record = self._find(n)
    return self.document(n, k, row, record)

  def origin(self, n: int) -> Origin:
    k, row, offset, _ = self._find(n)
    return Origin(os.fspath(self.paths[k]), row + 1, offset)

  def records(self, k: int) -> Iterator[tuple[int, int | None, Any]]:
    """(row from 0, offset, record) of file k, which joins the index then."""
    entry = {**self._checked(k), 'rows': 0, 'marks': []}
    for row, offset, record in self._read(k, 0, [0]):
      if offset is not None and row % formats.STRIDE == 0:
        entry['marks'].append(offset)
      entry['rows'] += 1
      yield row, offset, record
    if k == len(self._index):
      self._append(entry)
      if len(self._index) == len(self.paths):
        self._write_index()

  def document(self, n: int, k: int, row: int, record: Any) -> dict[str, Any]:
    """What `documents` yields, of a record of `records`."""
    try:
      text, *titles = formats.texts(record, self._names, self._errors)
    except ValueError as error:
      raise ValueError(f'{self.paths[k]}, row {row + 1}: {error}') from error
    name = os.path.relpath(self.paths[k], self._root)
    place = (
      name if formats.ending(self.paths[k]) == '.txt' else f'{name}:{row + 1}'
    )
    title = next(filter(None, titles), place)
    return {'id': n, 'text': text, 'title': title, 'topic': name}

  def _find(self, n: int) -> tuple[int, int, int | None, Any]:
    """File, row, offset and record of document n; indexes no file after it."""
    while not self._ends or n >= self._ends[-1]:
      if len(self._index) == len(self.paths):
        break
      for _ in self.records(len(self._index)):
        pass
    if not 0 <= n < self._ends[-1]:
      raise IndexError(f'document {n}, expected 0 to {self._ends[-1] - 1}')
    k = bisect.bisect_right(self._ends, n)
    row = n - (self._ends[k] - self._index[k]['rows'])
    self._checked(k)
    for found, offset, record in self._read(k, row, self._index[k]['marks']):
      if found == row:
        return k, row, offset, record
    raise self._changed(f'{self.paths[k]} has no row {row + 1} any more')

  def _read(self, k, row, marks):
    """Records of file k from `row` or a little before; errors name the file."""
    path, done = self.paths[k], 0
    try:
      for found in formats.READERS[formats.ending(path)](
        path, row, marks, self._names
      ):
        yield found
        done = found[0] + 1
    except (OSError, pa.ArrowException, ValueError) as error:
      after = f' after row {done}' if done else ''
      raise ValueError(
        f'{path} cannot be read{after}: {error}; mend it, fetch it again or '
        'leave it out of the pattern'
      ) from error

  def _checked(self, k: int) -> dict[str, Any]:
    """Name, size and edges of file k, which are those of the index, if any."""
    now = _identity(self.paths[k])
    for key, was in (self._index[k] if k < len(self._index) else {}).items():
      if now.get(key, was) != was:
        what = 'its head or tail is another'
        if key == 'size':
          what = f'it has {now[key]} bytes, had {was}'
        raise self._changed(f'{self.paths[k]} has changed: {what}')
    return now

  def _changed(self, what: str) -> ValueError:
    return ValueError(
      f'{what}. Sequences made before are of the old files: put them back, or '
      f'remove {self._index_path}, if it is there, and use a new workdir'
    )

  def _append(self, entry: dict[str, Any]) -> None:
    self._index.append(entry)
    self._ends.append(entry['rows'] + (self._ends[-1] if self._ends else 0))

  def _read_index(self) -> list[dict[str, Any]]:
    try:
      index = json.loads(self._index_path.read_text())
      was = [entry['name'] for entry in index]
    except (KeyError, TypeError, ValueError) as error:
      raise ValueError(
        f'{self._index_path} is damaged: {error!r}; remove it'
      ) from error
    names = [os.fspath(path) for path in self.paths]
    if was != names:
      new, gone = sorted({*names} - {*was}), sorted({*was} - {*names})
      raise self._changed(
        f'the pattern matches {len(names)} files, expected {len(was)}: '
        f'new are {new[:5]}, missing {gone[:5]}'
      )
    return index

  def _write_index(self) -> None:
    self._index_path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = self._index_path.with_suffix(f'.{os.getpid()}.tmp')
    unfinished.write_text(json.dumps(self._index))
    os.replace(unfinished, self._index_path)


def _identity(path: pathlib.Path) -> dict[str, Any]:
  try:
    with path.open('rb') as file:
      size = os.fstat(file.fileno()).st_size
      edges = hashlib.sha256(file.read(EDGE))
      file.seek(max(0, size - EDGE))
      edges.update(file.read(EDGE))
  except OSError as error:
    raise ValueError(
      f'{path} cannot be read: {error}; put it back or make it readable'
    ) from error
  return {'name': os.fspath(path), 'size': size, 'edges': edges.hexdigest()}
