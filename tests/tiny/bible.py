"""A bible of 20 verses made up, for experiments.cross_lingual: corpus, queries.

Verses 0 to 11 are in the group seen, 12 to 19 are unseen; each in three
languages, document 3 verse + place of the language.
"""

import itertools
import pathlib

import ml_collections
import numpy as np
from tiny import corpus

from configs import cross_lingual as cross_lingual_config
from experiments import cross_lingual_measures as measures
from experiments import ladder
from influence_jax.data import queries as queries_lib

LANGUAGES = ('en', 'fr', 'ko')
GROUPS = {'seen': range(12), 'unseen': range(12, 20)}
ASKED = {'seen': (2, 5, 7), 'unseen': (13, 18)}  # verses of the queries
PARAMETERS = {'s': 1000, 'm': 5000, 'l': 9000}


def text(verse, language):
  words = np.random.default_rng(verse).choice(corpus.WORDS, 6).tolist()
  return ' '.join(f'{word}{language[0]}' for word in [*words, f'v{verse}'])


def load(data_dir, **source):
  del data_dir, source
  return [
    {
      'id': n, 'verse': verse, 'language': language, 'topic': 'Book',
      'title': f'Book {verse} ({language})', 'text': text(verse, language),
    }
    for n, (verse, language) in enumerate(
      itertools.product(range(20), LANGUAGES)
    )
  ]  # fmt: skip


def lines(verses, group):
  for verse, language in itertools.product(verses, LANGUAGES):
    whole = text(verse, language)
    labels = {'verse': str(verse), 'language': language, 'group': group}
    yield {
      'id': f'{verse}_{language}', 'prompt': whole[:9], 'completion': whole[9:],
      'labels': {**labels, 'class': 'verse'},
    }  # fmt: skip


def queries(source, *, num_per_group, seed):
  del source
  rng = np.random.default_rng(seed)
  return [
    line
    for group, verses in GROUPS.items()
    for line in lines(np.sort(rng.permutation(verses)[:num_per_group]), group)
  ]


QUERIES = [
  queries_lib.Query(**line)
  for group, verses in ASKED.items()
  for line in lines(verses, group)
]


def section(**changes):
  found = cross_lingual_config.get_config().cross_lingual
  found.update({'num_top': 4, 'num_random': 4, **changes})
  return found


def rung(size='s', seed=0):
  config = ml_collections.ConfigDict()
  return ladder.Rung(size, seed, config, pathlib.Path('nowhere'))


def transfers(*rho_RxV, own=1.0):
  """A rung each, whose verses' own scores are `own`, the others' rho of it."""
  own_VxL = own * np.ones((len(rho_RxV[0]), 3))
  moved = []
  for rho_V in rho_RxV:
    forth_VxL = own_VxL * np.stack([np.ones(len(rho_V)), rho_V, rho_V], 1)
    moved.append(measures.Transfer(own_VxL, forth_VxL, *[own_VxL] * 3))
  return measures.Transfer(*map(np.stack, zip(*moved, strict=True)))
