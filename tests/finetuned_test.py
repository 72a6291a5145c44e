"""Influence over what experiments.finetune trained: A and B of LoRA."""

import json
import pathlib
import tempfile

import finetune_test
import jax
import numpy as np
from absl.testing import absltest

from configs import finetune as finetune_config
from experiments import finetune, fit_curvature, score, trained
from influence_jax import gradients, score_store, store
from influence_jax.data import batches as batches_lib

_LAYERS = r'/lora_[ab]$'


class FinetunedTest(absltest.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    root = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory()))
    finetune_test.make_checkpoint(root / 'llama')
    finetune_test.write_corpus(root / 'corpus.jsonl')
    cls.config = finetune_config.get_config()
    cls.config.checkpoint.path = str(root / 'llama')
    cls.config.data.source.pattern = str(root / 'corpus.jsonl')
    index = str(root / 'index')
    cls.config.data.update(data_dir=index, max_len=16, buckets=())
    cls.config.finetune.update(
      rank=2, layers='mlp/', batch_tokens=128, learning_rate=0.02,
      warmup_steps=1,
    )  # fmt: skip
    cls.config.fit.batch_tokens = 256
    cls.config.score.update(
      queries=str(root / 'queries.jsonl'), batch_tokens=256, rank=None,
      query_batch=2, refine=0, num_top=2,
    )  # fmt: skip
    queries = [
      {'id': f'q{n}', 'prompt': f'w{n} w{n + 1}', 'completion': f'w{n + 2}'}
      for n in (3, 9)
    ]
    lines = '\n'.join(map(json.dumps, queries))
    (root / 'queries.jsonl').write_text(lines)
    cls.workdir = root / 'w'

  def test_scores_over_a_and_b_are_those_of_autodiff_by_the_same_factors(self):
    with self.assertRaisesRegex(ValueError, 'finetune'):
      trained.load(self.config, self.workdir)
    finetune.run(self.config, self.workdir, quiet=True)
    fit_curvature.run(self.config, self.workdir)
    score.run(self.config, self.workdir)
    got_KxN = score_store.open(self.workdir / 'scores' / 'scores.zarr').read()

    ours = trained.load(self.config, self.workdir)
    self.assertNotEmpty(ours.model.layers)
    for path in ours.model.layers:
      self.assertRegex(path, _LAYERS)
    factors = store.load(self.workdir / 'factors').tree['factors']
    asked = score.query_batch(
      self.config, ours, trained.read_queries(self.config)
    )
    queries, wanted_KxN = _gradients(ours, asked), np.zeros(got_KxN.shape)
    for spec in batches_lib.plan(ours.corpus.sequences, 256):
      batch = batches_lib.get(ours.corpus.sequences, spec)
      found = _gradients(ours, batch)
      real_B = batch.ids >= 0
      for path, g_BxLxIxO in found.items():
        scores_KxB = _scores(factors[path], queries[path], g_BxLxIxO)
        wanted_KxN[:, batch.ids[real_B]] += scores_KxB[:, real_B]
    error = np.abs(got_KxN - wanted_KxN).max() / np.abs(wanted_KxN).max()
    self.assertLess(error, 1e-5)  # float32


def _gradients(ours, batch):
  """{path: [B, L, I, O]}."""
  found = jax.jit(
    lambda params, batch: gradients.sequence_gradients(
      ours.model, params, batch, r'lora_[ab]/kernel$'
    )
  )(ours.params, batch)
  return {
    path.removesuffix('/kernel'): np.asarray(x, np.float64)
    for path, x in found.items()
  }


def _scores(factors, q_KxLxIxO, g_BxLxIxO):
  """g_q^T (G + damping)^-1 g_z, summed over the stack L."""
  Q_A, Q_S, Lambda = (
    np.asarray(factors[key], np.float64) for key in ('Q_A', 'Q_S', 'Lambda')
  )
  damped = Lambda + 0.1 * Lambda.mean((1, 2), keepdims=True)
  q, g = (
    np.einsum('lia,nlio,lob->nlab', Q_A, x, Q_S) for x in (q_KxLxIxO, g_BxLxIxO)
  )
  return np.einsum('klab,nlab->kn', q / damped, g)


if __name__ == '__main__':
  absltest.main()
