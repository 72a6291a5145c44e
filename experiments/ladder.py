"""A ladder: models of several sizes and seeds on one corpus, each a workdir.

A config's section `ladder` has

  sizes    ('d64', ...), smallest first
  models   {'d64': keys of config.model that make this size, ...}
  seeds    {'d64': (0, 1, 2), ...}: of training and of the fit's labels
  queries  what the corpus's own queries(source, ...) is to be told; None where
           config.score.queries is a file

A rung's workdir is WORKDIR/d64_seed0, with WORKDIR's corpus linked into it, so
that every binary works on it as on any other. A config without the section is
one rung, the workdir itself: that is how a study runs on a model of your own.
"""

import os
import pathlib
import shutil
from collections.abc import Collection, Sequence
from typing import NamedTuple

from ml_collections import ConfigDict

from influence_jax import store

CORPUS = ('corpus.json', 'tokenizer.json', 'sequences')
QUERIES = 'queries.jsonl'


class Rung(NamedTuple):
  size: str  # '' without a ladder
  seed: int
  config: ConfigDict  # of this rung alone
  workdir: pathlib.Path

  @property
  def name(self) -> str:
    return f'{self.size}_seed{self.seed}' if self.size else self.workdir.name


def rungs(
  config: ConfigDict,
  workdir: str | os.PathLike,
  sizes: Collection[str] | None = None,
) -> list[Rung]:
  """By seed, then by size, smallest first; of `sizes` alone if given.

  Raises:
    ValueError: a size is not on the ladder.
  """
  workdir = pathlib.Path(workdir)
  if 'ladder' not in config:
    return [Rung('', config.train.seed, config, workdir)]
  section = config.ladder
  known = {*section.models} & {*section.seeds}
  if unknown := {*section.sizes, *(sizes or ())} - known:
    raise ValueError(
      f'sizes {sorted(unknown)} are not on the ladder: those of which '
      f'config.ladder has a model and seeds are {sorted(known)}'
    )
  order = sorted(
    (seed, place, size)
    for place, size in enumerate(section.sizes)
    for seed in section.seeds[size]
    if sizes is None or size in sizes
  )
  return [_rung(config, workdir, size, seed) for seed, _, size in order]


def finished(
  config: ConfigDict,
  workdir: str | os.PathLike,
  sizes: Collection[str] | None = None,
) -> list[Rung]:
  """`rungs`, as a study wants them: trained, fitted and scored.

  Raises:
    ValueError: one has no scores yet.
  """
  found = rungs(config, workdir, sizes or None)
  for rung in found:
    folder = rung.workdir / rung.config.score.folder
    if not (folder / 'manifest.json').exists():
      how = 'train_ladder' if rung.size else 'train, .fit_curvature and .score'
      raise ValueError(
        f'no scores in {folder}: run experiments.{how} to the end, or name the '
        '--workdir in which it ran, or take sizes and seeds that are finished'
      )
  return found


def largest(config: ConfigDict) -> tuple[str, ...] | None:
  """The largest size, as `rungs` wants it."""
  return config.ladder.sizes[-1:] if 'ladder' in config else None


def largest_rung(config: ConfigDict, rungs: Sequence[Rung]) -> Rung:
  """Of the largest size among `rungs` the first seed."""
  if 'ladder' not in config:
    return rungs[0]
  place = config.ladder.sizes.index
  return max(rungs, key=lambda rung: (place(rung.size), -rung.seed))


def parameters(
  config: ConfigDict, workdir: str | os.PathLike, rungs: Sequence[Rung]
) -> dict[str, int | None]:
  """How many each size has, smallest first; None without a ladder.

  Raises:
    ValueError: experiments.train_ladder has not got as far as these rungs.
  """
  if 'ladder' not in config:
    return {rung.size: None for rung in rungs}
  path = pathlib.Path(workdir) / 'ladder.json'
  rows = store.read_json(path)['rungs'] if path.exists() else []
  known = {row['rung']: row['parameters'] for row in rows}
  if missing := [rung.name for rung in rungs if rung.name not in known]:
    raise ValueError(
      f'{path} has the parameters of {sorted(known)}, expected {missing} too: '
      'run experiments.train_ladder to its end'
    )
  found = {rung.size: known[rung.name] for rung in rungs}
  return dict(sorted(found.items(), key=lambda pair: pair[1]))


def link_corpus(workdir: pathlib.Path, rung: Rung) -> None:
  """Gives the rung the corpus of `workdir`: hard links, no copies."""
  rung.workdir.mkdir(parents=True, exist_ok=True)
  for name in CORPUS:
    source, target = workdir / name, rung.workdir / name
    if target.exists():
      continue
    if source.is_dir():
      unfinished = target.with_name(f'tmp_{name}')
      shutil.rmtree(unfinished, ignore_errors=True)
      shutil.copytree(source, unfinished, copy_function=os.link)
      unfinished.rename(target)
    else:
      os.link(source, target)


def _rung(config, workdir, size, seed) -> Rung:
  own = config.copy_and_resolve_references()
  with own.unlocked():
    del own.ladder
  own.model.update(config.ladder.models[size])
  own.train.seed = own.fit.seed = seed
  if config.ladder.queries is not None:
    own.score.queries = str(workdir / QUERIES)
  return Rung(size, seed, own, workdir / f'{size}_seed{seed}')
