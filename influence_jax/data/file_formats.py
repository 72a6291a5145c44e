"""Readers of the files of a corpus, one an ending; nothing in them is run.

A reader (path, row, marks, names) yields (row, offset, record) from row 0 or
any other up to `row`: the offset is in bytes, None where there is none; the
record a line, or a dict with the fields `names` as bytes. `marks` are the
offsets of each `STRIDE`th line so far as they are known. `texts` makes strings
of a record.
"""

import codecs
import contextlib
import io
import json
import os
import pathlib
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

STRIDE = 256  # lines from one kept offset to the next
BATCH = 256  # rows of a Parquet file that are decoded together


def ending(path: pathlib.Path) -> str | None:
  """Which of `READERS` is the file's; None if none is."""
  name = path.name.lower()
  return next((end for end in READERS if name.endswith(end)), None)


def texts(record: Any, names: list[str], errors: str) -> list[str]:
  """What each of the fields says, '' where it is null.

  Args:
    record: of a reader.
    names: of the fields.
    errors: as in `files.load`.

  Raises:
    ValueError: it is no JSON object, no UTF-8 or has no such string.
  """
  fields = _fields(record, names, errors)
  return [_text(fields, name, errors) for name in names]


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


def _fields(record: Any, names: list[str], errors: str) -> dict[str, Any]:
  """Of a row of columns, as it is, or of a line."""
  if isinstance(record, dict):
    return record
  line = _decode(record.removeprefix(codecs.BOM_UTF8), errors).strip()
  if not line:
    return dict.fromkeys(names)
  try:
    fields = json.loads(line)
  except (ValueError, RecursionError) as error:
    raise ValueError(f'not JSON: {error}; mend or remove the line') from error
  if not isinstance(fields, dict):
    raise ValueError(f'expected an object, got {line[:60]!r}')
  return fields


def _text(fields: dict[str, Any], name: str, errors: str) -> str:
  if name not in fields:
    raise ValueError(
      f'no field {name!r}, it has {sorted(fields)}: set source.text, or '
      'source.title, to one of them'
    )
  value = fields[name]
  if isinstance(value, bytes):
    return _decode(value, errors)
  if not isinstance(value, str | None):
    raise ValueError(f'field {name!r} is {value!r:.60}, expected a string')
  try:
    return (value or '').encode('utf-8').decode()
  except UnicodeEncodeError as error:  # JSON can spell half of a character
    if errors == 'replace':
      return value.encode('utf-16', 'surrogatepass').decode('utf-16', errors)
    raise ValueError(
      f'field {name!r} has a lone surrogate: mend it, or set source.errors '
      "to 'replace'"
    ) from error


def _decode(value: bytes, errors: str) -> str:
  try:
    return value.decode('utf-8', errors)
  except UnicodeDecodeError as error:
    raise ValueError(
      f'invalid UTF-8: {error.reason} at byte {error.start} of the row; mend '
      "it, or set source.errors to 'replace' to read U+FFFD there"
    ) from error


READERS = {
  '.txt': _whole,
  '.jsonl': _lines,
  '.jsonl.gz': _compressed('gzip'),
  '.jsonl.zst': _compressed('zstd'),
  '.parquet': _parquet,
  '.arrow': _arrow,
  '.feather': _arrow,
}
