import gzip
import pathlib
import tempfile
from unittest import mock

import english_parts_test as archives
import numpy as np
from absl.testing import absltest, parameterized

from influence_jax.data import images, packages, splits

_NUM = {'train': 30, 'test': 12}
_FILE = {
  'mnist': 'package/data/{}-ubyte',
  'fashion_mnist': 'usr/share/datasets/fashion-mnist/{}-ubyte.gz',
}
_DIGITS = 'usr/lib/python3/dist-packages/sklearn/datasets/data/digits.csv.gz'


def _idx(array):
  shape = b''.join(n.to_bytes(4, 'big') for n in array.shape)
  return b'\0\0\x08' + bytes([array.ndim]) + shape + array.tobytes()


def _random(part, *shape, top=256):
  rng = np.random.default_rng(len(part))
  return rng.integers(0, top, (_NUM[part], *shape)).astype(np.uint8)


def _labels(part):
  return np.arange(_NUM[part], dtype=np.uint8) % 10


def _idx_files(name):
  files = {}
  for part, prefix in (('train', 'train'), ('test', 't10k')):
    arrays = {
      f'{prefix}-images-idx3': _random(part, 28, 28),
      f'{prefix}-labels-idx1': _labels(part),
    }
    for key, array in arrays.items():
      data = _idx(array)
      data = gzip.compress(data) if name == 'fashion_mnist' else data
      files[_FILE[name].format(key)] = data
  return files


def _digits_files():
  table = np.concatenate(
    [_random('train', 64, top=17), _labels('train')[:, None]], axis=1
  )
  lines = '\n'.join(','.join(map(str, row)) for row in table.tolist())
  return {_DIGITS: gzip.compress(lines.encode())}


class ImagesTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    directory = self.enterContext(tempfile.TemporaryDirectory())
    self.directory = pathlib.Path(directory)

  def archive(self, name, files=None):
    if files is None:
      files = _digits_files() if name == 'digits' else _idx_files(name)
    return archives.write_tgz(self.directory / f'{name}.tgz', files)

  def load(self, name, num_train=7, num_test=5, seed=0):
    def fetch(package, cache_dir):
      self.assertEqual(package, images.PACKAGES[name])
      return self.archive(name)

    with mock.patch.object(packages, 'fetch', fetch):
      return images.load(
        self.directory / 'data', name=name, num_train=num_train,
        num_test=num_test, seed=seed,
      )  # fmt: skip

  def write_cifar10(self):
    """Records of a label and planes; {part: images_NxHxWxC}."""
    folder = self.directory / 'cifar-10-batches-bin'
    folder.mkdir()
    wanted = {part: _random(part, 32, 32, 3) for part in _NUM}
    for part, pixels in wanted.items():
      records = []
      for image, label in zip(pixels, _labels(part), strict=True):
        planes = [image[:, :, c].tobytes() for c in range(3)]
        records.append(bytes([label]) + b''.join(planes))
      if part == 'test':
        (folder / 'test_batch.bin').write_bytes(b''.join(records))
      else:
        for n in range(5):
          data = b''.join(records[6 * n : 6 * n + 6])
          (folder / f'data_batch_{n + 1}.bin').write_bytes(data)
    return folder, wanted

  @parameterized.parameters('mnist', 'fashion_mnist')
  def test_idx_files_are_images_row_by_row(self, name):
    found = images.parts(name, self.archive(name))
    self.assertCountEqual(found, _NUM)
    for part, (pixels, labels) in found.items():
      wanted = _random(part, 28, 28)
      self.assertEqual(pixels.shape, (_NUM[part], 28, 28, 1))
      np.testing.assert_array_equal(pixels[..., 0], wanted)
      np.testing.assert_array_equal(labels, _labels(part))

  def test_digits_are_rows_of_pixels_and_a_label(self):
    found = images.parts('digits', self.archive('digits'))
    ((pixels, labels),) = found.values()
    wanted = _random('train', 64, top=17).reshape(-1, 8, 8, 1)
    np.testing.assert_array_equal(pixels, wanted)
    np.testing.assert_array_equal(labels, _labels('train'))

  def test_cifar10_is_read_from_planes(self):
    folder, wanted = self.write_cifar10()
    for part, (pixels, labels) in images.cifar10(folder).items():
      np.testing.assert_array_equal(pixels, wanted[part])
      np.testing.assert_array_equal(labels, _labels(part))

  @parameterized.parameters('mnist', 'fashion_mnist', 'cifar10')
  def test_all_images_come_in_some_order_less_the_mean_of_train(self, name):
    if name == 'cifar10':
      _, wanted = self.write_cifar10()
      found = images.load(
        self.directory, name=name, num_train=30, num_test=12, seed=0
      )
    else:
      wanted = {part: _random(part, 28, 28)[..., None] for part in _NUM}
      found = self.load(name, 30, 12)
    self.assertIsNone(found.validation)
    mean = wanted['train'].astype(float).mean(0) / 255
    for part in _NUM:
      batch = getattr(found, part)
      self.assertEqual(batch.inputs.dtype, np.float32)
      self.assertEqual(batch.targets.dtype, np.int32)
      np.testing.assert_array_equal(batch.mask, np.ones(_NUM[part]))
      pixels = np.rint(255 * (batch.inputs + mean)).astype(np.uint8)
      np.testing.assert_allclose(
        batch.inputs, pixels / 255 - mean, rtol=0, atol=1e-6
      )
      numbers = [self.number(x, wanted[part]) for x in pixels]
      self.assertCountEqual(numbers, range(_NUM[part]))
      self.assertNotEqual(numbers, sorted(numbers))
      np.testing.assert_array_equal(
        batch.targets, _labels(part)[np.array(numbers)]
      )

  def number(self, image, of):
    (found,) = [n for n, x in enumerate(of) if (x == image).all()]
    return found

  def test_digits_for_training_and_testing_are_not_the_same(self):
    found = self.load('digits', 20, 10)
    train, test, _ = splits.draw(30, 20, 10, seed=0)
    whole = _random('train', 64, top=17).reshape(-1, 8, 8, 1) / 16
    mean = whole[train].mean(0)
    for batch, rows in ((found.train, train), (found.test, test)):
      np.testing.assert_allclose(
        batch.inputs, whole[rows] - mean, rtol=0, atol=1e-6
      )
      np.testing.assert_array_equal(batch.targets, rows % 10)

  def test_a_larger_part_holds_a_smaller_one_and_seeds_differ(self):
    few, more = self.load('mnist', 7, 5), self.load('mnist', 9, 12)
    np.testing.assert_array_equal(few.train.targets, more.train.targets[:7])
    np.testing.assert_array_equal(few.test.targets, more.test.targets[:5])
    other = self.load('mnist', 9, 12, seed=1)
    for part in ('train', 'test'):
      labels = [getattr(x, part).targets.tolist() for x in (more, other)]
      self.assertNotEqual(*labels)

  @parameterized.parameters(
    ('mnist', 31, 5, 'num_train is 31, expected 1 to 30'),
    ('mnist', 5, 13, 'num_test is 13, expected 1 to 12'),
    ('digits', 20, 11, 'num_test is 11, expected 1 to 10'),
  )
  def test_more_images_than_there_are_is_a_value_error(
    self, name, num_train, num_test, message
  ):
    with self.assertRaisesRegex(ValueError, message):
      self.load(name, num_train, num_test)

  def test_an_unknown_name_is_a_value_error(self):
    with self.assertRaisesRegex(ValueError, "'svhn'.*'mnist'.*'cifar10'"):
      images.load(self.directory, name='svhn', num_train=1, num_test=1, seed=0)

  def test_a_file_of_another_format_is_a_value_error(self):
    files = dict.fromkeys(_idx_files('mnist'), b'\0\0\x0d\x03' + bytes(40))
    with self.assertRaisesRegex(ValueError, 'expected an IDX file of bytes'):
      images.parts('mnist', self.archive('mnist', files))

  def test_without_the_binary_version_cifar10_says_where_it_should_be(self):
    folder, _ = self.write_cifar10()
    (folder / 'data_batch_3.bin').rename(folder / 'data_batch_3')  # pickles
    with self.assertRaisesRegex(
      ValueError, r"no \['data_batch_3.bin'\] in .*unpack cifar-10-binary.tar"
    ):
      images.load(
        self.directory, name='cifar10', num_train=1, num_test=1, seed=0
      )

  @parameterized.parameters(
    lambda data: data[:-1], lambda data: b'', lambda data: b'\x0a' + data[1:]
  )
  def test_damaged_cifar10_files_are_refused(self, damage):
    folder, _ = self.write_cifar10()
    path = folder / 'data_batch_2.bin'
    path.write_bytes(damage(path.read_bytes()))
    with self.assertRaisesRegex(ValueError, 'data_batch_2.bin has .* records'):
      images.cifar10(folder)


if __name__ == '__main__':
  absltest.main()
