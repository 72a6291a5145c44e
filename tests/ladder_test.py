"""Rungs, their corpus, and one real ladder at toy size."""

import json
import os
import pathlib
import tempfile

import numpy as np
from absl.testing import absltest
from tiny import corpus as tiny_corpus
from tiny import ladder as tiny_ladder

from configs import ladder_bible, ladder_english, ladder_planted
from experiments import (
  common,
  held_out,
  ladder,
  scored,
  train_ladder,
  trained,
)
from influence_jax import store, training
from influence_jax.data import sequences as sequences_lib


class RungsTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    folder = self.enterContext(tempfile.TemporaryDirectory())
    self.root = pathlib.Path(folder)

  def test_rungs_are_by_seed_then_by_size_each_with_its_own_config(self):
    config = tiny_ladder.config()
    config.ladder.seeds.l = (0,)
    found = ladder.rungs(config, self.root)
    self.assertEqual([x.name for x in found], ['s_seed0', 'l_seed0', 's_seed1'])
    self.assertEqual([x.config.model.num_layers for x in found], [2, 3, 2])
    self.assertEqual([x.config.train.seed for x in found], [0, 0, 1])
    self.assertEqual([x.config.fit.seed for x in found], [0, 0, 1])
    self.assertEqual(found[1].workdir, self.root / 'l_seed0')
    self.assertNotIn('ladder', found[0].config)
    self.assertIn('ladder', config)

  def test_sizes_can_be_chosen_and_unknown_ones_are_named(self):
    config = tiny_ladder.config()
    found = ladder.rungs(config, self.root, ('l',))
    self.assertEqual([x.name for x in found], ['l_seed0', 'l_seed1'])
    self.assertEqual(ladder.largest(config), ('l',))
    with self.assertRaisesRegex(ValueError, "'xxl'.*'l', 's'"):
      ladder.rungs(config, self.root, ('xxl',))

  def test_without_a_ladder_the_workdir_is_the_only_rung(self):
    config = tiny_ladder.config()
    del config.ladder
    (rung,) = ladder.rungs(config, self.root, ('ignored',))
    self.assertEqual(rung.workdir, self.root)
    self.assertEqual((rung.size, rung.name), ('', self.root.name))
    self.assertIsNone(ladder.largest(config))

  def test_the_largest_rung_is_the_first_seed_of_the_largest_size_there(self):
    config = tiny_ladder.config(('s', 'm', 'l'), (1, 2))
    config.ladder.seeds.s = (0,)  # a seed that larger ones lack
    for sizes, name in (
      (None, 'l_seed1'), (('s', 'm'), 'm_seed1'), (('s',), 's_seed0')
    ):  # fmt: skip
      found = ladder.rungs(config, self.root, sizes)
      self.assertEqual(ladder.largest_rung(config, found).name, name)
      self.assertEqual(ladder.largest_rung(config, found[::-1]).name, name)
    del config.ladder
    found = ladder.rungs(config, self.root)
    self.assertEqual(ladder.largest_rung(config, found), found[0])

  def write_parameters(self, **numbers):
    rows = [{'rung': x, 'parameters': n} for x, n in numbers.items()]
    store.write_json(self.root / 'ladder.json', {'rungs': rows})

  def test_sizes_come_with_their_parameters_smallest_first(self):
    config = tiny_ladder.config(('s', 'm', 'l'), (0,))
    config.ladder.seeds.s = (0, 1)
    self.write_parameters(
      l_seed0=30, s_seed0=20, s_seed1=20, m_seed0=10, other_seed0=5
    )
    found = ladder.rungs(config, self.root)
    got = ladder.parameters(config, self.root, found)
    self.assertEqual(list(got.items()), [('m', 10), ('s', 20), ('l', 30)])
    got = ladder.parameters(config, str(self.root), found[1:2])
    self.assertEqual(got, {'m': 10})

  def test_a_rung_that_train_ladder_has_not_described_is_named(self):
    config = tiny_ladder.config(seeds=(0, 1))
    found = ladder.rungs(config, self.root)
    with self.assertRaisesRegex(ValueError, r'json has .* of \[\], .*s_seed0'):
      ladder.parameters(config, self.root, found)
    self.write_parameters(s_seed0=1, l_seed0=2, s_seed1=1)
    with self.assertRaisesRegex(
      ValueError, r"'s_seed1'\], expected \['l_seed1'\] too.*train_ladder"
    ):
      ladder.parameters(config, self.root, found)

  def test_without_a_ladder_no_parameters_are_looked_up(self):
    config = tiny_ladder.config()
    del config.ladder
    found = ladder.rungs(config, self.root)
    self.assertEqual(ladder.parameters(config, self.root, found), {'': None})

  def test_the_corpus_is_linked_not_copied_and_links_survive_a_kill(self):
    config = tiny_ladder.config()
    tiny_ladder.write(self.root, config)
    rung = ladder.Rung('s', 7, config, self.root / 's_seed7')
    (rung.workdir / 'tmp_sequences').mkdir(parents=True)
    ladder.link_corpus(self.root, rung)
    for name in ('tokenizer.json', 'sequences/tokens.npy'):
      self.assertTrue(
        os.path.samefile(self.root / name, rung.workdir / name), name
      )
    ladder.link_corpus(self.root, rung)
    sequences_lib.open(rung.workdir / 'sequences')

  def test_shipped_ladders_have_models_that_can_be_made(self):
    for module in (ladder_planted, ladder_bible, ladder_english):
      config = module.get_config()
      for rung in ladder.rungs(config, self.root):
        common.build('train', training.TrainConfig, rung.config.train)
        self.assertEqual(
          rung.config.model.vocab_size, rung.config.data.vocab_size
        )


class TrainLadderTest(absltest.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    folder = cls.enterClassContext(tempfile.TemporaryDirectory())
    cls.root = pathlib.Path(folder)
    cls.config = tiny_ladder.config(seeds=(0,))
    cls.result = train_ladder.run(cls.config, cls.root)

  def test_every_rung_is_trained_fitted_scored_and_described(self):
    small, large = self.result['rungs']
    self.assertEqual((small['rung'], large['rung']), ('s_seed0', 'l_seed0'))
    self.assertGreater(large['parameters'], small['parameters'])
    info = self.result['corpus']
    self.assertEqual(small['tokens'], info['targets'])
    for rung in ladder.rungs(self.config, self.root):
      found = scored.load(
        rung.workdir / 'scores', sequences_lib.open(rung.workdir / 'sequences')
      )
      self.assertLen(found.numbers, info['sequences'])
    self.assertTrue((self.root / 'ladder.png').exists())
    self.assertEqual(
      store.read_json(self.root / 'ladder.json'),
      json.loads(json.dumps(self.result)),
    )

  def test_the_same_command_again_trains_nothing(self):
    def fail(*args, **kwargs):
      raise AssertionError('computed again')

    with absltest.mock.patch.object(training, 'train', fail):
      again = train_ladder.run(self.config, self.root)
    self.assertEqual(again['rungs'], self.result['rungs'])

  def test_held_out_loss_is_that_of_each_sequence_alone(self):
    rung = ladder.rungs(self.config, self.root)[0]
    ours = trained.load(rung.config, rung.workdir)
    module = absltest.mock.Mock()
    module.held_out = lambda source: source[40:]
    made = ours.corpus._replace(module=module)
    folder = self.root / 'apart'
    apart = held_out.sequences(rung.config, made, folder)
    self.assertEqual(set(apart.records['document']), {*range(40, 60)})
    self.assertLen(held_out.sequences(rung.config, made, folder), len(apart))
    total = num = 0
    for n in range(len(apart)):
      row = apart.row(n)
      logits = np.asarray(
        ours.model.apply_fn(ours.params, row[None, :-1].astype(np.int32))
      )[0].astype(np.float64)
      log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
      total -= log_p[np.arange(len(row) - 1), row[1:]].sum()
      num += len(row) - 1
    found = held_out.loss(rung.config, ours, apart, None, 256)
    self.assertAlmostEqual(found, total / num, places=5)

  def test_a_corpus_that_has_queries_and_truth_leaves_them(self):
    config = self.config.copy_and_resolve_references()
    config.ladder.queries = dict(num=2)
    module = absltest.mock.Mock()
    lines = [{'id': 'x', 'prompt': 'the', 'completion': ' cat'}] * 2
    module.queries = lambda source, num: lines[:num]
    module.truth = lambda source: {'documents': len(source)}
    made = trained.corpus.Corpus(
      None, None, None, module, tiny_corpus.load(None)
    )
    train_ladder.write_made(config, made, self.root)
    self.assertEqual(
      (self.root / 'queries.jsonl').read_text(),
      ''.join(json.dumps(line) + '\n' for line in lines),
    )
    self.assertEqual(
      store.read_json(self.root / 'truth.json'), {'documents': 60}
    )
    rung = ladder.rungs(config, self.root)[0]
    self.assertEqual(
      rung.config.score.queries, str(self.root / 'queries.jsonl')
    )

  def test_an_untrained_rung_is_a_clear_error(self):
    config = tiny_ladder.config(seeds=(5,))
    rung = ladder.rungs(config, self.root)[0]
    ladder.link_corpus(self.root, rung)
    with self.assertRaisesRegex(ValueError, 'no checkpoint'):
      trained.load(rung.config, rung.workdir)
    with self.assertRaisesRegex(ValueError, 'run experiments.score'):
      scored.load(
        rung.workdir / 'scores', sequences_lib.open(rung.workdir / 'sequences')
      )


if __name__ == '__main__':
  absltest.main()
