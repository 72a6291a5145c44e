import pathlib
import shutil
import tempfile

import numpy as np
from absl.testing import absltest, parameterized

from influence_jax import score_store

_K, _N, _CHUNK = 3, 22, 5  # chunks 0..3 are whole, 4 has two columns


def _scores():
  return np.random.default_rng(0).normal(size=(_K, _N)).astype(np.float32)


class ScoreStoreTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    folder = pathlib.Path(tempfile.mkdtemp())
    self.addCleanup(shutil.rmtree, folder)
    self.path = folder / 'scores.zarr'

  def create(self, num_queries=_K, num_sequences=_N, chunk=_CHUNK):
    return score_store.create(self.path, num_queries, num_sequences, chunk)

  def written(self):
    """The store with all scores in it, and its chunks' files by number."""
    store = self.create()
    store.put(0, _scores())
    files = [
      x for x in self.path.rglob('*') if x.name.isdigit() and x.is_file()
    ]
    files.sort(key=lambda x: int(x.name))
    self.assertEqual([int(x.name) for x in files], list(range(5)))
    return store, files

  @parameterized.parameters(1, 3, 5, 7, 11, 22)
  def test_scores_come_back_whatever_the_pieces_they_came_in(self, width):
    store = self.create()
    for start in range(0, _N, width):
      self.assertNotEmpty(store.missing())
      store.put(start, _scores()[:, start : start + width])
    self.assertEmpty(store.missing())
    for reader in (store, score_store.open(self.path), self.create()):
      found = reader.read()
      self.assertEqual(found.dtype, np.float32)
      np.testing.assert_array_equal(found, _scores())

  def test_float64_scores_are_rounded_once(self):
    wide = np.random.default_rng(1).normal(size=(_K, _N))
    store = self.create()
    store.put(0, wide)
    np.testing.assert_array_equal(store.read(), wide.astype(np.float32))

  def test_columns_say_what_a_chunk_holds(self):
    store = self.create()
    found = [store.columns(n) for n in store.missing()]
    self.assertEqual(
      found,
      [range(0, 5), range(5, 10), range(10, 15), range(15, 20), range(20, 22)],
    )

  def test_a_chunk_is_written_only_when_it_is_full(self):
    store = self.create()
    store.put(3, _scores()[:, 3:13])  # fills chunk 1 and borders two
    np.testing.assert_array_equal(store.missing(), [0, 2, 3, 4])
    store.put(13, _scores()[:, 13:15])
    np.testing.assert_array_equal(store.missing(), [0, 3, 4])
    store.put(0, _scores()[:, :3])
    np.testing.assert_array_equal(store.missing(), [3, 4])

  def test_a_run_goes_on_with_the_chunks_that_are_missing(self):
    first = self.create()
    first.put(5, _scores()[:, 5:13])  # and is killed: 10 to 12 are lost
    second = self.create()
    np.testing.assert_array_equal(second.missing(), [0, 2, 3, 4])
    for number in second.missing():
      at = second.columns(number)
      second.put(at.start, _scores()[:, at.start : at.stop])
    np.testing.assert_array_equal(second.read(), _scores())

  @parameterized.parameters('cut', 'emptied', 'changed', 'removed')
  def test_a_damaged_chunk_is_missing_and_the_others_are_kept(self, how):
    _, files = self.written()
    data = bytearray(files[2].read_bytes())
    if how == 'removed':
      files[2].unlink()
    elif how == 'changed':
      data[len(data) // 3] ^= 1  # one bit
      files[2].write_bytes(data)
    else:
      files[2].write_bytes(data[:-7] if how == 'cut' else b'')
    kept = {x: x.read_bytes() for x in files if x != files[2]}
    store = self.create()
    np.testing.assert_array_equal(store.missing(), [2])
    with self.assertRaisesRegex(
      ValueError, r'1 of 5 chunks .*range\(10, 15\): run .* same --workdir'
    ):
      store.read()
    store.put(10, _scores()[:, 10:15])
    np.testing.assert_array_equal(store.read(), _scores())
    self.assertEqual({x: x.read_bytes() for x in kept}, kept)

  def test_any_flipped_bit_of_a_short_last_chunk_is_seen(self):
    store, files = self.written()
    data = files[4].read_bytes()
    for at in range(0, len(data), 4):  # what pads it, and the checksum, too
      bad = bytearray(data)
      bad[at] ^= 16
      files[4].write_bytes(bad)
      np.testing.assert_array_equal(store.missing(), [4])

  def test_what_is_missing_is_not_read(self):
    store = self.create()
    store.put(0, _scores()[:, :10])
    with self.assertRaisesRegex(ValueError, r'3 of 5 .*range\(10, 15\)'):
      store.read()
    with self.assertRaisesRegex(ValueError, 'sequence 10 and 11 others'):
      store.row(1)

  def test_a_row_is_one_query_of_all_sequences(self):
    store, _ = self.written()
    for k, scores_N in enumerate(_scores()):
      np.testing.assert_array_equal(store.row(k), scores_N)

  @parameterized.parameters(
    {'num_queries': 4}, {'num_sequences': 23}, {'chunk': 11}
  )
  def test_a_store_of_another_shape_is_refused_and_kept(self, **other):
    self.written()
    sizes = dict(num_queries=_K, num_sequences=_N, chunk=_CHUNK) | other
    message = '{num_queries} queries x {num_sequences} sequences in chunks of '
    with self.assertRaisesRegex(
      ValueError, (message + '{chunk}: .*remove them').format(**sizes)
    ):
      self.create(**other)
    np.testing.assert_array_equal(self.create().read(), _scores())

  @parameterized.parameters(np.nan, np.inf, -np.inf)
  def test_a_score_that_is_not_finite_is_named_and_not_kept(self, bad):
    scores = _scores()
    scores[2, 13] = bad
    store = self.create()
    store.put(0, scores[:, :10])
    with self.assertRaisesRegex(
      ValueError, f'query 2 and sequence 13 is {bad}, expected a finite'
    ):
      store.put(10, scores[:, 10:15])
    np.testing.assert_array_equal(store.missing(), [2, 3, 4])

  @parameterized.parameters(None, b'', b'{"zarr_format": 3')
  def test_no_store_is_opened_where_there_is_none(self, metadata):
    if metadata is not None:
      self.written()
      (self.path / 'zarr.json').write_bytes(metadata)
      with self.assertRaisesRegex(ValueError, 'remove them or choose another'):
        self.create()
    with self.assertRaisesRegex(
      ValueError, f'no scores in {self.path}: .*first'
    ):
      score_store.open(self.path)


if __name__ == '__main__':
  absltest.main()
