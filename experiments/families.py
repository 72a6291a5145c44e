"""Logits of every family's decoder against transformers' own.

  python -m experiments.families --workdir=runs/families

Of each tiny random checkpoint in tests/families (its make.py says how they are
made) the largest |difference| from transformers' float32 logits, which are up
to `largest_logit`, computed here in float32 and in float64, and whether the 8
tokens that follow greedily are the same. Prints a table and writes
WORKDIR/families.json; a copy is results/families.json. A minute on a CPU.
"""

import os
import pathlib

import jax
import numpy as np
import rich
from absl import app, flags
from ml_collections import ConfigDict

from experiments import common
from influence_jax import checkpoint, pretrained, store
from influence_jax.models import decoder
from influence_jax.report import terminal

FOLDER = pathlib.Path(__file__).parents[1] / 'tests' / 'families'
_NUM_NEW = 8  # tokens at the end of a row that transformers chose
_DTYPES = ('float32', 'float64')


def run(workdir: str | os.PathLike) -> dict:
  """Compares all folders and returns what it writes."""
  folders = sorted(path.parent for path in FOLDER.glob('*/expected.npz'))
  cases = [compare(folder) for folder in folders]
  result = {
    **common.provenance('experiments.families', ConfigDict()),
    'made_with': store.read_json(FOLDER / 'versions.json'),
    'cases': cases,
  }
  store.write_json(pathlib.Path(workdir) / 'families.json', result)
  rich.print(_table(cases))
  return result


def compare(folder: pathlib.Path) -> dict:
  """What the module's docstring says of one checkpoint."""
  with np.load(folder / 'expected.npz', allow_pickle=False) as file:
    tokens_BxT, wanted_BxTxV = file['tokens'], file['logits']
  differences, same = {}, True
  for dtype in _DTYPES:
    with jax.enable_x64(dtype == 'float64'):
      logits_fn = _logits_fn(folder, dtype)
      got_BxTxV = logits_fn(tokens_BxT)
      differences[dtype] = float(np.abs(got_BxTxV - wanted_BxTxV).max())
      same &= bool((_greedy(logits_fn, tokens_BxT) == tokens_BxT).all())
  return {
    'case': folder.name,
    'model_type': checkpoint.open(folder).config_json['model_type'],
    'largest_difference': differences,
    'largest_logit': float(np.abs(wanted_BxTxV).max()),
    'same_greedy_tokens': same,
  }


def _logits_fn(folder, dtype):
  config, params = pretrained.load(folder, dtype=dtype)
  apply_fn = jax.jit(decoder.Decoder(config).apply)
  return lambda tokens_BxT: np.asarray(
    apply_fn({'params': params}, tokens_BxT), np.float64
  )


def _greedy(logits_fn, tokens_BxT: np.ndarray) -> np.ndarray:
  """The rows with their last tokens chosen anew, one after another."""
  start = tokens_BxT.shape[1] - _NUM_NEW
  found_BxT = tokens_BxT.copy()
  found_BxT[:, start:] = 0
  for t in range(start, tokens_BxT.shape[1]):
    found_BxT[:, t] = logits_fn(found_BxT)[:, t - 1].argmax(-1)
  return found_BxT


def _table(cases):
  view = terminal.table(
    'logits against transformers, largest |difference|',
    *('family', 'case', *_DTYPES, 'greedy tokens'),
    num_labels=2,
  )
  for case in cases:
    view.add_row(
      case['model_type'],
      case['case'],
      *(f'{x:.1e}' for x in case['largest_difference'].values()),
      'same' if case['same_greedy_tokens'] else 'other',
    )
  return view


def main(_) -> None:
  run(common.setup(flags.FLAGS.workdir))


if __name__ == '__main__':
  flags.mark_flag_as_required('workdir')
  app.run(main)
