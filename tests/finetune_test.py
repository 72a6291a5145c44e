"""experiments.finetune on the Llama of tests/families, LoRA and in full."""

import contextlib
import json
import pathlib
import shutil
import tempfile
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import tokenizers
from absl.testing import absltest, parameterized
from flax import traverse_util
from tokenizers import models, pre_tokenizers

from configs import finetune as finetune_config
from experiments import common, finetune, finetuned, trained
from influence_jax import pretrained, sharding, store, training, types
from influence_jax.data import sequences as sequences_lib
from influence_jax.models import decoder, lora

_FAMILIES = pathlib.Path(__file__).parent / 'families'
_WORDS = ['<|endoftext|>', '[UNK]', *(f'w{i}' for i in range(59))]
_LAYERS = r'attn/[qv]$|mlp/'


def make_checkpoint(folder):
  shutil.copytree(_FAMILIES / 'llama', folder)
  vocabulary = {word: i for i, word in enumerate(_WORDS)}
  tokenizer = tokenizers.Tokenizer(models.WordLevel(vocabulary, '[UNK]'))
  tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
  tokenizer.add_special_tokens(['<|endoftext|>'])
  tokenizer.save(str(folder / 'tokenizer.json'))
  (folder / 'tokenizer_config.json').write_text('{}')


def write_corpus(path):
  """40 documents that count up from a word drawn, 5 to 15 words of 20."""
  rng = np.random.default_rng(0)
  with path.open('w') as file:
    for first, size in zip(
      rng.integers(0, 20, 40), rng.integers(5, 16, 40), strict=True
    ):
      words = [f'w{(first + i) % 20}' for i in range(size)]
      file.write(json.dumps({'text': ' '.join(words)}) + '\n')


def _same_bits(a, b):
  return store.fingerprint({'tree': a}) == store.fingerprint({'tree': b})


class _Stopped(Exception):
  pass


class FinetuneTest(parameterized.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.root = pathlib.Path(
      cls.enterClassContext(tempfile.TemporaryDirectory())
    )
    cls.folder = cls.root / 'llama'
    make_checkpoint(cls.folder)
    write_corpus(cls.root / 'corpus.jsonl')
    one_device = sharding.make_mesh(data=1)
    cls.enterClassContext(
      mock.patch.object(sharding, 'make_mesh', return_value=one_device)
    )
    cls.whole = cls.root / 'whole'
    cls.base = trained.load(finetuned.base(cls.config()), cls.whole)
    cls.enterClassContext(
      mock.patch.object(trained, 'load', return_value=cls.base)
    )
    base_net = trained.network(finetuned.base(cls.config()))
    cls.net = finetuned.network(cls.config(), base_net)
    finetune.run(cls.config(), cls.whole, quiet=True)

  @classmethod
  def config(cls, **changes):
    c = finetune_config.get_config()
    c.checkpoint.path = str(cls.folder)
    c.data.update(data_dir=str(cls.root / 'index'), max_len=16, buckets=())
    c.data.source.pattern = str(cls.root / 'corpus.jsonl')
    c.finetune.update(
      rank=4, alpha=8.0, layers=_LAYERS, held_out=0.2, batch_tokens=128,
      num_epochs=5, learning_rate=0.02, warmup_steps=2, save_every=8,
    )  # fmt: skip
    c.update_from_flattened_dict(changes)
    return c

  def setUp(self):
    super().setUp()
    self.dir = pathlib.Path(tempfile.mkdtemp(dir=self.root))

  def copy(self):
    return shutil.copytree(self.whole, self.dir / 'copy')

  def load(self, config, workdir, base=None):
    base = base or self.base
    return finetuned.load(config, workdir, base.params, base.params_fingerprint)

  def records(self, workdir):
    lines = (workdir / 'metrics.jsonl').read_text().splitlines()
    return [json.loads(line) for line in lines]

  def loss(self, net, params, sequences):
    """Nats a token, row by row and token by token."""
    apply_fn = jax.jit(net.apply)
    total = num = 0
    for n in sequences:
      row = self.base.corpus.sequences.row(n)
      padded = np.zeros((1, 16), np.int32)
      padded[0, : len(row) - 1] = row[:-1]
      logits = np.asarray(apply_fn({'params': params}, padded)[0], np.float64)
      for t in range(len(row) - 1):
        log_z = np.log(np.exp(logits[t]).sum())
        total += log_z - logits[t, row[t + 1]]
        num += 1
    return total / num

  def test_the_held_out_loss_falls_and_is_that_of_the_definition(self):
    told = store.read_json(self.whole / 'finetune.json')['held_out']
    self.assertLess(told['after'], told['before'] - 0.5)
    sequences = self.base.corpus.sequences
    _, held = finetune.split(sequences, 0.2, 0)
    self.assertEqual(told['sequences'], len(held))
    plain_config, plain = pretrained.load(self.folder)  # its blocks unrolled
    before = self.loss(decoder.Decoder(plain_config), plain, held)
    np.testing.assert_allclose(told['before'], before, rtol=1e-5)
    config = self.config()
    params, _ = self.load(config, self.whole)
    after = self.loss(self.net, params, held)
    np.testing.assert_allclose(told['after'], after, rtol=1e-5)

  def test_every_token_that_is_not_held_out_is_seen_once_an_epoch(self):
    sequences = self.base.corpus.sequences
    rows, held = finetune.split(sequences, 0.2, 0)
    self.assertLen(held, 8)
    np.testing.assert_array_equal(
      np.sort(np.concatenate([rows, held])), np.arange(len(sequences))
    )
    wanted = sum(len(sequences.row(n)) - 1 for n in rows)
    records = self.records(self.whole)
    size = len(records) // 5
    for first in range(0, len(records), size):
      epoch = records[first : first + size]
      self.assertEqual(sum(r['tokens'] for r in epoch), wanted)
    specs = finetune.plan(sequences, rows, self.config().finetune, 1)
    np.testing.assert_array_equal(
      np.sort(np.concatenate([spec.rows for spec in specs])), rows
    )

  def test_a_document_is_held_out_whole_and_one_at_least(self):
    records = np.zeros(12, sequences_lib.RECORD)
    records['document'] = [3, 3, 5, 5, 5, 8, 8, 9, 9, 9, 3, 5]
    sequences = sequences_lib.Sequences(None, records, {})
    for share, num in ((0.01, 1), (0.5, 2), (0.7, 3)):
      rows, held = finetune.split(sequences, share, 0)
      theirs = set(records['document'][held])
      self.assertLen(theirs, num)
      self.assertEmpty(theirs & set(records['document'][rows]))
      self.assertLen({*rows, *held}, 12)
    with self.assertRaisesRegex(ValueError, 'num_train is 0'):
      finetune.split(sequences, 0.99, 0)

  def test_what_is_kept_is_a_and_b_and_their_optimizer_alone(self):
    tree = store.load(self.whole / 'finetune').tree
    flat = traverse_util.flatten_dict(tree, sep='/')
    names = {path for path in flat if path.startswith('params/')}
    adapted = ['attn/q', 'attn/v', 'mlp/gate', 'mlp/up', 'mlp/down']
    self.assertEqual(
      names,
      {f'params/blocks/{x}/lora_{y}/kernel' for x in adapted for y in 'ab'},
    )
    size = sum(x.size for path, x in flat.items() if path in names)
    moments = sum(x.size for x in flat.values() if np.ndim(x))
    self.assertEqual(moments, 3 * size)
    told = store.read_json(self.whole / 'finetune.json')['parameters']
    self.assertEqual(told, size)

  def test_frozen_parameters_stay_and_all_a_and_b_move(self):
    params, _ = self.load(self.config(), self.whole)
    flat = traverse_util.flatten_dict(params, sep='/')
    base = traverse_util.flatten_dict(self.base.params, sep='/')
    self.assertContainsSubset(base, flat)
    for path, x in base.items():
      np.testing.assert_array_equal(flat[path], x, path)
    for path in flat.keys() - base.keys():
      if path.endswith('lora_b/kernel'):
        self.assertTrue((np.abs(flat[path]).max((1, 2)) > 0).all(), path)
    fresh = finetune.Tuned(self.net, {}).init(
      jax.random.key(0), np.zeros((1, 1), np.int32)
    )['params']
    for path, x in traverse_util.flatten_dict(fresh, sep='/').items():
      self.assertGreater(np.abs(flat[path] - x).max(), 1e-3, path)

  def test_no_gradient_of_frozen_weights_is_formed(self):
    hparams = finetuned.hparams(self.config())
    schedule = training.make_schedule(hparams, 20)
    optimizer = training.make_optimizer(hparams, schedule)
    tuned = finetune.Tuned(self.net, self.base.params)
    state = jax.eval_shape(
      lambda: training.start(tuned, optimizer, jax.random.key(0))
    )
    step_fn = finetune.make_step(
      tuned, optimizer, schedule, self.config(), sharding.make_mesh()
    )
    shape = jax.ShapeDtypeStruct((4, 16), np.int32)
    batch = types.Batch(shape, shape, shape, jax.ShapeDtypeStruct((4,), int))
    text = str(jax.make_jaxpr(step_fn)(state, batch))
    # No equation makes what is of the shape of the embedding, or of the head.
    self.assertNotRegex(text, r':f32\[(61,16|16,61)\] =')

  @parameterized.parameters(3, 13)  # of 20 steps, saved every 8
  def test_a_run_that_was_stopped_ends_in_the_same_bits(self, stop_after):
    common_open_log = common.open_log

    def open_log(path, step):
      log = common_open_log(path, step)

      def log_or_stop(record):
        log(record)
        if record['step'] == stop_after:
          raise _Stopped

      return log_or_stop

    workdir = self.dir / 'a'
    with mock.patch.object(common, 'open_log', open_log):
      with self.assertRaises(_Stopped):
        finetune.run(self.config(), workdir, quiet=True)
    with contextlib.suppress(ValueError):
      self.load(self.config(), workdir)
      self.fail('it was read unfinished')
    finetune.run(self.config(), workdir, quiet=True)
    whole, parts = (store.load(x / 'finetune') for x in (self.whole, workdir))
    self.assertEqual(whole.step, parts.step)
    self.assertTrue(_same_bits(whole.tree, parts.tree))
    self.assertEqual(
      store.read_json(self.whole / 'finetune.json')['held_out'],
      store.read_json(workdir / 'finetune.json')['held_out'],
    )

  def test_a_finished_run_returns_without_a_step(self):
    with mock.patch.object(training, 'train') as no_train:
      finetune.run(self.config(), self.copy(), quiet=True)
    no_train.assert_not_called()

  def test_all_parameters_are_fine_tuned_in_full(self):
    changes = {'finetune.method': 'full', 'finetune.num_epochs': 2}
    config, workdir = self.config(**changes), self.dir / 'full'
    given_away = jax.tree.map(jnp.array, self.base.params)
    base = self.base._replace(params=given_away)
    with mock.patch.object(trained, 'load', return_value=base):
      finetune.run(config, workdir, quiet=True)
    told = store.read_json(workdir / 'finetune.json')
    losses = told['held_out']
    self.assertLess(losses['after'], losses['before'] - 0.3)
    params, _ = self.load(config, workdir)
    flat = traverse_util.flatten_dict(params, sep='/')
    base = traverse_util.flatten_dict(self.base.params, sep='/')
    self.assertEqual(flat.keys(), base.keys())
    self.assertEqual(told['parameters'], sum(x.size for x in base.values()))
    for path, x in base.items():
      self.assertGreater(np.abs(flat[path] - x).max(), 1e-4, path)

  def test_another_checkpoint_or_config_is_refused(self):
    def moved(path, x):
      last = jax.tree_util.keystr(path).endswith("['lm_head']['kernel']")
      return x.at[3, 5].add(1e-3) if last else x

    params = jax.tree_util.tree_map_with_path(moved, self.base.params)
    other = self.base._replace(
      params=params, params_fingerprint=store.fingerprint(params)
    )
    with self.assertRaisesRegex(ValueError, 'another run: checkpoint is'):
      self.load(self.config(), self.whole, other)
    with mock.patch.object(trained, 'load', return_value=other):
      with self.assertRaisesRegex(ValueError, 'another run: checkpoint is'):
        finetune.run(self.config(), self.copy(), quiet=True)
    for key, value in (
      ('finetune.alpha', 4.0),
      ('finetune.rank', 5),
      ('finetune.held_out', 0.1),
      ('checkpoint.scan', False),
    ):
      with self.assertRaisesRegex(
        ValueError, f'config.{key} is .*{value} here'
      ):
        self.load(self.config(**{key: value}), self.whole)

  def test_its_fingerprint_is_of_checkpoint_alpha_and_numbers(self):
    config, workdir = self.config(), self.copy()
    _, ours = self.load(config, workdir)
    self.assertEqual(ours, self.load(config, self.whole)[1])
    found = store.load(workdir / 'finetune')
    halves = jax.tree.map(lambda x: x / 2, found.tree['params'])
    tree = {**found.tree, 'params': halves}
    store.save(workdir / 'finetune', found.step, tree, found.meta)
    self.assertNotEqual(ours, self.load(config, workdir)[1])
    config = self.config(**{'finetune.alpha': 4.0})
    meta = finetuned.meta(config, self.base.params_fingerprint)
    meta = {**found.meta, **meta}
    store.save(workdir / 'finetune', found.step, found.tree, meta)
    self.assertNotEqual(ours, self.load(config, workdir)[1])

  @parameterized.parameters(
    ({'finetune.method': 'qlora'}, "finetune: method is 'qlora'; there are"),
    ({'finetune.rank': 0}, 'rank is 0, expected at least 1'),
    ({'finetune.held_out': 0.0}, 'held_out is 0.0, expected'),
    ({'finetune.layers': 'mpl'}, "layers is 'mpl', .* 'blocks/mlp/gate'"),
    ({'finetune.warmup_steps': 99}, 'warmup_steps is 99, expected fewer'),
    ({'data.source.pattern': '/nowhere/*'}, 'no files match'),
  )
  def test_what_is_wrong_is_said(self, change, message):
    with self.assertRaisesRegex(ValueError, message):
      finetune.run(self.config(**change), self.dir / 'a', quiet=True)
    self.assertFalse((self.dir / 'a' / 'config.json').exists())

  def test_without_the_section_the_network_is_the_checkpoints(self):
    config = finetuned.base(self.config())
    net = trained.network(config)
    self.assertIs(finetuned.network(config, net), net)
    full = self.config(**{'finetune.method': 'full'})
    self.assertIsNone(finetuned.network(full, net).config.lora)
    wanted = lora.Lora(4, 8.0, _LAYERS)
    found = finetuned.network(self.config(), net).config.lora
    self.assertEqual(found, wanted)


if __name__ == '__main__':
  absltest.main()
