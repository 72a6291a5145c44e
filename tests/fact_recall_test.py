import json
import pathlib
import tempfile
import types as python_types
from unittest import mock

import numpy as np
from absl.testing import absltest
from tiny import corpus as tiny_corpus
from tiny import scores as tiny_scores

from configs import finetune_smollm2
from experiments import fact_recall
from influence_jax import store
from influence_jax.data import candidates, encoder
from influence_jax.data import queries as queries_lib
from influence_jax.data import sequences as sequences_lib
from influence_jax.data import tokenizer as tokenizer_lib

FACTS = {
  'sits': {'documents': [3, 17, 40], 'answer': 'sat'},
  'tree': {'documents': [5], 'answer': 'a blue tree'},
  'untold': {'documents': [], 'answer': 'sat'},
}


def query(fact, completion=' sat'):
  return queries_lib.Query('q', 'the cat', completion, {'fact': fact})


class FactRecallTest(absltest.TestCase):
  def test_recall_is_what_sets_in_common_say(self):
    rng = np.random.default_rng(0)
    scores_KxD = rng.normal(size=(4, 130))
    ids_D = np.sort(rng.permutation(500)[:130])
    told = [rng.choice(ids_D, k, replace=False).tolist() for k in (1, 3, 8, 50)]
    got_KxN = fact_recall.recall(scores_KxD, ids_D, told)
    self.assertEqual(got_KxN.shape, (4, 100))
    for scores_D, ids, got_N in zip(scores_KxD, told, got_KxN, strict=True):
      first = ids_D[np.argsort(-scores_D)].tolist()
      wanted = [len({*first[: n + 1]} & {*ids}) / len(ids) for n in range(100)]
      np.testing.assert_allclose(got_N, wanted, 1e-12)

  def test_documents_are_those_of_the_fact_asked_for(self):
    asked = [query('tree', ' a blue tree'), query('sits')]
    self.assertEqual(fact_recall.documents(asked, FACTS), [[5], [3, 17, 40]])

  def test_another_corpus_or_answer_is_a_value_error(self):
    for wrong in (query('sits', ' sits'), query('untold'), query('none')):
      with self.assertRaisesRegex(ValueError, 'and the answer that it gives'):
        fact_recall.documents([query('sits'), wrong], FACTS)

  def test_binary_ranks_documents_by_each_method(self):
    workdir = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    scores_KxN = tiny_scores.write(workdir)
    labels = [{'fact': 'sits'}, {'fact': 'tree'}]
    queries = [
      [*theirs, own]
      for theirs, own in zip(tiny_scores.QUERIES, labels, strict=True)
    ]
    path = workdir / 'scores' / 'manifest.json'
    store.write_json(path, {**store.read_json(path), 'queries': queries})
    losses = [{'id': 'b', 'loss': 2.5}, {'id': 'a', 'loss': 1.5}]
    store.write_json(workdir / 'scores' / 'queries.json', losses)
    source = tiny_corpus.load(None)
    module = python_types.SimpleNamespace(truth=lambda _: {'facts': FACTS})
    config = finetune_smollm2.get_config()

    def embed(_, texts):  # a document is as near as its number is large
      rows = np.ones((len(texts), 2))
      rows[2:, 1] = np.arange(len(texts) - 2)
      return rows

    with (
      mock.patch.object(
        fact_recall.corpus, 'open_source', lambda _: (module, source)
      ),
      mock.patch.object(encoder, 'load'),
      mock.patch.object(encoder, 'embed', embed),
    ):
      result = fact_recall.run(config, workdir)
    self.assertEqual(result['losses'], [1.5, 2.5])
    self.assertEqual(result['told'], [[3, 17, 40], [5]])
    self.assertEqual(list(result['recall']), list(config.fact_recall.methods))
    num = len(source)
    nearest = [n for n in range(num)][::-1]
    ranks = [1 + nearest.index(n) for n in FACTS['sits']['documents']]
    wanted = [sum(rank <= n for rank in ranks) / 3 for n in range(1, num + 1)]
    np.testing.assert_allclose(result['recall']['embedding'][0], wanted[:100])
    sequences = sequences_lib.open(workdir / 'sequences')
    tokenizer = tokenizer_lib.load(workdir / 'tokenizer.json')
    tokens = tokenizer_lib.encode(tokenizer, ['the cat', ' sat'])
    (bm25_N,) = np.hstack([*candidates.bm25(sequences, [sum(tokens, [])])])
    of = {'ekfac': scores_KxN[0], 'identity': scores_KxN[2], 'bm25': bm25_N}
    for method, scores_N in of.items():
      best = {}
      for n, score in zip(sequences.records['document'], scores_N, strict=True):
        best[n] = max(score, best.get(n, -np.inf))
      first = sorted(sorted(best), key=lambda n: -best[n])
      told = FACTS['sits']['documents']
      wanted = [len({*first[:n]} & {*told}) / 3 for n in range(1, num + 1)]
      np.testing.assert_allclose(result['recall'][method][0], wanted)
    folder = workdir / 'fact_recall'
    self.assertGreater((folder / 'recall.png').stat().st_size, 10_000)
    shown = json.loads((folder / 'result.json').read_text())['recall at 10']
    self.assertLen(shown['bm25'], 3)


if __name__ == '__main__':
  absltest.main()
