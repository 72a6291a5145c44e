"""Readers of the files of a corpus, one an ending; nothing in them is run.

A reader (path, row, marks, names) yields (row, offset, record) from row 0 or
any other up to `row`: the offset is in bytes, None where there is none; the
record a line, or a dict with the fields `names` as bytes. `marks` are the
offsets of each `STRIDE`th line so far as they are known.
"""

import codecs
import contextlib
import io
import os
import pathlib

import pyarrow as pa
import pyarrow.parquet as pq

STRIDE = 256  # lines from one kept offset to the next
BATCH = 256  # rows of a Parquet file that are decoded together


def ending(path: pathlib.Path) -> str | None:
  """Which of `READERS` is the file's; None if none is."""
  name = path.name.lower()
  return next((end for end in READERS if name.endswith(end)), None)


def _whole(path, row, marks, names):
  del row, marks
  text = path.read_bytes().removeprefix(codecs.BOM_UTF8)
  yield 0, 0, {**dict.fromkeys(names), names[0]: text}


def _lines(path, row, marks, names):
  del names
  mark = row // STRIDE
  offset = marks[mark]
  with path.open('rb') as file:
    file.seek(offset)
    for n, line in enumerate(file, start=mark * STRIDE):
      yield n, offset, line
      offset += len(line)


def _compressed(compression):
  def lines(path, row, marks, names):
    del row, marks, names
    with pa.input_stream(os.fspath(path), compression) as stream:
      for row, line in enumerate(io.BufferedReader(stream)):
        yield row, None, line

  return lines


def _parquet(path, row, marks, names):
  del marks
  with pq.ParquetFile(path) as file:
    _check_columns(file.schema_arrow, names)
    first = 0
    for group in range(file.num_row_groups):
      end = first + file.metadata.row_group(group).num_rows
      if row < end:
        for batch in file.iter_batches(
          BATCH, row_groups=[group], columns=names
        ):
          yield from _rows(batch, first, names)
          first += batch.num_rows
      first = end


def _arrow(path, row, marks, names):
  del marks
  with contextlib.ExitStack() as stack:
    file = stack.enter_context(pa.OSFile(os.fspath(path)))
    is_file = file.read(6) == b'ARROW1'
    file.seek(0)
    reader = pa.ipc.open_file(file) if is_file else pa.ipc.open_stream(file)
    stack.enter_context(reader)
    _check_columns(reader.schema, names)
    batches = reader
    if is_file:
      batches = map(reader.get_batch, range(reader.num_record_batches))
    first = 0
    for batch in batches:
      if row < first + batch.num_rows:
        yield from _rows(batch, first, names)
      first += batch.num_rows


def _check_columns(schema, names) -> None:
  for name in names:
    if name not in schema.names:
      raise ValueError(f'no column {name!r}, it has {schema.names}')


def _rows(batch, first, names):
  """Texts as bytes: Arrow does not look whether they are UTF-8."""
  try:
    columns = [
      batch[name].cast(pa.large_binary()).to_pylist() for name in names
    ]
  except pa.ArrowException as error:
    raise ValueError(
      f'columns {names} of {batch.schema.types} must be text: {error}'
    ) from error
  for row, cells in enumerate(zip(*columns, strict=True), start=first):
    yield row, None, dict(zip(names, cells, strict=True))


READERS = {
  '.txt': _whole,
  '.jsonl': _lines,
  '.jsonl.gz': _compressed('gzip'),
  '.jsonl.zst': _compressed('zstd'),
  '.parquet': _parquet,
  '.arrow': _arrow,
  '.feather': _arrow,
}
