import gzip
import lzma
import pathlib
import subprocess
import sys
import tempfile
from unittest import mock

import english_parts_test as archives
import numpy as np
from absl.testing import absltest, parameterized

from influence_jax.data import packages, regression, splits

try:
  import pandas as pd  # a dependency of rdata's
  import rdata
except ImportError:
  rdata = None

_SITE = 'usr/lib/R/site-library/'
_NUM = 20


def setUpModule():
  if rdata is None:
    raise absltest.SkipTest('R TABLES ARE NOT TESTED: rdata is not here')


def _frame(name, num=_NUM):
  """Columns in alphabetical order, with numbers all their own."""
  rng = np.random.default_rng(len(name))
  frame = pd.DataFrame({x: rng.normal(size=num) for x in _columns(name)})
  if name == 'boston':
    frame['chas'] = pd.Categorical([str(n % 2) for n in range(num)])
    frame['rad'] = np.arange(num, dtype=np.int32)
    frame['cmedv'] = frame['medv'] + 1
    frame['town'] = pd.Categorical(['Nahant'] * num)
  return frame[sorted(frame.columns)]


def _columns(name):
  return regression.COLUMNS[name]


def _r_file(write, *args):
  with tempfile.TemporaryDirectory() as directory:
    path = pathlib.Path(directory) / 'x'
    getattr(rdata, write)(path, *args)
    return path.read_bytes()


def _rds(value):
  return gzip.decompress(_r_file('write_rds', value))


def _concrete_files(frame):
  """R's .rdx and .rdb with the table between other things."""
  plain = _rds(frame)
  packed = lzma.compress(
    plain, lzma.FORMAT_RAW, filters=[{'id': lzma.FILTER_LZMA2, 'preset': 6}]
  )
  data = len(plain).to_bytes(4, 'big') + b'Z' + packed
  place = np.array([len(b'before'), len(data)], np.int32)
  index = _rds({'variables': {'concrete': place, 'ames': place[::-1]}})
  return {
    f'{_SITE}modeldata/data/Rdata.rdx': gzip.compress(index),
    f'{_SITE}modeldata/data/Rdata.rdb': b'before' + data + b'after',
  }


def _boston_files(frame):
  member = f'{_SITE}mlbench/data/BostonHousing2.rda'
  return {member: _r_file('write_rda', {'BostonHousing2': frame})}


_FILES = {'concrete': _concrete_files, 'boston': _boston_files}


class RegressionTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    directory = self.enterContext(tempfile.TemporaryDirectory())
    self.directory = pathlib.Path(directory)

  def archive(self, name, frame):
    path = self.directory / f'{name}.tgz'
    return archives.write_tgz(path, _FILES[name](frame))

  def load(self, name, frame, **kwargs):
    kwargs = {'num_train': 12, 'num_test': 5, 'seed': 4, **kwargs}
    path = self.archive(name, frame)
    fetched = []

    def fetch(package, cache_dir):
      fetched.append(package)
      return path

    with mock.patch.object(packages, 'fetch', fetch):
      found = regression.load(self.directory / 'data', name=name, **kwargs)
    self.assertEqual(fetched, [regression.PACKAGES[name]])
    return found

  @parameterized.parameters(*regression.NAMES)
  def test_a_table_is_its_columns_with_the_target_last(self, name):
    frame = _frame(name)
    found = regression.table(name, self.archive(name, frame))
    self.assertEqual(found.dtype, np.float64)
    self.assertEqual(found.shape, (_NUM, {'concrete': 9, 'boston': 14}[name]))
    for n in range(_NUM):
      for i, column in enumerate(_columns(name)):
        self.assertEqual(found[n, i], float(frame[column][n]), column)
    targets = {'concrete': 'compressive_strength', 'boston': 'medv'}
    np.testing.assert_array_equal(found[:, -1], frame[targets[name]])

  @parameterized.parameters(*regression.NAMES)
  def test_parts_are_standardised_by_the_train_part(self, name):
    frame = _frame(name)
    found = self.load(name, frame)
    parts = splits.draw(_NUM, 12, 5, seed=4)
    order = ('train', 'test', 'validation')
    for i, column in enumerate(_columns(name)):
      numbers = [float(x) for x in frame[column]]
      seen = [numbers[n] for n in parts[0]]
      mean = sum(seen) / 12
      deviation = (sum((x - mean) ** 2 for x in seen) / 12) ** 0.5
      for part, rows in zip(order, parts, strict=True):
        batch = getattr(found, part)
        whole = np.concatenate([batch.inputs, batch.targets], axis=1)
        wanted = [(numbers[n] - mean) / deviation for n in rows]
        np.testing.assert_allclose(whole[:, i], wanted, rtol=0, atol=3e-7)

  def test_batches_are_of_float32_rows_that_count(self):
    for batch in self.load('concrete', _frame('concrete')):
      num = len(batch.inputs)
      self.assertEqual(batch.inputs.shape, (num, 8))
      self.assertEqual(batch.targets.shape, (num, 1))
      self.assertEqual(batch.inputs.dtype, np.float32)
      self.assertEqual(batch.targets.dtype, np.float32)
      np.testing.assert_array_equal(batch.mask, np.ones(num))
      np.testing.assert_array_equal(batch.ids, np.arange(num))

  def test_a_column_that_is_constant_in_the_train_part_becomes_zero(self):
    frame = _frame('concrete')
    frame['water'] = 0.0
    frame.loc[splits.draw(_NUM, 12, 5, seed=4)[1][0], 'water'] = 7.0
    found = self.load('concrete', frame)
    for batch in found:
      np.testing.assert_array_equal(batch.inputs[:, 3], 0)
      self.assertTrue(np.isfinite(batch.inputs).all())

  @parameterized.parameters((20, (14, 2, 4)), (27, (19, 3, 5)))
  def test_by_default_seven_tenths_train_and_one_tests(self, num, sizes):
    found = self.load(
      'concrete', _frame('concrete', num), num_train=None, num_test=None
    )
    self.assertEqual([len(x.inputs) for x in found], [*sizes])

  def test_without_rows_left_there_is_no_validation(self):
    found = self.load('concrete', _frame('concrete'), num_train=15)
    self.assertIsNone(found.validation)

  def test_a_prepared_table_needs_no_archive(self):
    once = self.load('boston', _frame('boston'))
    data = self.directory / 'data'
    again = regression.load(
      data, name='boston', num_train=12, num_test=5, seed=4
    )
    np.testing.assert_array_equal(again.test.inputs, once.test.inputs)

  def test_more_rows_than_there_are_is_a_value_error(self):
    with self.assertRaisesRegex(ValueError, 'num_train is 21, .* 1 to 20'):
      self.load('concrete', _frame('concrete'), num_train=21)

  def test_an_unknown_table_is_a_value_error(self):
    with self.assertRaisesRegex(ValueError, "'yacht'.*'concrete', 'boston'"):
      regression.load(self.directory, name='yacht', seed=0)

  def test_an_archive_without_a_column_is_refused(self):
    frame = _frame('boston').drop(columns='lstat')
    with self.assertRaisesRegex(ValueError, r"no columns \['lstat'\].*'crim'"):
      regression.table('boston', self.archive('boston', frame))

  def test_a_number_that_is_missing_is_refused(self):
    frame = _frame('concrete')
    frame.loc[3, 'age'] = np.nan
    with self.assertRaisesRegex(ValueError, 'concrete .* not finite'):
      regression.table('concrete', self.archive('concrete', frame))

  def test_import_needs_no_rdata(self):
    code = (
      'import sys; from influence_jax.data import regression; '
      'sys.exit("rdata" in sys.modules)'
    )
    subprocess.run([sys.executable, '-c', code], check=True)


if __name__ == '__main__':
  absltest.main()
