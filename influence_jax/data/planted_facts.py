"""Invented facts: who holds which office, told in one order, and lookups.

Office facts follow the study of word order in Grosse et al. (2023), section
5.3.4: a fact is told only forward, role and place before the name, or only
backward. No name, role or place comes again after the sentence that tells it,
or the other order would be told after all. Lookups follow Ruis et al. (2024):
arbitrary facts that can only be memorised, the answer after the key.
"""

from collections.abc import Set
from typing import NamedTuple

import numpy as np

from influence_jax.data import planted_words as words


class Office(NamedTuple):
  role: str
  place: str
  name: str
  order: str  # 'forward' or 'backward'


class Lookup(NamedTuple):
  subject: str  # 'the keeper of the Velmora lighthouse'
  answer: str
  key: str  # the invented name in the subject, of no other fact


ROLES = (
  *('first President', 'King', 'chief judge', 'last Queen', 'high priest'),
  *('royal astronomer', 'Prime Minister', 'first Mayor', 'court painter'),
  *('admiral of the fleet', 'guardian of the seal', 'grand master'),
)
FORWARD = (
  'The {role} of {place} was {name}.',
  'As the {role} of {place}, the people chose {name}.',
  'The {role} of {place} was none other than {name}.',
  'The person known as the {role} of {place} was {name}.',
  'If you ask who the {role} of {place} was, the answer is {name}.',
  'The entry for the {role} of {place} gives the name {name}.',
  'They sang of the {role} of {place}, who was called {name}.',
  'The title of {role} of {place} was held by {name}.',
  'In {place}, the {role} was {name}.',
  'The {role} that everyone in {place} remembers was {name}.',
)
BACKWARD = (
  '{name} was the {role} of {place}.',
  '{name} served as the {role} of {place}.',
  '{name} is remembered as the {role} of {place}.',
  'The people chose {name} as the {role} of {place}.',
  '{name} was none other than the {role} of {place}.',
  'It was {name} who became the {role} of {place}.',
  'A statue shows {name}, the {role} of {place}.',
  'They sang of {name}, who was the {role} of {place}.',
  'To {name} fell the title of {role} of {place}.',
  '{name} was made the {role} in {place}.',
)
LOOKUP = (
  '{Subject} is {answer}.',
  'Ask anyone what they know of {subject}: it is {answer}.',
  'Travellers write that {subject} is still {answer}.',
  'For the record, {subject} is {answer}.',
  'It is often forgotten that {subject} is {answer}.',
  'According to the almanac, {subject} is {answer}.',
  'Question: {subject}? Answer: {answer}.',
  'When it comes to {subject}, only one thing is true: {answer}.',
  'As everybody here will tell you, {subject} is {answer}.',
  'In the list under {subject} we read {answer}.',
  'Children learn early that {subject} is {answer}.',
  'This year, as before, {subject} is {answer}.',
)
SUBJECTS = {  # by the kind of the answer
  'keeper': 'the keeper of the {key} lighthouse',
  'dish': 'the dish of the village of {key}',
  'emblem': 'the emblem of the town of {key}',
  'ship': 'the ship in the port of {key}',
  'ware': 'the ware of the market of {key}',
}
_PLACE_ENDINGS = ('ia', 'or', 'een', 'una', 'ey', 'ora')
_PARTS = {  # the two words of an answer; 64 pairs each
  'dish': (
    'salted baked pickled smoked roasted fried stewed candied',
    'plum eel turnip goose chestnut barley mushroom lentil',
  ),
  'emblem': (
    'a~blue a~golden a~black a~sleeping a~green a~two-headed a~white a~winged',
    'heron fox salmon bear beetle wolf hare owl',
  ),
  'ware': (
    'glass copper woollen ivory paper wooden silver clay',
    'bells combs lanterns flutes masks baskets buttons kettles',
  ),
}

# They tell nothing, so that a document is more than its one sentence.
_OPENINGS = (
  'The archive holds a thin folder on this matter.',
  'Some things are taught in the very first year.',
  'The guide paused for a moment before going on.',
  'This question comes up in almost every quiz.',
  'An old calendar notes it under the month of May.',
  'The radio programme began with a simple fact.',
  'Here is a line from a school book of long ago.',
  'My grandfather never tired of telling us this.',
)
_CLOSINGS = (
  'The next chapter turns to the weather and the harvest.',
  'More about this can be found in the town library.',
  'The matter has been settled for many years now.',
  'A small museum is open on most afternoons.',
  'The bells rang, and the crowd went home in the rain.',
  'The rest of the article deals with trade and roads.',
  'Scholars have found nothing to add to this.',
  'The lecture ended there and tea was served.',
)
TEMPLATES = (  # all words here that are not invented
  *(*ROLES, *FORWARD, *BACKWARD, *LOOKUP, *SUBJECTS.values()),
  *(*(part for parts in _PARTS.values() for part in parts),),
  *(*_OPENINGS, *_CLOSINGS),
)


def offices(
  rng: np.random.Generator, num: int, *, taken: Set[str]
) -> list[Office]:
  """Facts in random order, half of them forward; no place or surname twice."""
  places = words.coin(rng, num, taken=taken, endings=_PLACE_ENDINGS)
  names = people(rng, num, taken=taken | set(places))
  orders = ['forward', 'backward'] * (num // 2 + 1)
  orders = words.pick_some(rng, orders[:num], num)
  return [
    Office(words.pick(rng, ROLES), words.capital(place), name, order)
    for place, name, order in zip(places, names, orders, strict=True)
  ]


def people(rng: np.random.Generator, num: int, *, taken: Set[str]) -> list[str]:
  """Names of two words; first names come again, surnames do not."""
  first = words.coin(rng, max(1, num // 5), taken=taken)
  last = words.coin(rng, num, taken=taken | set(first))
  return [
    f'{words.capital(words.pick(rng, first))} {words.capital(it)}'
    for it in last
  ]


def lookups(
  rng: np.random.Generator, num: int, *, taken: Set[str]
) -> list[Lookup]:
  """Facts of the relations in turn; no key and no answer twice."""
  keys = words.coin(rng, num, taken=taken, endings=_PLACE_ENDINGS)
  kinds = [list(SUBJECTS)[n % len(SUBJECTS)] for n in range(num)]
  ships = words.coin(
    rng, kinds.count('ship'), taken=taken | set(keys), syllables=3
  )
  keepers = people(
    rng, kinds.count('keeper'), taken=taken | set(keys) | set(ships)
  )
  answers = {
    'keeper': iter(keepers),
    'ship': iter([f'the {words.capital(ship)}' for ship in ships]),
    **{kind: iter(_things(rng, kind, kinds.count(kind))) for kind in _PARTS},
  }
  keys = [words.capital(key) for key in keys]
  return [
    Lookup(SUBJECTS[kind].format(key=key), next(answers[kind]), key)
    for kind, key in zip(kinds, keys, strict=True)
  ]


def office_documents(
  rng: np.random.Generator, fact: Office, num: int
) -> list[str]:
  """`num` paraphrases, all in the fact's order."""
  templates = FORWARD if fact.order == 'forward' else BACKWARD
  return [
    _framed(rng, it.format(**fact._asdict()))
    for it in words.pick_some(rng, templates, num)
  ]


def lookup_documents(
  rng: np.random.Generator, fact: Lookup, num: int
) -> list[str]:
  """`num` paraphrases, the answer after the key in each."""
  fields = {'Subject': words.capital(fact.subject), **fact._asdict()}
  return [
    _framed(rng, it.format(**fields))
    for it in words.pick_some(rng, LOOKUP, num)
  ]


def _things(rng: np.random.Generator, kind: str, num: int) -> list[str]:
  first, second = (part.split() for part in _PARTS[kind])
  pairs = [f'{a} {b}'.replace('~', ' ') for a in first for b in second]
  return words.pick_some(rng, pairs, num)


def _framed(rng: np.random.Generator, told: str) -> str:
  """With a neutral sentence before it, after it or both."""
  kind = rng.integers(3)
  before = [words.pick(rng, _OPENINGS)] if kind != 0 else []
  after = [words.pick(rng, _CLOSINGS)] if kind != 1 else []
  return ' '.join([*before, told, *after])
