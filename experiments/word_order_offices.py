"""Facts of the planted corpus, told in the order of a query and turned round.

After Fig. 26 of Grosse et al. 2023: training sequences against the same ones
with their halves exchanged. A document about an office is one telling sentence
in a frame that tells nothing (data.planted_facts). Of each document of a fact

  own       it is as the model was trained on it
  reworded  its sentence is one of the same order that no document has
  other     its sentence tells the same in the other order

A document that was trained on may have lost what it has to teach: that the
order counts is to be seen in reworded against other.
"""

from collections.abc import Callable, Sequence

from experiments import word_order_texts
from influence_jax.data import planted_facts as facts
from influence_jax.data import queries as queries_lib

KINDS = ('own', 'reworded', 'other')
_TEMPLATES = {'forward': facts.FORWARD, 'backward': facts.BACKWARD}


def cases(
  queries: Sequence[queries_lib.Query],
  truth: dict,
  document: Callable[[int], dict],
) -> list[word_order_texts.Case]:
  """One a query of the class `office`.

  Args:
    truth: about the planted corpus, as data.planted gives it.
    document: by id.

  Raises:
    ValueError: there is no such query, or it is not of this corpus.
  """
  classes = queries_lib.labels(queries, 'class')
  asked = [
    query
    for query, name in zip(queries, classes, strict=True)
    if name == 'office'
  ]
  if not asked:
    raise ValueError(
      f'no query is of class office, got {sorted({*classes})}: score the '
      "planted corpus's own queries or set config.word_order.offices=False"
    )
  return [
    _case(query, truth['facts'].get(fact), document)
    for query, fact in zip(
      asked, queries_lib.labels(asked, 'fact'), strict=True
    )
  ]


def _case(query, fact, document) -> word_order_texts.Case:
  (order,) = queries_lib.labels([query], 'order')
  if fact is None or fact['order'] != order:
    raise ValueError(
      f'query {query.id!r} is of {query.labels}, but the fact in truth.json is '
      f"{fact}: score again with the corpus's own queries.jsonl"
    )
  own = [text.format(**fact) for text in _TEMPLATES[order]]
  turned = _TEMPLATES['backward' if order == 'forward' else 'forward']
  other = [text.format(**fact) for text in turned]
  documents = [document(n)['text'] for n in fact['documents']]
  told = [_told(text, own, query.id) for text in documents]
  unused = [n for n in range(len(own)) if n not in told]
  if not unused:
    raise ValueError(
      f'the fact of query {query.id!r} is told in all {len(own)} wordings, '
      'expected fewer: plant fewer documents_per_office'
    )
  texts = dict.fromkeys(KINDS, ())
  for i, (text, n) in enumerate(zip(documents, told, strict=True)):
    new = own[unused[i % len(unused)]]
    for kind, sentence in zip(KINDS, (own[n], new, other[n]), strict=True):
      texts[kind] += (text.replace(own[n], sentence),)
  kinds = [kind for kind, found in texts.items() for _ in found]
  return word_order_texts.Case(
    query, [text for found in texts.values() for text in found], kinds
  )


def _told(text: str, sentences: Sequence[str], name: str) -> int:
  """Which of the sentences the text has."""
  found = [n for n, sentence in enumerate(sentences) if sentence in text]
  if not found:
    raise ValueError(
      f'{text!r} does not tell the fact of query {name!r} in the words of '
      'data.planted_facts: expected a document of the planted corpus'
    )
  return max(found, key=lambda n: len(sentences[n]))
