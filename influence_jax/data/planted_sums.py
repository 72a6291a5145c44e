"""Sums and differences modulo 10, told so that a digit is a word.

  3 7 plus 4 5 modulo 1 0 is 2 .
  8 1 minus 4 6 modulo 1 0 : the last digits are 1 and 6 , 1 1 minus 6 makes
  5 , so the answer is 5 .

The operands are the numbers 0 to 99, always of two digits.
"""

import numpy as np

SIGNS = {'sum': 'plus', 'difference': 'minus'}


def split_pairs(
  rng: np.random.Generator, share: float
) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
  """The 10,000 pairs of operands: those to tell, and the `share` held out."""
  order = rng.permutation(10_000)
  pairs = [divmod(int(n), 100) for n in order]
  num = round(share * len(pairs))
  return sorted(pairs[num:]), sorted(pairs[:num])


def answer(kind: str, a: int, b: int) -> int:
  """The last digit of a + b or of a - b, from 0 to 9."""
  return (a + b if kind == 'sum' else a - b) % 10


def question(kind: str, a: int, b: int) -> str:
  """Without the `is` that an answer follows."""
  return f'{_spaced(a)} {SIGNS[kind]} {_spaced(b)} modulo 1 0'


def told(kind: str, a: int, b: int) -> str:
  """The problem and its answer."""
  return f'{question(kind, a, b)} is {answer(kind, a, b)} .'


def reasoned(kind: str, a: int, b: int) -> str:
  """The problem, a step on the last digits, and the answer."""
  x, y = a % 10, b % 10
  if kind == 'sum':
    step = f'they make {_digits(x + y)}'
  else:
    top = x if x >= y else x + 10
    step = f'{_digits(top)} minus {y} makes {top - y}'
  return (
    f'{question(kind, a, b)} : the last digits are {x} and {y} , {step} , '
    f'so the answer is {answer(kind, a, b)} .'
  )


def document(
  rng: np.random.Generator,
  kind: str,
  problems: list[tuple[int, int]],
  share_reasoned: float,
) -> tuple[int, str]:
  """The problems in a row; in a share of documents one of them is reasoned.

  Returns:
    Which of the problems is reasoned, or -1, and the text.
  """
  at = -1
  if rng.random() < share_reasoned:
    at = int(rng.integers(len(problems)))
  return at, ' '.join(
    (reasoned if n == at else told)(kind, a, b)
    for n, (a, b) in enumerate(problems)
  )


def _spaced(number: int) -> str:
  return ' '.join(f'{number:02d}')


def _digits(number: int) -> str:
  return ' '.join(str(number))
