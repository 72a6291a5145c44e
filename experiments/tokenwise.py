"""Which tokens of a sequence carry its influence, three ways.

  python -m experiments.tokenwise --config=configs/tokenwise.py \
    --workdir=runs/planted

Sec. 3.3 and App. B, Figs. 4, 5, 31 and 32 of Grosse et al. 2023. Of some
queries and the first of their top sequences that are not spurious (so few
tokens hold the score that it may be an error, Sec. 5.3):

  simple  score by the position at which it passes the layers (Eq. 31), of
          top.parquet: shown at the token read there, one before the predicted
  input   as a token's embedding is scaled (Eqs. 37, 38)
  output  as a token's term of the loss is scaled (Eqs. 35, 36)

The last two are exact derivatives (influence_jax.token_influence), by the
query's gradient solved at full rank. They are held against the paper's finite
differences, with a step of alpha p that is some shares of the parameters long;
of a sequence the best share counts:

  U10  the relative error (lengths over tokens) of the best is below 0.01, input
       and output, in every sequence

And the output tokens' sum against the score. Goes on after the last rung that
is in WORKDIR/tokenwise; writes tokens.json (all tokens and values), tokens.png,
layers.png and result.json. A minute a rung, compilation most of all.
Sections read: all of experiments.score, ladder, tokenwise.
"""

import os
import pathlib
from collections.abc import Iterator, Sequence

import numpy as np
import rich
from ml_collections import ConfigDict
from rich import markup, table

from experiments import (
  agreement,
  claims,
  common,
  ladder,
  tokenwise_figure,
  tokenwise_parts,
)
from influence_jax import store
from influence_jax.report import figures, records, terminal

LARGEST_ERROR = 1e-2  # U10
_ALL = 'all queries'


def run(config: ConfigDict, workdir: str | os.PathLike) -> dict:
  workdir, section = pathlib.Path(workdir), config.tokenwise
  folder = workdir / 'tokenwise'
  rungs = ladder.finished(config, workdir, section.sizes)
  tops = [tokenwise_parts.read(rung) for rung in rungs]
  found = {
    one.rung.name: tokenwise_parts.part(
      one, section, folder / f'{one.rung.name}.json'
    )['sequences']
    for one in tops
  }
  if not any(found.values()):
    raise ValueError(
      'all top sequences of config.tokenwise.queries are spurious by their '
      'token scores: expected one or more; choose other queries'
    )
  store.write_json(folder / 'tokens.json', found)
  result = {
    **common.provenance('experiments.tokenwise', config),
    'sequences': [
      _sequence(name, one) for name, mine in found.items() for one in mine
    ],
    'passed_over': _passed_over(tops, section),
    'spurious': spurious(tops, section.label),
    'claims': [_claim(rungs, found)],
  }
  store.write_json(folder / 'result.json', result)
  shown = _shown(found, tops, section.num_shown)
  figures.save(tokenwise_figure.tokens(shown), folder / 'tokens.png')
  figures.save(tokenwise_figure.layers(shown), folder / 'layers.png')
  for view in (*_tables(result), claims.render(result['claims'])):
    rich.print(view)
  return result


def best_error(sequence: dict) -> float:
  """The larger of the best errors of the input and of the output tokens."""
  differences = sequence['differences']
  return max(min(differences[kind]) for kind in ('output', 'input'))


def spurious(
  tops: Sequence[tokenwise_parts.Tops], label: str
) -> dict[str, dict]:
  """{class: shares of top sequences that are marked}, and of all.

  A query's share is the mean over the rungs in which it has any.
  """
  shares, classes = {}, {}
  for one in tops:
    for query in one.queries:
      if marks := one.spurious[query.id]:
        shares.setdefault(query.id, []).append(np.mean(marks))
        classes[query.id] = query.labels.get(label, f'no label {label!r}')
  found = {}
  for name in dict.fromkeys([*classes.values(), _ALL]):
    mine = [
      np.mean(shares[query])
      for query, own in classes.items()
      if name in (own, _ALL)
    ]
    found[name] = {'queries': len(mine), 'share': agreement.interval(mine)}
  return found


def peak(sequence: dict, kind: str) -> str:
  """The token of the largest influence."""
  tokens = sequence['tokens'][kind == 'output' :]
  return tokens[int(np.argmax(np.abs(sequence[kind])))]


def _claim(rungs, found) -> dict:
  worst = max(best_error(one) for mine in found.values() for one in mine)
  return claims.claim(
    'U10', 'App. B',
    'finite differences against exact token influence: largest relative error '
    'of a sequence at its best step',
    worst, ('<', LARGEST_ERROR), rungs=rungs, form='.2e',
    paper='finite differences alone',
  )  # fmt: skip


def _sequence(rung: str, one: dict) -> dict:
  """What is small enough for result.json."""
  keys = ('query', 'sequence', 'rank', 'score', 'sum_error', 'differences')
  return {
    'rung': rung,
    **{key: one[key] for key in keys},
    'best_error': best_error(one),
    'peaks': {kind: peak(one, kind) for kind in tokenwise_figure.KINDS},
  }


def _passed_over(tops, section) -> dict:
  """{rung: {query: marked rows before the last that was taken}}."""
  return {
    one.rung.name: {
      query.id: tokenwise_parts.first_sound(
        one, query.id, section.num_sequences
      )[1]
      for query in tokenwise_parts.choose(one, section)
    }
    for one in tops
  }


def _shown(found, tops, num: int) -> list[tuple]:
  """(query, its first sequence) of the first rung of the most layers."""
  best = max(tops, key=lambda one: _num_layers(found[one.rung.name]))
  queries = {query.id: query for query in best.queries}
  first = {}
  for one in found[best.rung.name]:
    first.setdefault(one['query'], one)
  return [(queries[name], one) for name, one in first.items()][:num]


def _num_layers(sequences: list[dict]) -> int:
  return max((len(one['layers']) for one in sequences), default=0)


def _tables(result) -> Iterator[table.Table]:
  for rung in dict.fromkeys(one['rung'] for one in result['sequences']):
    view = terminal.table(
      f'{rung}: token of the largest influence; error of the output tokens\' '
      'sum, of the best differences',
      'query', 'score', *tokenwise_figure.KINDS, 'sum', 'differences',
    )  # fmt: skip
    for one in result['sequences']:
      if one['rung'] == rung:
        peaks = map(tokenwise_figure.visible, one['peaks'].values())
        view.add_row(
          one['query'], records.number(one['score'], sign='-'),
          *map(markup.escape, peaks),
          f'{one["sum_error"]:.0e}', f'{one["best_error"]:.0e}',
        )  # fmt: skip
    yield view
  view = terminal.table(
    'top sequences that are spurious by their token scores',
    'class', 'queries', 'share (95 %)',
  )  # fmt: skip
  for name, row in result['spurious'].items():
    share = agreement.shown(row['share'], '.1%')
    view.add_row(name, str(row['queries']), share)
  yield view


if __name__ == '__main__':
  common.main(run)
