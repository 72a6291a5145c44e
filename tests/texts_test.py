"""Tests of experiments.texts on a model trained for a second."""

import functools
import pathlib
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import testing
import tiny_config
from absl.testing import absltest
from tiny import corpus as tiny_corpus

from experiments import (
  fit_curvature,
  ladder,
  score,
  solve,
  texts,
  train,
  trained,
)
from influence_jax import types
from influence_jax.data import queries as queries_lib
from influence_jax.data import tokenizer as tokenizer_lib

QUERIES = [
  queries_lib.Query('a', 'the cat', ' sat'),
  queries_lib.Query('b', '', 'a blue tree'),
  queries_lib.Query('c', 'red house', ' ran to a mat'),
]
TEXTS = ['the blue cat sat', 'zebra!', ' '.join(['the dog ran to a mat'] * 7)]


class TextsTest(absltest.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    root = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory()))
    cls.config = tiny_config.get_config()
    cls.config.data.buckets = ()  # one shape to compile for
    train.run(cls.config, root)
    fit_curvature.run(cls.config, root)
    cls.rung = ladder.rungs(cls.config, root)[0]
    cls.ours, cls.factors = texts.load(cls.rung)

  def scores(self, found=TEXTS, queries=QUERIES, **score):
    config = self.config.copy_and_resolve_references()
    config.score.update(score)
    return texts.scores(config, self.ours, self.factors, queries, found)

  def rows(self, text) -> list[list[int]]:
    """The text's chunks with END around it: the last of the corpus's rules."""
    ids = tokenizer_lib.encode(self.ours.corpus.tokenizer, [text])[0]
    chunks, left = [], ids
    while len(left) > self.config.data.max_len - 1:
      cut = min(self.config.data.max_len, len(left) - 2)
      chunks, left = [*chunks, [0, *left[:cut]]], left[cut:]
    return [*chunks, [0, *left, 0]]

  def test_scores_are_the_dense_solve_of_each_layers_gradients(self):
    chunks = [
      (c, row) for c, text in enumerate(TEXTS) for row in self.rows(text)
    ]
    self.assertGreater(len(chunks), len(TEXTS))
    with jax.enable_x64(True):
      ours, factors = self.wide()
      got_KxC = texts.scores(self.config, ours, factors, QUERIES, TEXTS)
      asked = score.query_batch(self.config, ours, QUERIES)
      g_K = testing.loop_gradients(ours.model, ours.params, asked)
      batch = self.batch([row for _, row in chunks])
      g_N = testing.loop_gradients(ours.model, ours.params, batch)
    wanted_KxC = np.zeros((len(QUERIES), len(TEXTS)))
    for name, g_NxIxO in g_N.items():
      solved_KxIO = self.solved(factors, name, g_K[name])
      for (c, _), g_IxO in zip(chunks, g_NxIxO, strict=True):
        wanted_KxC[:, c] += solved_KxIO @ g_IxO.ravel()
    testing.assert_near(self, got_KxC, wanted_KxC, 1e-9)

  def wide(self):
    """Model and factors in float64, the eigenvectors orthogonal in it, too."""
    wide = functools.partial(
      jax.tree.map, lambda x: jnp.asarray(np.asarray(x, np.float64))
    )
    factors = {
      path: {
        key: np.linalg.qr(x)[0] if key.startswith('Q_') else x
        for key, x in wide(one).items()
      }
      for path, one in self.factors.items()
    }
    model = trained.with_dtype(self.config, self.ours.model, 'float64')
    return self.ours._replace(
      model=model, params=wide(self.ours.params)
    ), factors

  def batch(self, rows) -> types.Batch:
    shape = len(rows), self.config.data.max_len
    inputs, targets, mask = np.zeros((3, *shape))
    for n, row in enumerate(rows):
      num = len(row) - 1
      inputs[n, :num], targets[n, :num], mask[n, :num] = row[:-1], row[1:], 1
    ids = np.arange(len(rows))
    return types.Batch(inputs.astype(int), targets.astype(int), mask, ids)

  def solved(self, factors, name, g_KxIxO) -> np.ndarray:
    """Rows of the dense matrix's inverse times g, [K, I O], in float64."""
    path, _, at = name.partition('[')
    at = int(at[:-1]) if at else ()
    stacked = {key: np.asarray(x) for key, x in factors[path].items()}
    Q_A, Q_S, Lambda = (stacked[key][at] for key in ('Q_A', 'Q_S', 'Lambda'))
    damping = self.config.damping.relative * Lambda.mean()
    Q = np.kron(Q_A, Q_S)
    G = Q @ np.diag(Lambda.ravel()) @ Q.T + damping * np.eye(Lambda.size)
    return np.linalg.solve(G, g_KxIxO.reshape(len(g_KxIxO), -1).T).T

  def test_a_training_document_has_the_scores_of_its_sequences(self):
    config = self.config.copy_and_resolve_references()
    config.score.rank = None
    made = self.ours.corpus.sequences
    batch = score.query_batch(config, self.ours, QUERIES)
    solved, _ = solve.solve(
      config, self.ours, solve.answers(config)[:1], self.factors, batch
    )
    num = len(made)
    config.score.num_top = config.score.refine = num
    folder = pathlib.Path(self.create_tempdir().full_path)
    summary = score.scan(
      config, self.ours, solved, np.arange(num), None, folder / 'summary'
    )
    by_document = np.zeros((len(QUERIES), 60))
    for k in range(len(QUERIES)):
      of = dict(zip(summary.ids[k, 0], summary.scores[k, 0], strict=True))
      for n, record in enumerate(made.records):
        by_document[k, record['document']] += of[n]
    documents = [document['text'] for document in tiny_corpus.load(None)]
    got_KxC = self.scores(documents)
    np.testing.assert_allclose(
      got_KxC, by_document, 1e-5, 1e-5 * np.abs(by_document).max()
    )
    self.assertGreater(made.info['cut_documents'], 0)

  def test_neither_company_nor_batches_change_a_score(self):
    whole_KxC = self.scores(query_batch=16)
    near = {'rtol': 1e-5, 'atol': 1e-6 * np.abs(whole_KxC).max()}
    np.testing.assert_allclose(self.scores(query_batch=2), whole_KxC, **near)
    np.testing.assert_allclose(
      self.scores([TEXTS[2], TEXTS[0]], QUERIES[1:], batch_tokens=32, rank=1),
      whole_KxC[1:, [2, 0]], **near,
    )  # fmt: skip

  def test_texts_without_anything_to_score_are_refused(self):
    for found, message in (
      ([], r'texts are \[\], expected a list'),
      ('a text', "'a text', expected a list"),
      (['a', '', ''], '2 of 3 texts are empty, the first is number 1'),
    ):
      with self.assertRaisesRegex(ValueError, message):
        self.scores(found)

  def test_a_model_that_is_not_fitted_is_refused(self):
    root = pathlib.Path(self.create_tempdir().full_path)
    with self.assertRaisesRegex(ValueError, 'train'):
      texts.load(self.rung._replace(workdir=root))


if __name__ == '__main__':
  absltest.main()
