import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest

from influence_jax.data import bert

V, D, F, H, L = 13, 6, 10, 2, 2
POSITIONS = 73
EPSILON = 0.3


@functools.cache
def tensors():
  """Random weights, {name: float32}, by the names that BERTs are kept under."""
  rng = np.random.default_rng(0)
  found = {'embeddings.position_ids': np.arange(POSITIONS)[None]}

  def add(name, *shape):
    found[name] = rng.normal(size=shape).astype(np.float32)

  for name, num in (
    ('word', V), ('position', POSITIONS), ('token_type', 2)
  ):  # fmt: skip
    add(f'embeddings.{name}_embeddings.weight', num, D)
  norms, dense = ['embeddings.LayerNorm'], {'pooler.dense': (D, D)}
  for i in range(L):
    x = f'encoder.layer.{i}'
    norms += [f'{x}.attention.output.LayerNorm', f'{x}.output.LayerNorm']
    for part in ('query', 'key', 'value'):
      dense[f'{x}.attention.self.{part}'] = (D, D)
    dense[f'{x}.attention.output.dense'] = (D, D)
    dense[f'{x}.intermediate.dense'] = (F, D)
    dense[f'{x}.output.dense'] = (D, F)
  for name, shape in {**dense, **{name: (D,) for name in norms}}.items():
    add(f'{name}.weight', *shape)
    add(f'{name}.bias', shape[0])
  return found


def expected(tokens):
  """A text's row, [D] float64: one text, one head and one token at a time."""
  w = {name: np.float64(x) for name, x in tensors().items()}

  def norm(name, x):
    x = (x - np.mean(x)) / math.sqrt(np.var(x) + EPSILON)
    return w[f'{name}.weight'] * x + w[f'{name}.bias']

  def dense(name, x):
    return w[f'{name}.weight'].dot(x) + w[f'{name}.bias']

  def gelu(x):
    return np.array([u * (1 + math.erf(u / math.sqrt(2))) / 2 for u in x])

  def attend(name, h):
    q, k, v = (
      np.array([dense(f'{name}.self.{it}', x) for x in h])
      for it in ('query', 'key', 'value')
    )
    out = np.zeros_like(q)
    for head in range(H):
      cols = slice(head * D // H, (head + 1) * D // H)
      for t in range(len(h)):
        p = np.exp([q[t, cols] @ key / math.sqrt(D // H) for key in k[:, cols]])
        out[t, cols] = p / p.sum() @ v[:, cols]
    return [dense(f'{name}.output.dense', x) for x in out]

  table = 'embeddings.{}_embeddings.weight'.format
  h = [
    norm(
      'embeddings.LayerNorm',
      w[table('word')][token]
      + w[table('position')][t]
      + w[table('token_type')][0],
    )
    for t, token in enumerate(tokens)
  ]
  for i in range(L):
    x = f'encoder.layer.{i}'
    y = attend(f'{x}.attention', h)
    h = [
      norm(f'{x}.attention.output.LayerNorm', a + b)
      for a, b in zip(h, y, strict=True)
    ]
    y = [
      dense(f'{x}.output.dense', gelu(dense(f'{x}.intermediate.dense', a)))
      for a in h
    ]
    h = [
      norm(f'{x}.output.LayerNorm', a + b) for a, b in zip(h, y, strict=True)
    ]
  mean = np.mean(h, axis=0)
  return mean / math.sqrt(mean @ mean)


def config():
  """That of `tensors`."""
  return bert.Config(
    vocab_size=V,
    width=D,
    mlp_width=F,
    num_heads=H,
    num_layers=L,
    num_positions=POSITIONS,
    num_types=2,
    epsilon=EPSILON,
    max_len=70,
  )


class BertTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    self.enter_context(jax.enable_x64(True))
    self.params = {
      name: jnp.asarray(tensors()[name], float)
      for name in bert.shapes(config())
    }

  def encode(self, rows, num_positions, padding=0):
    tokens_BxT = np.full((len(rows), num_positions), padding)
    mask_BxT = np.zeros(tokens_BxT.shape, bool)
    for b, row in enumerate(rows):
      tokens_BxT[b, : len(row)] = row
      mask_BxT[b, : len(row)] = True
    return bert.encode(config(), self.params, tokens_BxT, mask_BxT)

  def test_rows_are_exactly_those_written_out_one_token_at_a_time(self):
    rows = [1, 4, 6, 11, 5, 2], [1, 2], [1, 12, 12, 2]
    found_BxD = self.encode(rows, 8)
    self.assertEqual(found_BxD.dtype, jnp.float64)
    expected_BxD = [expected(row) for row in rows]
    np.testing.assert_allclose(found_BxD, expected_BxD, rtol=1e-9)

  def test_padding_changes_nothing(self):
    rows = [1, 4, 6, 2], [1, 2]
    tight_BxD = self.encode(rows, 4)
    for num_positions, padding in ((4, 7), (9, 0), (POSITIONS, 12)):
      loose_BxD = self.encode(rows, num_positions, padding)
      np.testing.assert_allclose(loose_BxD, tight_BxD, rtol=1e-9)

  def test_shapes_are_of_all_the_weights_that_make_a_row(self):
    unused = ('pooler.', 'embeddings.position_ids')
    used = {
      name: x.shape
      for name, x in tensors().items()
      if not name.startswith(unused)
    }
    self.assertEqual(bert.shapes(config()), used)


if __name__ == '__main__':
  absltest.main()
