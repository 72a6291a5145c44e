"""What matrices of scores say of a page's rows: its own, and those of others.

Others are workdirs in which other models (of a ladder, of other seeds) were
scored on the same sequences and queries.
"""

import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from experiments import scored
from influence_jax import store
from influence_jax.data import sequences as sequences_lib
from influence_jax.report import viewer, viewer_distribution


def answers(
  workdir: pathlib.Path,
  folder: pathlib.Path,
  rows: list[dict],
  others: Mapping[str, pathlib.Path] | None = None,
) -> viewer.Answers:
  """What the matrix of scores says of the rows, and of all sequences.

  Where it says nothing, `absent` is why. A negative row's rank is counted from
  the smallest score.

  Args:
    others: {name: folder of another workdir's scores}; their answers come
      after the own ones, and all are then labelled by workdir.

  Raises:
    ValueError: another's scores are of another corpus or of other queries, or
      there is nothing to lay them beside.
  """
  reason = _absent(folder)
  if reason and others:
    raise ValueError(
      f'--others are laid beside the matrix of all scores in {folder}, which '
      f'is not there: {reason}; score again into another config.score.folder'
    )
  if reason:
    return viewer.Answers((), {}, {}, reason)
  sequences = sequences_lib.open(workdir / 'sequences')
  found = scored.load(folder, sequences)
  labels, scores_AxKxN = list(found.answers), [*found.scores]
  if others:
    labels = [f'{workdir.resolve().name}: {label}' for label in labels]
  for name, other in (others or {}).items():
    theirs = _load(other, folder, sequences, found)
    labels += [f'{name}: {label}' for label in theirs.answers]
    scores_AxKxN += [*theirs.scores]
  lengths = sequences.records['size'][found.numbers] - 1
  of_rows, distributions = {}, {}
  for k, query in enumerate(found.queries):
    mine = [row for row in rows if row['query_id'] == query.id]
    at = np.searchsorted(found.numbers, [row['sequence'] for row in mine])
    signs = np.array([1 if x['kind'] == 'positive' else -1 for x in mine])
    pairs = [_ranked(scores_KxN[k], at, signs) for scores_KxN in scores_AxKxN]
    for row, *of_row in zip(mine, *pairs, strict=True):
      of_rows[query.id, row['sequence']] = of_row
    distributions[query.id] = [
      {
        **viewer_distribution.describe(scores_KxN[k], lengths),
        'agreement': viewer_distribution.rank_correlation(
          scores_AxKxN[0][k], scores_KxN[k]
        ),
      }
      for scores_KxN in scores_AxKxN
    ]
  return viewer.Answers(labels, of_rows, distributions)


def named(
  workdirs: Sequence[str], folder: str, own: str
) -> dict[str, pathlib.Path]:
  """{name: folder of its scores} of the flag --others.

  A name is the workdir's own, or all of its path where two have the same.
  """
  paths = [pathlib.Path(x) for x in workdirs]
  names = [path.resolve().name for path in paths]
  taken = [own, *names]
  return {
    name if taken.count(name) == 1 else str(path): path / folder
    for name, path in zip(names, paths, strict=True)
  }


def _absent(folder: pathlib.Path) -> str:
  """Why there are no scores of all sequences, in words; '' if there are."""
  if not (folder / 'manifest.json').exists():
    return 'experiments.score did not run there'
  if not (folder / 'scores.zarr').exists():
    return 'config.score.matrix was False'
  method = store.read_json(folder / 'manifest.json')['score']['candidates']
  if method['method'] != 'all':
    return f'only candidates found by {method["method"]} were scored'
  return ''


def _load(folder, beside, sequences, own: scored.Scored) -> scored.Scored:
  """Another's scores; ValueError unless they are of the same as `own`."""
  if reason := _absent(folder):
    raise ValueError(f'--others: no scores of all in {folder}: {reason}')
  data = store.read_json(folder / 'manifest.json')['data']
  if data != sequences.fingerprint:
    raise ValueError(
      f'--others: the scores in {folder} are of the corpus {data[:12]}, those '
      f'in {beside} of {sequences.fingerprint[:12]}, expected the same: rungs '
      'of one ladder, or workdirs with copies of one sequences/'
    )
  theirs = scored.load(folder, sequences)
  asked = [[query[:3] for query in one.queries] for one in (own, theirs)]
  if asked[0] != asked[1]:
    raise ValueError(
      f'--others: the scores in {folder} are of {len(asked[1])} queries, those '
      f'in {beside} of {len(asked[0])}, not the same ones in the same order: '
      'score both with one config.score.queries'
    )
  if not np.array_equal(own.numbers, theirs.numbers):
    raise ValueError(
      f'--others: {len(theirs.numbers)} sequences are scored in {folder}, '
      f'{len(own.numbers)} in {beside}: score both with one '
      'config.score.num_sequences'
    )
  return theirs


def _ranked(scores_N, at, signs) -> list[tuple[float, int]]:
  """(score, rank from 1) of the columns `at`; sign -1 ranks from below."""
  ascending = np.sort(scores_N)
  mine = scores_N[at]
  below = np.searchsorted(ascending, mine, 'left')
  above = len(scores_N) - np.searchsorted(ascending, mine, 'right')
  ranks = 1 + np.where(signs > 0, above, below)
  return list(zip(mine.tolist(), ranks.tolist(), strict=True))
