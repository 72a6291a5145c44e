"""Invented words: names of places and people, and nonsense for passages.

A word is made of syllables and is never one of those taken, so that what is
said of it is said nowhere else. None contains one of the names kept unseen.
"""

import re
from collections.abc import Set

import numpy as np

# The names that studies of word order ask about (Grosse et al. 2023, section
# 5.3.4): a model must not have seen them.
UNSEEN = (
  *('Astrobia', 'Zorald', 'Pfaff', 'Dwock', 'Dester', 'Quaze', 'Delbistan'),
  *('Gleem', 'hydrogenium', 'oxium'),
)

_ONSETS = 'b br c cl d dr f fl g gr h j k l m n p pr r s st t tr v z'.split()
_VOWELS = 'a e i o u a e o'.split()
_CODAS = 'l m n r s k nd lm rn sk th x v t'.split()
_MANY_TRIES = 1_000  # for one word: far fewer are enough until words run out


def coin(
  rng: np.random.Generator,
  num: int,
  *,
  taken: Set[str],
  syllables: int = 2,
  endings: tuple[str, ...] = ('',),
) -> list[str]:
  """Distinct lower-case words, none of them taken.

  Args:
    rng: where the syllables come from.
    num: how many words.
    taken: lower-case words not to be made.
    syllables: before the ending.
    endings: one of them ends each word.

  Raises:
    ValueError: there are hardly `num` such words.
  """
  words = {}  # keeps the order, which a set does not
  tries = 0
  while len(words) < num:
    word = ''.join(_syllable(rng) for _ in range(syllables - 1))
    word += pick(rng, _ONSETS) + pick(rng, _VOWELS) + pick(rng, _CODAS)
    word += pick(rng, endings)
    tries += 1
    if _is_free(word, taken) and word not in words:
      words[word], tries = None, 0
    elif tries > _MANY_TRIES:
      raise ValueError(
        f'only {len(words)} words of {syllables} syllables are left, expected '
        f'{num}: ask for fewer or for more syllables'
      )
  return list(words)


def pick(rng: np.random.Generator, options):
  """One of the options, as it is: numpy would make a str_ of a str."""
  return options[int(rng.integers(len(options)))]


def pick_some(rng: np.random.Generator, options, num: int) -> list:
  """`num` of the options, no place twice, in random order."""
  if num > len(options):
    raise ValueError(
      f'{num} are asked of {len(options)} options: ask for fewer'
    )
  order = rng.permutation(len(options))[:num]
  return [options[int(n)] for n in order]


def vocabulary(text: str) -> set[str]:
  """The lower-case words of a text; what is between letters is no word."""
  return set(re.findall(r'[^\W\d_]+', text.lower()))


def capital(text: str) -> str:
  """With a capital first letter, the rest as it is."""
  return text[:1].upper() + text[1:]


def _is_free(word: str, taken: Set[str]) -> bool:
  return word not in taken and not any(it.lower() in word for it in UNSEEN)


def _syllable(rng: np.random.Generator) -> str:
  return pick(rng, _ONSETS) + pick(rng, _VOWELS)
