import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import testing
from absl.testing import absltest, parameterized

from influence_jax import losses, models, taps, types

_SOME = r'attn/q|fc_in|lm_head'  # a stack or not, with a bias or not
_WAYS = {
  'plain': {},
  'remat': {'remat': True},
  'scan': {'scan': True},
  'scan_and_remat': {'scan': True, 'remat': True},
}


def setUpModule():
  jax.config.update('jax_enable_x64', True)


def tearDownModule():
  jax.config.update('jax_enable_x64', False)


def _rule(a_BxTxI, ds_BxTxO, mask_BxT, factors):
  """All that a rule sees, and sums like those of curvatures."""
  kept_BxTxI = a_BxTxI * mask_BxT[..., None]
  return {
    'a': a_BxTxI,
    'ds': ds_BxTxO,
    'mask': mask_BxT,
    'number': factors['number'],
    'A': jnp.einsum('bti,btj->ij', kept_BxTxI, kept_BxTxI),
    'S': jnp.einsum('bto,btp->op', ds_BxTxO, ds_BxTxO),
    'g': jnp.einsum('bti,bto->bio', a_BxTxI, ds_BxTxO),
  }


def _numbers(layers):
  """Another number for every layer and slice of a stack."""
  return {
    path: {'number': 10.0 * n + np.arange(np.prod(x.stack)).reshape(x.stack)}
    for n, (path, x) in enumerate(layers.items())
  }


def _tap(model, params, batch, positions=None):
  """(stats, losses) with `_rule`, compiled as one program."""
  num_rows = len(batch.inputs)
  num_positions = positions or batch.inputs.shape[1]

  def init(layer):
    shape, (I, O) = (num_rows, num_positions), layer[1:3]  # noqa: E741
    return {
      'a': jnp.zeros((*shape, I)),
      'ds': jnp.zeros((*shape, O)),
      'mask': jnp.zeros(shape),
      'number': jnp.zeros(()),
      'A': jnp.zeros((I, I)),
      'S': jnp.zeros((O, O)),
      'g': jnp.zeros((num_rows, I, O)),
    }

  @jax.jit
  def run(params, batch):
    def loss_fn(params):
      outputs = model.apply_fn(params, batch.inputs)
      loss_B = model.loss.per_sequence(outputs, batch.targets, batch.mask)
      return loss_B.sum(), loss_B

    return taps.layer_stats(
      loss_fn, params, model.layers, _rule, taps.zeros(model.layers, init),
      _numbers(model.layers), batch.mask,
    )  # fmt: skip

  return jax.device_get(run(params, batch))


@functools.cache
def _of_transformer(**ways):
  model, params = testing.transformer(pattern=_SOME, **ways)
  return model, *_tap(model, params, testing.batch())


@functools.cache
def _oracle():
  """(explicit arrays, gradients) of the unrolled model."""
  model, params = testing.transformer(pattern=_SOME)
  batch = testing.batch()
  return (
    testing.explicit_arrays(model, params, batch),
    testing.loop_gradients(model, params, batch),
  )


def _by_name(model, stats):
  """{key: {name as in the unrolled model: array}} of {path: {key: array}}."""
  return {
    key: testing.unrolled_names(
      testing.split_stacks(model, {p: x[key] for p, x in stats.items()})
    )
    for key in next(iter(stats.values()))
  }


def _sums(arrays, mask):
  """A and S, position by position; a padded one is left out."""
  a, ds = arrays
  at = [(b, t) for b, t in np.ndindex(*mask.shape) if mask[b, t]]
  return (
    sum(np.outer(a[i], a[i]) for i in at),
    sum(np.outer(ds[i], ds[i]) for i in at),
  )


class StatisticsTest(parameterized.TestCase):
  @parameterized.named_parameters((name, way) for name, way in _WAYS.items())
  def test_sums_and_gradients_are_those_of_the_definition(self, way):
    model, stats, _ = _of_transformer(**way)
    found = _by_name(model, stats)
    arrays, gradients = _oracle()
    self.assertEqual(set(found['a']), set(arrays))
    for name, (a, ds) in arrays.items():
      A, S = _sums((a, ds), testing.batch().mask)
      wanted = {'a': a, 'ds': ds, 'A': A, 'S': S, 'g': gradients[name]}
      for key, x in wanted.items():
        testing.assert_near(self, found[key][name], x, what=f'{name} {key}')

  def test_a_tapped_loss_is_the_loss(self):
    model, params = testing.deep(scan=True)
    batch = testing.deep_batch()
    _, losses_B = _tap(model, params, batch)
    outputs = np.asarray(jax.jit(model.apply_fn)(params, batch.inputs))
    log_p = outputs - np.log(np.exp(outputs).sum(-1, keepdims=True))
    picked = np.take_along_axis(log_p, batch.targets[..., None], -1)[..., 0]
    testing.assert_near(self, losses_B, -(picked * batch.mask).sum(1), 1e-12)

  @parameterized.named_parameters((name, way) for name, way in _WAYS.items())
  def test_a_rule_sees_the_mask_and_its_own_layers_factors(self, way):
    model, stats, _ = _of_transformer(**way)
    numbers = _numbers(model.layers)
    for path, layer in model.layers.items():
      np.testing.assert_array_equal(
        stats[path]['number'], numbers[path]['number']
      )
      for at in np.ndindex(*layer.stack):
        mask = stats[path]['mask'][at]
        np.testing.assert_array_equal(mask, testing.batch().mask)

  @parameterized.parameters(('float32', 1e-5), ('bfloat16', 0.03))
  def test_statistics_are_float32_of_a_model_in(self, dtype, rtol):
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(6, 8, 20)).astype(dtype).astype(np.float64)
    batch = testing.batch()._replace(inputs=inputs)
    net = dict(name='mlp', widths=(30,), num_outputs=7)
    wide, params = testing.model_of(
      models.make(**net, dtype='float64'), batch.inputs
    )
    with jax.enable_x64(False):
      narrow, params32 = testing.model_of(
        models.make(**net, dtype=dtype), np.float32(batch.inputs)
      )
      stats, _ = _tap(narrow, params32, batch)
    self.assertEqual(
      {str(x.dtype) for x in jax.tree.leaves(stats)}, {'float32'}
    )
    gradients = testing.loop_gradients(wide, params, batch)
    for path, arrays in testing.explicit_arrays(wide, params, batch).items():
      found = stats[path]
      A, S = _sums(arrays, batch.mask)
      for key, x in {'A': A, 'S': S, 'g': gradients[path]}.items():
        testing.assert_near(self, found[key], x, rtol, f'{path} {key}')
      # Coarse as they may be, they are not added up in the model's dtype.
      a, ds = found['a'].astype(np.float64), found['ds'].astype(np.float64)
      A, S = _sums((a, ds), batch.mask)
      g = np.einsum('bti,bto->bio', a, ds)
      for key, x in {'A': A, 'S': S, 'g': g}.items():
        testing.assert_near(self, found[key], x, 1e-6, f'{path} {key}')

  def test_inputs_without_positions_are_sequences_of_one(self):
    rng = np.random.default_rng(0)
    net = models.make('mlp', widths=(4,), num_outputs=2, dtype='float64')
    batch = types.Batch(
      inputs=rng.normal(size=(5, 3)),
      targets=rng.normal(size=(5, 2)),
      mask=np.array([1.0, 1, 0, 1, 1]),
      ids=np.arange(5),
    )
    model, params = testing.model_of(net, batch.inputs, losses.squared_error)
    stats, _ = _tap(model, params, batch, positions=1)
    arrays = testing.explicit_arrays(model, params, batch)
    gradients = testing.loop_gradients(model, params, batch)
    for path, (a, ds) in arrays.items():
      found = stats[path]
      np.testing.assert_array_equal(found['mask'], batch.mask[:, None])
      testing.assert_near(self, found['a'], a[:, None])
      testing.assert_near(self, found['ds'], ds[:, None])
      testing.assert_near(self, found['g'], gradients[path])
      A, S = _sums((a[:, None], ds[:, None]), batch.mask[:, None])
      testing.assert_near(self, found['A'], A)
      testing.assert_near(self, found['S'], S)

  def test_dense_layers_over_several_axes_are_flattened(self):
    batch = _general_batch()
    model, params = testing.model_of(_General(), batch.inputs)
    sizes = {path: x[1:4] for path, x in model.layers.items()}
    wanted = {
      'heads': (5, 6, True),
      'joint': (6, 4, False),
      'out': (5, 3, True),
    }
    self.assertEqual(sizes, wanted)
    stats, _ = _tap(model, params, batch)
    for path, g in testing.loop_gradients(model, params, batch).items():
      testing.assert_near(self, stats[path]['g'], g, what=path)
      a, ds = stats[path]['a'], stats[path]['ds']
      testing.assert_near(self, np.einsum('bti,bto->bio', a, ds), g, what=path)

  def test_stacks_in_stacks_have_both_axes_in_front(self):
    batch = _general_batch()
    batch = batch._replace(inputs=batch.inputs.reshape(3, 4, 4))
    model, params = testing.model_of(_Grid(), batch.inputs)
    self.assertEqual(model.layers['rows/columns/cell'].stack, (3, 2))
    stats, _ = _tap(model, params, batch)
    found = _by_name(model, stats)
    for name, g in testing.loop_gradients(model, params, batch).items():
      testing.assert_near(self, found['g'][name], g, what=name)


class StackTest(absltest.TestCase):
  def test_a_function_of_one_layer_is_mapped_over_every_axis_of_its_stack(self):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(4, 3, 2, 2)), rng.normal(size=(4, 3, 2, 2))
    for stack, at in (((4, 3), ()), ((3,), (1,)), ((), (1, 2))):
      layer = types.Layer('', 2, 2, False, stack)
      got = taps.over_stack(layer, lambda x, y: x.T @ y)(x[at], y[at])
      testing.assert_near(self, got, x[at].mT @ y[at])

  def test_slots_have_their_stacks_axes_in_front(self):
    layers = {
      'one': types.Layer('one', 2, 3, False),
      'many': types.Layer('many', 4, 5, True, (6, 7)),
    }
    slots = taps.zeros(
      layers, lambda x: {'g': jnp.zeros((8, x.num_in, x.num_out), jnp.float32)}
    )
    shapes = {
      path: (x['g'].shape, str(x['g'].dtype)) for path, x in slots.items()
    }
    wanted = {
      'one': ((8, 2, 3), 'float32'),
      'many': ((6, 7, 8, 4, 5), 'float32'),
    }
    self.assertEqual(shapes, wanted)


class FindLayersTest(parameterized.TestCase):
  @parameterized.parameters('plain', 'remat')
  def test_layers_are_found_in_the_models_order(self, way):
    model, _ = testing.transformer(pattern='', **_WAYS[way])
    sizes = dict(q=(7, 6), k=(7, 6), v=(7, 6), o=(7, 6))
    sizes = {f'attn/{name}': size for name, size in sizes.items()}
    sizes |= {'mlp/fc_in': (7, 10), 'mlp/fc_out': (11, 6)}
    wanted = [
      (f'blocks_{i}/{name}', *size, True, ())
      for i in range(2)
      for name, size in sizes.items()
    ]
    wanted.append(('lm_head', 6, 7, False, ()))
    self.assertEqual([tuple(x) for x in model.layers.values()], wanted)
    self.assertEqual([*model.layers], [x.path for x in model.layers.values()])

  @parameterized.parameters('scan', 'scan_and_remat')
  def test_a_scanned_block_is_a_stack(self, way):
    model, _ = testing.transformer(pattern=r'mlp|head', **_WAYS[way])
    wanted = [
      ('blocks/mlp/fc_in', 7, 10, True, (2,)),
      ('blocks/mlp/fc_out', 11, 6, True, (2,)),
      ('lm_head', 6, 7, False, ()),
    ]
    self.assertEqual([tuple(x) for x in model.layers.values()], wanted)

  def test_what_the_pattern_does_not_match_is_left_out(self):
    model, params = testing.deep(scan=True)
    found = taps.find_layers(
      model.apply_fn, params, np.zeros((1, 2, 5)), '^l|blocks'
    )
    self.assertEqual([*found.layers], ['blocks/mix', 'last'])
    self.assertEqual(found.left_out, {'first': "does not match '^l|blocks'"})

  def test_shapes_are_as_good_as_arrays(self):
    model, params = testing.deep(scan=True)
    shapes = jax.eval_shape(lambda: params)
    inputs = jax.ShapeDtypeStruct((1, 2, 5), float)
    found = taps.find_layers(model.apply_fn, shapes, inputs, '')
    self.assertEqual(found.layers, model.layers)

  def test_no_match_names_the_layers_there_are(self):
    model, params = testing.deep()
    with self.assertRaisesRegex(
      ValueError, r"'/mlp/'.*first.*blocks_0/mix.*blocks_1/mix.*last"
    ):
      taps.find_layers(model.apply_fn, params, np.zeros((1, 2, 5)), '/mlp/')

  @parameterized.named_parameters(
    ('a_shared_module', 'Twice', 'shared'),
    ('a_scan_over_positions', 'Recurrent', 'time/cell'),
    ('a_scan_over_positions_in_a_stack', 'Stacked', 'blocks/time/cell'),
    ('a_vmap_over_heads', 'Heads', 'head'),
  )
  def test_a_layer_used_twice_is_left_out_with(self, net, path):
    inputs = jax.ShapeDtypeStruct((2, 4, 3), float)
    found = _find(_NETS[net], inputs)
    reason = 'used more than once in a forward pass'
    self.assertEqual(found.left_out, {path: reason})
    self.assertNotIn(path, found.layers)
    self.assertNotEmpty(found.layers)

  @parameterized.parameters('crossed', 'over_time', 'batched')
  def test_layers_over_other_axes_are_left_out(self, path):
    found = _find(_General(awkward=True), _general_batch().inputs)
    self.assertEqual([*found.layers], ['heads', 'joint', 'out'])
    self.assertEqual(
      found.left_out[path], 'its inputs are not the trailing axes'
    )

  def test_a_stack_along_another_axis_is_left_out(self):
    found = _find(_NETS['Lying'], jax.ShapeDtypeStruct((2, 4, 3), float))
    self.assertEqual(
      found.left_out,
      {'blocks/cell': 'stacked along another axis than the first'},
    )


class LayerStatsTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.net = nn.Sequential([nn.Dense(4), jnp.tanh, nn.Dense(2)])
    self.inputs = np.random.default_rng(0).normal(size=(3, 5, 2))
    self.model, self.params = testing.model_of(self.net, self.inputs)

  def squares(self, loss_fn, mask):
    """Squared gradients by taps: a rule that is not linear."""

    def rule(a_BxTxI, ds_BxTxO, mask_BxT, factors):
      return jnp.einsum('bti,bto->bio', a_BxTxI, ds_BxTxO) ** 2

    def init(layer):
      return jnp.zeros((3, layer.num_in, layer.num_out))

    return taps.layer_stats(
      lambda params: (loss_fn(params), None), self.params, self.model.layers,
      rule, taps.zeros(self.model.layers, init), {}, mask,
    )[0]  # fmt: skip

  def loss(self, params):
    return (self.net.apply({'params': params}, self.inputs) ** 2).sum()

  def run_squares(self, loss_fn):
    mask = np.ones((3, 5))
    return jax.jit(lambda mask: self.squares(loss_fn, mask))(mask)

  def test_a_jitted_model_is_refused_rather_than_taken_from_jits_cache(self):
    jitted = jax.jit(lambda params: self.loss(params))
    direct = self.run_squares(self.loss)
    first = self.run_squares(lambda params: jitted(params))  # traced within
    for path, x in direct.items():
      testing.assert_near(self, first[path], x)
    with self.assertRaisesRegex(
      ValueError, r"not reach \['layers_0', 'layers_2'\].*take any jax.jit out"
    ):
      self.run_squares(lambda params: jitted(params))

  @parameterized.parameters(
    ((3, 4),), ((2, 5),), ((2,),), ((3, 1),), ((3, 5, 2),)
  )
  def test_a_mask_of_another_shape_is_refused(self, shape):
    mask = np.ones(shape)
    with self.assertRaisesRegex(
      ValueError, r'layers_\d sees \[sequences, positions\] \(3, 5\), the mask'
    ):
      jax.eval_shape(lambda: self.squares(self.loss, mask))

  def test_a_row_that_counts_does_so_at_all_positions_of_a_layer(self):
    mask_B = np.array([1.0, 0, 1])

    def rule(a_BxTxI, ds_BxTxO, mask_BxT, factors):
      return {'mask': mask_BxT}

    found, _ = taps.layer_stats(
      lambda params: (self.loss(params), None), self.params, self.model.layers,
      rule, taps.zeros(
        self.model.layers, lambda layer: {'mask': jnp.zeros((3, 5))}
      ), {}, mask_B,
    )  # fmt: skip
    wanted = [[1] * 5, [0] * 5, [1] * 5]
    for path in self.model.layers:
      np.testing.assert_array_equal(found[path]['mask'], wanted)

  @parameterized.parameters(1, 2)
  def test_a_mask_is_that_of_the_positions_that_reach_an_expert(self, ndim):
    x = np.random.default_rng(0).normal(size=(3, 5, 2))
    model, params = testing.model_of(_Experts(), x)
    mask = np.array([1.0, 0, 1])
    if ndim == 2:
      mask = mask[:, None] * np.array([1.0, 1, 0, 1, 1])

    def rule(a_BxTxI, ds_BxTxO, mask_BxT, factors):
      return {'mask': mask_BxT}

    slots = taps.zeros(model.layers, lambda layer: {'mask': jnp.zeros((3, 5))})
    found, _ = taps.layer_stats(
      lambda params: (model.apply_fn(params, x).sum(), None),
      params, model.layers, rule, slots, {}, mask,
    )  # fmt: skip
    found = {path: x['mask'] for path, x in found.items()}
    counts = np.broadcast_to(mask.reshape(3, -1), (3, 5))
    reach = np.stack([x[..., 0] > 0, x[..., 0] <= 0])
    for path in ('experts/cell/in', 'experts/cell/out'):
      np.testing.assert_array_equal(found[path], reach * counts)
    for path in ('before', 'after'):
      np.testing.assert_array_equal(found[path], counts)

  def test_nothing_stays_tapped_after_a_tapped_call(self):
    jitted = jax.jit(lambda params: self.loss(params))
    # First traced with the taps on, with parameters that have none.
    both = self.run_squares(lambda p: self.loss(p) + jitted(self.params))
    for path, x in self.run_squares(self.loss).items():
      testing.assert_near(self, both[path], x)
    self.assertNotIn('_tap', str(jax.make_jaxpr(jitted)(self.params)))
    got = jax.jit(jax.grad(jitted))(self.params)
    wanted = jax.jit(jax.grad(lambda params: self.loss(params)))(self.params)
    jax.tree.map(functools.partial(testing.assert_near, self), got, wanted)


def _find(net, inputs):
  shapes = jax.eval_shape(net.init, jax.random.key(0), inputs)['params']
  return taps.find_layers(
    lambda params, x: net.apply({'params': params}, x), shapes, inputs, ''
  )


def _general_batch():
  rng = np.random.default_rng(0)
  return types.Batch(
    inputs=rng.normal(size=(3, 4, 2, 2)),
    targets=rng.integers(0, 3, (3, 4)),
    mask=np.array([[1.0, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 0]]),
    ids=np.arange(3),
  )


class _General(nn.Module):
  """Layers over several axes; the awkward ones keep the shape."""

  awkward: bool = False

  @nn.compact
  def __call__(self, x_BxTxHxI):
    general = functools.partial(nn.DenseGeneral, param_dtype=float)
    h = general((2, 3), axis=(-2, -1), name='heads')(x_BxTxHxI)
    if self.awkward:
      h = general((2, 3), axis=(-1, -2), name='crossed')(h)
      h = jnp.moveaxis(general(4, axis=1, name='over_time')(h), -1, 1)
      h = general(3, axis=-1, batch_dims=0, name='batched')(h)
    h = jnp.tanh(h)
    h = general(4, axis=(2, 3), use_bias=False, name='joint')(h)
    return general(3, name='out')(h)


class _Cell(nn.Module):
  @nn.compact
  def __call__(self, h, x=None):
    h = jnp.tanh(nn.Dense(h.shape[-1], name='cell', param_dtype=float)(h))
    return h, h


class _Columns(nn.Module):
  @nn.compact
  def __call__(self, h):
    return _scan(_Cell, 2)(name='columns')(h)[0], None


class _Grid(nn.Module):
  @nn.compact
  def __call__(self, h):
    return _scan(_Columns, 3)(name='rows')(h)[0]


class _Expert(nn.Module):
  @nn.compact
  def __call__(self, x, routed_BxT):
    return _Pair(name='cell')(x) * routed_BxT[..., None]


class _Pair(nn.Module):
  @nn.compact
  def __call__(self, x):
    return nn.Dense(2, name='out')(jnp.tanh(nn.Dense(3, name='in')(x)))


class _Experts(nn.Module):
  """Positions go to one of two experts, by the sign of their first input."""

  @nn.compact
  def __call__(self, x):
    h = nn.Dense(3, name='before')(x)
    routed = jnp.stack([x[..., 0] > 0, x[..., 0] <= 0])
    experts = nn.vmap(
      _Expert, {'params': 0}, split_rngs={'params': True}, in_axes=(None, 0)
    )
    y = experts(name='experts')(h, routed).sum(0)
    return nn.Dense(1, name='after')(y)


class _Twice(nn.Module):
  @nn.compact
  def __call__(self, x):
    shared = nn.Dense(3, name='shared')
    return nn.Dense(2, name='once')(shared(shared(x)))


class _Recurrent(nn.Module):
  @nn.compact
  def __call__(self, x):
    over_time = nn.scan(
      _Cell,
      variable_broadcast='params',
      split_rngs={'params': False},
      in_axes=1,
      out_axes=1,
    )
    _, h = over_time(name='time')(x[:, 0], x)
    return nn.Dense(3, name='once')(h)


class _RecurrentBlock(nn.Module):
  @nn.compact
  def __call__(self, x):
    return _Recurrent.__call__(self, x), None


class _Stacked(nn.Module):
  @nn.compact
  def __call__(self, x):
    return _scan(_RecurrentBlock, 2)(name='blocks')(x)[0]


class _Heads(nn.Module):
  @nn.compact
  def __call__(self, x):
    over_heads = nn.vmap(
      nn.Dense,
      {'params': None},
      split_rngs={'params': False},
      in_axes=-1,
      out_axes=-1,
    )
    return nn.Dense(2, name='once')(over_heads(3, name='head')(x[..., None]))


class _Lying(nn.Module):
  @nn.compact
  def __call__(self, x):
    x = nn.Dense(3, name='once')(x)
    return _scan(_Cell, 2, axis=1)(name='blocks')(x)[0]


def _scan(block, length, axis=0):
  return nn.scan(
    block, {'params': axis}, split_rngs={'params': True}, length=length
  )


_NETS = {
  'Twice': _Twice(),
  'Recurrent': _Recurrent(),
  'Stacked': _Stacked(),
  'Heads': _Heads(),
  'Lying': _Lying(),
}


if __name__ == '__main__':
  absltest.main()
