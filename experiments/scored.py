"""Finished scores of a workdir: whose they are and what they are of."""

import pathlib
from typing import NamedTuple

import numpy as np
import tokenizers

from influence_jax import score_store, store
from influence_jax.data import batches as batches_lib
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


def tokens(
  tokenizer: tokenizers.Tokenizer, queries: list[queries_lib.Query]
) -> list[list[int]]:
  """Of prompt and completion, tokenized apart as for the model."""
  pairs = zip(
    tokenizer_lib.encode(tokenizer, [query.prompt for query in queries]),
    tokenizer_lib.encode(tokenizer, [query.completion for query in queries]),
    strict=True,
  )
  return [prompt + completion for prompt, completion in pairs]
