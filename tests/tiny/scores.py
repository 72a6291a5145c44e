"""Finished scores of the tiny corpus, in the form of experiments.score."""

import pathlib

import numpy as np
from tiny import corpus

from influence_jax import score_store, store
from influence_jax.data import sequences as sequences_lib
from influence_jax.data import tokenizer as tokenizer_lib

QUERIES = [['a', 'the cat', ' sat'], ['b', '', 'a blue tree']]


def sequences(workdir: pathlib.Path, num_documents: int | None = None):
  documents = corpus.load(None)
  tokenizer = tokenizer_lib.train((d['text'] for d in documents), 300)
  tokenizer_lib.save(tokenizer, workdir / 'tokenizer.json')
  return sequences_lib.build(
    documents[:num_documents], tokenizer, 32, workdir / 'sequences',
    buckets=(16,),
  )  # fmt: skip


def write(workdir: pathlib.Path) -> np.ndarray:
  """scores_KxN of two approximations: 4 rows for 2 queries; returns them."""
  made = sequences(workdir)
  manifest = {
    'queries': QUERIES,
    'answers': ['ekfac relative 0.1', 'identity relative 0.1'],
    'data': made.fingerprint,
    'params': 'of no model',
    'factors': 'of no fit',
    'damping': {'relative': 0.1, 'absolute': None},
    'score': {'candidates': {'method': 'all'}, 'num_sequences': None},
  }
  store.write_json(workdir / 'scores' / 'manifest.json', manifest)
  scores_KxN = np.random.default_rng(0).standard_t(3, (4, len(made)))
  scores_KxN[0] = np.arange(len(made))
  path = workdir / 'scores' / 'scores.zarr'
  score_store.create(path, *scores_KxN.shape, 16).put(0, scores_KxN)
  return scores_KxN
