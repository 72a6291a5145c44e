import jax
import numpy as np
import testing
from absl.testing import absltest

from influence_jax import attribution


def setUpModule():
  jax.config.update('jax_enable_x64', True)


def tearDownModule():
  jax.config.update('jax_enable_x64', False)


def _random(layers, *shape):
  """{path: [*stack, *shape]}."""
  rng = np.random.default_rng(0)
  return {
    path: rng.normal(size=(*x.stack, *shape)) for path, x in layers.items()
  }


class LayersTest(absltest.TestCase):
  def test_layers_and_slices_add_up_to_the_total(self):
    layers = testing.deep(scan=True)[0].layers
    scores = _random(layers, 5, 2)
    wanted = scores['first'] + scores['blocks/mix'].sum(0) + scores['last']
    got = attribution.total(scores, layers)
    testing.assert_near(self, got, wanted, 1e-12)
    by_layer = attribution.by_layer(scores, layers)
    testing.assert_near(self, sum(by_layer.values()), wanted, 1e-12)

  def test_a_slice_is_a_layer_of_its_own(self):
    layers = testing.deep(scan=True)[0].layers
    values = {
      path: {'x': x} for path, x in _random(layers, 3).items()
    }  # not only arrays
    found = attribution.by_layer(values, layers)
    self.assertEqual(
      list(found), ['first', 'blocks/mix[0]', 'blocks/mix[1]', 'last']
    )
    for i in range(2):
      np.testing.assert_array_equal(
        found[f'blocks/mix[{i}]']['x'], values['blocks/mix']['x'][i]
      )
    np.testing.assert_array_equal(found['last']['x'], values['last']['x'])

  def test_names_are_block_after_block_scanned_or_not(self):
    scanned, plain = (
      attribution.layer_names(testing.transformer(scan, pattern='')[0].layers)
      for scan in (True, False)
    )
    self.assertEqual(scanned[0], 'blocks/attn/q[0]')
    self.assertEqual(
      list(testing.unrolled_names(dict.fromkeys(scanned))), plain
    )
    self.assertEqual(plain, list(testing.transformer(pattern='')[0].layers))

  def test_names_are_the_keys(self):
    layers = testing.deep(scan=True)[0].layers
    keys = attribution.by_layer(_random(layers), layers)
    self.assertEqual(attribution.layer_names(layers), list(keys))


if __name__ == '__main__':
  absltest.main()
