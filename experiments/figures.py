"""All claims and figures that there are, on one page.

  python -m experiments.figures --workdir=runs [--out=results] \
    [--readme=README.md]

Of every ladder under WORKDIR (WORKDIR/<ladder>/ladder.json) and every study
that ran on it (WORKDIR/<ladder>/<study>/result.json). Prints the table of all
claims and writes WORKDIR/index.html, one file that needs no network; studies of
configs/figures.py that have not run are named in both. Where a study ran on
several ladders, its claims are those of the ladder named there.

With --out, also OUT/claims.json, OUT/ladder_<ladder>.json and .png, and of each
study OUT/<study>/result.json and its figures; a file over 1 MB is refused. Of a
figure's PDF there is a copy if it has 100 kB at most. With --readme, the table
of claims replaces what stands between the lines <!-- claims --> and
<!-- /claims -->. In both stay the claims of OUT/claims.json that nothing in
WORKDIR makes anew. Every file is written whole, and none before all are made.
Seconds.
"""

import json
import os
import pathlib
from collections.abc import Sequence

import rich
from absl import app, flags
from ml_collections import ConfigDict

from configs import figures as figures_config
from experiments import claims, figures_found, figures_page
from influence_jax import store
from influence_jax.report import files

_MOST_BYTES = 10**6  # of a file in OUT
_MOST_OF_PDF = 10**5  # of one that is copied
_MARKERS = '<!-- claims -->', '<!-- /claims -->'


def run(
  section: ConfigDict,
  workdir: str | os.PathLike,
  out: str | os.PathLike | None = None,
  readme: str | os.PathLike | None = None,
) -> list[dict]:
  """Writes all that is asked for and returns the claims.

  Args:
    section: figures of configs/figures.py.
  """
  workdir = pathlib.Path(workdir)
  found = figures_found.find(section, workdir)
  if out is not None:
    found = found._replace(claims=joined(found.claims, pathlib.Path(out)))
  page = figures_page.render(found)
  contents = {workdir / 'index.html': page.encode('utf-8')}
  if out is not None:
    contents |= published(found, pathlib.Path(out))
  if readme is not None:
    path = pathlib.Path(readme)
    contents[path] = replaced(path, claims.markdown(found.claims)).encode()
  for path, content in contents.items():
    files.write(path, content)
  rich.print(claims.render(found.claims))
  for line in figures_found.missing(found):
    print(line)
  print(f'wrote {", ".join(map(str, contents))}')
  return found.claims


def joined(made: list[dict], out: pathlib.Path) -> list[dict]:
  """The claims made, in the places and with the rest of OUT/claims.json."""
  path = out / 'claims.json'
  if not path.exists():
    return made
  new = {claim['id']: claim for claim in made}
  kept = [new.pop(claim['id'], claim) for claim in store.read_json(path)]
  return [*kept, *new.values()]


def published(
  found: figures_found.Found, out: pathlib.Path
) -> dict[pathlib.Path, bytes]:
  """{path: content} of all files in OUT.

  Raises:
    ValueError: a file is too large to be kept with the code.
  """
  sources = {}
  for one in found.ladders:
    for path in (one.folder / 'ladder.json', *_with_pdf(one.figures)):
      sources[out / f'ladder_{one.name}{path.suffix}'] = path
  for study in found.studies:
    name = study.name if study.chosen else f'{study.name}_{study.ladder}'
    for path in (study.folder / 'result.json', *_with_pdf(study.figures)):
      sources[out / name / path.name] = path
  for path in sources.values():
    if path.stat().st_size > _MOST_BYTES:
      raise ValueError(
        f'{path} has {path.stat().st_size:,} bytes, expected at most '
        f'{_MOST_BYTES:,} of what is copied to {out}: let the study keep in '
        'it what its figure shows, and the rest in another file'
      )
  text = json.dumps(found.claims, indent=2, sort_keys=True) + '\n'
  contents = {target: path.read_bytes() for target, path in sources.items()}
  return {out / 'claims.json': text.encode(), **contents}


def _with_pdf(pngs: Sequence[pathlib.Path]) -> list[pathlib.Path]:
  """These, and those of the same figures as PDF that are there and small."""
  pdfs = [path.with_suffix('.pdf') for path in pngs]
  small = [x for x in pdfs if x.exists() and x.stat().st_size <= _MOST_OF_PDF]
  return [*pngs, *small]


def replaced(readme: pathlib.Path, table: str) -> str:
  """The text of `readme` with the table between its markers.

  Raises:
    ValueError: the markers are not there, once each and in order.
  """
  text = readme.read_text(encoding='utf-8')
  first, last = (f'{marker}\n' for marker in _MARKERS)
  start, stop = text.find(first) + len(first), text.find(last)
  if [text.count(x) for x in (first, last)] != [1, 1] or stop < start:
    raise ValueError(
      f'{readme} has no place for the claims: expected one line {_MARKERS[0]} '
      f'and, after it, one line {_MARKERS[1]}; write them where the table '
      'belongs'
    )
  return text[:start] + table + text[stop:]


def main(_) -> None:
  values = flags.FLAGS
  section = figures_config.get_config().figures
  run(section, values.workdir, values.out, values.readme)


if __name__ == '__main__':
  # Here, since other binaries have flags of the same names
  flags.DEFINE_string('workdir', None, 'holds the ladders', required=True)
  flags.DEFINE_string('out', None, 'folder for copies of results')
  flags.DEFINE_string('readme', None, 'file whose table of claims is replaced')
  app.run(main)
