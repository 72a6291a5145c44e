"""G against dense matrices of jacobians, and against what makes it a Fisher."""

import functools

import exact_ggn
import jax
import jax.numpy as jnp
import numpy as np
import testing
from absl.testing import absltest, parameterized
from jax.sharding import NamedSharding, PartitionSpec

from influence_jax import curvature, ggn, losses

_CASES = exact_ggn.CASES


def setUpModule():
  jax.config.update('jax_enable_x64', True)
  jax.config.update('jax_disable_most_optimizations', True)  # compiles sooner


def tearDownModule():
  jax.config.update('jax_disable_most_optimizations', False)
  jax.config.update('jax_enable_x64', False)


@functools.cache
def _oracle(case):
  model, params, batches = exact_ggn.case(case)
  return exact_ggn.matrix(model, params, exact_ggn.joined(batches))


def _basis(model, num_parameters):
  return exact_ggn.vectors(model.layers, np.eye(num_parameters))


@functools.cache
def _run(case):
  """(params, batches, K vectors) -> all that ggn makes of them, jitted once."""
  model = exact_ggn.case(case)[0]

  @jax.jit
  def run(params, batches, vectors_K):
    first = jax.tree.map(lambda x: x[0], batches)

    @jax.vmap
    def of(vector):
      return {
        'mean_product': ggn.mean_product(model, params, batches, vector),
        'product': ggn.product(model, params, first, vector),
        'along': ggn.along(model, params, first, vector),
      }

    found = of(vectors_K)
    found['dense'] = ggn.dense(model, params, batches)
    found['root_rows'] = ggn.root_rows(model, params, batches)
    found['count'] = ggn.count(batches)
    return found

  return run


@functools.cache
def _found(case):
  model, params, batches = exact_ggn.case(case)
  basis = _basis(model, len(_oracle(case)))
  return jax.device_get(_run(case)(params, ggn.stack(batches), basis))


class DenseTest(parameterized.TestCase):
  @parameterized.parameters(_CASES)
  def test_the_mean_product_of_every_basis_vector_is_a_column(self, case):
    got = exact_ggn.raveled(_found(case)['mean_product'])
    testing.assert_near(self, got, _oracle(case))

  @parameterized.parameters(_CASES)
  def test_a_product_is_the_sum_over_its_batch(self, case):
    model, params, batches = exact_ggn.case(case)
    wanted = len(batches[0].mask) * exact_ggn.matrix(model, params, batches[0])
    got = exact_ggn.raveled(_found(case)['product'])
    testing.assert_near(self, got, wanted)
    testing.assert_near(self, _found(case)['along'], np.diag(wanted))

  @parameterized.parameters(_CASES)
  def test_the_dense_matrix_is_that_of_jacobians(self, case):
    testing.assert_near(self, _found(case)['dense'], _oracle(case))

  @parameterized.parameters(_CASES)
  def test_rows_are_a_root_of_it_one_for_each_output(self, case):
    model, _, batches = exact_ggn.case(case)
    num_outputs = {'squared': 2, 'bernoulli': 2}.get(case, 5 * 3)
    rows = _found(case)['root_rows']
    for path, layer in model.layers.items():
      shape = (12 * num_outputs, *layer.stack, layer.num_in, layer.num_out)
      self.assertEqual(rows[path].shape, shape)
    rows_RxP = exact_ggn.raveled(rows)
    testing.assert_near(self, rows_RxP.T @ rows_RxP, _oracle(case))
    mask = np.concatenate([x.mask.ravel() for x in batches])
    by_position = rows_RxP.reshape(len(mask), -1)
    self.assertFalse(by_position[mask == 0].any())
    self.assertTrue(by_position[mask == 1].any(1).all())

  @parameterized.parameters(_CASES)
  def test_a_blank_row_is_not_counted(self, case):
    self.assertEqual(_found(case)['count'], 11)

  @parameterized.parameters(_CASES)
  def test_along_any_vectors_is_their_quadratic_form(self, case):
    model, params, batches = exact_ggn.case(case)
    X_KxP = np.random.default_rng(0).normal(size=(2, len(_oracle(case))))
    vectors = exact_ggn.vectors(model.layers, X_KxP)

    @jax.jit
    @jax.vmap
    def run(vector):
      total = ggn.over_batches(
        lambda batch: ggn.along(model, params, batch, vector),
        ggn.stack(batches),
      )
      return total, ggn.mean_product(model, params, ggn.stack(batches), vector)

    along, pushed = run(vectors)
    wanted = np.einsum('kp,pq,kq->k', X_KxP, _oracle(case), X_KxP)
    testing.assert_near(self, along, 11 * wanted)
    testing.assert_near(self, exact_ggn.raveled(pushed), X_KxP @ _oracle(case))


class InvarianceTest(parameterized.TestCase):
  @parameterized.parameters('scan', 'squared')
  def test_padding_does_not_matter(self, case):
    """Other noise in padded positions and in the blank row."""
    model, params, batches = exact_ggn.case(case)
    noisy = []
    for batch in batches:
      noise = testing.deep_batch(4, seed=9) if case == 'scan' else None
      noise = noise or exact_ggn.features(9)
      at = batch.mask == 0
      inputs, targets = np.copy(batch.inputs), np.copy(batch.targets)
      inputs[at], targets[at] = 7 * noise.inputs[at], noise.targets[at]
      noisy.append(batch._replace(inputs=inputs, targets=targets))
    # A masked position of a prompt is read by later ones: it stays.
    if case == 'scan':
      noisy[0].inputs[0, 0] = batches[0].inputs[0, 0]
    self.assertTrue((noisy[1].inputs != batches[1].inputs).any())
    basis = _basis(model, len(_oracle(case)))
    found = _run(case)(params, ggn.stack(noisy), basis)
    testing.assert_near(self, found['dense'], _oracle(case))
    got = exact_ggn.raveled(found['mean_product'])
    testing.assert_near(self, got, _oracle(case))

  @parameterized.parameters('scan', 'bernoulli')
  def test_rows_may_be_split_over_devices(self, case):
    model, params, batches = exact_ggn.case(case)
    split = NamedSharding(testing.mesh(2), PartitionSpec(None, 'data'))
    batches = jax.device_put(ggn.stack(batches), split)
    self.assertLen(batches.inputs.addressable_shards, 2)
    basis = _basis(model, len(_oracle(case)))
    found = _run(case)(params, batches, basis)
    self.assertEqual(found['count'], 11)
    testing.assert_near(self, found['dense'], _oracle(case))
    got = exact_ggn.raveled(found['mean_product'])
    testing.assert_near(self, got, _oracle(case))

  def test_scan_and_unrolled_are_one_matrix(self):
    """The order of the parameters differs: 'blocks/mix' is before 'first'."""
    spectra = [np.linalg.eigvalsh(_found(c)['dense']) for c in _CASES[:2]]
    testing.assert_near(self, *spectra)

  def test_of_some_layers_it_is_their_block(self):
    model, params, batches = exact_ggn.case('scan')
    layers = {path: model.layers[path] for path in ('first', 'last')}
    some = model._replace(layers=layers)
    dense = functools.partial(ggn.dense, some)
    got = jax.jit(dense)(params, ggn.stack(batches))
    inside = slice(2 * 5 * 4, None)  # after 'blocks/mix'
    testing.assert_near(self, got, _oracle('scan')[inside, inside])


class FisherTest(parameterized.TestCase):
  @parameterized.parameters('softmax', 'squared', 'bernoulli')
  def test_pseudo_gradients_tend_to_it_as_one_over_root_n(self, case):
    """U3: 16 times as many samples are four times as near."""
    model, params, batches = exact_ggn.case(case)
    batch = batches[0]
    J_NxYxP, _ = exact_ggn.jacobians(model, params, batch)
    exact = exact_ggn.matrix(model, params, batch)
    outputs = jax.jit(model.apply_fn)(params, batch.inputs)

    parts, num = 64, 256  # drawn 64 times, 256 for each sequence
    fisher_Cx = np.zeros((parts, *exact.shape))
    for n, J_YxP in enumerate(J_NxYxP):
      r_SxY = _pseudo_gradients(
        model.loss, parts * num, jax.random.key(n), outputs[n], batch.mask[n]
      )
      r_CxSxY = np.asarray(r_SxY).reshape(parts, num, -1)
      H_CxYxY = r_CxSxY.mT @ r_CxSxY / num
      fisher_Cx += J_YxP.T @ H_CxYxY @ J_YxP / len(J_NxYxP)

    def error(together):
      """Of means over so many draws, root mean square."""
      mean = fisher_Cx.reshape(-1, together, *exact.shape).mean(1)
      distance = np.linalg.norm(mean - exact, axis=(1, 2))
      return np.sqrt(np.mean(distance**2))

    few, many = error(1), error(16)
    self.assertBetween(few / many, 3, 5.5)
    self.assertLess(many, 0.1 * np.linalg.norm(exact))

  def test_ekfac_is_nearer_each_block_than_kfac_however_scaled(self):
    """U4, of targets that the model draws, the same for both."""
    model, params, batches = exact_ggn.case('scan')
    state = testing.fitted(
      curvature.make('ekfac'), model, params, batches, targets='model'
    )
    # fit draws the eigenvalues' targets by the key of its second stage
    rng = jax.random.fold_in(jax.random.key(0), 1)
    batch = exact_ggn.joined(batches)
    outputs = jax.jit(model.apply_fn)(params, batch.inputs)
    drawn = model.loss.sample(rng, outputs, batch.ids)
    batch = batch._replace(targets=np.asarray(drawn))
    counts = batch.mask.any(1)
    for path, layer in model.layers.items():
      for at in np.ndindex(*layer.stack):
        factors = jax.tree.map(
          lambda x, at=at: np.asarray(x)[at], state.factors[path]
        )
        name = path + ''.join(f'[{i}]' for i in at)
        g = testing.loop_gradients(model, params, batch)[name][counts]
        g_NxP = g.reshape(len(g), -1)
        exact = g_NxP.T @ g_NxP / len(g_NxP)
        Q = np.kron(factors['Q_A'], factors['Q_S'])
        ekfac = Q * factors['Lambda'].ravel() @ Q.T
        kfac = Q * np.kron(factors['L_A'], factors['L_S']) @ Q.T
        best = np.vdot(exact, kfac) / np.vdot(kfac, kfac)
        error = np.linalg.norm(exact - ekfac)
        self.assertLess(error, np.linalg.norm(exact - best * kfac), name)
        # nothing on the diagonal is left, so no other diagonal is nearer
        left = np.diag(Q.T @ (exact - ekfac) @ Q)
        self.assertLess(np.abs(left).max(), 1e-9 * np.abs(exact).max(), name)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _pseudo_gradients(loss: losses.Loss, num: int, rng, outputs, mask):
  """[num, Y]: gradients of the loss by the outputs, targets drawn anew each."""
  many = jnp.broadcast_to(outputs, (num, *outputs.shape))
  masks = jnp.broadcast_to(mask, (num, *mask.shape))
  targets = loss.sample(rng, many, jnp.arange(num))

  def total(outputs):
    return loss.per_sequence(outputs, targets, masks).sum()

  return jax.grad(total)(many).reshape(num, -1)


class StackTest(absltest.TestCase):
  def test_batches_are_stacked_and_run_one_after_another(self):
    batches = exact_ggn.case('squared')[2]
    stacked = ggn.stack(batches)
    self.assertEqual(stacked.inputs.shape, (3, 4, 4))
    np.testing.assert_array_equal(stacked.ids[2], batches[2].ids)
    total = ggn.over_batches(
      lambda batch: {'sum': batch.inputs.sum(), 'rows': batch.inputs}, stacked
    )
    inputs = np.stack([x.inputs for x in batches])
    np.testing.assert_allclose(total['sum'], inputs.sum(), rtol=1e-12)
    np.testing.assert_allclose(total['rows'], inputs.sum(0), rtol=1e-12)

  def test_count_takes_any_weight_for_a_sequence(self):
    batches = exact_ggn.case('scan')[2]
    stacked = ggn.stack(batches)
    halves = stacked._replace(mask=0.5 * stacked.mask)
    self.assertEqual(ggn.count(halves), 11)


if __name__ == '__main__':
  absltest.main()
