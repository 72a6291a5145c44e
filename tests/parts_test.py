import json
import pathlib
import tempfile

from absl.testing import absltest

from experiments import parts


class PartsTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    folder = self.enterContext(tempfile.TemporaryDirectory())
    self.path = pathlib.Path(folder) / 'study' / 'd64_seed0.json'
    self.calls = []

  def fn(self):
    self.calls.append(1)
    return {'x': (1.5, 2)}

  def test_a_part_is_computed_once_and_reads_the_same_again(self):
    first = parts.part(self.path, {'data': 'a'}, self.fn)
    again = parts.part(self.path, {'data': 'a'}, self.fn)
    self.assertEqual(first, again)
    self.assertEqual(first['x'], [1.5, 2])
    self.assertLen(self.calls, 1)
    self.assertGreaterEqual(first['seconds'], 0)
    self.assertEqual(json.loads(self.path.read_text()), first)

  def test_a_part_of_another_origin_is_refused_by_name(self):
    parts.part(self.path, {'data': 'a', 'n': 1}, self.fn)
    with self.assertRaisesRegex(ValueError, 'data'):
      parts.part(self.path, {'data': 'b', 'n': 1}, self.fn)
    self.assertLen(self.calls, 1)

  def test_what_fails_leaves_no_part(self):
    def fail():
      raise ZeroDivisionError

    with self.assertRaises(ZeroDivisionError):
      parts.part(self.path, {}, fail)
    self.assertFalse(self.path.exists())


if __name__ == '__main__':
  absltest.main()
