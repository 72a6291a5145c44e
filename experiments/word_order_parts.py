"""Scores of a rung for experiments.word_order, computed once."""

import hashlib
import json
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from experiments import ladder, parts, scored, texts, word_order_texts
from influence_jax import store
from influence_jax.data import sequences as sequences_lib

_Cases = Mapping[str, Sequence[word_order_texts.Case]]


def row(rung: ladder.Rung, cases: _Cases, folder: pathlib.Path) -> dict:
  """What the study keeps of a rung, from the rung's file of all scores.

  Returns:
    `first`: {group: scores of the first case's texts}, `means`: {group: of each
    case the mean of each kind of its texts, in their order}; nats.
  """
  path = rung.workdir / rung.config.score.folder
  sequences = sequences_lib.open(rung.workdir / 'sequences')
  described = json.dumps(cases).encode()
  origin = {
    **scored.load(path, sequences).origin,
    'damping': rung.config.damping.to_dict(),
    'texts': hashlib.sha256(described).hexdigest(),
  }
  found = parts.part(
    folder / f'{rung.name}.json', origin,
    lambda: {'scores': _scores(rung, cases, origin)},
  )['scores']  # fmt: skip
  return {
    'rung': rung.name,
    'size': rung.size,
    'first': {group: _short(of_cases[0]) for group, of_cases in found.items()},
    'means': {
      group: [
        _short(means(scores, case.kinds))
        for scores, case in zip(found[group], mine, strict=True)
      ]
      for group, mine in cases.items()
    },
  }


def means(scores: Sequence[float], kinds: Sequence[str]) -> list[float]:
  """By kind, kinds in their order."""
  of = np.array(kinds)
  return [
    float(np.mean(np.array(scores)[of == kind]))
    for kind in dict.fromkeys(kinds)
  ]


def _scores(rung, cases, origin) -> dict[str, list[list[float]]]:
  """Of each case's texts for its query; one pass for all cases."""
  ours, factors = texts.load(rung)
  made_of = {
    'params': ours.params_fingerprint, 'factors': store.fingerprint(factors)
  }  # fmt: skip
  store.check(origin, made_of, f'the folder of scores in {rung.workdir}')
  flat = [case for mine in cases.values() for case in mine]
  scores_KxC = texts.scores(
    rung.config, ours, factors, [case.query for case in flat],
    [text for case in flat for text in case.texts],
  )  # fmt: skip
  stops = np.cumsum([len(case.texts) for case in flat])
  of_case = iter(
    scores_C[stop - len(case.texts) : stop].tolist()
    for case, scores_C, stop in zip(flat, scores_KxC, stops, strict=True)
  )
  return {group: [next(of_case) for _ in mine] for group, mine in cases.items()}


def _short(scores: Sequence[float]) -> list[float]:
  return [float(f'{x:.6g}') for x in scores]
