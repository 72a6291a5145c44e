"""What axe-core finds wrong with a page, for the tests in a browser."""

from axe_playwright_python import sync_playwright as axe
from playwright import sync_api


def serious(page: sync_api.Page) -> list[tuple[str, str]]:
  """(rule, element) of each violation that is serious or critical."""
  found = axe.Axe().run(page).response
  assert found['passes'], 'no rule was checked'
  return [
    (x['id'], node['html'])
    for x in found['violations']
    if x['impact'] in ('serious', 'critical')
    for node in x['nodes']
  ]
