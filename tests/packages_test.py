import gzip
import hashlib
import io
import pathlib
import shutil
import subprocess
import tarfile
import tempfile
import types
import zipfile
from unittest import mock

from absl.testing import absltest, parameterized

from influence_jax.data import packages

FILES = {
  'a/one.txt': b'one',
  'a/two.txt': bytes(range(256)) * 300,
  'b.txt': 'Été'.encode(),
  'c++ (1).txt': b'a name is no pattern',
}


def write_wheel(path):
  with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
    archive.mkdir('a')
    for name, data in FILES.items():
      archive.writestr(name, data)


def write_tgz(path):
  with tarfile.open(path, 'w:gz') as archive:
    folder = tarfile.TarInfo('a')
    folder.type = tarfile.DIRTYPE
    archive.addfile(folder)
    for name, data in FILES.items():
      member = tarfile.TarInfo(name)
      member.size = len(data)
      archive.addfile(member, io.BytesIO(data))


def write_deb(path):
  if not shutil.which('dpkg-deb'):
    raise absltest.SkipTest('NO TEST OF .deb ARCHIVES: dpkg-deb is not here')
  with tempfile.TemporaryDirectory() as folder:
    root = pathlib.Path(folder)
    root.chmod(0o755)
    for name, data in FILES.items():
      (root / name).parent.mkdir(exist_ok=True)
      (root / name).write_bytes(data)
    (root / 'DEBIAN').mkdir()
    (root / 'DEBIAN/control').write_text(
      'Package: x\nVersion: 1\nArchitecture: all\nMaintainer: x <x@x>\n'
      'Description: x\n'
    )
    build = ['dpkg-deb', '--build', folder, str(path)]
    subprocess.run(build, check=True, capture_output=True)


WRITERS = (
  ('x.whl', write_wheel),
  ('x.tgz', write_tgz),
  ('x.tar.gz', write_tgz),
  ('x.deb', write_deb),
)


class ReadTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    directory = self.enter_context(tempfile.TemporaryDirectory())
    self.directory = pathlib.Path(directory)

  @parameterized.parameters(*WRITERS)
  def test_files_come_out_as_they_went_in(self, name, write):
    path = self.directory / name
    write(path)
    self.assertCountEqual(packages.names(path), FILES)
    for member, data in FILES.items():
      self.assertEqual(packages.read(path, member), data)
    self.assertEqual(
      packages.read_all(path, r'a/\w+[.]txt'),
      {'a/one.txt': b'one', 'a/two.txt': FILES['a/two.txt']},
    )
    self.assertEqual(packages.read_all(path, 'a/one'), {})  # not the whole
    with self.assertRaisesRegex(ValueError, 'no file a/o.e.txt .*c[+]'):
      packages.read(path, 'a/o.e.txt')

  @parameterized.parameters(*WRITERS)
  def test_half_an_archive_is_a_value_error(self, name, write):
    path = self.directory / name
    write(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with self.assertRaisesRegex(ValueError, 'delete the archive'):
      packages.read(path, 'b.txt')
    path.unlink()
    with self.assertRaisesRegex(ValueError, 'delete the archive'):
      packages.names(path)

  def test_damaged_file_in_a_wheel_is_a_value_error(self):
    path = self.directory / 'x.whl'
    with zipfile.ZipFile(path, 'w') as archive:
      archive.writestr('a', b'right')
    path.write_bytes(path.read_bytes().replace(b'right', b'wrong'))
    with self.assertRaisesRegex(ValueError, 'CRC'):
      packages.read(path, 'a')

  def test_many_files_open_the_archive_once(self):
    path = self.directory / 'x.tgz'
    write_tgz(path)
    with mock.patch.object(tarfile, 'open', wraps=tarfile.open) as opened:
      self.assertLen(packages.read_all(path, '.*'), len(FILES))
    opened.assert_called_once()

  def test_what_dpkg_says_against_an_archive_counts(self):
    write_tgz(self.directory / 'x.tgz')
    whole = gzip.decompress((self.directory / 'x.tgz').read_bytes())
    done = types.SimpleNamespace(returncode=2, stdout=whole, stderr=b'bad sum')
    with mock.patch.object(subprocess, 'run', return_value=done):
      with self.assertRaisesRegex(ValueError, 'bad sum; delete the archive'):
        packages.names(self.directory / 'x.deb')
      done.returncode = 0
      self.assertCountEqual(packages.names(self.directory / 'x.deb'), FILES)

  def test_other_archives_are_a_value_error(self):
    with self.assertRaisesRegex(ValueError, 'expected a .whl, .tgz'):
      packages.names(self.directory / 'x.zst')

  def test_missing_dpkg_is_named(self):
    missing = mock.patch.object(
      subprocess, 'run', side_effect=FileNotFoundError
    )
    with (
      missing,
      self.assertRaisesRegex(RuntimeError, 'dpkg-deb, which is not'),
    ):
      packages.names(self.directory / 'x.deb')


ABC = 'ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad'


def package(registry='pypi', file='x-1.whl'):
  return packages.Package(registry, 'x', '1', file, ABC)


class FetchTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    directory = self.enter_context(tempfile.TemporaryDirectory())
    self.directory = pathlib.Path(directory) / 'cache'
    self.commands = []

  def client(self, *contents, file='x-1.whl', update=0):
    """Stands for all clients: the nth download brings the nth contents."""
    contents = iter(contents)

    def run(command, *, cwd=None, **_):
      self.commands.append(command)
      if command[1] == 'update':
        return types.SimpleNamespace(returncode=update, stderr=b'offline')
      content = next(contents)
      if content is not None:
        (pathlib.Path(cwd) / file).write_bytes(content)
      code = 100 if content is None else 0
      return types.SimpleNamespace(returncode=code, stderr=b'no such version')

    return mock.patch.object(subprocess, 'run', run)

  def test_sha256_of_the_tests_is_right(self):
    self.assertEqual(hashlib.sha256(b'abc').hexdigest(), ABC)

  @parameterized.parameters(
    ('pypi', 'x-1.whl', ['--no-deps', '--no-binary', ':none:', 'x==1']),
    ('npm', 'x-1.tgz', ['npm', 'pack', '--ignore-scripts', 'x@1']),
    ('debian', 'x_1_all.deb', ['apt-get', 'download', 'x=1']),
  )
  def test_archive_is_fetched_once_by_its_client(self, registry, file, words):
    wanted = package(registry, file)
    with self.client(b'abc', file=file):
      path = packages.fetch(wanted, self.directory)
      self.assertEqual(packages.fetch(wanted, self.directory), path)
    self.assertEqual(path, self.directory / file)
    self.assertEqual(path.read_bytes(), b'abc')
    self.assertEqual(list(self.directory.iterdir()), [path])
    self.assertLen(self.commands, 1)
    self.assertContainsSubset(words, self.commands[0])

  def test_archive_put_by_hand_is_taken(self):
    self.directory.mkdir()
    (self.directory / 'x-1.whl').write_bytes(b'abc')
    with self.client():
      packages.fetch(package(), self.directory)
    self.assertEmpty(self.commands)

  def test_damaged_archive_is_fetched_again(self):
    self.directory.mkdir()
    (self.directory / 'x-1.whl').write_bytes(b'ab')
    with self.client(b'abc'):
      path = packages.fetch(package(), self.directory)
    self.assertEqual(path.read_bytes(), b'abc')

  def test_other_archive_is_a_value_error_and_is_not_kept(self):
    with self.client(b'abd'):
      with self.assertRaisesRegex(
        ValueError, 'expected ba7816bf.*put the righ'
      ):
        packages.fetch(package(), self.directory)
    self.assertEmpty(list(self.directory.iterdir()))

  def test_apt_is_updated_only_where_the_download_failed(self):
    wanted = package('debian', 'x_1_all.deb')
    with self.client(None, b'abc', file='x_1_all.deb'):
      path = packages.fetch(wanted, self.directory)
    self.assertEqual(path.read_bytes(), b'abc')
    verbs = [command[1] for command in self.commands]
    self.assertEqual(verbs, ['download', 'update', 'download'])

  @parameterized.parameters(0, 100)
  def test_version_that_debian_left_is_named(self, update):
    wanted = package('debian', 'x_1_all.deb')
    with self.client(None, None, update=update):
      with self.assertRaisesRegex(
        RuntimeError, 'no x_1_all.deb of x=1: no such version.*versions move'
      ):
        packages.fetch(wanted, self.directory)
    self.assertEmpty(list(self.directory.iterdir()))

  def test_archive_under_another_name_is_a_runtime_error(self):
    with self.client(b'abc', file='x-1.tar.gz'):
      with self.assertRaisesRegex(RuntimeError, 'no x-1.whl of x==1'):
        packages.fetch(package(), self.directory)

  def test_missing_client_is_named_and_so_is_the_place_by_hand(self):
    missing = mock.patch.object(
      subprocess, 'run', side_effect=FileNotFoundError
    )
    message = 'npm, which is not installed.*put x-1.tgz at .*cache/x-1.tgz'
    with missing, self.assertRaisesRegex(RuntimeError, message):
      packages.fetch(package('npm', 'x-1.tgz'), self.directory)

  def test_unknown_registry_is_a_value_error(self):
    with self.assertRaisesRegex(ValueError, "'cran', expected one of"):
      packages.fetch(package('cran'), self.directory)

  def test_failing_pip_is_quoted(self):
    bad = package()._replace(name='not a requirement')
    with self.assertRaisesRegex(RuntimeError, 'Invalid requirement'):
      packages.fetch(bad, self.directory)


if __name__ == '__main__':
  absltest.main()
