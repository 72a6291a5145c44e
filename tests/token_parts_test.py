"""Tests of experiments.token_parts on a small model, trained and scored."""

import functools
import json
import pathlib
import shutil
import tempfile

import jax
import numpy as np
import tiny_config
from absl.testing import absltest

from experiments import (
  fit_curvature,
  score,
  solve,
  token_parts,
  token_parts_table,
  top_table,
  train,
  trained,
)
from influence_jax import (
  gradients,
  influence,
  store,
  token_influence,
  types,
)
from influence_jax.data import batches as batches_lib
from influence_jax.data import tokenizer as tokenizer_lib


class TokenPartsTest(absltest.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    root = cls.enterClassContext(tempfile.TemporaryDirectory())
    cls.workdir = pathlib.Path(root)
    cls.config = tiny_config.get_config()
    cls.config.data.buckets = ()  # one shape to compile for
    path = cls.workdir / 'queries.jsonl'
    asked = {'cat': ' sat on a mat', 'dog': ' red house', 'mat': ' blue tree'}
    lines = (
      json.dumps({'id': name, 'prompt': 'the', 'completion': text})
      for name, text in asked.items()
    )
    path.write_text('\n'.join(lines))
    cls.config.score.queries = str(path)
    cls.config.score.query_batch = 2  # then the third: it can stop in between
    for stage in (train, fit_curvature, score, token_parts):
      stage.run(cls.config, cls.workdir)
    cls.folder = cls.workdir / 'scores'
    cls.rows, _ = top_table.read(cls.folder / 'top.parquet')
    cls.found = token_parts_table.read(cls.folder)

  def copy(self, *without):
    """The workdir again, less some files of its scores."""
    root = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    shutil.copytree(self.workdir, root, dirs_exist_ok=True)
    for name in without:
      (root / 'scores' / name).unlink()
    return root

  def test_there_is_a_row_for_each_row_of_the_top(self):
    self.assertEqual(
      [*self.found], [(row['query_id'], row['sequence']) for row in self.rows]
    )
    self.assertGreater(len(self.rows), 6)
    self.assertFalse((self.folder / 'token_parts').exists())
    for row, one in zip(self.rows, self.found.values(), strict=True):
      for kind in ('input', 'output'):
        self.assertLen(one[kind], len(row['tokens']))

  def test_output_parts_add_up_to_the_score_and_input_parts_do_not(self):
    for row, one in zip(self.rows, self.found.values(), strict=True):
      self.assertLess(token_parts.sum_error(row, one), 1e-4)
      total = np.sum(one['output'], dtype=np.float64)
      self.assertAlmostEqual(total / row['score'], 1, 4)
    off = [
      abs(np.sum(one['input']) / row['score'] - 1)
      for row, one in zip(self.rows, self.found.values(), strict=True)
    ]
    self.assertGreater(min(off), 0.01)

  def test_all_are_right_by_gradients_of_single_tokens(self):
    """Sequences alone and unpadded, gradients formed; a query solved alone."""
    config, workdir = self.config, self.workdir
    ours = trained.load(config, workdir)
    layers, sequences = ours.model.layers, ours.corpus.sequences
    approximation = solve.answers(config)[0].approximation
    factors = fit_curvature.restore(
      approximation, layers, workdir,
      fit_curvature.expected_meta(config, ours), complete=True,
    ).factors  # fmt: skip
    queries = trained.read_queries(config)
    by_mask = jax.jit(
      functools.partial(gradients.layer_gradients, ours.model, ours.params)
    )
    g_KxIxO = by_mask(score.query_batch(config, ours, queries))

    @jax.jit
    def solve_all(factors, g_KxIxO):
      damping = influence.damping_of(
        approximation, layers, factors, **config.damping
      )
      return influence.precondition(
        approximation, layers, factors, g_KxIxO, damping
      )

    @jax.jit
    def given(solved, batch):
      direction = token_influence.direction(ours.params, layers, solved)
      return token_influence.input_tokens(
        ours.model, ours.params, direction, batch, 'tok_emb'
      )[0]

    solved = solve_all(factors, g_KxIxO)
    ids = [query.id for query in queries]
    for (name, n), one in [*self.found.items()][:: len(self.found) // 5]:
      k = ids.index(name)
      mine = {path: x[..., k, :, :] for path, x in solved.items()}
      (spec,) = batches_lib.split(sequences, np.array([n]), 1)
      batch = batches_lib.get(sequences, spec)
      num = spec.length  # a row of the batch a target: its mask is there alone
      rows = types.Batch(
        *(np.repeat(x, num, 0) for x in (batch.inputs, batch.targets)),
        batch.mask * np.eye(num, dtype=np.float32),
        np.zeros(num, np.int32),
      )
      g_TxIxO = by_mask(rows)
      wanted = sum(
        np.moveaxis(np.asarray(x) * np.expand_dims(mine[path], -3), -3, 0)
        .reshape(num, -1)
        .sum(1)
        for path, x in g_TxIxO.items()
      )
      wholes = [np.asarray(x).sum(-3).ravel() for x in g_TxIxO.values()]
      norm = np.linalg.norm(np.concatenate(wholes))
      self.assertAlmostEqual(one['gradient_norm'] / norm, 1, 4)
      self.near(one['output'], wanted)
      self.near(one['input'], given(mine, batch))
      pieces = tokenizer_lib.pieces(ours.corpus.tokenizer, sequences.row(n))
      self.assertEqual(one['last'], pieces[-1])

  def near(self, found, wanted):
    wanted = np.asarray(wanted)
    bound = np.abs(wanted).max()
    atol = 1e-4 * bound
    np.testing.assert_allclose(found, wanted[: len(found)], rtol=0, atol=atol)

  def test_it_goes_on_after_the_last_queries_that_are_done(self):
    workdir = self.copy(token_parts_table.NAME)
    made = token_parts._rows

    def stop_at_mat(corpus, query, *args):
      if query == 'mat':
        raise KeyboardInterrupt
      return made(corpus, query, *args)

    with absltest.mock.patch.object(token_parts, '_rows', stop_at_mat):
      with self.assertRaises(KeyboardInterrupt):
        token_parts.run(self.config, workdir)
    self.assertIsNone(token_parts_table.read(workdir / 'scores'))

    def only_mat(corpus, query, *args):
      self.assertEqual(query, 'mat')
      return made(corpus, query, *args)

    with absltest.mock.patch.object(token_parts, '_rows', only_mat):
      token_parts.run(self.config, workdir)
      token_parts.run(self.config, workdir)  # all is there: nothing is computed
    self.assertEqual(token_parts_table.read(workdir / 'scores'), self.found)

  def test_what_is_of_others_is_refused(self):
    workdir = self.copy(token_parts_table.NAME)
    folder = workdir / 'scores'
    partial = folder / 'token_parts' / '000000.json'
    store.write_json(partial, {'origin': {'top': 'of another'}, 'rows': []})
    with self.assertRaisesRegex(ValueError, "000000.json is of .*'of another'"):
      token_parts.run(self.config, workdir)
    partial.unlink()
    shutil.copy(self.folder / token_parts_table.NAME, folder)
    top_table.write(folder / 'top.parquet', self.rows[1:], {})
    with self.assertRaisesRegex(ValueError, 'token_parts.parquet is of anothe'):
      token_parts.run(self.config, workdir)
    manifest = store.read_json(folder / 'manifest.json')
    store.write_json(folder / 'manifest.json', manifest | {'factors': 'x'})
    with self.assertRaisesRegex(ValueError, "factors is 'x' there"):
      token_parts.run(self.config, workdir)

  def test_where_parts_cannot_add_up_it_says_why(self):
    workdir = self.copy('top.parquet', token_parts_table.NAME)
    with self.assertRaisesRegex(ValueError, 'no top sequences'):
      token_parts.run(self.config, workdir)
    shutil.copy(self.folder / 'top.parquet', workdir / 'scores')
    config = self.config.copy_and_resolve_references()
    config.score.refine = 0
    with self.assertRaisesRegex(ValueError, 'a scan of rank 4'):
      token_parts.run(config, workdir)


if __name__ == '__main__':
  absltest.main()
