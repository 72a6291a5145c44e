"""Tests of experiments.role_play on made-up scores."""

import contextlib
import io
import json
import pathlib
import tempfile

import numpy as np
from absl.testing import absltest
from tiny import ladder as tiny_ladder

from configs import role_play as role_play_config
from experiments import role_play, top_table
from influence_jax import store
from influence_jax.data import queries as queries_lib
from influence_jax.data import sequences as sequences_lib
from influence_jax.data import tokenizer as tokenizer_lib

QUERIES = [
  queries_lib.Query('a', 'the cat', ' sat', {'class': 'simple'}),
  queries_lib.Query('b', 'Human: red?', ' blue tree', {'class': 'role_play'}),
  queries_lib.Query('c', 'the dog ran', ' to a', {'class': 'simple'}),
  queries_lib.Query('d', 'Human: [bold]', ' cat', {'class': 'role_play'}),
]


class RolePlayTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    self.root = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))

  def write(self, config, queries=QUERIES, **section):
    config.role_play = role_play_config.get_config().role_play
    config.role_play.update(num_top=4, num_shown=2, **section)
    tiny_ladder.write(self.root, config, queries)
    return config

  def run_it(self, config):
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
      role_play.run(config, self.root)
    folder = self.root / 'role_play'
    self.assertGreater((folder / 'overlap.png').stat().st_size, 5_000)
    return json.loads((folder / 'result.json').read_text()), printed.getvalue()

  def tops(self, name, query) -> list[dict]:
    rows, _ = top_table.read(self.root / name / 'scores' / 'top.parquet')
    mine = [row for row in rows if row['query_id'] == query.id]
    return sorted(mine, key=lambda row: -row['score'])

  def jaccard(self, query, n) -> float:
    tokenizer = tokenizer_lib.load(self.root / 'tokenizer.json')
    encode = tokenizer_lib.encode(tokenizer, [query.prompt, query.completion])
    asked = {*encode[0], *encode[1]}
    made = sequences_lib.open(self.root / 'sequences')
    there = {*made.row(n).tolist()} - {0}
    return len(asked & there) / len(asked | there)

  def test_overlap_is_that_of_the_largest_models_top_sequences(self):
    config = self.write(tiny_ladder.config())
    result, printed = self.run_it(config)
    self.assertEqual(result['rungs'], ['l_seed0', 'l_seed1'])
    num = len(sequences_lib.open(self.root / 'sequences'))
    by_class = {'simple': [], 'role_play': []}
    for query, row in zip(QUERIES, result['queries'], strict=True):
      self.assertEqual(row['query'], query.id)
      overlaps = [
        self.jaccard(query, top['sequence'])
        for name in ('l_seed0', 'l_seed1')
        for top in self.tops(name, query)[:4]
      ]
      self.assertAlmostEqual(row['overlap'], np.mean(overlaps))
      scanned = [self.jaccard(query, n) for n in range(num)]
      self.assertAlmostEqual(row['scanned'], np.mean(scanned))
      by_class[query.labels['class']].append(np.mean(overlaps))
      shown = self.tops('l_seed0', query)[:2]
      for key in ('sequence', 'score', 'title', 'text'):
        self.assertEqual(
          [top[key] for top in row['tops']], [top[key] for top in shown]
        )
      np.testing.assert_allclose(
        [top['overlap'] for top in row['tops']],
        [self.jaccard(query, top['sequence']) for top in shown],
      )
      for top in shown:
        shows = query.labels['class'] == 'role_play'
        self.assertEqual(f'{top["score"]:.3g}' in printed, shows)
    for name, values in by_class.items():
      found = result['classes'][name]
      self.assertEqual(found['queries'], 2)
      self.assertAlmostEqual(found['overlap'][0], np.mean(values))

  def test_it_says_that_it_is_no_evidence_and_claims_nothing(self):
    result, printed = self.run_it(self.write(tiny_ladder.config()))
    self.assertIn('nothing here is evidence', ' '.join(printed.split()))
    self.assertIn('no evidence', ' '.join(role_play.__doc__.split()))
    self.assertIn('nothing here is evidence', result['note'])
    self.assertEqual(result['claims'], [])
    self.assertIn('Human: [bold]', printed)  # as text, not as a style

  def test_without_a_ladder_the_workdir_is_the_only_model(self):
    config = tiny_ladder.config()
    with config.unlocked():
      del config.ladder
    result, _ = self.run_it(self.write(config))
    self.assertEqual(result['rungs'], [self.root.name])

  def test_queries_without_role_play_are_refused(self):
    config = self.write(tiny_ladder.config(), QUERIES[::2])
    with self.assertRaisesRegex(ValueError, r"role_play, got \['simple'\]"):
      role_play.run(config, self.root)

  def test_queries_without_a_class_are_named(self):
    queries = [*QUERIES, QUERIES[0]._replace(id='e', labels={})]
    config = self.write(tiny_ladder.config(), queries)
    with self.assertRaisesRegex(ValueError, "no label 'class', the first .'e'"):
      role_play.run(config, self.root)

  def test_models_of_other_queries_are_refused(self):
    config = self.write(tiny_ladder.config())
    folder = self.root / 'l_seed1' / 'scores'
    manifest = store.read_json(folder / 'manifest.json')
    manifest['queries'].reverse()
    store.write_json(folder / 'manifest.json', manifest)
    with self.assertRaisesRegex(ValueError, 'l_seed1 are of other queries'):
      role_play.run(config, self.root)

  def test_a_query_without_top_sequences_is_named(self):
    config = self.write(tiny_ladder.config())
    path = self.root / 'l_seed0' / 'scores' / 'top.parquet'
    rows, _ = top_table.read(path)
    kept = [row for row in rows if row['query_id'] != 'c']
    top_table.write(path, kept, tiny_ladder.LAYERS)
    with self.assertRaisesRegex(
      ValueError, "1 queries, the first 'c'.*num_top"
    ):
      role_play.run(config, self.root)


if __name__ == '__main__':
  absltest.main()
