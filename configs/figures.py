"""Every ladder and study of the paper's claims, for two binaries.

  python -m experiments.reproduce --config=configs/figures.py --workdir=runs

runs them; experiments.figures, without a config, shows what there is.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
  c = ml_collections.ConfigDict()
  c.figures = dict(
    ladders=(  # name, config; WORKDIR/name is the ladder's workdir
      ('planted', 'configs/ladder_planted.py'),
      ('english', 'configs/ladder_english.py'),
      ('bible', 'configs/ladder_bible.py'),
    ),
    # Study, ladder, seconds of a first run if measured, else None. A study is
    # experiments.STUDY with configs/STUDY.py
    studies=(
      ('sparsity', 'english', None),
      ('tfidf_search', 'english', None),
      ('scaling', 'english', None),
      ('dot_product', 'english', None),
      ('low_rank', 'english', None),
      ('sub_blocks', 'english', None),
      ('role_play', 'english', None),
      ('cross_lingual', 'bible', None),
      ('memorization', 'planted', None),
      ('word_order', 'planted', None),
      ('layerwise', 'planted', None),
      ('tokenwise', 'planted', None),
      ('procedural', 'planted', None),
    ),
    only=(),  # ladders to run, with their studies; () is all
    dry=False,  # say what there is to do, and do nothing
  )
  return c
