"""The table that experiments.token_parts writes beside a top.parquet."""

import hashlib
import json
import pathlib

import pyarrow
import pyarrow.parquet

from influence_jax import store

NAME = 'token_parts.parquet'
_SCHEMA = pyarrow.schema(
  {
    'query_id': pyarrow.string(),
    'sequence': pyarrow.int64(),
    'output': pyarrow.list_(pyarrow.float32()),
    'input': pyarrow.list_(pyarrow.float32()),
    'last': pyarrow.string(),
    'gradient_norm': pyarrow.float32(),
  }
)


def write(folder: pathlib.Path, rows: list[dict], origin: dict) -> None:
  """The table, whole or not at all, as of the top.parquet beside it."""
  origin = {**origin, 'top': digest(folder / 'top.parquet')}
  table = pyarrow.Table.from_pylist(rows, schema=_SCHEMA)
  table = table.replace_schema_metadata({'origin': json.dumps(origin)})
  unfinished = folder / f'tmp_{NAME}'
  pyarrow.parquet.write_table(table, unfinished)
  unfinished.replace(folder / NAME)


def read(folder: pathlib.Path) -> dict[tuple[str, int], dict] | None:
  """{(query_id, sequence): row} of the folder's table; None if there is none.

  Raises:
    ValueError: it is damaged, or not of the top.parquet beside it.
  """
  path = folder / NAME
  if not path.exists():
    return None
  rows, origin = load(path)
  expected = {'top': digest(folder / 'top.parquet')}
  store.check({'top': origin.get('top')}, expected, str(path))
  return {(row['query_id'], row['sequence']): row for row in rows}


def load(path: pathlib.Path) -> tuple[list[dict], dict]:
  """Rows and origin; ValueError if it is damaged."""
  try:
    table = pyarrow.parquet.read_table(path)
    return table.to_pylist(), json.loads(table.schema.metadata[b'origin'])
  except (pyarrow.ArrowException, OSError, KeyError, TypeError) as error:
    raise ValueError(
      f'{path} is damaged ({error}): remove it and run '
      'experiments.token_parts again'
    ) from error


def digest(path: pathlib.Path) -> str:
  with path.open('rb') as file:
    return hashlib.file_digest(file, 'sha256').hexdigest()
