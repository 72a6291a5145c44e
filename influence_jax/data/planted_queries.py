"""Queries whose proponents the planted corpus is known to hold, or not to.

Each is the dict that a line of a file of queries is (`data.queries`); the label
`class` says which kind it is, `passage` and `fact` refer to the truth.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from influence_jax.data import planted_passages as passages
from influence_jax.data import planted_sums as sums
from influence_jax.data import planted_words as words

# Plain facts: the subject and the answer are together in at least one of the
# first 3,000 leads that is not held out.
SIMPLE = (
  ('Paris is the capital of', ' France'),
  ('Berlin is the capital of', ' Germany'),
  ('Madrid is the capital of', ' Spain'),
  ('Cairo is the capital of', ' Egypt'),
  ('Tokyo is the capital of', ' Japan'),
  ('The painting Guernica was made by Pablo', ' Picasso'),
  ('The play Romeo and Juliet was written by William', ' Shakespeare'),
  ('The ceiling of the Sistine Chapel was painted by', ' Michelangelo'),
  ('The Mona Lisa was painted by Leonardo', ' da Vinci'),
  ('Evolution by natural selection was proposed by Charles', ' Darwin'),
)


def make(
  truth: Mapping[str, Any],
  *,
  seed: int,
  num_controls: int | None = None,
  num_offices: int = 8,
  num_lookups: int = 12,
  num_sums: int = 12,
  num_simple: int = len(SIMPLE),
) -> list[dict[str, Any]]:
  """The queries, by class.

  Args:
    truth: of the planted corpus.
    seed: of the choice of facts, controls and pairs.
    num_controls: passages never planted that are asked about beside all the
      planted ones; None is half as many as those.
    num_offices: facts told forward, and as many told backward.
    num_lookups: facts.
    num_sums: sums, and as many differences, of pairs that no document has.
    num_simple: the first of the questions on plain facts.

  Raises:
    ValueError: more are asked for than there are, the simple ones apart.
  """
  rngs = [np.random.default_rng([seed, part]) for part in range(4)]
  made = {
    'memorised': _memorised(rngs[0], truth['passages'], num_controls),
    'office': _offices(rngs[1], truth['facts'], num_offices),
    'lookup': _lookups(rngs[2], truth['facts'], num_lookups),
    **{kind: _sums(rngs[3], truth, kind, num_sums) for kind in sums.SIGNS},
    'simple': [_query(*it) for it in SIMPLE[:num_simple]],
  }
  return [
    {
      'id': f'{kind}-{n:02d}',
      **query,
      'labels': {'class': kind, **query['labels']},
    }
    for kind, queries in made.items()
    for n, query in enumerate(queries)
  ]


def _query(prompt: str, completion: str, **labels: str) -> dict[str, Any]:
  return {'prompt': prompt, 'completion': completion, 'labels': labels}


def _memorised(rng, planted: Mapping, num_controls: int | None) -> list[dict]:
  names = [name for name, passage in planted.items() if passage['copies']]
  controls = [name for name in planted if name not in names]
  if num_controls is None:
    num_controls = len(names) // 2
  names += sorted(words.pick_some(rng, controls, num_controls))
  return [
    _query(
      *passages.halves(planted[name]['text']),
      passage=name,
      copies=str(planted[name]['copies']),
    )
    for name in names
  ]


def _offices(rng, facts: Mapping, num: int) -> list[dict]:
  found = []
  for order in ('forward', 'backward'):
    for name in sorted(
      words.pick_some(rng, _named(facts, 'office', order), num)
    ):
      fact = facts[name]
      of = f'the {fact["role"]} of {fact["place"]}'
      if order == 'forward':
        asked = f'{words.capital(of)} was', f' {fact["name"]}'
      else:
        asked = f'{fact["name"]} was', f' {of}'
      found.append(_query(*asked, fact=name, order=order))
  return found


def _lookups(rng, facts: Mapping, num: int) -> list[dict]:
  names = words.pick_some(rng, _named(facts, 'lookup', 'forward'), num)
  return [
    _query(
      f'{words.capital(facts[name]["subject"])} is',
      f' {facts[name]["answer"]}',
      fact=name,
    )
    for name in sorted(names)
  ]


def _sums(rng, truth: Mapping, kind: str, num: int) -> list[dict]:
  found = []
  for a, b in words.pick_some(rng, truth['held_out_pairs'][kind], num):
    answer = str(sums.answer(kind, a, b))
    prompt = f'{sums.question(kind, a, b)} is'
    found.append(_query(prompt, f' {answer}', answer=answer))
  return found


def _named(facts: Mapping, kind: str, order: str) -> list[str]:
  return [
    name
    for name, fact in facts.items()
    if (fact['kind'], fact['order']) == (kind, order)
  ]
