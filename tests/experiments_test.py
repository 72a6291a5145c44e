"""Every binary at toy size: runs, goes on, refuses, and says why."""

import json
import pathlib
import shutil
import tempfile

import jax
import ml_collections
import numpy as np
import tiny_config
from absl.testing import absltest

from configs import quickstart as quickstart_config
from configs import retrieval as retrieval_config
from experiments import (
  common,
  corpus,
  fit_curvature,
  quickstart,
  report,
  retrieval,
  score,
  top_table,
  train,
  trained,
)
from influence_jax import fit, score_store, store, training

_ENDS = 'png', 'pdf'


class ExperimentsTest(absltest.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.directory = pathlib.Path(
      cls.enterClassContext(tempfile.TemporaryDirectory())
    )
    cls.config = tiny_config.get_config()
    cls.whole = cls.directory / 'whole'
    quickstart.run(cls.config, cls.whole)

  def copy(self) -> pathlib.Path:
    """A workdir with all that the whole run left."""
    path = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    return shutil.copytree(self.whole, path / 'workdir')

  def scores(self, workdir: pathlib.Path) -> np.ndarray:
    return score_store.open(workdir / 'scores' / 'scores.zarr').read()

  def test_quickstart_leaves_a_report_and_figures(self):
    self.assertIn('story', (self.whole / 'report.html').read_text())
    names = {path.name for path in (self.whole / 'figures').iterdir()}
    drawn = 'tail', 'coverage', 'layers', 'training'
    self.assertEqual(names, {f'{x}.{end}' for x in drawn for end in _ENDS})

  def test_token_and_layer_scores_add_up_to_the_score(self):
    rows, layers = top_table.read(self.whole / 'scores' / 'top.parquet')
    self.assertLen(layers, 4)
    scores = self.scores(self.whole)
    for row in rows:
      self.assertAlmostEqual(
        row['scan_score'],
        scores[['cat', 'dog'].index(row['query_id']), row['sequence']],
        places=6,
      )
      for key in ('token_scores', 'layer_scores'):
        self.assertLess(
          abs(sum(row[key]) - row['score']), 1e-4 * abs(row['score']) + 1e-6
        )

  def test_the_same_command_again_computes_nothing(self):
    workdir = self.copy()
    before = self.scores(workdir)

    def fail(*args, **kwargs):
      raise AssertionError('computed again')

    for module, name in (
      (training, 'train'), (fit, 'fit'), (score, 'scan'),
    ):  # fmt: skip
      self.enterContext(absltest.mock.patch.object(module, name, fail))
    quickstart.run(self.config, workdir)
    np.testing.assert_array_equal(self.scores(workdir), before)

  def test_a_kill_in_any_stage_changes_no_bit_of_the_scores(self):
    class Killed(Exception):
      pass

    def dies_after(fn, times):
      calls = []

      def wrapped(*args, **kwargs):
        calls.append(1)
        fn(*args, **kwargs)
        if len(calls) == times:
          raise Killed

      return wrapped

    for times in (1, 3):
      workdir = self.directory / f'killed_{times}'
      for module, stage in (
        (store, train), (store, fit_curvature), (score_store.ScoreStore, score),
      ):  # fmt: skip
        name = 'save' if module is store else 'put'
        patch = absltest.mock.patch.object(
          module, name, dies_after(getattr(module, name), times)
        )
        with self.assertRaises(Killed), patch:
          stage.run(self.config, workdir)
        stage.run(self.config, workdir)
      np.testing.assert_array_equal(
        self.scores(workdir), self.scores(self.whole)
      )

  def test_a_damaged_chunk_of_scores_is_scored_again(self):
    workdir = self.copy()
    path = workdir / 'scores' / 'scores.zarr' / 'c' / '0' / '1'
    path.write_bytes(path.read_bytes()[:-3])
    with self.assertRaisesRegex(ValueError, 'missing or damaged'):
      report.run(self.config, workdir)
    score.run(self.config, workdir)
    np.testing.assert_array_equal(self.scores(workdir), self.scores(self.whole))

  def test_damaged_factors_are_refused_by_scoring_and_fitted_again(self):
    workdir = self.copy()
    shutil.rmtree(workdir / 'scores')
    newest = sorted((workdir / 'factors').glob('step_*'))[-1]
    largest = max(
      (p for p in newest.rglob('*') if p.is_file()),
      key=lambda p: p.stat().st_size,
    )
    largest.write_bytes(largest.read_bytes()[:-1])
    with self.assertRaisesRegex(ValueError, 'missing or damaged'):
      score.run(self.config, workdir)
    fit_curvature.run(self.config, workdir)
    score.run(self.config, workdir)
    np.testing.assert_array_equal(self.scores(workdir), self.scores(self.whole))

  def test_another_config_in_the_same_workdir_is_refused(self):
    for section, key, value, stage in (
      ('data', 'max_len', 24, train),
      ('model', 'mlp_width', 12, fit_curvature),
      ('train', 'seed', 1, train),
      ('fit', 'seed', 1, fit_curvature),
      ('fit', 'targets', 'data', score),
      ('damping', 'relative', 0.2, score),
    ):
      config = self.config.copy_and_resolve_references()
      config[section][key] = value
      with self.subTest(key), self.assertRaisesRegex(ValueError, key):
        stage.run(config, self.copy())

  def test_other_queries_in_the_same_workdir_are_refused(self):
    config = self.config.copy_and_resolve_references()
    config.score.queries = str(self.directory / 'other.jsonl')
    line = {'id': 'cow', 'prompt': 'the', 'completion': ' tree'}
    pathlib.Path(config.score.queries).write_text(json.dumps(line))
    with self.assertRaisesRegex(ValueError, 'cow'):
      score.run(config, self.copy())

  def test_factors_of_other_parameters_are_refused(self):
    workdir = self.copy()
    ours = trained.load(self.config, workdir)
    params = jax.tree.map(lambda x: x + 1e-3, ours.params)
    found = store.load(workdir / 'train')
    tree = {**found.tree, 'params': params}
    store.save(workdir / 'train', found.step, tree, found.meta)
    with self.assertRaisesRegex(ValueError, 'params'):
      fit_curvature.run(self.config, workdir)

  def test_an_unfinished_model_is_not_fitted(self):
    workdir = self.copy()
    newest = sorted((workdir / 'train').glob('step_*'))[-1]
    shutil.rmtree(newest)
    with self.assertRaisesRegex(ValueError, 'run experiments.train'):
      fit_curvature.run(self.config, workdir)

  def test_a_misspelt_key_is_named(self):
    for section, key in (
      ('train', 'learning_rat'), ('model', 'widht'), ('curvature', 'eig'),
    ):  # fmt: skip
      config = self.config.copy_and_resolve_references()
      with config.unlocked():
        config[section][key] = 1
      with self.subTest(key), self.assertRaisesRegex(ValueError, key):
        quickstart.run(config, self.directory / f'misspelt_{key}')

  def test_no_layer_an_unknown_curvature_and_an_unknown_corpus(self):
    for path, value, message in (
      ('layers', 'nothing', 'no dense layer'),
      ('curvature.name', 'no_such_thing', 'ekfac'),
      ('data.name', 'nowhere', 'wiki_leads'),
    ):
      config = self.config.copy_and_resolve_references()
      config.update_from_flattened_dict({path: value})
      workdir = self.copy()
      if path == 'data.name':
        workdir = self.directory / 'nowhere'
      with self.subTest(path), self.assertRaisesRegex(ValueError, message):
        fit_curvature.run(config, workdir)

  def test_every_approximation_is_picked_by_name(self):
    config = self.config.copy_and_resolve_references()
    config.curvature = ml_collections.ConfigDict({'name': 'kfac_tikhonov'})
    workdir = self.copy()
    for name in ('factors', 'scores'):
      shutil.rmtree(workdir / name)
    fit_curvature.run(config, workdir)
    score.run(config, workdir)
    self.assertFalse((self.scores(workdir) == self.scores(self.whole)).all())

  def test_retrieval_ranks_all_articles_by_all_methods(self):
    result = retrieval.run(self.config, self.copy())
    self.assertEqual(result['articles'], 60)
    self.assertEqual(
      set(result['found']), {'BM25', 'ekfac', 'kfac', 'identity'}
    )
    for ranks in result['ranks'].values():
      self.assertLen(ranks, 4)
      self.assertBetween(min(ranks), 1, 60)

  def test_the_corpus_is_made_once(self):
    workdir = self.directory / 'corpus'
    first = corpus.load(self.config.data, workdir)
    again = corpus.load(self.config.data, workdir)
    self.assertEqual(first.sequences.fingerprint, again.sequences.fingerprint)
    self.assertEqual(first.document(7)['title'], 'story 7')

  def test_the_shipped_configs_are_complete(self):
    for module in (quickstart_config, retrieval_config):
      config = module.get_config()
      self.assertIsNotNone(
        common.build('train', training.TrainConfig, config.train)
      )


if __name__ == '__main__':
  absltest.main()
