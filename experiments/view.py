"""The page in which a scoring run is looked at: WORKDIR/view.html.

  python -m experiments.view --config=configs/quickstart.py \
    --workdir=runs/quickstart

One file that needs no network: queries, their sequences by token and layer, how
the scores are spread, what the run was (docs/viewer.md). Reads the scores in
config.score.folder, parts of input and output tokens where they are there
(experiments.token_parts), and of the workdir what is there of
factor_health.json, plan.json, plan_measured.json, metrics.jsonl and
finetune.json; loads no model. --others=DIR,DIR: other workdirs, scored on the
same corpus and queries, whose scores stand beside. Sections read: score.

--serve: a server on 127.0.0.1 instead, for stores too large for one file
(experiments.live); the section data is read then too. --serve --checkpoint:
with the model and the fit of the workdir, for queries that are typed in
(experiments.interactive).
"""

import os
import pathlib
import sys

from absl import flags
from ml_collections import ConfigDict

from experiments import common

_OTHERS = flags.DEFINE_list(
  'others', [], 'Workdirs scored on the same corpus and queries.'
)
_SERVE = flags.DEFINE_bool('serve', False, 'Answer as a server: no file.')
_PORT = flags.DEFINE_integer('port', 0, 'Of 127.0.0.1; 0 is any free one.')


def main(
  config: ConfigDict, workdir: pathlib.Path, checkpoint: bool = False
) -> None:
  """Writes the page or, with --serve, answers as a server."""
  if checkpoint and not _SERVE.value:
    raise ValueError(
      '--checkpoint without --serve, expected both: a page in a file cannot '
      'answer queries; add --serve'
    )
  # Not above: a server is to be small, and pages bring matplotlib and scipy
  if checkpoint:
    from experiments import ask_routes, live

    with ask_routes.app(config, workdir) as app:
      live.serve(config, workdir, _PORT.value, app)
  elif _SERVE.value:
    start_lean()
    from experiments import live

    live.serve(config, workdir, _PORT.value)
  else:
    from experiments import view_page

    view_page.write(config, workdir, others=_OTHERS.value)


def start_lean() -> None:
  """Again, with one arena of glibc for all threads: it looks at the start.

  With one each they keep what they have freed, of a million rows 100 MB.
  """
  if 'MALLOC_ARENA_MAX' not in os.environ:
    os.environ['MALLOC_ARENA_MAX'] = '1'
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


if __name__ == '__main__':
  # Not above: experiments.influence has another flag of this name
  _CHECKPOINT = flags.DEFINE_bool(
    'checkpoint', False, 'With --serve: load the model, answer typed queries.'
  )
  common.main(lambda config, workdir: main(config, workdir, _CHECKPOINT.value))
