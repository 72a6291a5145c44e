"""Queries: the completions whose log-probability is attributed.

A file has one JSON object a line, of three strings

  {"id": "paris", "prompt": "The capital of France", "completion": " is Paris"}

and, if studies are to know what a query is, an object of strings: "labels":
{"class": "simple", "topic": "Geography"}.

Instead of a prompt it may have "messages": [{"role": "user", "content": ...}];
see data/chat.py for how they become one.

A query's row is [begin] + prompt + completion, the two tokenized apart, with no
end after them. `begin` is the tokenizer's, END or its own. A prompt that begins
with a special token, as a chat template's does, is a row's begin as it is, so
that there are never two. The mask is 1 where the target is a token of the
completion: f is the sum of the masked log-probabilities.
"""

import json
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import tokenizers

from influence_jax import types
from influence_jax.data import chat, sequences
from influence_jax.data import tokenizer as tokenizer_lib


class Query(NamedTuple):
  id: str
  prompt: str  # may be empty
  completion: str
  labels: dict[str, str] = {}  # never changed in place


def read_queries(
  path: str | os.PathLike[str],
  template: Callable[[chat.Messages], str] = chat.human_assistant,
) -> list[Query]:
  """The queries of a JSON-lines file, in its order; blank lines are none.

  Args:
    path: of the file.
    template: makes a prompt of messages; that of a checkpoint is
      `chat.template(folder)`.

  Raises:
    ValueError: names the file and line of what is wrong.
  """
  try:
    lines = pathlib.Path(path).read_text(encoding='utf-8-sig').split('\n')
  except UnicodeDecodeError as error:
    raise ValueError(
      f'{path} is not UTF-8 ({error}), expected JSON lines: write it as UTF-8'
    ) from error
  queries = {}
  for number, line in enumerate(lines, start=1):
    if not line.strip():
      continue
    try:
      query = _parse(line, template)
      if query.id in queries:
        raise ValueError(f'id {query.id!r} is used before: expected a new one')
    except ValueError as error:
      raise ValueError(f'{path}, line {number}: {error}') from error
    queries[query.id] = query
  if not queries:
    raise ValueError(f'{path} holds no queries: expected one a line')
  return list(queries.values())


def labels(queries: Sequence[Query], name: str) -> list[str]:
  """The label `name` of each query; ValueError names those without it."""
  without = [query.id for query in queries if name not in query.labels]
  if without:
    raise ValueError(
      f'{len(without)} queries have no label {name!r}, the first {without[:3]}:'
      f' add "labels": {{"{name}": ...}} to their lines in the file of queries'
    )
  return [query.labels[name] for query in queries]


def query_batch(
  queries: Sequence[Query],
  tokenizer: tokenizers.Tokenizer,
  max_len: int,
  *,
  buckets: Sequence[int] = (),
) -> types.Batch:
  """All queries as one batch of numpy arrays; ids are their places in the list.

  Args:
    queries: at least one.
    tokenizer: from `data.tokenizer`.
    max_len: the model's context: prompt and completion may have so many tokens.
    buckets: T is the shortest of these and `max_len` that all queries fit.
  """
  pairs = tokens(queries, tokenizer)
  for query, (before, completion) in zip(queries, pairs, strict=True):
    _check(query, len(before) - 1, len(completion), max_len)
  longest = max(len(before) - 1 + len(after) for before, after in pairs)
  lengths = sequences.bucket_lengths(buckets, max_len)
  shape = len(queries), next(n for n in lengths if n >= longest)
  inputs_KxT, targets_KxT = np.zeros((2, *shape), np.int32)
  mask_KxT = np.zeros(shape, np.float32)
  for k, (before, completion) in enumerate(pairs):
    row = [*before, *completion]
    inputs_KxT[k, : len(row) - 1] = row[:-1]
    targets_KxT[k, : len(row) - 1] = row[1:]
    mask_KxT[k, len(before) - 1 : len(row) - 1] = 1
  ids_K = np.arange(len(queries), dtype=np.int32)
  return types.Batch(inputs_KxT, targets_KxT, mask_KxT, ids_K)


def tokens(
  queries: Sequence[Query], tokenizer: tokenizers.Tokenizer
) -> list[tuple[list[int], list[int]]]:
  """Of each query the row, up to the completion and from there on."""
  begin = tokenizer_lib.borders(tokenizer).begin
  added = tokenizer.get_added_tokens_decoder()
  special = {token for token, one in added.items() if one.special}
  prompts = tokenizer_lib.encode_prompt(tokenizer, [q.prompt for q in queries])
  texts = [query.completion for query in queries]
  alone = tokenizer_lib.encode(tokenizer, texts)
  after = tokenizer_lib.encode_after(tokenizer, texts)
  pairs = []
  for query, prompt, *completions in zip(
    queries, prompts, alone, after, strict=True
  ):
    before = prompt if special & {*prompt[:1]} else [begin, *prompt]
    pairs.append((before, completions[bool(query.prompt)]))
  return pairs


def _parse(line: str, template: Callable[[chat.Messages], str]) -> Query:
  try:
    fields = json.loads(line)
  except json.JSONDecodeError as error:
    raise ValueError(f'not JSON: {error}') from error
  if not isinstance(fields, dict):
    raise ValueError(f'expected an object, got {line!r}')
  if 'messages' in fields:
    if 'prompt' in fields:
      raise ValueError('it has a prompt and messages: expected one of them')
    fields['prompt'] = template(fields.pop('messages'))
  for key in ('id', 'prompt', 'completion'):
    if not isinstance(fields.get(key), str):
      raise ValueError(f'expected a string {key!r}, got {fields.get(key)!r}')
  if not fields['completion']:
    raise ValueError(f'query {fields["id"]!r} has an empty completion')
  if unknown := set(fields) - set(Query._fields):
    raise ValueError(f'unknown keys {sorted(unknown)}')
  labels = fields.get('labels', {})
  if not isinstance(labels, dict) or not all(
    isinstance(value, str) for value in labels.values()
  ):
    raise ValueError(f'expected labels to be an object of strings: {labels!r}')
  return Query(**fields)


def _check(query: Query, num_prompt: int, num_completion: int, max_len: int):
  if not num_completion:
    raise ValueError(
      f'the completion of query {query.id!r} has no tokens: give it some text'
    )
  if num_prompt + num_completion > max_len:
    raise ValueError(
      f'query {query.id!r} has {num_prompt} tokens of prompt and '
      f'{num_completion} of completion, expected at most {max_len} in all: '
      'shorten the prompt or use a model of longer context'
    )
