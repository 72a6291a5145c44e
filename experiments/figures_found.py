"""What experiments.figures shows: ladders, studies and claims of a workdir.

Beside ladders, WORKDIR/validation holds studies that need none.
"""

import ast
import os
import pathlib
from collections.abc import Iterable
from typing import NamedTuple

from ml_collections import ConfigDict

from experiments import claims
from influence_jax import store

VALIDATION = 'validation'


class Ladder(NamedTuple):
  """One of which a rung at least is trained, fitted and scored."""

  name: str
  folder: pathlib.Path
  result: dict  # ladder.json
  figures: list[pathlib.Path]

  @property
  def num_rungs(self) -> int:
    """Of its config; ladder.json has those that are finished."""
    section = self.result['config']['ladder']
    return sum(len(section['seeds'][size]) for size in section['sizes'])


class Study(NamedTuple):
  name: str
  ladder: str
  chosen: bool  # the config names this ladder for it, or it needs none
  folder: pathlib.Path
  title: str
  result: dict
  figures: list[pathlib.Path]

  @property
  def claims(self) -> list[dict]:
    return self.result.get('claims', [])


class Found(NamedTuple):
  ladders: list[Ladder]
  studies: list[Study]
  claims: list[dict]  # as of claims.gather, one an id
  no_ladders: list[str]  # names that the config has and the workdir has not
  no_studies: list[tuple[str, str]]  # likewise, and their ladders


def find(section: ConfigDict, workdir: pathlib.Path) -> Found:
  """In the order of config.figures, then what else there is.

  Raises:
    ValueError: the workdir has neither a ladder nor a study, or a file in it is
      damaged.
  """
  names = [name for name, _ in section.ladders]
  pairs = [(study, ladder) for study, ladder, _ in section.studies]
  binaries = {name: binary for binary, name, _ in section.validations}
  pairs += [(name, VALIDATION) for name in binaries]
  ladders = [_ladder(p.parent) for p in sorted(workdir.glob('*/ladder.json'))]
  roots = {*names, VALIDATION, *(one.name for one in ladders)}
  studies = [
    _study(path.parent, pairs, binaries)
    for path in sorted(workdir.glob('*/*/result.json'))
    if path.parts[-3] in roots
  ]
  if not ladders and not studies:
    raise ValueError(
      f'nothing to show in {workdir}: expected ladders in it, as '
      f'{workdir / names[0] / "ladder.json"}; run experiments.reproduce, or '
      'give the folder above the ladders as --workdir'
    )
  ladders.sort(key=lambda one: _place(names, one.name))
  studies.sort(key=lambda one: _place(pairs, (one.name, one.ladder)))
  ran = {(one.name, one.ladder) for one in studies}
  return Found(
    ladders,
    studies,
    _claims(studies),
    [name for name in names if name not in {one.name for one in ladders}],
    [pair for pair in pairs if pair not in ran],
  )


def missing(found: Found) -> list[str]:
  """A line for each thing that the config has and that is not there."""
  lines = [f'not run: ladder {name}' for name in found.no_ladders]
  for one in found.ladders:
    if len(one.result['rungs']) < one.num_rungs:
      lines.append(
        f'unfinished: ladder {one.name}, {len(one.result["rungs"])} of '
        f'{one.num_rungs} rungs'
      )
  lines += [f'not run: {name} ({root})' for name, root in found.no_studies]
  return lines


def title(study: str) -> str:
  """The first line of the docstring of experiments.<study>, else its name."""
  path = pathlib.Path(__file__).with_name(f'{study}.py')
  if not path.exists():
    return study
  tree = ast.parse(path.read_text(encoding='utf-8'))
  return (ast.get_docstring(tree) or study).splitlines()[0]


def _ladder(folder: pathlib.Path) -> Ladder:
  result = store.read_json(folder / 'ladder.json')
  return Ladder(folder.name, folder, result, sorted(folder.glob('ladder.png')))


def _study(folder: pathlib.Path, pairs: list, binaries: dict) -> Study:
  name, ladder = folder.name, folder.parent.name
  shown = title(name)
  if ladder == VALIDATION and name in binaries:
    shown = f'{name}: {title(binaries[name])}'
  chosen = ladder == VALIDATION or (name, ladder) in pairs
  return Study(
    name, ladder, chosen, folder, shown,
    store.read_json(folder / 'result.json'), sorted(folder.glob('*.png')),
  )  # fmt: skip


def _claims(studies: Iterable[Study]) -> list[dict]:
  """Of an id that several ladders have, the last to come: the chosen one's."""
  order = sorted(studies, key=lambda one: one.chosen)
  return claims.gather(one.folder for one in order)


def _place(known: list, name: str | os.PathLike | tuple) -> tuple:
  return (known.index(name) if name in known else len(known), name)
