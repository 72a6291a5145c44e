"""What the documentation says can be run, and runs.

Code blocks of pages are taken from them; commands are checked against modules
and configs, links against files. `make docs` builds the pages themselves.
"""

import importlib.util
import pathlib
import pkgutil
import re
import runpy
import sys
import tempfile
from unittest import mock

import numpy as np
from absl.testing import absltest, parameterized

import experiments
import influence_jax
from influence_jax import curvature

_ROOT = pathlib.Path(__file__).parents[1]
_NAME = 'kfac_diagonal'  # what docs/add_curvature.md calls it
_PAGES = sorted(
  str(path.relative_to(_ROOT))
  for pattern in ('README.md', 'results/README.md', 'docs/**/*.md')
  for path in _ROOT.glob(pattern)
)
_TEXTS = {page: (_ROOT / page).read_text() for page in _PAGES}
_TEXTS['docs/tour.ipynb'] = (_ROOT / 'docs' / 'tour.ipynb').read_text()
_LINK = re.compile(r'\]\(([^)\s]+)\)|\b(?:src|href)="([^"]+)"')
_COMMAND = re.compile(r'python -m (experiments\.\w+)((?:\\\n|[^\n`|])*)')
_KEY = re.compile(r'--config\.([\w.]+)')


def code(page: str) -> list[str]:
  """The blocks of Python of a page."""
  return re.findall(r'```python\n(.*?)```', _TEXTS[page], re.DOTALL)


def keys(path: pathlib.Path) -> set[str]:
  """Of the config of a file, those of sections too."""
  config = runpy.run_path(str(path))['get_config']()

  def of(section, prefix=''):
    for key, value in section.items():
      yield prefix + key
      if hasattr(value, 'items'):
        yield from of(value, f'{prefix}{key}.')

  return set(of(config))


def _contract_of(name):
  """The module of contract tests, as if there was this approximation alone."""
  path = _ROOT / 'tests' / 'curvature_contract_test.py'
  spec = importlib.util.spec_from_file_location(f'contract_of_{name}', path)
  module = importlib.util.module_from_spec(spec)
  with mock.patch.object(curvature, 'names', lambda: [name]):
    spec.loader.exec_module(module)
  return module


_contract = _contract_of(_NAME)


class _AddCurvature:
  """With the page's block as a file of the package."""

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    folder = cls.enterClassContext(tempfile.TemporaryDirectory())
    (block,) = code('docs/add_curvature.md')
    (pathlib.Path(folder) / f'{_NAME}.py').write_text(block)
    path = [*curvature.__path__, folder]
    cls.enterClassContext(mock.patch.object(curvature, '__path__', path))
    cls.enterClassContext(mock.patch.dict(sys.modules))
    _contract.setUpModule()
    cls.addClassCleanup(_contract.tearDownModule)


class AddCurvatureOperatorTest(_AddCurvature, _contract.OperatorTest):
  pass


class AddCurvatureInvarianceTest(_AddCurvature, _contract.InvarianceTest):
  pass


class OwnModelTest(absltest.TestCase):
  def test_its_scores_are_products_of_gradients_and_solved_ones(self):
    (block,) = code('docs/own_model.md')
    found = {}
    exec(compile(block, 'docs/own_model.md', 'exec'), found)
    scores = found['scores']
    self.assertEqual(scores.shape, (2, 64))
    wanted = sum(  # the queries are the first two rows
      np.einsum('kio,bio->kb', found['solved'][path], found['g'][path])
      for path in found['model'].layers
    )
    np.testing.assert_allclose(scores[:, :2], wanted, rtol=1e-4)
    self.assertTrue((np.diag(wanted) > 0).all())


class PagesTest(parameterized.TestCase):
  @parameterized.parameters(sorted(_TEXTS))
  def test_links_lead_to_files(self, page):
    folder = (_ROOT / page).parent
    for groups in _LINK.findall(_TEXTS[page]):
      target = ''.join(groups).partition('#')[0]
      if target and not re.match(r'\w+:', target):
        self.assertTrue((folder / target).exists(), f'{page}: {target}')

  @parameterized.parameters(sorted(_TEXTS))
  def test_commands_name_modules_configs_and_keys_that_there_are(self, page):
    text = _TEXTS[page].replace('$step', 'score')
    for module, flags in _COMMAND.findall(text):
      name = module.removeprefix('experiments.')
      self.assertIn(name, _MODULES, page)
      path = re.search(r'--config=(configs/\w+\.py)', flags)
      path = _ROOT / (path[1] if path else 'configs/influence.py')
      self.assertTrue(path.is_file(), f'{page}: {path}')
      for key in _KEY.findall(flags):
        self.assertIn(key, keys(path), f'{page}: {module} {path.name}')

  def test_every_module_is_on_a_page_of_the_api(self):
    listed = {
      name
      for page, text in _TEXTS.items()
      for name in re.findall(r'^::: (\S+)$', text, re.MULTILINE)
    }
    modules = {
      x.name
      for x in pkgutil.walk_packages(influence_jax.__path__, 'influence_jax.')
      if not x.ispkg
    }
    self.assertEmpty(modules - listed, 'add ::: lines to a page of docs/api')
    packages = {'influence_jax.curvature', 'influence_jax.solvers',
                'influence_jax.models'}  # fmt: skip
    self.assertEmpty(listed - modules - packages, 'no such modules')


_MODULES = {x.name for x in pkgutil.iter_modules(experiments.__path__)}


if __name__ == '__main__':
  absltest.main()
