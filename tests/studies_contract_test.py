"""What every study of configs/figures.py must be, and how it must fail."""

import importlib
import pathlib
import tempfile

from absl.testing import absltest, parameterized
from tiny import ladder as tiny_ladder

from configs import figures as figures_config
from experiments import corpus

STUDIES = {
  name: ladder
  for name, ladder, _ in figures_config.get_config().figures.studies
}


def _config(study: str):
  """The study's shipped config on the tiny corpus and ladder."""
  config = importlib.import_module(f'configs.{study}').get_config()
  tiny = tiny_ladder.config()
  for section in ('data', 'model', 'train', 'fit', 'score', 'ladder'):
    config[section] = tiny[section]
  own = config[study]
  if 'sizes' in own:
    own.sizes = ()
  return config


class StudiesContractTest(parameterized.TestCase):
  @parameterized.parameters(*STUDIES)
  def test_a_study_names_its_command_and_what_it_reads(self, study):
    module = importlib.import_module(f'experiments.{study}')
    text = ' '.join(module.__doc__.replace('\\', ' ').split())
    root = f'runs/{STUDIES[study]}'
    self.assertIn(
      f'python -m experiments.{study} --config=configs/{study}.py '
      f'--workdir={root}',
      text,
    )
    self.assertIn('Sections read:', text)
    self.assertIn(study, importlib.import_module(f'configs.{study}').__doc__)

  @parameterized.parameters(*STUDIES)
  def test_without_a_trained_ladder_it_says_what_to_run(self, study):
    workdir = self.enterContext(tempfile.TemporaryDirectory())
    module = importlib.import_module(f'experiments.{study}')
    made = absltest.mock.patch.object(corpus.sequences_lib, 'build')
    with made as build, self.assertRaisesRegex(ValueError, 'experiments.'):
      module.run(_config(study), workdir)
    build.assert_not_called()  # it makes no corpus where there is no model
    self.assertEmpty(list(pathlib.Path(workdir).glob('*/result.json')))


if __name__ == '__main__':
  absltest.main()
