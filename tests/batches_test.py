import pathlib
import random
import tempfile

import numpy as np
from absl.testing import absltest, parameterized

from influence_jax.data import batches, sequences
from influence_jax.data import tokenizer as tokenizer_lib


def numbers(specs):
  return np.concatenate([spec.rows for spec in specs])


def same(specs, others):
  return len(specs) == len(others) and all(
    np.array_equal(spec.rows, other.rows) and spec[1:] == other[1:]
    for spec, other in zip(specs, others, strict=True)
  )


class BatchesTest(parameterized.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    directory = cls.enterClassContext(tempfile.TemporaryDirectory())
    draw = random.Random(0)
    docs = [
      {'id': n, 'text': ''.join(draw.choices('abcdefgh', k=draw.randrange(60)))}
      for n in range(200)
    ]
    cls.sequences = sequences.build(
      docs,
      tokenizer_lib.train(['a'], 257),
      40,
      pathlib.Path(directory),
      buckets=(10, 20),
    )

  def get(self, specs):
    return [batches.get(self.sequences, spec) for spec in specs]

  def test_a_plan_takes_every_sequence_once_in_order(self):
    specs = batches.plan(self.sequences, 100)
    np.testing.assert_array_equal(
      numbers(specs), np.arange(len(self.sequences))
    )

  @parameterized.parameters(0, 1, 2)
  def test_an_epoch_takes_every_sequence_once(self, epoch):
    specs = batches.training_plan(self.sequences, 100, seed=3, epoch=epoch)
    found = numbers(specs)
    self.assertFalse(np.array_equal(found, np.sort(found)))
    np.testing.assert_array_equal(
      np.sort(found), np.arange(len(self.sequences))
    )

  def test_every_target_of_the_corpus_is_counted_once(self):
    specs = batches.plan(self.sequences, 100)
    num_targets = sum(batch.mask.sum() for batch in self.get(specs))
    self.assertEqual(num_targets, self.sequences.info['targets'])

  @parameterized.parameters(
    (100, {10: 10, 20: 5, 40: 2}),
    (1, {10: 1, 20: 1, 40: 1}),
    (399, {10: 39, 20: 19, 40: 9}),
  )
  def test_batches_of_a_bucket_have_one_shape(self, tokens, expected):
    specs = batches.plan(self.sequences, tokens)
    shapes = {}
    for spec, batch in zip(specs, self.get(specs), strict=True):
      self.assertEqual(batch.inputs.shape, batch.targets.shape)
      self.assertEqual(batch.inputs.shape, batch.mask.shape)
      self.assertEqual(batch.ids.shape, batch.inputs.shape[:1])
      shapes.setdefault(spec.length, set()).add(batch.inputs.shape)
      buckets = self.sequences.records['bucket'][spec.rows]
      self.assertEqual(set(buckets.tolist()), {spec.length})
    self.assertEqual(shapes, {t: {(b, t)} for t, b in expected.items()})

  def test_rows_hold_their_sequence_and_targets_are_inputs_shifted(self):
    for batch in self.get(batches.plan(self.sequences, 100)):
      for b, n in enumerate(batch.ids):
        row = self.sequences.row(n) if n >= 0 else np.zeros(1)
        size = len(row) - 1
        np.testing.assert_array_equal(batch.inputs[b, :size], row[:-1])
        np.testing.assert_array_equal(batch.targets[b, :size], row[1:])
        np.testing.assert_array_equal(
          batch.mask[b], np.arange(len(batch.mask[b])) < size
        )
        self.assertEqual(
          batch.inputs[b, size:].tolist(), [0] * (len(batch.mask[b]) - size)
        )

  def test_rows_that_are_not_asked_for_are_not_read(self):
    for spec in batches.plan(self.sequences, 100):
      whole = batches.get(self.sequences, spec)
      part = batches.get(self.sequences, spec, slice(1, 3))
      np.testing.assert_array_equal(part.ids, whole.ids)
      for x, y in zip(part[:3], whole[:3], strict=True):
        np.testing.assert_array_equal(x[1:3], y[1:3])
        self.assertFalse(x[:1].any() or x[3:].any())

  def test_only_the_last_batch_of_a_bucket_has_rows_of_padding(self):
    specs = batches.plan(self.sequences, 130)
    padded = []
    for spec, batch in zip(specs, self.get(specs), strict=True):
      is_padding = batch.ids == -1
      self.assertEqual(is_padding.sum(), spec.size - len(spec.rows))
      np.testing.assert_array_equal(is_padding, ~batch.mask.any(axis=1))
      self.assertFalse(batch.targets[is_padding].any())
      padded.append((spec.length, bool(is_padding.any())))
    self.assertNotEmpty([length for length, has in padded if has])
    for (length, has), (following, _) in zip(padded, padded[1:], strict=False):
      self.assertFalse(has and length == following)

  def test_dtypes_are_those_of_a_batch(self):
    batch = self.get(batches.plan(self.sequences, 100)[:1])[0]
    self.assertEqual(
      [array.dtype for array in batch], ['int32', 'int32', 'float32', 'int32']
    )

  def test_a_batch_follows_from_its_number_alone(self):
    def training_batch(step):
      num = len(batches.plan(self.sequences, 100))
      epoch, at = divmod(step, num)
      specs = batches.training_plan(self.sequences, 100, 3, epoch)
      self.assertLen(specs, num)
      return batches.get(self.sequences, specs[at])

    run = [training_batch(step) for step in range(90)]
    for step in 89, 17, 60:
      for array, again in zip(run[step], training_batch(step), strict=True):
        np.testing.assert_array_equal(array, again)

  def test_epochs_and_seeds_differ_and_the_same_are_the_same(self):
    def epoch(seed, epoch):
      return batches.training_plan(self.sequences, 100, seed, epoch)

    self.assertTrue(same(epoch(1, 2), epoch(1, 2)))
    self.assertFalse(same(epoch(1, 2), epoch(1, 3)))
    self.assertFalse(same(epoch(1, 2), epoch(2, 2)))
    self.assertFalse(same(epoch(1, 2), epoch(2, 1)))

  def test_an_epoch_mixes_sequences_between_batches_and_buckets_in_time(self):
    first, second = (
      batches.training_plan(self.sequences, 100, 0, epoch) for epoch in (0, 1)
    )
    sets = [{frozenset(s.rows.tolist()) for s in e} for e in (first, second)]
    self.assertLess(len(sets[0] & sets[1]), len(first) // 4)
    lengths = [spec.length for spec in first]
    self.assertNotEqual(lengths, sorted(lengths))

  @parameterized.parameters(1, 7, 100)
  def test_a_limit_takes_different_sequences_spread_evenly(self, limit):
    rows = numbers(batches.plan(self.sequences, 100, limit=limit))
    self.assertLen(rows, limit)
    gaps = np.diff([*rows, rows[0] + len(self.sequences)])
    self.assertGreater(gaps.min(), 0)
    self.assertLessEqual(gaps.max() - gaps.min(), 1 if limit > 1 else 0)

  def test_a_limit_of_all_is_no_limit(self):
    every = batches.plan(self.sequences, 100)
    limited = batches.plan(self.sequences, 100, limit=len(self.sequences))
    self.assertTrue(same(every, limited))

  @parameterized.parameters(0, -1, 10_000)
  def test_a_limit_out_of_range_is_a_value_error(self, limit):
    with self.assertRaisesRegex(ValueError, f'limit={limit}, expected 1 to'):
      batches.plan(self.sequences, 100, limit=limit)


if __name__ == '__main__':
  absltest.main()
