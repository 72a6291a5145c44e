import contextlib
import json
import pathlib
import shutil
import tempfile
from unittest import mock

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from absl.testing import absltest, parameterized

from experiments import common, corpus, train
from influence_jax import sharding, store, training, types
from influence_jax.data import sequences as sequences_lib
from influence_jax.data import tokenizer as tokenizer_lib

_WORDS = 'the influence of a row on what this model says is small'.split()


def _config(**changes):
  c = ml_collections.ConfigDict()
  c.data = dict(name='words', vocab_size=262)
  c.model = dict(
    name='transformer', vocab_size=262, width=8, mlp_width=8, num_heads=2,
    num_layers=1, max_len=16, dtype='float32', scan=False, remat=False,
  )  # fmt: skip
  c.train = dict(
    batch_tokens=128, num_epochs=6, learning_rate=0.05, warmup_steps=2,
    weight_decay=0.1, clip_norm=1.0, seed=0, save_every=3,
  )  # fmt: skip
  c.update_from_flattened_dict(changes)
  return c


def _make_corpus(directory):
  rng = np.random.default_rng(0)
  documents = [
    {'id': n, 'text': ' '.join(rng.choice(_WORDS, 12)), 'title': str(n)}
    for n in range(12)
  ]
  tokenizer = tokenizer_lib.train((d['text'] for d in documents), 262)
  sequences = sequences_lib.build(
    documents, tokenizer, 16, directory, buckets=(8,)
  )
  return corpus.Corpus(
    sequences, tokenizer, documents.__getitem__, None, documents
  )


def _same_bits(a, b):
  bits = [store.fingerprint({'tree': tree}) for tree in (a, b)]
  return bits[0] == bits[1]


class _Bigram(nn.Module):
  """The next token from the last one alone: a model that compiles quickly."""

  @nn.compact
  def __call__(self, tokens_BxT):
    h_BxTxD = nn.Embed(262, 4, name='tok_emb')(tokens_BxT)
    return nn.Dense(262, name='lm_head')(h_BxTxD)


class _Stopped(Exception):
  pass


class TrainTest(parameterized.TestCase):
  """experiments.train, from a config to a workdir, on a corpus of 12 lines."""

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.root = pathlib.Path(
      cls.enterClassContext(tempfile.TemporaryDirectory())
    )
    cls.corpus = _make_corpus(cls.root / 'sequences')
    one_device = sharding.make_mesh(data=1)
    for where, name, what in (
      (corpus, 'load', cls.corpus),
      (sharding, 'make_mesh', one_device),
    ):
      cls.enterClassContext(mock.patch.object(where, name, return_value=what))
    _, cls.params = train.run(_config(), cls.root / 'whole', quiet=True)

  def setUp(self):
    super().setUp()
    self.dir = pathlib.Path(tempfile.mkdtemp(dir=self.root))

  def run_in(self, name, stop_after=None, **changes):
    """Runs in a workdir; is killed after `stop_after` steps were logged."""
    common_open_log = common.open_log

    def open_log(path, step):
      log = common_open_log(path, step)

      def log_or_stop(record):
        log(record)
        if record['step'] == stop_after:
          raise _Stopped

      return log_or_stop

    stops = contextlib.suppress(_Stopped)
    with mock.patch.object(common, 'open_log', open_log), stops:
      return train.run(_config(**changes), self.dir / name, quiet=True)

  def records(self, workdir):
    lines = (workdir / 'metrics.jsonl').read_text().splitlines()
    return [json.loads(line) for line in lines]

  @parameterized.parameters(1, 5, 11, 20)  # epochs of 6, saved every 3 steps
  def test_a_run_that_was_stopped_ends_in_the_same_bits(self, stop_after):
    self.assertIsNone(self.run_in('a', stop_after=stop_after))
    _, params = self.run_in('a')
    self.assertTrue(_same_bits(self.params, params))
    whole = store.load(self.root / 'whole' / 'train')
    parts = store.load(self.dir / 'a' / 'train')
    self.assertEqual(whole.step, parts.step)
    self.assertTrue(_same_bits(whole.tree, parts.tree))  # the optimizer's too
    for ours, theirs in zip(
      self.records(self.root / 'whole'),
      self.records(self.dir / 'a'),
      strict=True,
    ):
      del ours['seconds'], theirs['seconds']
      self.assertEqual(ours, theirs)

  def test_it_learns_and_writes_down_how(self):
    records = self.records(self.root / 'whole')
    steps = [record['step'] for record in records]
    self.assertEqual(steps, list(range(1, len(records) + 1)))
    losses = [record['loss'] for record in records]
    self.assertBetween(losses[0], 0.7 * np.log(262), 1.5 * np.log(262))
    self.assertLess(np.mean(losses[-4:]), 0.7 * losses[0])
    lr = [record['lr'] for record in records]
    np.testing.assert_allclose(lr[:3], [0.025, 0.0375, 0.05], rtol=1e-6)
    self.assertTrue((np.diff(lr[2:]) < 0).all())
    for record in records:
      self.assertGreater(min(record['seconds'], record['grad_norm']), 0)

  def test_every_token_is_seen_once_an_epoch(self):
    records = self.records(self.root / 'whole')
    size = len(records) // _config().train.num_epochs
    sequences = self.corpus.sequences
    wanted = sum(len(sequences.row(n)) - 1 for n in range(len(sequences)))
    for first in range(0, len(records), size):
      epoch = records[first : first + size]
      self.assertEqual(sum(r['tokens'] for r in epoch), wanted)

  def test_the_checkpoint_says_where_it_comes_from(self):
    meta = store.load(self.root / 'whole' / 'train').meta
    self.assertEqual(meta['kind'], 'train')
    self.assertEqual(meta['config']['model']['width'], 8)
    self.assertEqual(set(meta['config']), {'data', 'model', 'train'})
    self.assertEqual(meta['data'], self.corpus.sequences.fingerprint)
    self.assertEqual(meta['commit'], common.commit())
    written = store.read_json(self.root / 'whole' / 'config.json')
    self.assertEqual(written, json.loads(json.dumps(_config().to_dict())))

  def test_a_finished_run_returns_without_a_step(self):
    shutil.copytree(self.root / 'whole', self.dir / 'a')
    with mock.patch.object(training, 'train') as no_train:
      _, params = self.run_in('a')
    no_train.assert_not_called()
    self.assertTrue(_same_bits(self.params, params))
    self.assertEqual(
      self.records(self.dir / 'a'), self.records(self.root / 'whole')
    )

  @parameterized.parameters('model.width', 'train.seed', 'data.vocab_size')
  def test_a_workdir_of_another_config_is_refused_and_left_alone(self, key):
    shutil.copytree(self.root / 'whole', self.dir / 'a')
    config = (self.dir / 'a' / 'config.json').read_text()
    value = {'model.width': 16, 'train.seed': 1, 'data.vocab_size': 300}[key]
    with self.assertRaisesRegex(
      ValueError, f'config.{key} is .* there, {value}'
    ):
      self.run_in('a', **{key: value})
    self.assertEqual((self.dir / 'a' / 'config.json').read_text(), config)

  def test_a_workdir_of_other_data_is_refused(self):
    shutil.copytree(self.root / 'whole', self.dir / 'a')
    info = {**self.corpus.sequences.info, 'fingerprint': 'other'}
    other = sequences_lib.Sequences(
      self.corpus.sequences.tokens, self.corpus.sequences.records, info
    )
    other = self.corpus._replace(sequences=other)
    with (
      mock.patch.object(corpus, 'load', return_value=other),
      self.assertRaisesRegex(ValueError, "data is .* there, 'other' here"),
    ):
      self.run_in('a')

  def test_a_loss_that_is_not_finite_stops_the_run_and_is_not_saved(self):
    num_calls = 0
    make_step = training.make_step

    def make_broken_step(*args):
      step_fn = make_step(*args)

      def broken_fn(state, batch):
        nonlocal num_calls
        num_calls += 1
        state, metrics = step_fn(state, batch)
        if num_calls == 6:  # the parameters of a step that is to be saved
          metrics['grad_norm'] = jnp.inf
          self.ids = [n for n in np.asarray(batch.ids).tolist() if n >= 0]
        return state, metrics

      return broken_fn

    with (
      mock.patch.object(training, 'make_step', make_broken_step),
      self.assertRaisesRegex(ValueError, r'step 6: loss .* inf') as caught,
    ):
      self.run_in('a')
    self.assertIn(f'on sequences {self.ids};', str(caught.exception))
    self.assertEqual(store.load(self.dir / 'a' / 'train').step, 3)
    self.assertEqual(self.records(self.dir / 'a')[-1]['step'], 5)

  def test_a_vocabulary_that_is_too_small_is_refused(self):
    with self.assertRaisesRegex(ValueError, 'vocab'):
      self.run_in('a', **{'model.vocab_size': 100})

  @parameterized.parameters(
    ('train', 'leraning_rate', "config.train.*'leraning_rate'.*'clip_norm'"),
    ('model', 'widht', "config.model.*'widht'.*'mlp_width'"),
  )
  def test_a_misspelt_key_is_named_with_section_and_keys(self, section, key, m):
    config = _config()
    config[section][key] = 1
    with self.assertRaisesRegex(ValueError, m):
      train.run(config, self.dir)

  def test_a_missing_or_senseless_value_is_named(self):
    with self.assertRaisesRegex(ValueError, 'config.train: save_every is 0'):
      self.run_in('a', **{'train.save_every': 0})
    with self.assertRaisesRegex(ValueError, 'warmup_steps is 999, expected'):
      self.run_in('a', **{'train.warmup_steps': 999})
    config = _config()
    del config.train.seed
    with self.assertRaisesRegex(ValueError, "config.train: missing.*'seed'"):
      train.run(config, self.dir)


class StepTest(parameterized.TestCase):
  def step(self, batch, num_devices=1, **changes):
    config = training.TrainConfig(**_config(**changes).train)
    model = _Bigram()
    schedule = training.make_schedule(config, 10)
    optimizer = training.make_optimizer(config, schedule)
    state = training.start(model, optimizer, jax.random.key(0))
    before = jax.tree.map(np.asarray, state)
    mesh = sharding.make_mesh(data=num_devices)
    state = sharding.replicate(mesh, jax.tree.map(jnp.array, before))
    step_fn = training.make_step(model, optimizer, schedule)
    after, metrics = step_fn(state, sharding.shard_batch(mesh, batch))
    return before, jax.tree.map(np.asarray, after), metrics

  def assert_same_gradient(self, a, b):
    jax.tree.map(
      lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-8),
      _mu(a.opt_state),
      _mu(b.opt_state),
    )

  def batch(self, num_rows=8):
    tokens = np.random.default_rng(0).integers(0, 262, (num_rows, 9))
    mask = np.arange(8)[None] < np.array([8, 3, 5, 1, 8, 8, 2, 8])[:, None]
    return types.Batch(
      tokens[:, :-1],
      tokens[:, 1:],
      mask.astype(np.float32),
      np.arange(num_rows),
    )

  def test_padding_changes_neither_loss_nor_step(self):
    batch = self.batch()
    wide = types.Batch(
      *(np.pad(x, ((0, 2), (0, 4))) for x in batch[:3]),
      ids=np.pad(batch.ids, (0, 2), constant_values=-1),
    )
    _, a, metrics = self.step(batch)
    _, b, wide_metrics = self.step(wide)
    np.testing.assert_allclose(metrics['loss'], wide_metrics['loss'], rtol=1e-6)
    self.assertEqual(metrics['tokens'], wide_metrics['tokens'])
    self.assertEqual(metrics['tokens'], 43)
    self.assert_same_gradient(a, b)

  def test_eight_devices_take_the_step_of_one(self):
    _, one, _ = self.step(self.batch())
    _, eight, _ = self.step(self.batch(), num_devices=8)
    self.assert_same_gradient(one, eight)

  def test_weight_decay_works_on_kernels_alone(self):
    _, plain, _ = self.step(self.batch(), **{'train.weight_decay': 0.0})
    before, decayed, _ = self.step(self.batch(), **{'train.weight_decay': 0.5})
    lr = 0.025  # of the first of two warm-up steps

    def check(path, start, a, b):
      decay = lr * 0.5 * start if path[-1].key == 'kernel' else 0 * start
      np.testing.assert_allclose(a - b, decay, atol=5e-7)  # a, b near 1

    jax.tree_util.tree_map_with_path(
      check, before.params, plain.params, decayed.params
    )
    kernel = before.params['lm_head']['kernel']
    self.assertGreater(np.abs(lr * 0.5 * kernel).max(), 1e-3)

  def test_the_gradient_is_clipped_and_its_norm_told_before(self):
    _, free, metrics = self.step(self.batch(), **{'train.clip_norm': 1e9})
    _, held, same = self.step(self.batch(), **{'train.clip_norm': 1e-3})
    self.assertEqual(metrics['grad_norm'], same['grad_norm'])
    mu_free, mu_held = (
      np.sqrt(sum((x**2).sum() for x in jax.tree.leaves(_mu(s.opt_state))))
      for s in (free, held)
    )
    np.testing.assert_allclose(mu_free, 0.1 * metrics['grad_norm'], rtol=1e-4)
    np.testing.assert_allclose(mu_held, 0.1 * 1e-3, rtol=1e-4)


def _mu(opt_state):
  """The first moment of Adam: 0.1 times the gradient after the first step."""
  return opt_state[1][0].mu


class MeshTest(absltest.TestCase):
  def test_it_has_all_devices_and_the_two_axes(self):
    mesh = sharding.make_mesh()
    self.assertEqual(dict(mesh.shape), {'data': 8, 'model': 1})
    self.assertEqual(
      dict(sharding.make_mesh(model=2).shape), {'data': 4, 'model': 2}
    )
    self.assertEqual(sharding.make_mesh(data=1).devices.size, 1)

  def test_a_mesh_of_more_devices_than_there_are_is_refused(self):
    for sizes in ({'data': 9}, {'data': 3, 'model': 3}, {'model': 9}):
      with self.assertRaisesRegex(ValueError, 'but 8 are there'):
        sharding.make_mesh(**sizes)

  def test_rows_are_split_and_filled_up_and_other_trees_copied(self):
    mesh = sharding.make_mesh(data=4, model=2)
    x = np.arange(21.0).reshape(7, 3)
    split = sharding.shard_batch(mesh, types.Batch(x, x, x, np.arange(7)))
    self.assertEqual(split.mask.addressable_shards[0].data.shape, (2, 3))
    np.testing.assert_array_equal(split.mask, [*x, [0, 0, 0]])
    np.testing.assert_array_equal(split.ids, [*range(7), -1])
    copies = sharding.replicate(mesh, x).addressable_shards
    self.assertEqual([c.data.shape for c in copies], [(7, 3)] * 8)


class CommonTest(absltest.TestCase):
  def test_the_log_drops_later_steps_and_a_line_that_was_cut(self):
    path = pathlib.Path(tempfile.mkdtemp()) / 'metrics.jsonl'
    self.addCleanup(shutil.rmtree, path.parent)
    path.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"st')
    common.open_log(path, 2)({'step': 3, 'loss': 0.5})
    self.assertEqual(
      path.read_text(), '{"step": 1}\n{"step": 2}\n{"step": 3, "loss": 0.5}\n'
    )


if __name__ == '__main__':
  absltest.main()
