"""The quickstart on a corpus of your own: a folder, a file or a glob of text.

  python -m experiments.quickstart --config=configs/files.py \
    --config.data.source.pattern='DIR/*.jsonl' --workdir=runs/files

Endings: .txt, .jsonl, .jsonl.gz, .jsonl.zst, .parquet, .arrow and .feather.
Queries of your own: --config.score.queries=QUERIES.jsonl.
"""

import ml_collections
from ml_collections import config_dict

from configs import quickstart


def get_config() -> ml_collections.ConfigDict:
  c = quickstart.get_config()
  c.data.name = 'files'
  c.data.source = dict(
    pattern=config_dict.placeholder(str),  # 'DIR/**/*.parquet'
    text='text',  # the field, or column, that is the text
    title=config_dict.placeholder(str),  # None gives 'FILE:ROW'
    errors='strict',  # or 'replace': bytes that are not UTF-8
  )
  return c
