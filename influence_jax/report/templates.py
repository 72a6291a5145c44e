"""What all templates beside this file share: escaping, and colours of scores.

Texts are other people's: jinja2 escapes each, also in attributes.
"""

from typing import Any

import jinja2
import markupsafe

from influence_jax.report import records

NUM_SHADES = 10  # of each colour; style sheets have as many


def shade(score: float, bound: float) -> str:
  """Style class of a score between -bound and bound: 'n10' to 'p10', or ''."""
  level = round(score / bound * NUM_SHADES) if bound else 0
  return f'p{level}' if level > 0 else f'n{-level}' if level < 0 else ''


def environment() -> jinja2.Environment:
  """For templates beside this file, or of strings: all is escaped."""
  made = jinja2.Environment(
    loader=jinja2.PackageLoader('influence_jax.report', '.'),
    autoescape=True,
    finalize=_spelt_out,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
  )
  made.filters['number'] = records.number
  return made


def _spelt_out(value: Any) -> Any:
  """What jinja2 is about to escape, without unseen characters."""
  if isinstance(value, markupsafe.Markup):  # the template's own, done already
    return value
  return records.plain(
    f'{value:.6g}' if isinstance(value, float) else str(value)
  )
