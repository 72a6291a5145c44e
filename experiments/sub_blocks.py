"""What do scores lose if A and S are made of diagonal blocks?

  python -m experiments.sub_blocks --config=configs/sub_blocks.py \
    --workdir=runs/english

Appendix A and Fig. 30 of Grosse et al. 2023: A and S are kept as O blocks on
the diagonal, O times smaller. Scores over config.compression.num_sequences
sequences are compared with those of one block, all of one pass of fitting: the
part `blocks` of experiments.compression, of each model of
config.sub_blocks.sizes, or of the workdir's own model without a ladder. Claim,
its bound fixed in advance:

  E6  mean over the queries of Pearson at O = 2, each the mean over the models:
      >= 0.9 (the paper: 'slight decrease')

Writes WORKDIR/sub_blocks/: a file a model, result.json and sub_blocks.png. The
reduction of bytes is that of the sums of A and S, and that of all factors: the
eigenvectors, whole in each block, and Lambda. Needs trained, fitted and scored
models, fits each again; goes on after the last one that is done.
Sections read: as experiments.compression; sub_blocks, ladder.
"""

import os
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
import rich
from matplotlib import figure
from ml_collections import ConfigDict
from rich import table

from experiments import (
  agreement,
  claims,
  common,
  compression,
  compression_figure,
  ladder,
)
from influence_jax import store
from influence_jax.report import figures, style, terminal

BLOCKS = 2
_THRESHOLD = ('>=', 0.9)  # E6
_BYTES = {'covariance_bytes': 'sums of A and S', 'factor_bytes': 'all factors'}


def run(config: ConfigDict, workdir: str | os.PathLike) -> dict:
  workdir = pathlib.Path(workdir)
  folder, blocks = (
    workdir / 'sub_blocks',
    list(config.compression.blocks.blocks),
  )
  if blocks[:1] != [1] or BLOCKS not in blocks:
    raise ValueError(
      f'config.compression.blocks.blocks is {blocks}, expected 1 first, that '
      f'the others are held to, and {BLOCKS}, that is claimed'
    )
  rungs = ladder.finished(config, workdir, config.sub_blocks.sizes)
  done = []
  for rung in rungs:
    study = compression.open_study(rung.config, rung.workdir)
    path = folder / f'{rung.name}.json'
    done.append(compression.part(path, study, 'blocks'))
  names = [query[0] for query in done[0]['origin']['queries']]
  r_RxKxX = pearsons(done, blocks)
  saved = reduction(done[0]['rows'])
  result = {
    **common.provenance('experiments.sub_blocks', config),
    'queries': names,
    'blocks': blocks,
    'pearson': r_RxKxX.tolist(),  # [models, queries, blocks]
    'reduction': saved,
    'claims': claimed(r_RxKxX, blocks, rungs),
  }
  store.write_json(folder / 'result.json', result)
  drawn = draw(names, blocks, r_RxKxX, saved)
  figures.save(drawn, folder / 'sub_blocks.png')
  rich.print(_table(blocks, r_RxKxX, saved))
  rich.print(claims.render(result['claims']))
  return result


def pearsons(done: Sequence[Mapping], blocks: Sequence[int]) -> np.ndarray:
  """Of each model's part, by query and number of blocks, [R, K, X]."""
  by_model = [
    {row['blocks']: row['pearson']['per_query'] for row in part['rows']}
    for part in done
  ]
  return np.array([np.transpose([x[num] for num in blocks]) for x in by_model])


def reduction(rows: Sequence[Mapping]) -> dict[str, list[float]]:
  """{what: share of the bytes of one block that is saved, by row}."""
  return {key: [1 - row[key] / rows[0][key] for row in rows] for key in _BYTES}


def claimed(
  r_RxKxX: np.ndarray, blocks: Sequence[int], rungs: Sequence[ladder.Rung]
) -> list[dict]:
  """E6."""
  at_K = r_RxKxX[..., list(blocks).index(BLOCKS)].mean(axis=0)
  return [
    claims.claim(
      'E6', 'Fig. 30', f'Pearson of {BLOCKS} blocks a side with one: mean',
      agreement.interval(at_K), _THRESHOLD, paper="'slight decrease'",
      rungs=rungs, form='.3f',
    )
  ]  # fmt: skip


@style.SETTINGS
def draw(
  names: Sequence[str],
  blocks: Sequence[int],
  r_RxKxX: np.ndarray,
  saved: Mapping[str, Sequence[float]],
) -> figure.Figure:
  """Pearson with one block, by query, and bytes saved, against blocks.

  Lines are means over the models.
  """
  fig, found = style.panels(style.TWO_COLUMNS, 2.4, 1, 2)
  left, right = found[0]
  r_KxX = r_RxKxX.mean(axis=0)
  for axes in (left, right):
    compression_figure.ticks(axes, blocks, 'blocks a side')
  for k, r_X in enumerate(r_KxX):
    left.plot(blocks, r_X, marker='o', ms=2, **style.line(k))
  left.set(ylim=(None, 1.005), ylabel='Pearson with one block')
  for (key, share_X), look in zip(saved.items(), ('s--', 'o-'), strict=True):
    percent_X = 100 * np.asarray(share_X)
    right.plot(blocks, percent_X, look, color='#555555', label=_BYTES[key])
  right.set(ylim=(0, 100), ylabel='bytes saved (%)')
  right.legend(loc='upper left')
  style.legend(
    left, names, r_KxX[:, list(blocks).index(BLOCKS)], '{:.3f}',
    title=f'Pearson, {BLOCKS} blocks',
  )  # fmt: skip
  return fig


def _table(
  blocks: Sequence[int], r_RxKxX: np.ndarray, saved: Mapping
) -> table.Table:
  num_models, num_queries, _ = r_RxKxX.shape
  view = terminal.table(
    f'Pearson with one block, {num_queries} queries and {num_models} models; '
    'bytes saved',
    'blocks a side', 'mean', 'least', *_BYTES.values(),
  )  # fmt: skip
  for x, num in enumerate(blocks):
    r_RxK = r_RxKxX[..., x]
    percents = [f'{100 * share_X[x]:.0f} %' for share_X in saved.values()]
    view.add_row(
      str(num), f'{r_RxK.mean():.4f}', f'{r_RxK.min():.4f}', *percents
    )
  return view


if __name__ == '__main__':
  common.main(run)
