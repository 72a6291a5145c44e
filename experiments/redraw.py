"""Draws figures of committed results again, in today's style.

  python -m experiments.redraw --results=results

Of each result.json that has all that its figures show, the figures beside it,
as the study itself draws them. No number is computed anew. A minute. Not drawn,
since they show scores, losses by step or texts that no result.json has: tails
and coverages, the ladders, the quickstart's, tokenwise, layerwise/blocks and
sequences, procedural/correlations, word_order/offices.
"""

import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from absl import app, flags
from matplotlib import figure

from benchmarks import figure as benchmark_figure
from experiments import (
  compression_figure,
  cross_lingual_figure,
  decomposition_figure,
  dot_product_figure,
  fact_recall,
  filter_recall,
  fragility_figure,
  layerwise_figure,
  low_rank,
  memorization_figure,
  procedural_figure,
  procedural_measures,
  role_play,
  scaling_figure,
  scored,
  solver_cost_figure,
  sub_blocks,
  tfidf_search,
  tfidf_search_figure,
  validate_pbrf_figure,
  wall_clock_figure,
  word_order,
  word_order_figure,
  word_order_texts,
)
from influence_jax import store
from influence_jax.data import queries as queries_lib
from influence_jax.report import figures

Figures = dict[str, figure.Figure]  # by name of the file


def drawn(results: pathlib.Path) -> Iterator[tuple[pathlib.Path, Callable]]:
  """The path of each result that is there, and what draws its figures.

  A call of the latter returns {path without a suffix: figure}.
  """
  for pattern, draw in _DRAWN.items():
    for path in sorted(results.glob(pattern)):

      def call(path=path, draw=draw) -> dict[pathlib.Path, figure.Figure]:
        found = draw(store.read_json(path))
        if isinstance(found, figure.Figure):  # named for its numbers
          found = {path.stem: found}
        return {path.parent / name: fig for name, fig in found.items()}

      yield path, call


def _cross_lingual(result: dict) -> Figures:
  sizes = {size: result['sizes'][size] for size in _sizes(result)}
  return cross_lingual_figure.draw({**result, 'sizes': sizes})


def _dot_product(result: dict) -> Figures:
  rows = result['queries']
  methods = (*dot_product_figure.METHODS, dot_product_figure.CHANCE)
  hits = {
    name: np.array(scored.by_query(rows, lambda row, name=name: row[name]))
    for name in methods
  }
  num_top = result['config']['dot_product']['num_top']
  names = [*scored.grouped(rows)]
  return {'dot_product': dot_product_figure.draw(names, hits, num_top)}


def _fact_recall(result: dict) -> Figures:
  methods = result['config']['fact_recall']['methods']
  recalls = {name: np.array(result['recall'][name]) for name in methods}
  return {'recall': fact_recall.draw(recalls)}


def _filter_recall(result: dict) -> figure.Figure:
  section = result['config']['filter_recall']
  recalls = {
    name: np.array(result['recall'][name]['per_query'])
    for name in (*section['methods'], 'random')
  }
  return filter_recall.draw(result['kept'], recalls, section['num_true'])


def _fragility(result: dict) -> Figures:
  return {'fragility': fragility_figure.by_depth(result)}


def _layerwise(result: dict) -> Figures:
  queries, classes = result['queries'], result['classes']
  orders = [name for name in layerwise_figure.ORDERS if name in classes['sum']]
  names = list(dict.fromkeys(query['class'] for query in queries))
  names.append(layerwise_figure.ALL)
  overlaps = {order: [classes[x][order] for x in names] for order in orders}
  centre_K = np.array([query['centre'] for query in queries]).mean(1)
  return {
    'centres': layerwise_figure.centres(
      [query['class'] for query in queries], centre_K
    ),
    'thirds': layerwise_figure.overlaps(names, overlaps),
  }


def _low_rank(result: dict) -> Figures:
  pearson = {name: np.array(x) for name, x in result['pearson'].items()}
  drawn = low_rank.draw(
    result['queries'], result['ranks'], pearson, result['scatter']
  )
  return {'low_rank': drawn}


def _memorization(result: dict) -> Figures:
  methods = result['config']['memorization']['methods']
  rows = [
    {**row, 'recall': {name: row['recall'][name] for name in methods}}
    for row in result['rungs']
  ]
  copies = result['passages']['copies']
  return {'memorization': memorization_figure.draw(copies, rows)}


def _procedural(result: dict) -> Figures:
  queries, section = result['queries'], result['config']['procedural']
  kind_KxJ = np.array(
    [[q['kinds'][kind] for kind in procedural_measures.KINDS] for q in queries]
  )
  classes = [query['class'] for query in queries]
  drawn = procedural_figure.kinds(kind_KxJ, classes, section['num_top'])
  return {'kinds': drawn}


def _scaling(result: dict) -> Figures:
  sizes = [row['size'] for row in result['sizes']]

  def values(name: str) -> np.ndarray:
    """[S, K], means over a size's seeds."""
    by_size = {size: [] for size in sizes}
    for row in result['rungs']:
      by_size[row['rung'].split('_seed')[0]].append(row[name])
    return np.array([np.mean(np.array(by_size[x], float), 0) for x in sizes])

  names = scaling_figure.PANELS
  random = {
    name: np.array(result['random'][name], float)
    for name in names
    if name in result['random']
  }
  drawn = scaling_figure.draw(
    result['sizes'], {name: values(name) for name in names}, random
  )
  return {'scaling': drawn}


def _sub_blocks(result: dict) -> Figures:
  drawn = sub_blocks.draw(
    result['queries'], result['blocks'], np.array(result['pearson']),
    result['reduction'],
  )  # fmt: skip
  return {'sub_blocks': drawn}


def _tfidf_search(result: dict) -> Figures:
  section = result['config']['tfidf_search']
  drawn = tfidf_search_figure.draw(
    result['queries'], result['kept'], result['recall'],
    num_matched=tfidf_search.NUM, num_true=section['num_true'],
    per_query=section['per_query'],
  )  # fmt: skip
  return {'tfidf_search': drawn}


def _word_order(result: dict) -> Figures:
  sizes = _sizes(result)
  names = [*word_order.RATIOS, *word_order.OFFICE_RATIOS]  # in this order
  found = {
    group: {
      size: {x: one[size][x] for x in names if x in one[size]} for size in sizes
    }
    for group, one in result['ratios'].items()
  }
  drawn = {'ratios': word_order_figure.ratios(found)}
  for group in ('Astrobia', 'gleem'):
    text = result['texts'][group]
    query = queries_lib.Query(*text['query'])
    case = word_order_texts.Case(**{**text, 'query': query})
    scores = {size: [] for size in sizes}
    for row in result['rungs']:
      scores[row['size']].append(row['first'][group])
    drawn[group] = word_order_figure.bars(case, scores)
  return drawn


def _sizes(result: Mapping[str, Any]) -> list[str]:
  """Smallest first: a JSON file has them by name."""
  return result['config']['ladder']['sizes']


_DRAWN = {
  'benchmark.json': benchmark_figure.ratios,
  'sweep.json': lambda result: benchmark_figure.sweep(result['times']['rows']),
  'compression*.json': lambda x: compression_figure.draw(x['parts']),
  'filter_recall.json': _filter_recall,
  'cross_lingual/result.json': _cross_lingual,
  'decomposition_*/result.json': lambda x: {
    'decomposition': decomposition_figure.gaps(x)
  },
  'dot_product/result.json': _dot_product,
  'fact_recall/result.json': _fact_recall,
  'fragility_*/result.json': _fragility,
  'layerwise/result.json': _layerwise,
  'low_rank/result.json': _low_rank,
  'memorization/result.json': _memorization,
  'pbrf_*/result.json': lambda x: {'damping': validate_pbrf_figure.damping(x)},
  'procedural/result.json': _procedural,
  'role_play/result.json': lambda x: {'overlap': role_play.draw(x['queries'])},
  'scaling/result.json': _scaling,
  'solver_cost_*/result.json': lambda x: {'cost': solver_cost_figure.cost(x)},
  'sub_blocks/result.json': _sub_blocks,
  'tfidf_search/result.json': _tfidf_search,
  'wall_clock_*/result.json': lambda x: {
    'wall_clock': wall_clock_figure.draw(x)
  },
  'word_order/result.json': _word_order,
}


def main(_) -> None:
  for _, draw in drawn(pathlib.Path(flags.FLAGS.results)):
    for path, fig in draw().items():
      figures.save(fig, path.with_name(f'{path.name}.png'))
      print(f'wrote {path}.png and .pdf')


if __name__ == '__main__':
  flags.DEFINE_string('results', 'results', 'folder of the results')
  app.run(main)
