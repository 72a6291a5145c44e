"""experiments.influence on a tiny checkpoint: one command, from end to end."""

import json
import pathlib
import shutil
import subprocess
import sys
import tempfile

import jax
import numpy as np
import safetensors.numpy
import tokenizers
from absl.testing import absltest
from flax import traverse_util
from tokenizers import models, pre_tokenizers

from configs import influence as influence_config
from experiments import influence, plan, score, top_table, trained
from influence_jax import fit, pretrained, score_store, store
from influence_jax.models import decoder

_ROOT = pathlib.Path(__file__).parents[1]
WORDS = ['<|endoftext|>', '[UNK]', 'a', 'ask', 'answer']
WORDS += [f'w{i}' for i in range(61 - len(WORDS))]  # the vocab_size is 61
_MAX_LEN = 16


def write_checkpoint(folder, words=WORDS, **more):
  """The Llama of tests/families with a tokenizer of `words`."""
  shutil.copytree(_ROOT / 'tests' / 'families' / 'llama', folder)
  vocabulary = {word: i for i, word in enumerate(words)}
  tokenizer = tokenizers.Tokenizer(models.WordLevel(vocabulary, '[UNK]'))
  tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
  tokenizer.add_special_tokens(['<|endoftext|>'])
  tokenizer.save(str(folder / 'tokenizer.json'))
  fields = {
    'chat_template': '{% for m in messages %}ask {{ m.content }}{% endfor %} '
    'answer'
  }
  (folder / 'tokenizer_config.json').write_text(json.dumps(fields | more))
  return folder


def make_config(root, folder):
  c = influence_config.get_config()
  c.checkpoint.path = str(folder)
  c.data.update(data_dir=str(root / 'index'), max_len=_MAX_LEN, buckets=())
  c.data.source.pattern = str(root / '*.jsonl')
  c.fit.batch_tokens = 256
  c.perplexity.num_sequences = 1000  # all
  c.score.update(
    queries=str(root / 'queries' / 'q.jsonl'), batch_tokens=256, rank=None,
    query_batch=3, chunk=16, refine=0, num_top=2,
  )  # fmt: skip
  return c


def write_lines(path, records):
  path.parent.mkdir(exist_ok=True)
  path.write_text(''.join(f'{json.dumps(record)}\n' for record in records))


class InfluenceBinaryTest(absltest.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.root = pathlib.Path(
      cls.enterClassContext(tempfile.TemporaryDirectory())
    )
    draw = np.random.default_rng(0)
    cls.texts = [
      ' '.join(draw.choice(WORDS[2:], draw.integers(2, _MAX_LEN)))
      for _ in range(37)
    ]
    records = [{'text': text} for text in cls.texts]
    write_lines(cls.root / 'a.jsonl', records[:20])
    write_lines(cls.root / 'b.jsonl', records[20:])
    cls.queries = [
      {'id': 'x', 'prompt': 'w1 w2', 'completion': 'w3 w4'},
      {'id': 'y', 'prompt': '', 'completion': 'w5 w6 w7'},
      {
        'id': 'z',
        'messages': [{'role': 'user', 'content': 'w8'}],
        'completion': 'w9',
      },
    ]
    write_lines(cls.root / 'queries' / 'q.jsonl', cls.queries)
    cls.folder = write_checkpoint(cls.root / 'llama')
    cls.config = make_config(cls.root, cls.folder)
    cls.whole = cls.root / 'whole'
    influence.run(cls.config, cls.whole)

  def copy(self) -> pathlib.Path:
    """A workdir with all that the whole run left."""
    path = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    return shutil.copytree(self.whole, path / 'workdir')

  def scores(self, workdir: pathlib.Path) -> np.ndarray:
    return score_store.open(workdir / 'scores' / 'scores.zarr').read()

  def gradients(self, rows, num_before):
    """{path: [rows, I, O]} of log p of what comes after, by plain autodiff."""
    config, params = pretrained.load(self.folder)  # its blocks unrolled
    net = decoder.Decoder(config)
    flat = traverse_util.flatten_dict(params, sep='/')
    chosen = {path: x for path, x in flat.items() if '/mlp/' in path}

    def log_p(chosen, row, weight):
      tree = traverse_util.unflatten_dict({**flat, **chosen}, sep='/')
      logits_TxV = net.apply({'params': tree}, row[None, :-1])[0]
      log_p_TxV = jax.nn.log_softmax(logits_TxV)
      return (log_p_TxV[np.arange(_MAX_LEN), row[1:]] * weight).sum()

    weights = np.zeros((len(rows), _MAX_LEN), np.float32)
    padded = np.zeros((len(rows), _MAX_LEN + 1), np.int32)
    for i, (row, before) in enumerate(zip(rows, num_before, strict=True)):
      padded[i, : len(row)] = row
      weights[i, before - 1 : len(row) - 1] = 1
    found = jax.jit(jax.vmap(jax.grad(log_p), (None, 0, 0)))(
      chosen, padded, weights
    )
    return {
      path.removesuffix('/kernel'): np.asarray(x, np.float64)
      for path, x in found.items()
    }

  def test_scores_are_those_of_plain_gradients_and_the_factors(self):
    number = {word: i for i, word in enumerate(WORDS)}
    rows = [[0, *map(number.get, text.split()), 0] for text in self.texts]
    before = [['w1', 'w2'], [], ['ask', 'w8', 'answer']]
    after = [query['completion'].split() for query in self.queries]
    asked = [
      [0, *map(number.get, [*first, *last])]
      for first, last in zip(before, after, strict=True)
    ]
    num_before = [1 + len(first) for first in before] + [1] * len(rows)
    gradients = self.gradients([*asked, *rows], num_before)
    factors = store.load(self.whole / 'factors').tree['factors']
    expected_KxN = 0
    for path, g_xIxO in gradients.items():
      g_KxIxO, g_NxIxO = np.split(g_xIxO, [len(asked)])
      block, rest = path.split('/', 1)
      one = {
        key: np.asarray(x[int(block[-1])], np.float64)
        for key, x in factors[f'blocks/{rest}'].items()
      }
      Lambda_IxO = one['Lambda']
      g_KxIxO = one['Q_A'].T @ g_KxIxO @ one['Q_S']
      g_KxIxO /= Lambda_IxO + 0.1 * Lambda_IxO.mean()
      g_KxIxO = one['Q_A'] @ g_KxIxO @ one['Q_S'].T
      expected_KxN += np.einsum('kio,nio->kn', g_KxIxO, g_NxIxO)
    self.assertLen(gradients, 6)
    scores_KxN = self.scores(self.whole)
    self.assertEqual(scores_KxN.shape, (3, 37))
    np.testing.assert_allclose(
      scores_KxN, expected_KxN, rtol=1e-4, atol=1e-5 * abs(expected_KxN).max()
    )

  def test_perplexity_is_that_of_all_tokens_after_the_first(self):
    config, params = pretrained.load(self.folder)
    number = {word: i for i, word in enumerate(WORDS)}
    padded = np.zeros((37, _MAX_LEN + 1), np.int32)
    real = np.zeros((37, _MAX_LEN), bool)
    for i, words in enumerate(map(str.split, self.texts)):
      padded[i, 1 : len(words) + 1] = [number[word] for word in words]
      real[i, : len(words) + 1] = True  # the border that ends it, too
    net = decoder.Decoder(config)
    logits_NxTxV = jax.jit(net.apply)({'params': params}, padded[:, :-1])
    log_p_NxTxV = jax.nn.log_softmax(logits_NxTxV)
    log_p_NxT = np.take_along_axis(log_p_NxTxV, padded[:, 1:, None], 2)[..., 0]
    nats = -log_p_NxT[real]
    found = store.read_json(self.whole / 'perplexity.json')
    self.assertEqual(found['sequences'], 37)
    self.assertAlmostEqual(found['nats'], np.mean(nats), places=4)
    self.assertAlmostEqual(found['perplexity'], np.exp(np.mean(nats)), places=2)

  def test_it_leaves_a_plan_and_a_report_but_no_copy_of_the_weights(self):
    stages = [
      x['stage'] for x in store.read_json(self.whole / 'plan.json')['stages']
    ]
    self.assertEqual(stages[0], 'covariance')
    self.assertContainsSubset(['solve', 'scan', 'refine'], stages)
    rows, layers = top_table.read(self.whole / 'scores' / 'top.parquet')
    self.assertLen(layers, 6)
    best = max(rows, key=lambda row: row['score'])
    self.assertEqual(best['text'], self.texts[best['sequence']])
    self.assertRegex(best['title'], r'^[ab].jsonl:\d+$')
    self.assertIn(best['title'], (self.whole / 'report.html').read_text())
    self.assertFalse((self.whole / 'train').exists())

  def test_messages_are_written_by_the_checkpoints_template_if_any(self):
    kept = store.read_json(self.whole / 'scores' / 'queries.json')
    self.assertEqual(kept[2]['prompt'], 'ask w8 answer')
    folder = write_checkpoint(self.root / 'plain', chat_template=None)
    read = trained.read_queries(make_config(self.root, folder))
    self.assertEqual(read[2].prompt, 'Human: w8\n\nAssistant:')
    (folder / 'chat_template.jinja').write_text('{{ messages[0].content }}?')
    read = trained.read_queries(make_config(self.root, folder))
    self.assertEqual(read[2].prompt, 'w8?')

  def test_the_same_command_again_computes_nothing(self):
    workdir = self.copy()

    def fail(*args, **kwargs):
      raise AssertionError('computed again')

    for module, name in ((plan, 'predicted'), (fit, 'fit'), (score, 'scan')):
      self.enterContext(absltest.mock.patch.object(module, name, fail))
    influence.run(self.config, workdir)
    np.testing.assert_array_equal(self.scores(workdir), self.scores(self.whole))

  def test_another_checkpoint_in_the_same_workdir_is_refused(self):
    moved = shutil.copytree(self.folder, self.root / 'moved')
    path = moved / 'config.json'
    path.write_text(path.read_text().replace('0.03', '0.02'))
    other = shutil.copytree(self.folder, self.root / 'other')
    path = other / 'model-00003-of-00004.safetensors'
    tensors = safetensors.numpy.load_file(path)
    next(x for x in tensors.values() if x.ndim == 2)[3, 5] += 1e-3
    safetensors.numpy.save_file(tensors, path)
    words = [*WORDS[:-2], *WORDS[:-3:-1]]
    renamed = write_checkpoint(self.root / 'renamed', words=words)
    for folder, message in (
      (moved, 'factors is of another run: params'),
      (other, 'factors is of another run: params'),
      (renamed, 'tokenizer.json is another tokenizer'),
    ):
      config = make_config(self.root, folder)
      with (
        self.subTest(folder.name),
        self.assertRaisesRegex(ValueError, message),
      ):
        influence.run(config, self.copy())

  def test_the_checkpoint_computes_in_float64_as_well(self):
    ours = trained.load(self.config, self.whole)
    tokens_1xT = np.arange(_MAX_LEN)[None]
    logits_1xTxV = ours.model.apply_fn(ours.params, tokens_1xT)
    with jax.enable_x64(True):
      model = trained.with_dtype(self.config, ours.model, 'float64')
      params = jax.tree.map(lambda x: np.asarray(x, np.float64), ours.params)
      wide_1xTxV = model.apply_fn(params, tokens_1xT)
    self.assertEqual(wide_1xTxV.dtype, np.float64)
    np.testing.assert_allclose(wide_1xTxV, logits_1xTxV, atol=1e-4)

  def test_the_command_needs_no_config(self):
    done = subprocess.run(
      [
        sys.executable, '-m', 'experiments.influence', '--corpus=/nowhere/*',
        f'--checkpoint={self.folder}', f'--queries={self.config.score.queries}',
        f'--workdir={self.root / "command"}', '--config.data.max_len=16',
      ],
      cwd=_ROOT, capture_output=True, text=True,
    )  # fmt: skip
    self.assertEqual(done.returncode, 1)
    self.assertIn("ValueError: no files match '/nowhere/*'", done.stderr)


if __name__ == '__main__':
  absltest.main()
