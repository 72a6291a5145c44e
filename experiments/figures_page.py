"""The page of experiments.figures: all claims, then ladders and studies.

It needs no network and no script, and its content policy allows neither. Texts
of studies are escaped by jinja2, whatever they hold.
"""

import base64
import pathlib
import struct
from typing import Any

import jinja2

from experiments import claims, figures_found
from influence_jax.report import figures, templates

_MOST_BYTES = 10**6  # of a figure that is shown
_ORIGIN = 'command', 'commit', 'device'  # None where a result lacks them
_PNG = b'\x89PNG\r\n\x1a\n'
_SCALE = figures.CSS_PIXELS / figures.DPI  # by those of a PNG


def render(found: figures_found.Found) -> str:
  """The page as text."""
  ladders = [
    _described(one, f'l{n}', ('num_rungs',))
    for n, one in enumerate(found.ladders)
  ]
  studies = [
    _described(one, f's{n}', ('claims',)) for n, one in enumerate(found.studies)
  ]
  places = {
    claim['id']: study['place']
    for study in sorted(studies, key=lambda one: one['chosen'])
    for claim in study['claims']
  }
  return _environment().get_template('claims.html.j2').render(
    claims=found.claims, places=places, missing=figures_found.missing(found),
    ladders=ladders, studies=studies,
  )  # fmt: skip


def image(path: pathlib.Path) -> dict[str, Any]:
  """Name, width in CSS pixels and content; no content if it is too large.

  Raises:
    ValueError: the file is no PNG.
  """
  content = path.read_bytes()
  if content[:8] != _PNG:
    raise ValueError(
      f'{path} is no PNG: remove it and run the study that wrote it again'
    )
  (width,) = struct.unpack('>I', content[16:20])
  data = ''
  if len(content) <= _MOST_BYTES:
    data = base64.b64encode(content).decode('ascii')
  return {'name': path.stem, 'width': round(_SCALE * width), 'data': data}


def _described(one, place: str, properties: tuple[str, ...]) -> dict[str, Any]:
  return {
    **one._asdict(),
    **{name: getattr(one, name) for name in properties},
    'result': {**dict.fromkeys(_ORIGIN), **one.result},
    'place': place,
    'images': [image(path) for path in one.figures],
  }


def _environment() -> jinja2.Environment:
  environment = templates.environment()
  environment.filters |= {'value': claims.value, 'bound': claims.bound}
  return environment
