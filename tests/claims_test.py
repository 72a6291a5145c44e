import json
import pathlib
import re
import tempfile

from absl.testing import absltest, parameterized

from experiments import claims, ladder


def _claim(name='E8', value=(0.9, 0.8, 0.95), threshold=('>=', 0.8), **kwargs):
  return claims.claim(
    name, 'Fig. 9', 'share of queries', value, threshold, paper='12-52 %',
    **kwargs,
  )  # fmt: skip


class ClaimsTest(parameterized.TestCase):
  @parameterized.parameters(
    ('>', 0.5, 0.5, False), ('>=', 0.5, 0.5, True), ('<', 0.5, 0.5, False),
    ('<=', 0.5, 0.5, True), ('>', 0.5, 0.51, True), ('<', 0.5, 0.51, False),
    ('>=', 0.5, 0.49, False), ('<=', 0.5, 0.51, False),
  )  # fmt: skip
  def test_the_value_alone_decides(self, relation, bound, value, held):
    found = _claim(value=(value, 0.0, 1.0), threshold=(relation, bound))
    self.assertIs(found['held'], held)

  def test_a_value_that_is_no_number_does_not_hold(self):
    nan = float('nan')
    self.assertFalse(_claim(value=nan, threshold=('>', 0))['held'])
    self.assertFalse(_claim(value=nan, threshold=('<=', 0))['held'])

  def test_seeds_and_sizes_are_those_of_the_rungs(self):
    rungs = [
      ladder.Rung(size, seed, None, None)
      for seed in (2, 0)
      for size in ('d64', 'd128')
    ]
    found = _claim(rungs=iter(rungs))
    self.assertEqual(found['seeds'], [0, 2])
    self.assertEqual(found['sizes'], ['d64', 'd128'])
    own = _claim(rungs=[ladder.Rung('', 3, None, None)])
    self.assertEqual((own['seeds'], own['sizes']), ([3], []))

  def test_numbers_are_shown_in_the_claims_form(self):
    found = _claim(form='.0%')
    self.assertEqual(claims.value(found), '90% (80% to 95%)')
    self.assertEqual(claims.bound(found), '>= 80%')
    self.assertEqual(claims.value(_claim(value=0.5, form='.3f')), '0.500')

  def test_markdown_has_a_line_a_claim_and_marks_what_does_not_hold(self):
    bad = _claim('E9', value=0.1)
    lines = claims.markdown([_claim(), bad]).splitlines()
    self.assertLen(lines, 4)
    self.assertLen({line.count('|') for line in lines}, 1)
    self.assertIn('| yes |', lines[2])
    self.assertIn('| **no** |', lines[3])

  def test_a_bar_in_a_cell_is_no_new_cell_of_the_markdown(self):
    bad = {**_claim(), 'statement': 'overlap |Q and D|'}
    lines = claims.markdown([bad]).splitlines()
    cells = re.split(r'(?<!\\)\|', lines[2])
    self.assertLen(cells, lines[0].count('|') + 1)
    self.assertEqual(cells[3], r' overlap \|Q and D\| ')

  def test_a_damaged_result_is_named(self):
    root = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    (root / 'result.json').write_text('{"claims": [')
    with self.assertRaisesRegex(ValueError, f'{root}/result.json is .*damaged'):
      claims.gather([root])

  def test_claims_of_all_studies_are_gathered_in_the_order_of_their_numbers(
    self,
  ):
    root = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    for path, names in (
      ('a/x/result.json', ['E10', 'D1', 'E9']),
      ('b/y/result.json', ['E2 task10']), ('b/z/result.json', []),
    ):  # fmt: skip
      made = [_claim(name) for name in names]
      result = {'command': path, 'commit': 'c', 'device': 'd', 'claims': made}
      (root / path).parent.mkdir(parents=True)
      (root / path).write_text(json.dumps(result))
    found = claims.gather([root / 'a', root / 'b'])
    names = [one['id'] for one in found]
    self.assertEqual(names, ['E2 task10', 'E9', 'E10', 'D1'])
    self.assertEqual(found[0]['command'], 'b/y/result.json')
    self.assertEqual(found[2]['device'], 'd')


if __name__ == '__main__':
  absltest.main()
