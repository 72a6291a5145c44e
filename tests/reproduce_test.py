"""What is run, in which order, how long it will take; nothing is trained."""

import contextlib
import io
import json
import pathlib
import subprocess
import sys
import tempfile
from unittest import mock

import ml_collections
from absl import flags
from absl.testing import absltest
from ml_collections import config_flags

import configs
from configs import ladder_bible, ladder_english, ladder_planted
from experiments import plan, reproduce, workload

_ROOT = pathlib.Path(configs.__file__).parents[1]
_LADDER = """
from tiny import ladder
def get_config():
  c = ladder.config(seeds=(0, 1))
  c.plan = dict(compare=False, num_sequences=(300, 500), num_queries=2)
  return c
"""


def _section(**changes):
  return ml_collections.ConfigDict(
    dict(
      ladders=(('planted', 'configs/p.py'), ('english', 'configs/e.py')),
      studies=(
        ('sparsity', 'english', 90), ('layerwise', 'planted', None),
        ('scaling', 'english', 30),
      ),
      validations=(('decomposition', 'decomposition_digits', 60),),
      only=(), dry=False,
    ) | changes
  )  # fmt: skip


class CommandsTest(absltest.TestCase):
  def shown(self, section):
    found = reproduce.commands(section, pathlib.Path('runs'))
    return [reproduce.shown(command) for command in found]

  def test_commands_are_those_that_one_types_ladders_first(self):
    self.assertEqual(
      self.shown(_section()),
      [
        'python -m experiments.train_ladder --config=configs/p.py '
        '--workdir=runs/planted',
        'python -m experiments.train_ladder --config=configs/e.py '
        '--workdir=runs/english',
        'python -m experiments.sparsity --config=configs/sparsity.py '
        '--workdir=runs/english',
        'python -m experiments.layerwise --config=configs/layerwise.py '
        '--workdir=runs/planted',
        'python -m experiments.scaling --config=configs/scaling.py '
        '--workdir=runs/english',
        'python -m experiments.figures --workdir=runs',
      ],
    )

  def test_some_ladders_can_be_chosen_with_their_studies(self):
    words = [
      line.split()[2] for line in self.shown(_section(only=('planted',)))
    ]
    self.assertEqual(
      words,
      ['experiments.train_ladder', 'experiments.layerwise',
       'experiments.figures'],
    )  # fmt: skip

  def test_what_needs_no_ladder_runs_where_it_is_asked_for(self):
    self.assertEqual(
      self.shown(_section(only=('validation',))),
      [
        'python -m experiments.decomposition '
        '--config=configs/decomposition_digits.py '
        '--workdir=runs/validation/decomposition_digits',
        'python -m experiments.figures --workdir=runs',
      ],
    )

  def test_an_unknown_ladder_is_a_clear_error(self):
    with self.assertRaisesRegex(ValueError, r"\['x'\].*\['english', 'planted'"):
      self.shown(_section(only=('x',)))
    with self.assertRaisesRegex(ValueError, r"\['french'\]"):
      self.shown(_section(studies=(('sparsity', 'french', None),)))

  def test_flags_of_the_command_line_reach_the_section(self):
    values, path = flags.FlagValues(), _ROOT / 'configs' / 'figures.py'
    argv = [
      'binary', f'--config={path}', "--config.figures.only=('bible',)",
      '--config.figures.dry=True',
    ]  # fmt: skip
    config_flags.DEFINE_config_file('config', flag_values=values, sys_argv=argv)
    values(argv)
    self.assertEqual(
      self.shown(values.config.figures)[0],
      'python -m experiments.train_ladder --config=configs/ladder_bible.py '
      '--workdir=runs/bible',
    )
    self.assertTrue(values.config.figures.dry)

  def test_shipped_ladders_can_be_planned_before_there_is_a_corpus(self):
    for module, total in (
      (ladder_planted, 40_120), (ladder_english, 65_900), (ladder_bible, 52_092)
    ):  # fmt: skip
      found = workload.num_sequences(module.get_config(), pathlib.Path('none'))
      self.assertEqual(sum(found.values()), total)


class RunTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    folder = self.enterContext(tempfile.TemporaryDirectory())
    self.workdir = pathlib.Path(folder)
    self.flags = ['--config=configs/f.py', f'--workdir={folder}']
    self.enterContext(mock.patch.object(sys, 'argv', ['binary', *self.flags]))
    self.printed = self.enterContext(contextlib.redirect_stdout(io.StringIO()))

  def run_it(self, section, failing=None):
    """The commands that would have run, as one types them."""
    ran = []

    def fake(args, **_):
      self.assertEqual(args[0], sys.executable)
      ran.append(' '.join(['python', *args[1:]]))
      return subprocess.CompletedProcess(args, 3 if failing in args else 0)

    config = ml_collections.ConfigDict({'figures': section})
    with mock.patch.object(subprocess, 'run', fake):
      try:
        reproduce.run(config, self.workdir)
      except SystemExit as error:
        self.error = str(error)
    return ran

  def log(self):
    lines = (self.workdir / 'commands.jsonl').read_text().splitlines()
    return [json.loads(line) for line in lines]

  def test_the_plan_is_shown_first_then_each_command_runs(self):
    found = reproduce.commands(_section(), self.workdir)
    shown = [reproduce.shown(command) for command in found]
    ran = self.run_it(_section())
    self.assertEqual(
      ran[0],
      f'python -m experiments.reproduce {" ".join(self.flags)} '
      '--config.figures.dry=True',
    )
    self.assertEqual(ran[1:], shown)
    places = [self.printed.getvalue().find(command) for command in ran]
    self.assertEqual(places, sorted(places))
    self.assertGreaterEqual(places[0], 0)
    self.assertEqual([line['command'] for line in self.log()], shown)
    self.run_it(_section())
    self.assertLen(self.log(), 2 * len(shown))

  def test_a_failure_stops_the_run_with_the_command_to_repeat(self):
    ran = self.run_it(_section(), failing='experiments.layerwise')
    self.assertLen(ran, 5)
    self.assertIn('experiments.layerwise', ran[-1])
    self.assertIn('status 3', self.error)
    self.assertEqual(
      self.error.splitlines()[-1],
      'python -m experiments.layerwise --config=configs/layerwise.py '
      f'--workdir={self.workdir}/planted',
    )
    self.assertLen(self.log(), 3)

  def test_a_dry_run_prints_and_does_nothing(self):
    rows = [
      dict(name='planted s', seconds=7200.0, left={'train': 2, 'fit': 1}),
      dict(name='sparsity', seconds=5400, left={}),
      dict(name='layerwise', seconds=None, left={}),
    ]  # fmt: skip
    with mock.patch.object(reproduce, 'todo', lambda *_: rows):
      self.assertEmpty(self.run_it(_section(dry=True)))
    self.assertEmpty([*self.workdir.iterdir()])
    lines = [line.split() for line in self.printed.getvalue().splitlines()]
    self.assertIn(['planted', 's', '2', '1', '-', '2.00'], lines)
    self.assertIn(['sparsity', '-', '-', '-', '1.50'], lines)
    self.assertIn(['layerwise', '-', '-', '-', '?'], lines)
    self.assertIn(
      '3.5 h, and studies that nobody has timed: 1', self.printed.getvalue()
    )
    self.assertIn('train_ladder', self.printed.getvalue())


class TodoTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    folder = self.enterContext(tempfile.TemporaryDirectory())
    self.workdir = pathlib.Path(folder)
    path = self.workdir / 'tiny_ladder.py'
    path.write_text(_LADDER)
    ladders = ('planted', str(path)), ('english', str(path))
    self.section = _section(ladders=ladders)
    self.asked = []

  def write(self, *paths):
    for path in paths:
      (self.workdir / path).parent.mkdir(parents=True, exist_ok=True)
      (self.workdir / path).write_text('')

  def todo(self, **changes):
    """Rows by name, a stage taking 100, 10 or 1 seconds a layer."""

    def costs_of(config, root, stages):
      (stage,) = stages
      self.asked.append((config.model.num_layers, root.name, stage))
      seconds = {'train': 100, 'fit': 10, 'score': 1}[stage]
      return [mock.Mock(seconds=seconds * config.model.num_layers)]

    self.section.update(changes)
    with (
      mock.patch.object(plan, 'costs_of', costs_of),
      mock.patch.object(plan, 'predicted', lambda found: (found, {})),
    ):
      rows = reproduce.todo(self.section, self.workdir)
    return {row['name']: row for row in rows}

  def test_all_is_left_of_a_workdir_that_is_empty(self):
    rows = self.todo()
    self.assertEqual(
      {name: row['seconds'] for name, row in rows.items()},
      {
        'planted s': 2 * 2 * 111, 'planted l': 2 * 3 * 111,
        'english s': 2 * 2 * 111, 'english l': 2 * 3 * 111,
        'sparsity': 90, 'layerwise': None, 'scaling': 30,
      },
    )  # fmt: skip
    self.assertEqual(
      rows['planted l']['left'], {'train': 2, 'fit': 2, 'score': 2}
    )

  def test_what_needs_no_ladder_is_in_the_plan_where_it_is_asked_for(self):
    rows = self.todo(only=('validation',))
    self.assertEqual(
      {name: row['seconds'] for name, row in rows.items()},
      {'decomposition_digits': 60},
    )
    self.write('validation/decomposition_digits/result.json')
    rows = self.todo(only=('validation',))
    self.assertEqual(rows['decomposition_digits']['seconds'], 0)

  def test_what_is_done_takes_no_time_and_is_not_planned(self):
    folder = 'planted/s_seed0'
    done = 'held_out.json', 'factor_health.json', 'scores/top.parquet'
    self.write(*(f'{folder}/{name}' for name in done))
    self.write('planted/s_seed1/held_out.json')
    self.write('english/sparsity/result.json', 'planted/layerwise/result.json')
    self.write(*(f'planted/l_seed{n}/{name}' for n in (0, 1) for name in done))
    rows = self.todo()
    self.assertEqual(
      rows['planted s']['left'], {'train': 0, 'fit': 1, 'score': 1}
    )
    self.assertEqual(rows['planted s']['seconds'], 2 * 11)
    self.assertEqual(rows['planted l']['seconds'], 0)
    self.assertEqual(rows['sparsity']['seconds'], 0)
    self.assertEqual(rows['layerwise']['seconds'], 0)
    self.assertNotIn((2, 'planted', 'train'), self.asked)
    self.assertIn((2, 'planted', 'score'), self.asked)

  def test_scores_without_top_sequences_end_with_their_queries(self):
    path = self.workdir / 'tiny_ladder.py'
    path.write_text(_LADDER.replace('return', 'c.score.num_top = 0; return'))
    self.write('planted/s_seed0/scores/queries.json')
    self.assertEqual(self.todo()['planted s']['left']['score'], 1)

  def test_only_what_is_asked_for_is_planned(self):
    rows = self.todo(only=('english',))
    self.assertEqual(
      list(rows), ['english s', 'english l', 'sparsity', 'scaling']
    )

  def test_seconds_are_those_of_the_planner(self):
    for seed in (0, 1):
      self.write(f'planted/s_seed{seed}/factor_health.json')
      self.write(f'planted/s_seed{seed}/scores/top.parquet')
    (self.workdir / 'tiny_ladder.py').write_text(
      _LADDER.replace('seeds=', "sizes=('s',), seeds=")
    )
    self.section.update(only=('planted',), studies=())
    real, found = plan.predicted, []

    def predicted(costs):
      found.extend(real(costs)[0])
      return found, {}

    with mock.patch.object(plan, 'predicted', predicted):
      (row,) = reproduce.todo(self.section, self.workdir)
    self.assertEqual(row['left'], {'train': 2, 'fit': 0, 'score': 0})
    self.assertEqual([cost.stage for cost in found], ['train'])
    self.assertGreater(found[0].seconds, 0)
    self.assertEqual(row['seconds'], 2 * found[0].seconds)


if __name__ == '__main__':
  absltest.main()
