"""Pictures of every view of a view.html, as docs/viewer.md shows them.

  python docs/screenshots.py runs/quickstart/view.html docs/images \
    runs/beside/view.html

The third, one that experiments.view --others made, may be left out. Needs
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
_CHROMIUM = shutil.which('chromium') or shutil.which('chromium-browser')


def main(page: str, folder: str, beside: str | None = None) -> None:
  pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
  with sync_api.sync_playwright() as driver:
    browser = driver.chromium.launch(
      executable_path=_CHROMIUM, args=['--no-sandbox']
    )

    def shoot(name, address, act=None, scheme='light', size=(1280, 760)):
      file, _, link = address.partition('#')
      shown = browser.new_page(
        viewport={'width': size[0], 'height': size[1]}, color_scheme=scheme
      )
      shown.goto(f'{pathlib.Path(file).resolve().as_uri()}#{link}')
      if act is not None:
        act(shown)
      whole = Image.open(io.BytesIO(shown.screenshot())).convert('RGB')
      path = pathlib.Path(folder) / f'viewer_{name}.png'
      few = whole.quantize(256, _BY_COVERAGE, dither=Image.Dither.NONE)
      few.save(path, optimize=True)  # a third of the bytes
      shown.close()

    shoot('sequences', page)
    shoot('output', f'{page}#parts=output', _press('ArrowRight'))
    shoot('input_dark', f'{page}#parts=input', _press('ArrowRight'), 'dark')
    shoot('distribution', f'{page}#tab=distribution', size=(1280, 1010))
    shoot('run', f'{page}#tab=run')
    shoot('keys', page, _press('?'))
    shoot('narrow', page, size=(420, 760))
    if beside is not None:
      shoot('models', beside)
      shoot('models_distribution', f'{beside}#tab=distribution')
    browser.close()


def _press(key: str) -> Callable:
  return lambda page: page.keyboard.press(key)


if __name__ == '__main__':
  main(*sys.argv[1:])
