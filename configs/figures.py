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
    # Study, ladder, seconds of a first run, or None if nobody timed it: those
    # of a run on one seed of d64, d96 and d128, times the rungs here over the
    # rungs there. A study is experiments.STUDY with configs/STUDY.py
    studies=(
      ('sparsity', 'english', 72),
      ('tfidf_search', 'english', 20),
      ('scaling', 'english', 110),
      ('dot_product', 'english', 56),
      ('low_rank', 'english', 174),
      ('sub_blocks', 'english', 603),
      ('role_play', 'english', 5),
      ('cross_lingual', 'bible', 430),
      ('memorization', 'planted', 37),
      ('word_order', 'planted', 203),
      ('layerwise', 'planted', 10),
      ('tokenwise', 'planted', 164),
      ('procedural', 'planted', 30),
    ),
    # Binary, config; WORKDIR/validation/config is its workdir. Seconds on one
    # core of two, other work on the other; of pbrf_* by those of some seeds and
    # dampings. docs/validation.md has more, each by its own command
    validations=(
      ('validate_pbrf', 'pbrf_concrete', 1656),
      ('validate_pbrf', 'pbrf_digits', 890),
      ('wall_clock', 'wall_clock_concrete', 301),
      ('decomposition', 'decomposition_logistic', 44),
      ('solver_cost', 'solver_cost_language_model', 187),
    ),
    only=(),  # ladders to run, or 'validation'; () is all ladders
    dry=False,  # say what there is to do, and do nothing
  )
  return c
