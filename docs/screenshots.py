"""Pictures of every view of the viewer, as docs/viewer.md shows them.

  python docs/screenshots.py view docs/images runs/quickstart/view.html \
    runs/beside/view.html
  python docs/screenshots.py live docs/images http://127.0.0.1:PORT/

The last of the first, one that experiments.view --others made, may be left out;
the second is of experiments.view --serve --checkpoint of the quickstart. Needs
playwright (the extra `test`) and a Chromium of the machine.
"""

import io
import pathlib
import shutil
import sys
from collections.abc import Callable

from PIL import Image  # of matplotlib
from playwright import sync_api

_BY_COVERAGE = Image.Quantize.MAXCOVERAGE  # rare colours stay what they are
_SCAN = 'text=scoring candidates'
_CHROMIUM = shutil.which('chromium') or shutil.which('chromium-browser')


def main(what: str, folder: str, *addresses: str) -> None:
  pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
  with sync_api.sync_playwright() as driver:
    browser = driver.chromium.launch(
      executable_path=_CHROMIUM, args=['--no-sandbox']
    )

    def shoot(name, address, act=None, scheme='light', size=(1280, 760)):
      shown = browser.new_page(
        viewport={'width': size[0], 'height': size[1]}, color_scheme=scheme
      )
      shown.goto(address)
      if act is not None:
        act(shown)
      whole = Image.open(io.BytesIO(shown.screenshot())).convert('RGB')
      path = pathlib.Path(folder) / f'viewer_{name}.png'
      few = whole.quantize(256, _BY_COVERAGE, dither=Image.Dither.NONE)
      few.save(path, optimize=True)  # a third of the bytes
      shown.close()

    {'view': _view, 'live': _live}[what](shoot, *addresses)
    browser.close()


def _view(shoot: Callable, page: str, beside: str | None = None) -> None:
  page = pathlib.Path(page).resolve().as_uri()
  shoot('sequences', page)
  shoot('output', f'{page}#parts=output', _press('ArrowRight'))
  shoot('input_dark', f'{page}#parts=input', _press('ArrowRight'), 'dark')
  shoot('distribution', f'{page}#tab=distribution', size=(1280, 1010))
  shoot('run', f'{page}#tab=run')
  shoot('keys', page, _press('?'))
  shoot('narrow', page, size=(420, 760))
  if beside is not None:
    beside = pathlib.Path(beside).resolve().as_uri()
    shoot('models', beside)
    shoot('models_distribution', f'{beside}#tab=distribution')


def _live(shoot: Callable, address: str) -> None:
  shoot('live_queries', address)
  shoot('live_rows', f'{address}rows?query=planet&words=solar+system')
  top = f'{address}rows?query=planet&source=top'
  shoot('live_sequence', top, _open_first)
  shoot('ask', f'{address}ask')
  shoot('ask_progress', f'{address}ask', lambda page: _ask(page, _SCAN))
  shoot('ask_result', f'{address}ask', lambda page: _ask(page, '.card .text'))


def _open_first(page) -> None:
  page.click('.card .title a')
  page.wait_for_url('**/sequence?*')


def _ask(page, until: str) -> None:
  page.fill('[name=prompt]', 'The capital of Italy is')
  page.fill('[name=completion]', ' Rome')
  page.click('#ask button')
  page.wait_for_selector(until, timeout=300_000)
  page.wait_for_timeout(1500)


def _press(key: str) -> Callable:
  return lambda page: page.keyboard.press(key)


if __name__ == '__main__':
  main(*sys.argv[1:])
