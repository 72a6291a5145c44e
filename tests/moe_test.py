import functools
import pathlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import testing
from absl.testing import absltest, parameterized

from influence_jax import gradients, pretrained, taps, types
from influence_jax.curvature import ekfac
from influence_jax.models import decoder, moe, rope, transformer

_FOLDER = pathlib.Path(__file__).parent / 'families'
_E, _k = 5, 2  # which are all used
_SIZES = dict(
  vocab_size=7, width=6, mlp_width=5, num_heads=2, num_kv_heads=1, head_dim=4,
  num_layers=2, max_len=8, rope=rope.Rope(100.0, 4), dtype='float64',
  mlp_bias=True,
)  # fmt: skip
_EXPERTS = dict(num_experts=_E, num_routed=_k)
_PROJECTIONS = ('gate', 'up', 'down')
_TOKENS = jax.ShapeDtypeStruct((2, 8), jnp.int32)


def setUpModule():
  jax.config.update('jax_enable_x64', True)


def tearDownModule():
  jax.config.update('jax_enable_x64', False)


class _Net(nn.Module):
  """Two blocks of experts and nothing else: a decoder takes long to compile."""

  scan: bool
  norm_routed: bool

  @nn.compact
  def __call__(self, tokens_BxT):
    h_BxTxD = nn.Embed(7, 6, param_dtype=float)(tokens_BxT)
    if self.scan:
      block = nn.scan(
        nn.remat(_Block, prevent_cse=False),
        {'params': 0},
        split_rngs={'params': True},
        length=2,
      )
      h_BxTxD, _ = block(self.norm_routed, name='blocks')(h_BxTxD)
    else:
      for i in range(2):
        h_BxTxD, _ = _Block(self.norm_routed, name=f'blocks_{i}')(h_BxTxD)
    return nn.Dense(7, param_dtype=float)(h_BxTxD)


class _Block(nn.Module):
  norm_routed: bool

  @nn.compact
  def __call__(self, h_BxTxD):
    ways = dict(_EXPERTS, norm_routed=self.norm_routed)
    c = decoder.DecoderConfig(**_SIZES, **ways)
    return h_BxTxD + moe.Moe(c, _dense, decoder.Mlp, name='mlp')(h_BxTxD), None


def _dense(config, width, name, bias):
  return nn.Dense(width, bias, name=name, param_dtype=float)


@functools.cache
def _model(norm_routed=True, scan=False):
  """The model and parameters, the same numbers stacked or not."""
  model, params = testing.model_of(
    _Net(False, norm_routed), _TOKENS, pattern='/mlp/'
  )
  if not scan:
    return model, params
  params = transformer.stack_params(params)
  net = _Net(True, norm_routed)

  def apply_fn(params, inputs):
    return net.apply({'params': params}, inputs)

  found = taps.find_layers(apply_fn, params, _TOKENS, '/mlp/')
  return types.Model(apply_fn, model.loss, found.layers), params


@functools.cache
def _fitted():
  """EK-FAC's factors of the stack, from two batches."""
  batch = testing.batch()
  halves = [testing.rows(batch, at) for at in (slice(0, 3), slice(3, 6))]
  state = testing.fitted(ekfac.make(), *_model(scan=True), halves)
  return jax.device_get(state.factors)


class RoutingTest(absltest.TestCase):
  def test_padding_behind_a_sequence_does_not_change_its_logits(self):
    config, params = pretrained.load(_FOLDER / 'olmoe')
    with np.load(_FOLDER / 'olmoe' / 'expected.npz') as file:
      tokens, wanted = file['tokens'], file['logits']
    seen = np.arange(tokens.shape[1]) < np.array([20, 13])[:, None]
    padded = np.where(seen, tokens, 0)
    got = jax.jit(decoder.Decoder(config).apply)({'params': params}, padded)
    error = np.abs(np.asarray(got) - wanted)
    self.assertLess(error[seen].max(), 1e-4)
    self.assertGreater(error[~seen].max(), 0.1)

  def test_one_expert_is_the_dense_model(self):
    sizes = {**_SIZES, 'num_layers': 1}
    model, dense = testing.model_of(decoder.make(**sizes), _TOKENS)
    net = decoder.make(**sizes, num_experts=1, num_routed=1)
    block = dense['blocks_0']
    experts = jax.tree.map(lambda x: x[None], block['mlp'])
    mlp = {'router': {'kernel': jnp.ones((6, 1))}, 'experts': experts}
    params = {**dense, 'blocks_0': {**block, 'mlp': mlp}}
    tokens = testing.batch().inputs
    wanted = jax.jit(model.apply_fn)(dense, tokens)
    got = jax.jit(net.apply)({'params': params}, tokens)
    testing.assert_near(self, got, wanted, rtol=1e-12)


class TapsTest(parameterized.TestCase):
  @parameterized.parameters(
    (True, ['blocks'], (2, _E)), (False, ['blocks_0', 'blocks_1'], (_E,))
  )
  def test_experts_are_a_stack(self, scan, blocks, stack):
    net = decoder.make(**_SIZES, **_EXPERTS, scan=scan, remat=scan)
    model, _ = testing.model_of(net, _TOKENS, pattern='/mlp/')
    sizes = dict(gate=(7, 5), up=(7, 5), down=(6, 6))
    wanted = []
    for block in blocks:
      wanted.append((f'{block}/mlp/router', 6, _E, False, stack[:-1]))
      for name, size in sizes.items():
        wanted.append((f'{block}/mlp/experts/{name}', *size, True, stack))
    self.assertEqual([tuple(x) for x in model.layers.values()], wanted)

  @parameterized.parameters((True, True), (False, False))
  def test_gradients_by_taps_are_those_of_autodiff(self, *ways):
    model, params = _model(*ways)
    got, plain = jax.jit(
      lambda params, batch: (
        gradients.layer_gradients(model, params, batch),
        gradients.sequence_gradients(model, params, batch, '/mlp/'),
      )
    )(params, testing.batch())
    for path, layer in model.layers.items():
      wanted = plain[f'{path}/kernel']
      if layer.has_bias:
        bias = plain[f'{path}/bias'][..., None, :]
        wanted = np.concatenate([wanted, bias], -2)
      wanted = np.moveaxis(wanted, 0, len(layer.stack))
      self.assertTrue(np.abs(wanted).max((-1, -2, -3)).all(), path)
      testing.assert_near(self, got[path], wanted, what=path)


def _silu(x):
  return x / (1 + np.exp(-x))


def _silu_slope(x):
  return (1 + x / (1 + np.exp(x))) / (1 + np.exp(-x))


def _ends(model, params, batch):
  """{block: (x_BxTxD, dy_BxTxD)}: inputs of its MLP, gradient of outputs."""

  def forward(bumps):
    noted = {}

    def note(call, args, kwargs, context):
      y = call(*args, **kwargs)
      block, *rest = context.module.path or [None]
      if rest != ['mlp']:
        return y
      noted[block] = args[0]
      return y + bumps[block]

    with nn.intercept_methods(note):
      outputs = model.apply_fn(params, batch.inputs)
    loss_B = model.loss.per_sequence(outputs, batch.targets, batch.mask)
    return loss_B.sum(), noted

  zero = jnp.zeros((*batch.mask.shape, 6))
  bumps = {'blocks_0': zero, 'blocks_1': zero}
  dy, x = jax.device_get(jax.jit(jax.grad(forward, has_aux=True))(bumps))
  return {block: (x[block], dy[block]) for block in bumps}


def _routed_tokens(mlp, x_BxTxD, dy_BxTxD, mask_BxT):
  """{(projection, e): [(n, a, ds), ...]}, one routed token after another.

  By hand: the router, the experts and their backward pass for one token.
  """
  mlp = jax.device_get(mlp)
  found = {(name, e): [] for name in _PROJECTIONS for e in range(_E)}
  for n, t in np.argwhere(mask_BxT):
    x_D, dy_D = x_BxTxD[n, t], dy_BxTxD[n, t]
    score_E = np.exp(x_D @ mlp['router']['kernel'])
    chosen = np.argsort(-score_E)[:_k]
    for e in chosen:
      one = jax.tree.map(lambda x, e=e: x[e], mlp['experts'])
      gate_F, up_F = (
        x_D @ one[name]['kernel'] + one[name]['bias'] for name in ('gate', 'up')
      )
      ds_D = score_E[e] / score_E[chosen].sum() * dy_D
      dh_F = one['down']['kernel'] @ ds_D
      found['gate', e].append((n, x_D, dh_F * up_F * _silu_slope(gate_F)))
      found['up', e].append((n, x_D, dh_F * _silu(gate_F)))
      found['down', e].append((n, _silu(gate_F) * up_F, ds_D))
  return found


class CurvatureTest(absltest.TestCase):
  def test_factors_are_means_over_routed_tokens(self):
    model, params = _model()
    batch = testing.batch()
    counts = set()
    for block, ends in _ends(model, params, batch).items():
      tokens = _routed_tokens(params[block]['mlp'], *ends, batch.mask)
      for (name, e), found in tokens.items():
        factors = _fitted()[f'blocks/mlp/experts/{name}']
        of = {key: x[int(block[-1]), e] for key, x in factors.items()}
        n, a, ds = (np.array(x) for x in zip(*found, strict=True))
        a = np.pad(a, [(0, 0), (0, 1)], constant_values=1)
        self.assertAlmostEqual(of['T_mean'] * 6, len(found), places=9)
        for key, x in (('A', a), ('S', ds)):
          Q, L = of[f'Q_{key}'], of[f'L_{key}']
          testing.assert_near(self, Q * L @ Q.T, x.T @ x / len(x), what=key)
        g = np.zeros((6, a.shape[1], ds.shape[1]))
        np.add.at(g, n, a[:, :, None] * ds[:, None])
        rotated = of['Q_A'].T @ g @ of['Q_S']
        testing.assert_near(self, of['Lambda'], (rotated**2).mean(0))
        counts.add(len(found))
    self.assertGreater(len(counts), 2)

  def test_the_eigenvalues_of_ekfac_are_the_diagonal_of_an_experts_block(self):
    model, params = _model(scan=True)
    loops = testing.loop_gradients(model, params, testing.batch())
    for name, of in _by_name(model, _fitted()).items():
      g_BxN = loops[name].reshape(6, -1)
      G_NxN = g_BxN.T @ g_BxN / 6
      Q_NxN = np.kron(of['Q_A'], of['Q_S'])
      wanted = np.diag(Q_NxN.T @ G_NxN @ Q_NxN).reshape(of['Lambda'].shape)
      testing.assert_near(self, of['Lambda'], wanted, what=name)

  def test_the_router_sees_every_token_and_the_experts_k_times_as_many(self):
    model, _ = _model(scan=True)
    positions = testing.batch().mask.sum() / 6
    for path in model.layers:
      T_mean_2 = _fitted()[path]['T_mean'].reshape(2, -1).sum(-1)
      times = _k if '/experts/' in path else 1
      np.testing.assert_allclose(T_mean_2, times * positions)


def _by_name(model, factors):
  """{name: factors} of one slice of a stack, named as in `loop_gradients`."""
  return {
    path + ''.join(f'[{i}]' for i in at): {
      key: x[at] for key, x in factors[path].items()
    }
    for path, layer in model.layers.items()
    for at in np.ndindex(*layer.stack)
  }


if __name__ == '__main__':
  absltest.main()
