"""Finished scores of a workdir: whose they are and what they are of."""

import collections
import pathlib
import statistics
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import tokenizers

from experiments import ladder
from influence_jax import score_store, store
from influence_jax.data import batches as batches_lib
from influence_jax.data import candidates
from influence_jax.data import queries as queries_lib
from influence_jax.data import sequences as sequences_lib
from influence_jax.data import tokenizer as tokenizer_lib


class Scored(NamedTuple):
  """Complete scores, nats; answer 0 is the config's own approximation."""

  queries: list[queries_lib.Query]  # K
  answers: list[str]  # A labels, as 'ekfac relative 0.1'
  scores: np.ndarray  # [A, K, C]
  numbers: np.ndarray  # [C] which sequences of the corpus were scored
  origin: dict  # of params, data, factors, damping: the manifest

  def answer(self, name: str) -> np.ndarray:
    """Scores [K, C] of the first answer of that approximation."""
    found = [n for n, x in enumerate(self.answers) if x.split()[0] == name]
    if not found:
      raise ValueError(
        f'the scores are of {self.answers}, none of {name!r}: score again with '
        f"config.score.answers=(dict(name='{name}', relative=0.1),)"
      )
    return self.scores[found[0]]


def load(folder: pathlib.Path, sequences: sequences_lib.Sequences) -> Scored:
  """The scores that experiments.score or .retrieval left in `folder`.

  Raises:
    ValueError: there are none, they are of another corpus, not complete or of
      filtered candidates.
  """
  if not (folder / 'manifest.json').exists():
    raise ValueError(f'no scores in {folder}: run experiments.score')
  manifest = store.read_json(folder / 'manifest.json')
  expected = {'data': sequences.fingerprint}
  store.check(manifest, expected, f'the scores in {folder}')
  section = manifest['score']
  if section['candidates']['method'] != 'all':
    raise ValueError(
      f'the scores in {folder} are of candidates by '
      f'{section["candidates"]["method"]}: expected all sequences, or some '
      'evenly spread; score again with another config.score.folder'
    )
  queries = [queries_lib.Query(*query) for query in manifest['queries']]
  scores = score_store.open(folder / 'scores.zarr').read()
  numbers = batches_lib.spread(len(sequences), section['num_sequences'])
  return Scored(
    queries,
    manifest['answers'],
    scores.reshape(-1, len(queries), len(numbers)),
    numbers,
    {name: manifest[name] for name in ('params', 'data', 'factors', 'damping')},
  )


def of_rung(
  rung: ladder.Rung,
) -> tuple[sequences_lib.Sequences, Scored, dict]:
  """Its sequences, its scores, and what a part made of them depends on.

  The last is the origin that `parts.part` asks for. It holds the queries
  without their labels and, of the scores, those of answer 0 alone.

  Raises:
    ValueError: as `load`.
  """
  sequences = sequences_lib.open(rung.workdir / 'sequences')
  found = load(rung.workdir / rung.config.score.folder, sequences)
  origin = {
    **found.origin,
    'answer': found.answers[0],
    'queries': [list(query[:3]) for query in found.queries],
    'scores': store.fingerprint(found.scores[0]),
  }
  return sequences, found, origin


def check_alike(
  rungs: Sequence[ladder.Rung], what: str, theirs: Sequence[Sequence]
) -> None:
  """ValueError if the scores of a rung are not of the same as the first's.

  Args:
    what: in words, as 'queries'.
    theirs: of each rung, lists that == compares.
  """
  first = theirs[0]
  for rung, own in zip(rungs, theirs, strict=True):
    if own != first:
      raise ValueError(
        f'the scores of {rung.name} are of other {what} than those of '
        f'{rungs[0].name}: {len(own)} and {len(first)}, expected the same; '
        'score both again with one config.score'
      )


def by_query(rows: Sequence[dict], fn: Callable[[dict], float]) -> list[float]:
  """Of each query, the mean of fn(row) over its rows, one a model."""
  return [statistics.fmean(map(fn, found)) for found in grouped(rows).values()]


def grouped(rows: Sequence[dict]) -> dict[str, list[dict]]:
  """{query: its rows}; ValueError if a query is not in every model's scores."""
  groups = collections.defaultdict(list)
  for row in rows:
    groups[row['query']].append(row)
  num = max(map(len, groups.values()))
  if few := [name for name, found in groups.items() if len(found) < num]:
    raise ValueError(
      f'{len(few)} queries, the first {few[0]!r}, have scores in '
      f'{len(groups[few[0]])} models, expected {num}: the same queries in all; '
      'score again with one file of queries'
    )
  return dict(groups)


def filtered_order(
  method: str,
  rung: ladder.Rung,
  sequences: sequences_lib.Sequences,
  found: Scored,
) -> np.ndarray:
  """Columns of the scores in a filter's order, best first, [K, C].

  Words are weighted by all sequences of the corpus, those that were scored or
  not, as in a filter before the scan.

  Args:
    method: of influence_jax.data.candidates, as 'tf_idf'.
    rung: whose tokenizer it is.
    sequences: of its corpus.
    found: its scores.
  """
  tokenizer = tokenizer_lib.load(rung.workdir / 'tokenizer.json')
  asked, num = tokens(tokenizer, found.queries), len(sequences)
  order_KxN = candidates.choose(method, sequences, asked, num)
  columns_N = np.full(num, -1)
  columns_N[found.numbers] = np.arange(len(found.numbers))
  columns_KxN = columns_N[order_KxN]
  return columns_KxN[columns_KxN >= 0].reshape(len(asked), -1)


def tokens(
  tokenizer: tokenizers.Tokenizer, queries: list[queries_lib.Query]
) -> list[list[int]]:
  """Of prompt and completion as the model is given them, without borders."""
  borders = tokenizer_lib.borders(tokenizer)
  pairs = queries_lib.tokens(queries, tokenizer)
  return [
    [x for x in prompt if x not in borders] + rest for prompt, rest in pairs
  ]
