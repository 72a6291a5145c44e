import functools
import re

import jax
import numpy as np
import testing
from absl.testing import absltest, parameterized
from flax import traverse_util

from influence_jax import gradients


def setUpModule():
  jax.config.update('jax_enable_x64', True)


def tearDownModule():
  jax.config.update('jax_enable_x64', False)


# What is not dense, and some of what is.
_SUBSET = r'emb|ln|blocks_1/.*/kernel|lm_head'
_PADDING = 2  # a row of the batch


@functools.cache
def _batch():
  """A row is padding, and what stands in the padding is not zero."""
  batch = testing.batch()
  rng = np.random.default_rng(3)
  noise = rng.integers(0, testing.VOCAB, (2, *batch.mask.shape))
  mask = batch.mask.copy()
  mask[_PADDING] = 0
  return batch._replace(
    inputs=np.where(mask, batch.inputs, noise[0]).astype(np.int32),
    targets=np.where(mask, batch.targets, noise[1]).astype(np.int32),
    mask=mask,
  )


def _run(fn, *args):
  return jax.device_get(jax.jit(fn)(*args))


@functools.cache
def _by_rows():
  """{path of a parameter: [B, ...]}, one jax.grad a row."""
  model, params = testing.transformer()
  rows = [
    traverse_util.flatten_dict(tree, sep='/')
    for tree in testing.row_gradients(model, params, _batch())
  ]
  return {path: np.stack([row[path] for row in rows]) for path in rows[0]}


@functools.cache
def _by_vmap():
  model, params = testing.transformer()
  return _run(
    lambda *args: gradients.sequence_gradients(model, *args, _SUBSET),
    params, _batch(),
  )  # fmt: skip


@functools.cache
def _by_taps(scan=False):
  model, params = testing.transformer(scan=scan)
  return model, _run(
    functools.partial(gradients.layer_gradients, model), params, _batch()
  )


def _matrix(per_parameter, name):
  """The gradient of a layer, its bias the last input."""
  kernel, bias = (per_parameter[f'{name}/{x}'] for x in ('kernel', 'bias'))
  return np.concatenate([kernel, bias[:, None]], 1)


class SequenceGradientsTest(parameterized.TestCase):
  def test_they_are_those_of_one_row_at_a_time(self):
    found = _by_vmap()
    chosen = [path for path in _by_rows() if re.search(_SUBSET, path)]
    self.assertCountEqual(found, chosen)
    for path, g in found.items():
      testing.assert_near(self, g, _by_rows()[path], what=path)

  def test_an_unknown_pattern_names_the_parameters(self):
    model, params = testing.deep()
    with self.assertRaisesRegex(ValueError, "'conv'.*'blocks_0/mix/kernel'"):
      gradients.sequence_gradients(model, params, testing.deep_batch(), 'conv')


class LayerGradientsTest(parameterized.TestCase):
  @parameterized.parameters(False, True)
  def test_they_are_kernel_over_bias_one_row_at_a_time(self, scan):
    model, found = _by_taps(scan)
    found = testing.unrolled_names(testing.split_stacks(model, found))
    names = [
      f'blocks_{i}/mlp/{x}' for i in range(2) for x in ('fc_in', 'fc_out')
    ]
    self.assertCountEqual(found, names)
    for name, g in found.items():
      testing.assert_near(self, g, _matrix(_by_rows(), name), what=name)

  def test_those_of_a_padded_row_are_zero(self):
    found = [*_by_taps()[1].values(), *_by_vmap().values()]
    for g in found:
      np.testing.assert_array_equal(g[_PADDING], 0)
      self.assertTrue(
        np.delete(g, _PADDING, 0).any(tuple(range(1, g.ndim))).all()
      )

  def test_what_stands_in_the_padding_changes_nothing(self):
    testing_batch, (model, found) = testing.batch(), _by_taps()
    inputs, targets = testing_batch.inputs, testing_batch.targets
    self.assertTrue((inputs != _batch().inputs)[:, -1].any())
    zeros = _batch()._replace(inputs=inputs, targets=targets)
    params = testing.transformer()[1]
    run = functools.partial(gradients.layer_gradients, model)
    other = _run(run, params, zeros)
    for path, g in found.items():
      testing.assert_near(self, other[path], g, 1e-12, path)

  def test_longer_padding_changes_nothing(self):
    model, params = testing.deep(scan=True)
    batch = testing.deep_batch(length=3)
    width = [(0, 0), (0, 4)]
    padded = batch._replace(
      inputs=np.pad(batch.inputs, [*width, (0, 0)], constant_values=2),
      targets=np.pad(batch.targets, width, constant_values=2),
      mask=np.pad(batch.mask, width),
    )
    run = jax.jit(lambda *args: gradients.layer_gradients(model, *args))
    found = run(params, padded)
    for path, g in run(params, batch).items():
      testing.assert_near(self, found[path], g, 1e-12, path)


if __name__ == '__main__':
  absltest.main()
