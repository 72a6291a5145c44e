"""A corpus of 60 made-up documents, in the form of influence_jax.data."""

import numpy as np

WORDS = 'the cat dog sat on a mat ran to from red blue house tree and'.split()


def load(data_dir, **source):
  del data_dir, source
  rng = np.random.default_rng(0)
  return [
    {
      'id': n,
      'title': f'story {n}',
      'topic': ('tales', 'songs')[n % 2],
      'text': ' '.join(rng.choice(WORDS, rng.integers(10, 40))),
    }
    for n in range(60)
  ]


def documents(source):
  yield from source
