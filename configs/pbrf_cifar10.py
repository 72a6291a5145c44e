"""The same on 500 images of CIFAR-10, from a folder of yours.

  python -m experiments.validate_pbrf --config=configs/pbrf_cifar10.py \
    --workdir=runs/validation/pbrf_cifar10 --config.data.data_dir=FOLDER

FOLDER has data_batch_1.bin to data_batch_5.bin and test_batch.bin, of the
binary version: no package has them.
"""

import ml_collections

from configs import pbrf_convnet


def get_config() -> ml_collections.ConfigDict:
  c = pbrf_convnet.get_config()
  c.data.name = 'cifar10'
  c.validation.task = 'CIFAR-10, convolutions'
  return c
