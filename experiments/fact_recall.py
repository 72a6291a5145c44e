"""Are the documents found that taught a model its facts?

  python -m experiments.finetune --smollm2 \
    --config=configs/finetune_smollm2.py --workdir=runs/finetune_smollm2
  python -m experiments.influence --smollm2 \
    --config=configs/finetune_smollm2.py --workdir=runs/finetune_smollm2
  python -m experiments.fact_recall --config=configs/finetune_smollm2.py \
    --workdir=runs/finetune_smollm2

Invented facts are told in some documents each of a corpus that a model was
fine-tuned on (data.planted); a query asks for one of them. Documents are ranked
for each query by config.fact_recall.methods: approximations in
config.score.folder, by a document's best sequence, or 'bm25' and 'embedding'
(data.encoder), which see the texts of query and document alone. Recall at n is
the share of a fact's documents among the first n, 95 % by the bootstrap over
facts.

Writes WORKDIR/fact_recall/result.json and recall.png. Seconds.
Sections read: data, score, fact_recall.
"""

import os
import pathlib
from collections.abc import Callable, Sequence

import numpy as np
import rich
from matplotlib import figure
from ml_collections import ConfigDict
from rich import table

from experiments import agreement, common, corpus, memorization, scored
from influence_jax import store
from influence_jax.data import candidates, encoder
from influence_jax.data import queries as queries_lib
from influence_jax.data import sequences as sequences_lib
from influence_jax.data import tokenizer as tokenizer_lib
from influence_jax.report import figures, style, terminal

_LABELS = {
  'ekfac': 'EK-FAC',
  'identity': 'dot product',
  'bm25': 'BM25',
  'embedding': 'embedding',
}


def run(config: ConfigDict, workdir: str | os.PathLike) -> dict:
  workdir, section = pathlib.Path(workdir), config.fact_recall
  sequences = sequences_lib.open(workdir / 'sequences')
  found = scored.load(workdir / config.score.folder, sequences)
  module, source = corpus.open_source(config.data)
  told = documents(found.queries, module.truth(source)['facts'])
  documents_C = sequences.records['document'][found.numbers]
  ids_D = np.unique(documents_C)

  def texts() -> list[str]:
    return [source[n]['text'] for n in ids_D.tolist()]

  recalls = {}
  for method in section.methods:
    scores_KxD = _scores(method, config, workdir, found, documents_C, texts)
    recalls[method] = recall(scores_KxD, ids_D, told)
  result = {
    **common.provenance('experiments.fact_recall', config),
    'documents': len(ids_D),
    'queries': [query.id for query in found.queries],
    'told': told,
    'losses': _losses(workdir / config.score.folder, found.queries),
    'recall': {name: x_KxN.tolist() for name, x_KxN in recalls.items()},
    f'recall at {section.num}': {
      name: agreement.interval(x_KxN[:, section.num - 1])
      for name, x_KxN in recalls.items()
    },
  }
  store.write_json(workdir / 'fact_recall' / 'result.json', result)
  figures.save(draw(recalls), workdir / 'fact_recall' / 'recall.png')
  rich.print(_table(recalls, section.num, len(ids_D)))
  return result


def documents(
  queries: Sequence[queries_lib.Query], facts: dict
) -> list[list[int]]:
  """Ids of the documents that tell each query's fact (its label `fact`).

  Raises:
    ValueError: a query's fact or its answer is not that of the corpus.
  """
  told = []
  for query, name in zip(
    queries, queries_lib.labels(queries, 'fact'), strict=True
  ):
    fact = facts.get(name, {'documents': []})
    if not fact['documents'] or query.completion.strip() != fact['answer']:
      raise ValueError(
        f'query {query.id!r} asks for {query.completion!r}, the fact {name!r}; '
        f'the corpus has {fact}: expected a fact that it tells, and the answer '
        'that it gives; change the query or config.data.source'
      )
    told.append(fact['documents'])
  return told


def recall(
  scores_KxD: np.ndarray, ids_D: np.ndarray, told: Sequence[Sequence[int]]
) -> np.ndarray:
  """[K, N]: of a query's documents, the share among its first 1, 2, ..., N.

  N is the largest number of ranks that matters: 100, or all documents. Of equal
  scores the smaller id comes first.
  """
  order_KxD = np.argsort(-scores_KxD, axis=1, kind='stable')[:, :100]
  return np.stack(
    [
      np.isin(ids_D[order_N], ids).cumsum() / len(ids)
      for order_N, ids in zip(order_KxD, told, strict=True)
    ]
  )


def _scores(
  method: str,
  config: ConfigDict,
  workdir: pathlib.Path,
  found: scored.Scored,
  documents_C: np.ndarray,
  texts: Callable[[], list[str]],
) -> np.ndarray:
  """Of every query and document, [K, D]; documents by ascending id."""
  if method == 'embedding':
    cache_dir = os.path.expanduser(config.data.data_dir)
    asked = [query.prompt + query.completion for query in found.queries]
    embedded = encoder.embed(encoder.load(cache_dir), [*asked, *texts()])
    return embedded[: len(asked)] @ embedded[len(asked) :].T
  if method != 'bm25':
    return memorization.by_document(found.answer(method), documents_C)[1]
  sequences = sequences_lib.open(workdir / 'sequences')
  tokenizer = tokenizer_lib.load(workdir / 'tokenizer.json')
  asked = scored.tokens(tokenizer, found.queries)
  scores_KxN = np.hstack([*candidates.bm25(sequences, asked)])
  return memorization.by_document(scores_KxN[:, found.numbers], documents_C)[1]


def _losses(folder: pathlib.Path, queries) -> list[float]:
  """Of the completions, nats."""
  known = {x['id']: x['loss'] for x in store.read_json(folder / 'queries.json')}
  return [known[query.id] for query in queries]


@style.SETTINGS
def draw(recalls: dict[str, np.ndarray]) -> figure.Figure:
  """Mean recall against the number of documents looked at; 95 % over facts."""
  fig, axes = style.axes(style.ONE_COLUMN, 2.2)
  for i, (name, recall_KxN) in enumerate(recalls.items()):
    ranks_N = np.arange(1, recall_KxN.shape[1] + 1)
    label, look = _LABELS.get(name, name), style.marked(i)
    apart = (0.04 * i, 0.16)  # marks of lines that are one
    mean_N = 100 * recall_KxN.mean(0)
    axes.plot(ranks_N, mean_N, label=label, markevery=apart, **look)
    _, *ends = np.transpose([agreement.interval(x_K) for x_K in recall_KxN.T])
    if ends:
      style.band(axes, ranks_N, *np.multiply(100, ends), look['color'])
  axes.set(xscale='log', xlim=(1, len(ranks_N)), ylim=(0, 102))
  axes.set(xlabel='documents looked at', ylabel="of a fact's documents (%)")
  axes.legend(loc='lower right')
  return fig


def _table(recalls, num: int, num_documents: int) -> table.Table:
  view = terminal.table(
    f"of a fact's documents, found among {num_documents:,} (95 %)",
    'method', f'in the first {num}', 'first is one',
  )  # fmt: skip
  for name, recall_KxN in recalls.items():
    view.add_row(
      _LABELS.get(name, name),
      agreement.shown(agreement.interval(recall_KxN[:, num - 1]), '.0%'),
      f'{(recall_KxN[:, 0] > 0).mean():.0%}',
    )
  return view


if __name__ == '__main__':
  common.main(run)
