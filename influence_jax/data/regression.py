"""Small regression tables: `concrete` (1,030 rows) and `boston` (506 rows).

  concrete  compressive strength (MPa) of 8 features of the mix and its age: UCI
            Concrete, `concrete` of the R package modeldata
  boston    median value of homes (`medv`, 1,000 $) by 13 features of a tract:
            BostonHousing2 of the R package mlbench without the corrected value
            (`cmedv`) and where the tract is (`town`, `tract`, `lon`, `lat`);
            `chas`, two categories, is 0 or 1

They come inside Debian packages, which are read and not run. TFDS keeps them as
array_record. A reader of R's files, `rdata`, is needed on the first call only.

  splits = regression.load(data_dir, name='concrete', seed=0)
"""

import gzip
import lzma
import os
import sys
import warnings
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from influence_jax.data import packages
from influence_jax.data import splits as splits_lib

MODELDATA = packages.Package(
  'debian',
  'r-cran-modeldata',
  '1.1.0-1',
  'r-cran-modeldata_1.1.0-1_all.deb',
  '66c2e08bb4bf695d972b1e72ea44d5af9ada3c42841793d3871017f7b896bf95',
)
MLBENCH = packages.Package(
  'debian',
  'r-cran-mlbench',
  '2.1-3-1',
  'r-cran-mlbench_2.1-3-1_amd64.deb',
  '2f1127f7b5e7d08703b13b52ef1976a0c355a7660d6ac575e29b87b13921bc06',
)
PACKAGES = {'concrete': MODELDATA, 'boston': MLBENCH}
NAMES = tuple(PACKAGES)
COLUMNS = {  # the last one is the target
  'concrete': (
    'cement', 'blast_furnace_slag', 'fly_ash', 'water', 'superplasticizer',
    'coarse_aggregate', 'fine_aggregate', 'age', 'compressive_strength',
  ),
  'boston': (
    'crim', 'zn', 'indus', 'chas', 'nox', 'rm', 'age', 'dis', 'rad', 'tax',
    'ptratio', 'b', 'lstat', 'medv',
  ),
}  # fmt: skip
_SITE = 'usr/lib/R/site-library/'
_TRAIN, _TEST = 0.7, 0.1  # the rest validates (Bae et al. 2022)


class Regression(tfds.core.GeneratorBasedBuilder):
  """One record a row: `row`, the numbers of `COLUMNS`, float64."""

  VERSION = tfds.core.Version('1.0.0')
  BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=name) for name in NAMES]

  def __init__(self, **kwargs):
    super().__init__(file_format='array_record', **kwargs)

  def _info(self) -> tfds.core.DatasetInfo:
    shape = (len(COLUMNS[self.builder_config.name]),)
    row = tfds.features.Tensor(shape=shape, dtype=np.float64)
    return tfds.core.DatasetInfo(
      builder=self,
      description='A small regression table.',
      features=tfds.features.FeaturesDict({'row': row}),
      disable_shuffling=True,
    )

  def _split_generators(self, dl_manager):
    name = self.builder_config.name
    path = packages.fetch(PACKAGES[name], dl_manager.download_dir)
    return {'train': self._generate_examples(table(name, path))}

  def _generate_examples(self, table_NxI):
    for n, row in enumerate(table_NxI):
      yield n, {'row': row}


def load(
  data_dir: str | os.PathLike,
  *,
  name: str,
  num_train: int | None = None,
  num_test: int | None = None,
  seed: int,
) -> splits_lib.Splits:
  """The table in parts, prepared in `data_dir` on the first call.

  Inputs [N, I] and targets [N, 1] are float32, less the mean of the train part
  and over its standard deviation; a column that is constant there becomes 0.

  Args:
    data_dir: where TFDS keeps its data sets.
    name: of `NAMES`.
    num_train: None is 70 % of the rows.
    num_test: None is 10 %. Rows that are in neither part are for validation.
    seed: of which row is in which part.

  Raises:
    ValueError: there is no such table, or it has fewer rows.
  """
  if name not in NAMES:
    raise ValueError(f'no regression table {name!r}; there are {NAMES}')
  if not sys.stderr.isatty():
    tfds.disable_progress_bar()  # it does not look for itself
  builder = Regression(data_dir=os.fspath(data_dir), config=name)
  builder.download_and_prepare()
  source = builder.as_data_source('train')
  table_NxI = np.stack([source[n]['row'] for n in range(len(source))])
  num_train = round(_TRAIN * len(source)) if num_train is None else num_train
  num_test = round(_TEST * len(source)) if num_test is None else num_test
  train, test, rest = splits_lib.draw(len(source), num_train, num_test, seed)
  mean_I, scale_I = table_NxI[train].mean(0), table_NxI[train].std(0)
  scale_I = np.where(scale_I > 0, scale_I, np.inf)
  standard_NxI = ((table_NxI - mean_I) / scale_I).astype(np.float32)

  def part(rows):
    return splits_lib.batch(standard_NxI[rows, :-1], standard_NxI[rows, -1:])

  validation = part(rest) if len(rest) else None
  return splits_lib.Splits(part(train), part(test), validation)


def table(name: str, path: str | os.PathLike) -> np.ndarray:
  """Rows by `COLUMNS` in the order of the Debian archive, float64.

  Raises:
    ValueError: the archive is damaged, of another version or lacks numbers.
  """
  read = {'concrete': _concrete, 'boston': _boston}[name]
  frame = read(path)
  missing = set(COLUMNS[name]) - set(frame.columns)
  if missing:
    raise ValueError(
      f'{name} in {path} has no columns {sorted(missing)}, it has '
      f'{[*map(str, frame.columns)]}: expected the archive of another version'
    )
  columns = [frame[key].astype(np.float64) for key in COLUMNS[name]]
  table_NxI = np.stack(columns, axis=1)
  if not np.isfinite(table_NxI).all():
    raise ValueError(f'{name} in {path} has numbers that are not finite')
  return table_NxI


def _concrete(path):
  """A data frame of R's database of lazily loaded objects."""
  folder = f'{_SITE}modeldata/data/'
  index = packages.read(path, folder + 'Rdata.rdx')
  data = packages.read(path, folder + 'Rdata.rdb')
  places = _r_object(gzip.decompress(index))['variables']
  start, size = map(int, places['concrete'])
  # 4 bytes give the size before compression, 'Z' says xz without its header.
  return _r_object(
    lzma.decompress(
      data[start + 5 : start + size],
      lzma.FORMAT_RAW,
      filters=[{'id': lzma.FILTER_LZMA2}],
    )
  )


def _boston(path):
  member = f'{_SITE}mlbench/data/BostonHousing2.rda'
  return _r_object(packages.read(path, member))['BostonHousing2']


def _r_object(data: bytes) -> Any:
  import rdata  # for building only

  with warnings.catch_warnings():
    warnings.simplefilter('ignore')  # of encodings and a package's classes
    return rdata.conversion.convert(rdata.parser.parse_data(data))
