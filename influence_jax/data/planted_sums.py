"""Sums and differences of two digits modulo 5, one a document.

  7 plus 8 modulo 5 is 0 .
  3 minus 9 modulo 5 is 4 .

So every digit has a place of its own, which is the easiest form to learn for a
model of learned positions. Pairs are ordered: of a sum held out, the one turned
round may be told.
"""

import numpy as np

SIGNS = {'sum': 'plus', 'difference': 'minus'}
MODULUS = 5
NUM_DIGITS = 10


def split_pairs(
  rng: np.random.Generator, kind: str, share: float
) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
  """The 100 pairs of operands: those to tell, and the `share` held out.

  Of each answer as many pairs are held out, or one more.

  Raises:
    ValueError: no pair of some answer would be held out, or an operand of a
      pair held out would be told in its place, left or right, of no pair.
  """
  order = rng.permutation(NUM_DIGITS**2)
  pairs = [divmod(int(n), NUM_DIGITS) for n in order]
  rounds, seen = {}, [0] * MODULUS
  for pair in pairs:
    digit = answer(kind, *pair)
    rounds[pair] = seen[digit]
    seen[digit] += 1
  pairs.sort(key=rounds.get)  # each answer once, then each again; stable
  num = round(share * len(pairs))
  told, held = sorted(pairs[num:]), sorted(pairs[:num])
  answers = {answer(kind, *pair) for pair in held}
  places = {(side, x) for pair in told for side, x in enumerate(pair)}
  needed = {(side, x) for pair in held for side, x in enumerate(pair)}
  if len(answers) < MODULUS or needed - places:
    raise ValueError(
      f'share_held_out is {share}, {num} of {len(pairs)} pairs: expected '
      f'{MODULUS} pairs or more, and few enough that each of their operands is '
      'told in another; 0.12 is such a share'
    )
  return told, held


def answer(kind: str, a: int, b: int) -> int:
  """a + b or a - b modulo 5, from 0 to 4."""
  return (a + b if kind == 'sum' else a - b) % MODULUS


def question(kind: str, a: int, b: int) -> str:
  """Without the `is` that an answer follows."""
  return f'{a} {SIGNS[kind]} {b} modulo {MODULUS}'


def told(kind: str, a: int, b: int) -> str:
  """The problem and its answer."""
  return f'{question(kind, a, b)} is {answer(kind, a, b)} .'
