"""Finished scores of a workdir and the queries that they are of."""

import pathlib

import numpy as np
import tokenizers

from influence_jax import score_store, store
from influence_jax.data import sequences as sequences_lib
from influence_jax.data import tokenizer as tokenizer_lib


def load(
  folder: pathlib.Path, sequences: sequences_lib.Sequences
) -> tuple[list, np.ndarray]:
  """[id, prompt, completion] of each query; scores_KxN, nats, of this corpus.

  Raises:
    ValueError: the scores are of another corpus, or not complete.
  """
  manifest = store.read_json(folder / 'manifest.json')
  expected = {'data': sequences.fingerprint}
  store.check(manifest, expected, f'the scores in {folder}')
  queries = manifest['queries']
  scores_KxN = score_store.open(folder / 'scores.zarr').read()
  return queries, scores_KxN[: len(queries)]


def tokens(tokenizer: tokenizers.Tokenizer, queries: list) -> list[list[int]]:
  """Of prompt and completion, tokenized apart as for the model."""
  _, prompts, completions = zip(*queries, strict=True)
  pairs = zip(
    tokenizer_lib.encode(tokenizer, prompts),
    tokenizer_lib.encode(tokenizer, completions),
    strict=True,
  )
  return [prompt + completion for prompt, completion in pairs]
