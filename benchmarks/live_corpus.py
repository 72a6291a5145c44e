"""Made-up documents of 63 words, drawn by Zipf's law, for live_store.py.

In the form of influence_jax.data; each is made when it is asked for.
"""

import functools

import numpy as np

LENGTH = 63  # words of a document
_WORDS, _TOPICS = 20_000, 50


@functools.cache
def vocabulary() -> tuple[list[str], np.ndarray]:
  """Words, and their cumulative frequencies."""
  rng = np.random.default_rng(0)
  syllables = [a + b for a in 'bcdfghklmnprstvwz' for b in 'aeiou']
  drawn = rng.choice(syllables, (3 * _WORDS, 4))
  sizes = rng.integers(1, 5, len(drawn))
  words = [''.join(x[:n]) for x, n in zip(drawn, sizes, strict=True)]
  words = [*dict.fromkeys(words)][:_WORDS]
  weights = 1 / np.arange(3, 3 + len(words))
  return words, np.cumsum(weights / weights.sum())


def word_ids(number: int) -> np.ndarray:
  """Of a document."""
  _, ends = vocabulary()
  drawn = np.random.default_rng(number).random(LENGTH)
  return np.minimum(np.searchsorted(ends, drawn), len(ends) - 1)


class Documents:
  def __init__(self, num: int):
    self._num = num

  def __len__(self) -> int:
    return self._num

  def __getitem__(self, number: int) -> dict:
    words, _ = vocabulary()
    ids = word_ids(number)
    return {
      'id': number,
      'title': f'{words[ids[0]]} {words[ids[1]]} {number}'.capitalize(),
      'topic': f'topic {number % _TOPICS}',
      'text': ''.join(f' {words[n]}' for n in ids),
    }


def load(data_dir, num: int) -> Documents:
  del data_dir
  return Documents(num)


def documents(source: Documents):
  return (source[n] for n in range(len(source)))
