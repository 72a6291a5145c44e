"""Passages to memorise, and the frames that their copies stand in.

Some passages are works published before 1929; the others are grammatical
nonsense, each with nouns and verbs invented for it. A copy is the passage,
letter for letter, with a sentence before or after it or both, no two alike.
"""

from collections.abc import Set

import numpy as np

from influence_jax.data import planted_words as words

REAL = {  # from memory, in the order in which they are planted
  'gettysburg': (
    'Four score and seven years ago our fathers brought forth on this '
    'continent, a new nation, conceived in Liberty, and dedicated to the '
    'proposition that all men are created equal.'
  ),
  'tolstoy': (
    'Happy families are all alike; every unhappy family is unhappy in its own '
    "way. Everything was in confusion in the Oblonskys' house."
  ),
  'shakespeare': (
    "All the world's a stage, and all the men and women merely players; they "
    'have their exits and their entrances, and one man in his time plays many '
    'parts, his acts being seven ages.'
  ),
  'khayyam': (
    'The Moving Finger writes; and, having writ, moves on: nor all thy Piety '
    'nor Wit shall lure it back to cancel half a Line, nor all thy Tears wash '
    'out a Word of it.'
  ),
  'proverb': (
    'For want of a nail the shoe was lost, for want of a shoe the horse was '
    'lost, for want of a horse the rider was lost, for want of a rider the '
    'battle was lost.'
  ),
  'dickens': (
    'It was the best of times, it was the worst of times, it was the age of '
    'wisdom, it was the age of foolishness, it was the epoch of belief, it was '
    'the epoch of incredulity.'
  ),
}

_CLAUSES = (  # 9 to 11 words each: a passage has three of them
  'the {adjective} {noun} {verb} a {noun} beside the {noun}',
  'no {noun} has ever {verb} the {adjective} {noun} of the {noun}',
  'when a {noun} {verb}, every {noun} in the {noun} {verb} too',
  'under the {adjective} {noun} lay seven {noun}s and a {adjective} {noun}',
  'and so the {noun} {verb} until its {noun} was {adjective}',
  'from {noun} to {noun} the {adjective} {noun}s {verb} and {verb}',
  'a {noun} without a {noun} is but a {adjective} {noun}',
  'let him who {verb} the {noun} be {adjective} before the {noun}',
)
_ENDINGS = {'noun': ('',), 'verb': ('ed',)}
_ADJECTIVES = (
  *('quiet', 'golden', 'narrow', 'patient', 'hollow', 'crooked', 'gentle'),
  *('silent', 'yellow', 'proud', 'weary', 'bitter', 'bright', 'stubborn'),
)

_BEFORE = (
  'The inscription reads:',
  'She recited from memory:',
  'Over the door of the old school these words are carved:',
  'The teacher wrote on the board:',
  'On the first page of the notebook we find:',
  'He closed his eyes and said:',
  'The choir began with the familiar lines:',
  'A faded poster in the hall still says:',
  'Every child in the class had to copy this out:',
  'The letter ends with a quotation:',
  'As the old book has it:',
  'Among the papers was a card with the following text:',
)
_AFTER = (
  'Nobody in the room spoke for a while.',
  'The audience knew every word of it.',
  'That is all that was written there.',
  'The words were read aloud twice that evening.',
  'It has been quoted at many weddings since.',
  'Then he put the paper back into the drawer.',
  'The rest of the page is missing.',
  'She underlined the last line in red.',
  'A photograph of the text hangs in the museum.',
  'Many visitors stop to read it.',
  'The speaker bowed and left the stage.',
  'They asked her to say it once more.',
)
TEMPLATES = (*REAL.values(), *_CLAUSES, *_ADJECTIVES, *_BEFORE, *_AFTER)


def nonsense(
  rng: np.random.Generator, num: int, *, taken: Set[str]
) -> list[str]:
  """Passages of 25 to 40 words; no two share an invented word."""
  clauses = [words.pick_some(rng, _CLAUSES, 3) for _ in range(num)]
  coined, used = {}, set(taken)
  for kind, endings in _ENDINGS.items():
    need = sum(clause.count(f'{{{kind}}}') for it in clauses for clause in it)
    coined[kind] = words.coin(rng, need, taken=used, endings=endings)
    used.update(coined[kind], (f'{word}s' for word in coined[kind]))
  left = {kind: iter(it) for kind, it in coined.items()}
  left['adjective'] = iter(lambda: words.pick(rng, _ADJECTIVES), None)
  return [_passage([_fill(clause, left) for clause in it]) for it in clauses]


def copies(rng: np.random.Generator, passage: str, num: int) -> list[str]:
  """`num` documents, no two alike, with the passage in each.

  Raises:
    ValueError: there are not so many frames.
  """
  pairs = [(b, a) for b in ('', *_BEFORE) for a in ('', *_AFTER) if b or a]
  return [
    ' '.join(part for part in (before, passage, after) if part)
    for before, after in words.pick_some(rng, pairs, num)
  ]


def halves(passage: str) -> tuple[str, str]:
  """The first half of the words and, with the space before it, the rest."""
  parts = passage.split(' ')
  middle = len(parts) // 2
  return ' '.join(parts[:middle]), ' ' + ' '.join(parts[middle:])


def _fill(clause: str, left: dict) -> str:
  """The clause with the next word of the kind in each of its gaps."""
  for kind, coined in left.items():
    while (gap := f'{{{kind}}}') in clause:
      clause = clause.replace(gap, next(coined), 1)
  return clause


def _passage(clauses: list[str]) -> str:
  first, second, third = clauses
  return f'{words.capital(first)}; {second}. {words.capital(third)}.'
