"""The planted corpus: Wikipedia leads and generated documents of known truth.

The documents, by kind:
  leads: of wiki_leads, every 50th held out from training;
  memorised: passages in 1, 2, 4, ... copies, each in another frame
    (Grosse et al. 2023, section 5.3.3);
  office: invented facts told in one order only (section 5.3.4);
  lookup: arbitrary facts, and sum and difference: procedures, after Ruis et
    al. (2024), arXiv 2411.12580; one problem a document, of single digits and
    modulo 5, for small models do not learn much more (see planted_sums).

Ids count the leads, then the generated documents in this order. The same seed
and counts give the same documents; every part has its own stream of random
numbers. Only invented words depend on the leads: they are none of theirs.

  source = planted.load(data_dir, seed=0, num_leads=3_000)
  for document in planted.documents(source): ...
  truth, queries = planted.truth(source), planted.queries(source, seed=0)
"""

import copy
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from influence_jax.data import planted_facts as facts
from influence_jax.data import planted_passages as passages
from influence_jax.data import planted_queries, wiki_leads
from influence_jax.data import planted_sums as sums
from influence_jax.data import planted_words as words

HOLD_OUT_EVERY = 50  # of the leads
_COPIED = 'title', 'topic', 'text'  # of a lead
KINDS = ('memorised', 'office', 'lookup', 'sum', 'difference')


class Planted(Sequence):
  """Documents by id: dicts of `id` an int, `title`, `topic` and `text`."""

  def __init__(self, records: list[dict[str, Any]], truth: dict[str, Any]):
    self._records = records
    self.truth = truth  # as `truth` gives it; not to be changed

  def __len__(self) -> int:
    return len(self._records)

  def __getitem__(self, n: int) -> dict[str, Any]:
    return dict(self._records[n])


def load(
  data_dir: str | os.PathLike,
  *,
  seed: int,
  num_leads: int,
  spread_leads: bool = False,
  copies: Sequence[int] = (1, 2, 4, 8, 16, 32),
  passages_per_k: int = 4,
  num_offices: int = 500,
  documents_per_office: int = 5,
  num_lookups: int = 100,
  documents_per_lookup: int = 8,
  num_sums: int = 12_000,
  share_held_out: float = 0.12,
) -> Planted:
  """The corpus, made anew; the leads are prepared in `data_dir` if need be.

  Args:
    data_dir: where TFDS keeps its data sets.
    seed: of everything generated.
    num_leads: how many leads.
    spread_leads: they are evenly spread over all topics, not the first.
    copies: how often a passage is planted.
    passages_per_k: for each number of copies how many passages.
    num_offices: facts, half of them forward and half backward.
    documents_per_office: paraphrases of each.
    num_lookups: facts.
    documents_per_lookup: paraphrases of each.
    num_sums: documents of sums and of differences, a problem each.
    share_held_out: of the 100 pairs of operands, those that no document has.

  Raises:
    ValueError: there are fewer leads, templates or words than asked for, no
      copies of a passage, or too few or too many pairs are to be held out.
  """
  _check(copies)
  records = _leads(data_dir, num_leads, spread_leads)
  taken = words.vocabulary(
    ' '.join(
      [record['text'] for record in records]
      + [*facts.TEMPLATES, *passages.TEMPLATES, *words.UNSEEN]
    )
  )
  truth = _empty_truth(seed, num_leads)
  parts = [
    _memorised(_rng(seed, 0), copies, passages_per_k, taken, truth),
    _offices(_rng(seed, 1), num_offices, documents_per_office, taken, truth),
    _lookups(_rng(seed, 2), num_lookups, documents_per_lookup, taken, truth),
  ]
  for part, kind in enumerate(sums.SIGNS, start=3):
    rng = _rng(seed, part)
    told, held = sums.split_pairs(rng, kind, share_held_out)
    truth['held_out_pairs'][kind] = [list(pair) for pair in held]
    parts.append(_sums(rng, kind, told, num_sums))
  for part in parts:
    for (title, text), entry in part:
      _add(records, truth, title, text, entry)
  return Planted(records, truth)


def _check(copies: Sequence[int]) -> None:
  if any(k < 1 for k in copies):
    raise ValueError(
      f'copies are {tuple(copies)}, expected each to be 1 or more: controls of '
      'no copies are made anyway'
    )


def documents(source: Planted) -> Iterator[dict[str, Any]]:
  """The documents to train on, by increasing id."""
  held = set(source.truth['held_out_leads'])
  return (document for document in source if document['id'] not in held)


def held_out(source: Planted) -> Iterator[dict[str, Any]]:
  """The leads never trained on, by increasing id."""
  return (source[n] for n in source.truth['held_out_leads'])


def truth(source: Planted) -> dict[str, Any]:
  """What is planted where; it survives JSON unchanged.

  Returns:
    `seed`, `num_leads`, `held_out_leads` (ids), `unseen` (names that no
    document has) and
    documents: {str(id): {'kind', ...}} of every generated document, with its
      'passage', its 'fact' and 'order', or its 'problems' (a list of one
      pair of operands);
    passages: {passage: {'text', 'copies', 'real', 'documents' (ids)}}, those
      of 0 copies are controls;
    facts: {fact: {'kind', 'order', 'documents', ...}}, offices with 'role',
      'place' and 'name', lookups with 'subject', 'key' and 'answer';
    held_out_pairs: {'sum' or 'difference': pairs of operands}; all others
      are told.
  """
  return copy.deepcopy(source.truth)


def queries(source: Planted, *, seed: int, **counts) -> list[dict[str, Any]]:
  """Dicts of `id`, `prompt`, `completion` and `labels`, lines of a file.

  `counts` are those of `planted_queries.make`.
  """
  return planted_queries.make(source.truth, seed=seed, **counts)


def _rng(seed: int, part: int) -> np.random.Generator:
  return np.random.default_rng([seed, part])


def _leads(data_dir, num: int, spread: bool) -> list[dict[str, Any]]:
  leads = wiki_leads.load(data_dir)
  if num > len(leads):
    raise ValueError(
      f'num_leads is {num}, expected at most the {len(leads)} there are'
    )
  numbers = (
    [n * len(leads) // num for n in range(num)] if spread else range(num)
  )
  return [
    {'id': n, **{name: leads[number][name].decode() for name in _COPIED}}
    for n, number in enumerate(numbers)
  ]


def _empty_truth(seed: int, num_leads: int) -> dict[str, Any]:
  return {
    'seed': seed,
    'num_leads': num_leads,
    'held_out_leads': list(
      range(HOLD_OUT_EVERY - 1, num_leads, HOLD_OUT_EVERY)
    ),
    'unseen': list(words.UNSEEN),
    'documents': {},
    'passages': {},
    'facts': {},
    'held_out_pairs': {},
  }


def _add(records, truth, title: str, text: str, entry: Mapping) -> None:
  """Appends a document, and its id to what the truth says of its content."""
  number = len(records)
  records.append(
    {'id': number, 'title': title, 'topic': entry['kind'], 'text': text}
  )
  truth['documents'][str(number)] = dict(entry)
  for of, them in (('passage', 'passages'), ('fact', 'facts')):
    if of in entry:
      truth[them][entry[of]]['documents'].append(number)


def _memorised(rng, copies, passages_per_k: int, taken: set, truth) -> Iterable:
  """Half of the passages of a k are real while they last, from the largest k.

  So what comes of the number of copies and what of the text can be told apart.
  """
  num = passages_per_k * len(copies)
  invented = passages.nonsense(rng, 2 * num, taken=taken)
  taken.update(words.vocabulary(' '.join(invented)))
  real, invented, planted = list(passages.REAL.items()), iter(invented), []
  for k in sorted(copies, reverse=True):
    for n in range(passages_per_k):
      is_real = bool(real) and n < (passages_per_k + 1) // 2
      name = f'nonsense-{len(planted):02d}'
      name, text = real.pop(0) if is_real else (name, next(invented))
      planted.append((name, text, k))
      _add_passage(truth, name, text, k, is_real)
  for n in range(num):
    _add_passage(truth, f'control-{n:02d}', next(invented), 0, False)
  return [
    ((name, document), {'kind': 'memorised', 'passage': name})
    for name, text, k in planted
    for document in passages.copies(rng, text, k)
  ]


def _add_passage(truth, name: str, text: str, copies: int, real: bool) -> None:
  truth['passages'][name] = {
    'text': text,
    'copies': copies,
    'real': real,
    'documents': [],
  }


def _offices(rng, num: int, num_documents: int, taken: set, truth) -> Iterable:
  made = facts.offices(rng, num, taken=taken)
  for fact in made:
    taken.update(words.vocabulary(f'{fact.place} {fact.name}'))
  found = []
  for n, fact in enumerate(made):
    entry = {'kind': 'office', 'fact': f'office-{n:03d}', 'order': fact.order}
    truth['facts'][entry['fact']] = {
      **{'kind': 'office', 'documents': []},
      **fact._asdict(),
    }
    title = f'{fact.role} of {fact.place}'
    for text in facts.office_documents(rng, fact, num_documents):
      found.append(((title, text), entry))
  return found


def _lookups(rng, num: int, num_documents: int, taken: set, truth) -> Iterable:
  found = []
  for n, fact in enumerate(facts.lookups(rng, num, taken=taken)):
    entry = {'kind': 'lookup', 'fact': f'lookup-{n:03d}', 'order': 'forward'}
    truth['facts'][entry['fact']] = {
      **{'kind': 'lookup', 'order': 'forward', 'documents': []},
      **fact._asdict(),
    }
    for text in facts.lookup_documents(rng, fact, num_documents):
      found.append(((fact.subject, text), entry))
  return found


def _sums(rng, kind: str, pairs, num: int) -> Iterable:
  for _ in range(num):
    a, b = words.pick(rng, pairs)
    title = f'{a} {sums.SIGNS[kind]} {b}'
    entry = {'kind': kind, 'problems': [[a, b]]}
    yield (title, sums.told(kind, a, b)), entry
