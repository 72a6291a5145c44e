import pathlib
import shutil
import tempfile

import numpy as np
from absl.testing import absltest, parameterized

from influence_jax import store, topk

_K, _N = 5, 403
_CUTS = {  # widths of batches, over and over
  'one by one': [1],
  'sevens': [7],
  'all at once': [_N],
  'uneven': [64, 1, 0, 130, 3],
}


def _ties():
  """Integers of -3 to 3: each place in a top has dozens of rivals."""
  return np.random.default_rng(0).integers(-3, 4, (_K, _N)).astype(np.float32)


def _spread():
  """Scores of all sizes, and those on edges and just beside them."""
  rng = np.random.default_rng(1)
  sizes = 10 ** rng.uniform(-16, 16, (_K, _N))
  edges = topk.EDGES[1:-1]
  sizes[0, : len(edges)] = edges
  sizes[1, : len(edges)] = np.nextafter(edges, 0)
  sizes[2, : len(edges)] = np.nextafter(edges, np.inf)
  sizes[3, :4] = 0
  sizes[3, 4:7] = 5e-324, 1e150, 1e-300
  return sizes * rng.choice([-1, 1], sizes.shape)


_DATA = {'ties': _ties, 'spread': _spread}


def _summary(scores_KxN, k=10, widths=(64,), order=None, state=None):
  ids = np.arange(scores_KxN.shape[1]) if order is None else order
  state = state or topk.start(len(scores_KxN), k)
  start, turn = 0, 0
  while start < len(ids):
    at = ids[start : start + widths[turn % len(widths)]]
    state = topk.update(state, at, scores_KxN[:, at])
    start, turn = start + len(at), turn + 1
  return state


def _sorted(scores_N, k, sign):
  """(ids, scores) by a sort of everything, filled up to k places."""
  ids = np.lexsort((np.arange(len(scores_N)), -sign * scores_N))[:k]
  rest = k - len(ids)
  return (
    np.append(ids, [-1] * rest).astype(int),
    np.append(scores_N[ids].astype(float), [-sign * np.inf] * rest),
  )


def _assert_same_bits(one, two):
  for field, x, y in zip(one._fields, one, two, strict=True):
    np.testing.assert_array_equal(x, y, field)
    assert x.dtype == y.dtype, field


class TopTest(parameterized.TestCase):
  def _check(self, state, scores_KxN, k):
    for sign, (ids, scores) in (
      (1, topk.top(state)),
      (-1, topk.bottom(state)),
    ):
      self.assertEqual(ids.dtype, np.int64)
      for n, row in enumerate(scores_KxN):
        wanted_ids, wanted_scores = _sorted(row, k, sign)
        np.testing.assert_array_equal(ids[n], wanted_ids)
        np.testing.assert_array_equal(scores[n], wanted_scores)

  @parameterized.product(data=[*_DATA], cut=[*_CUTS], k=[1, 10, _N, _N + 5])
  def test_it_is_a_sort_of_all_scores(self, data, cut, k):
    scores_KxN = _DATA[data]()
    self._check(_summary(scores_KxN, k, _CUTS[cut]), scores_KxN, k)

  @parameterized.product(data=[*_DATA], seed=[*range(5)])
  def test_it_is_so_in_any_order_of_arrival(self, data, seed):
    rng = np.random.default_rng(seed)
    order = rng.permutation(_N)
    widths = rng.integers(0, 90, 20).tolist()
    scores_KxN = _DATA[data]()
    self._check(_summary(scores_KxN, 10, widths, order), scores_KxN, 10)

  def test_of_equal_scores_the_smallest_ids_are_kept(self):
    zeros = np.zeros((2, _N))
    zeros[:, ::2] = -0.0
    for order in (np.arange(_N), np.arange(_N)[::-1]):
      state = _summary(zeros, 4, [50], order)
      for ids, scores in (topk.top(state), topk.bottom(state)):
        np.testing.assert_array_equal(ids, [[0, 1, 2, 3]] * 2)
        np.testing.assert_array_equal(scores, np.zeros((2, 4)))

  def test_ids_may_be_large(self):
    big = 2**53 + np.arange(3)  # neighbours that float64 cannot tell apart
    state = topk.update(topk.start(1, 2), big[::-1], [[1, 1, 1]])
    np.testing.assert_array_equal(topk.top(state)[0], [big[:2]])

  def test_without_scores_all_places_are_empty(self):
    state = topk.update(topk.start(2, 3), np.arange(0), np.zeros((2, 0)))
    _assert_same_bits(state, topk.start(2, 3))
    np.testing.assert_array_equal(topk.top(state)[1], [[-np.inf] * 3] * 2)
    np.testing.assert_array_equal(topk.bottom(state)[1], [[np.inf] * 3] * 2)
    np.testing.assert_array_equal(topk.bottom(state)[0], [[-1] * 3] * 2)


class TailTest(parameterized.TestCase):
  @parameterized.parameters(*_DATA)
  def test_counts_are_histograms_of_each_sign(self, data):
    scores_KxN = _DATA[data]()
    state = _summary(scores_KxN)
    for n, row in enumerate(scores_KxN):
      sides = row[row >= 0], -row[row < 0]
      for sign, side in enumerate(sides):
        wanted, _ = np.histogram(side, topk.EDGES)
        np.testing.assert_array_equal(state.counts[n, sign], wanted)
      zeros = np.abs(row) < np.finfo(float).tiny
      self.assertEqual(state.counts[n, :, 0].sum(), zeros.sum())
    np.testing.assert_array_equal(state.counts.sum((1, 2)), [_N] * _K)

  def test_every_bin_has_numbers_and_a_tenth_of_a_decade(self):
    self.assertLen(topk.EDGES, topk.NUM_BINS + 1)
    decades = np.log10(topk.EDGES[2:-1])
    np.testing.assert_allclose(np.diff(decades), 0.1, atol=1e-5)
    self.assertEqual((topk.EDGES[2], topk.EDGES[-2]), (1e-12, 1e12))
    # Each edge, the number below it: neighbours are in neighbouring bins.
    edges = topk.EDGES[1:-1]
    for sign in (1, -1):
      for x, shift in ((edges, 1), (np.nextafter(edges, 0), 0)):
        state = _summary(sign * x[:, None])
        found = state.counts.any(1).argmax(1)
        np.testing.assert_array_equal(found, np.arange(len(edges)) + shift)

  @parameterized.parameters(*_DATA)
  def test_sums_are_those_of_all_scores(self, data):
    x = _DATA[data]().astype(np.float64)
    state = _summary(x)
    rtol = dict(rtol=1e-12)
    self.assertEqual(state.num, _N)
    np.testing.assert_allclose(state.total, x.sum(1), **rtol)
    np.testing.assert_allclose(state.squares, (x**2).sum(1), **rtol)
    for sign in (0, 1):
      wanted = [row[row > 0].sum() for row in (-x if sign else x)]
      np.testing.assert_allclose(state.mass[:, sign], wanted, **rtol)
    difference = state.mass[:, 0] - state.mass[:, 1]
    np.testing.assert_allclose(
      state.total, difference, **rtol, atol=1e-12 * np.abs(x).max()
    )

  def test_float32_scores_are_summed_in_float64(self):
    """1e8 + 1 is 1e8 in float32."""
    x = np.array([[1e8] + [1] * 100], np.float32)
    self.assertEqual(_summary(x, widths=[1]).total, 1e8 + 100)


class BatchesTest(parameterized.TestCase):
  @parameterized.product(data=[*_DATA], cut=[*_CUTS])
  def test_no_bit_of_tops_and_counts_hangs_on_the_cut(self, data, cut):
    wanted = _summary(_DATA[data]())
    found = _summary(_DATA[data](), widths=_CUTS[cut])
    for field in ('ids', 'scores', 'num', 'counts'):
      np.testing.assert_array_equal(
        getattr(found, field), getattr(wanted, field)
      )

  def test_no_bit_hangs_on_the_layout_or_type_of_the_scores(self):
    x = np.random.default_rng(2).normal(size=(_K, _N)).astype(np.float32)
    wanted, *found = [
      topk.update(topk.start(_K, 10), np.arange(_N), same)
      for same in (x, np.asfortranarray(x), x.astype(np.float64))
    ]
    for one in found:
      _assert_same_bits(one, wanted)

  def test_the_state_before_stays_as_it_was(self):
    scores_KxN = _ties()
    before = _summary(scores_KxN[:, :200])
    copy = topk.Summary(*(x.copy() for x in before))
    for x in before:
      x.setflags(write=False)
    after = topk.update(before, np.arange(200, 300), scores_KxN[:, 200:300] + 9)
    topk.merge(before, after)
    _assert_same_bits(before, copy)

  def test_its_size_hangs_on_queries_and_places_alone(self):
    def num_bytes(num, width):
      scores_KxN = np.random.default_rng(3).normal(size=(_K, num))
      return sum(x.nbytes for x in _summary(scores_KxN, 7, [width]))

    sizes = {num_bytes(*x) for x in ((1, 1), (500, 500), (20_000, 128))}
    self.assertLen(sizes, 1)
    places, bins = 2 * 7 * (8 + 8), 2 * topk.NUM_BINS * 8
    self.assertEqual(sizes, {_K * (places + bins + 4 * 8) + 8})

  def test_saved_and_restored_it_goes_on_to_the_same_bits(self):
    folder = pathlib.Path(tempfile.mkdtemp())
    self.addCleanup(shutil.rmtree, folder)
    x = _ties() + 0.1
    half = _summary(x, order=np.arange(192))
    store.save(folder, 3, half, {})
    tree = store.load(folder).tree
    half_again = store.like(topk.start(_K, 10), tree)
    _assert_same_bits(half_again, half)
    found = _summary(x, order=np.arange(192, _N), state=half_again)
    _assert_same_bits(found, _summary(x))


class MergeTest(parameterized.TestCase):
  @parameterized.product(data=[*_DATA], k=[1, 10, _N + 5], cut=[0, 3, 200, _N])
  def test_of_two_shards_it_is_the_summary_of_both(self, data, k, cut):
    x = _DATA[data]()
    order = np.random.default_rng(4).permutation(_N)
    whole = _summary(x, k)
    parts = [_summary(x, k, order=at) for at in (order[:cut], order[cut:])]
    found = topk.merge(*parts)
    _assert_same_bits(topk.merge(*parts[::-1]), found)
    for field in ('ids', 'scores', 'num', 'counts'):
      np.testing.assert_array_equal(
        getattr(found, field), getattr(whole, field)
      )
    for field in ('squares', 'mass'):
      np.testing.assert_allclose(
        getattr(found, field), getattr(whole, field), rtol=1e-12
      )

  def test_summaries_of_other_sizes_are_refused(self):
    for other in (topk.start(_K + 1, 3), topk.start(_K, 4)):
      with self.assertRaisesRegex(ValueError, r'\(5, 2, 3\) and \('):
        topk.merge(topk.start(_K, 3), other)


class ErrorTest(parameterized.TestCase):
  @parameterized.parameters(np.nan, np.inf, -np.inf)
  def test_a_score_that_is_not_finite_is_named(self, bad):
    scores = np.zeros((3, 4))
    scores[2, 1] = bad
    with self.assertRaisesRegex(ValueError, f'query 2 .* sequence 71 is {bad}'):
      topk.update(topk.start(3, 2), [70, 71, 72, 73], scores)

  def test_padding_rows_are_refused(self):
    with self.assertRaisesRegex(ValueError, '-1 is negative.* padding'):
      topk.update(topk.start(1, 2), [4, -1], [[0.0, 0.0]])

  @parameterized.parameters((3, 4), (2, 3), (4, 2))
  def test_shapes_that_do_not_fit_are_refused(self, *shape):
    with self.assertRaisesRegex(ValueError, r'2 queries .* \(4,\)'):
      topk.update(topk.start(2, 2), np.arange(4), np.zeros(shape))

  @parameterized.parameters((0, 1), (1, 0))
  def test_a_summary_of_nothing_is_refused(self, num_queries, k):
    with self.assertRaisesRegex(ValueError, 'at least one query'):
      topk.start(num_queries, k)


if __name__ == '__main__':
  absltest.main()
