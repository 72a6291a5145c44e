"""Influential sequences of your own text for a pretrained language model.

  python -m experiments.influence --checkpoint=PATH --corpus='DIR/*.jsonl' \
    --queries=q.jsonl --workdir=W

PATH is a folder in Hugging Face's layout (config.json, safetensors and
tokenizer.json) or a .gguf file; --smollm2 in its place fetches and takes
SmolLM2-135M-Instruct (data/smollm2.py). The corpus is a file, a folder or a
glob (data/files.py), and queries are one object a line (data/queries.py).
--checkpoint, --corpus and --queries stand for --config.checkpoint.path,
--config.data.source.pattern and --config.score.queries, --config is
configs/influence.py unless given.

What is asked for is checked first; then the corpus is tokenized, its perplexity
measured (perplexity.json), the rest planned (plan.json: bytes and seconds), the
curvature fitted, all sequences scored, and WORKDIR/report.html written. The
checkpoint stays where it is. The same command again goes on where it stopped.
Sections read: checkpoint, data, perplexity, layers, curvature, fit, damping,
score, plan, report, and finetune if there is one: then all is of what
experiments.finetune left in the workdir.
"""

import math
import os
import pathlib
import re
import sys
import time

import jax
import rich
from absl import flags
from ml_collections import ConfigDict

from experiments import (
  common,
  corpus,
  fit_curvature,
  held_out,
  plan,
  report,
  score,
  trained,
)
from influence_jax import checkpoint, planner, processes, store
from influence_jax.data import queries as queries_lib
from influence_jax.data import smollm2

_SHORT = {
  'checkpoint': 'checkpoint.path',
  'corpus': 'data.source.pattern',
  'queries': 'score.queries',
}
for _name, _path in _SHORT.items():
  flags.DEFINE_string(_name, None, f'Short for --config.{_path}.')
flags.DEFINE_bool('smollm2', False, 'Fetches a checkpoint into data.data_dir.')


def run(config: ConfigDict, workdir: str | os.PathLike) -> None:
  workdir = pathlib.Path(workdir)
  check(config)
  ours = trained.load(config, workdir)
  for name, stage in {
    'perplexity': measure,
    'plan': predict,
    'fit its curvature': fit_curvature.run,
    'score all sequences': score.run,
    'report': lambda config, workdir, _: report.run(config, workdir),
  }.items():
    rich.print(f'[bold]{name}[/bold]')
    start = time.perf_counter()
    stage(config, workdir, ours)
    processes.wait(name)  # the next one reads what the first process wrote
    rich.print(f'[dim]{name}: {time.perf_counter() - start:.1f} s[/dim]')


def check(config: ConfigDict) -> None:
  """What can be wrong with files and config and is seen without the weights.

  Raises:
    ValueError: says what, and which key of the config it is.
  """
  plan.abstract_model(config)
  tokenizer = checkpoint.open(config.checkpoint.path).tokenizer()
  path = pathlib.Path(config.score.queries or '')
  if not path.is_file():
    raise ValueError(
      f'score.queries is {config.score.queries!r}, which is no file: expected '
      'JSON lines of id, prompt and completion; give --queries=FILE'
    )
  queries_lib.query_batch(
    trained.read_queries(config), tokenizer, config.data.max_len
  )
  corpus.open_source(config.data)


def measure(
  config: ConfigDict, workdir: pathlib.Path, ours: trained.Trained
) -> None:
  """Prints the corpus's perplexity and writes perplexity.json, once.

  Weights that were read wrongly, or another tokenizer, show in it.
  """
  path = workdir / 'perplexity.json'
  if processes.agreed(path.exists()):
    return
  section, sequences = config.perplexity, ours.corpus.sequences
  num = min(section.num_sequences, len(sequences))
  nats = held_out.loss(config, ours, sequences, num, section.batch_tokens)
  found = {'nats': nats, 'perplexity': math.exp(nats), 'sequences': num}
  store.write_json(path, {**found, 'commit': common.commit()})
  rich.print(
    f'{found["perplexity"]:.4g} ({nats:.3f} nats a token, {num} sequences); of '
    'plain text in a language that the model knows, more than some hundred '
    'says that tokenizer and weights do not belong together'
  )


def predict(
  config: ConfigDict, workdir: pathlib.Path, ours: trained.Trained
) -> None:
  """Prints what fit and score will cost, and writes plan.json, once.

  Raises:
    ValueError: it does not fit.
  """
  if processes.agreed((workdir / 'plan.json').exists()):
    return
  if jax.process_count() > 1:
    rich.print('of one process alone: experiments.plan')
    return
  params = plan.placed_shapes(config, ours.params)
  found = [
    cost
    for costs_fn in (plan.fit_costs, plan.score_costs)
    for cost in costs_fn(config, ours.model, params, workdir)
  ]
  plan.check(found, workdir)
  found, rates = plan.predicted(found)
  baseline = planner.resident()
  rich.print(plan.render(found, baseline))
  described = {
    'stages': [plan.record(cost) for cost in found],
    'rates': rates,
    'baseline_bytes': baseline,
    'device': jax.devices()[0].device_kind,
    'commit': common.commit(),
  }
  store.write_json(workdir / 'plan.json', described)


def fill(config: ConfigDict) -> ConfigDict:
  """The config with what the short flags say.

  Raises:
    RuntimeError, ValueError: as `smollm2.fetch`; two checkpoints are asked for.
  """
  given = {path: flags.FLAGS[name].value for name, path in _SHORT.items()}
  config.update_from_flattened_dict(
    {path: value for path, value in given.items() if value is not None}
  )
  if flags.FLAGS.smollm2:
    if config.checkpoint.path:
      raise ValueError(
        f'both --smollm2 and the checkpoint {config.checkpoint.path!r} are '
        'asked for, expected one: leave out the other'
      )
    data_dir = pathlib.Path(config.data.data_dir).expanduser()
    config.checkpoint.path = processes.first_then_all(
      lambda: os.fspath(smollm2.fetch(data_dir))
    )
  return config


def add_default_config(name: str) -> None:
  """configs/NAME.py is --config unless another is given."""
  if not any(re.match(r'--?config(=|$)', x) for x in sys.argv):
    path = pathlib.Path(__file__).parents[1] / 'configs' / f'{name}.py'
    sys.argv.insert(1, f'--config={path}')  # before its keys


if __name__ == '__main__':
  add_default_config('influence')
  common.main(lambda config, workdir: run(fill(config), workdir))
