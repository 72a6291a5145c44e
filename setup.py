"""Packaging. Why each dependency is there: docs/dependencies.md."""

import pathlib

import setuptools

# What the corpora and judges of the paper's studies are read with.
FIGURES = ['rdata>=1.1,<2']
TEST = [
  'axe-playwright-python>=0.1.8,<0.2', 'httpx2>=2,<3', 'ipykernel>=7,<8',
  'nbclient>=0.11,<0.12', 'playwright>=1.65,<2', 'pytest>=8', 'ruff>=0.15',
  *FIGURES,
]  # fmt: skip
DOCS = ['mkdocs-material>=9.7,<10', 'mkdocstrings[python]>=1,<2']
# Kronfluence asks for any torchvision (and never imports it): the one of this
# torch, or pip takes another torch for the latest torchvision's sake.
BENCH = ['kronfluence>=1.0.1,<1.1', 'torch==2.13.*', 'torchvision==0.28.*']
PARITY = [*BENCH, 'transformers>=5,<6']

setuptools.setup(
  name='influence_jax',
  version='0.1.0',
  description='Influence functions with EK-FAC in JAX: which data made a '
  'language model say this?',
  long_description=pathlib.Path('README.md').read_text(),
  long_description_content_type='text/markdown',
  license='Apache-2.0',
  python_requires='>=3.11',
  packages=setuptools.find_packages(
    include=['influence_jax', 'influence_jax.*', 'experiments', 'configs']
  ),
  package_data={
    'influence_jax.report': ['*.j2', '*.css', '*.js'],
    'configs': ['*.jsonl'],
  },
  install_requires=[
    'absl-py>=2.1',
    'array_record>=0.8',
    'bm25s>=0.3,<0.4',
    'duckdb>=1.4,<3',
    'flax>=0.12,<0.13',
    'gguf>=0.19,<0.20',
    'importlib_resources>=6',
    'jax>=0.10,<0.11',
    'jinja2>=3.1',
    'matplotlib>=3.9',
    'ml_collections>=1.0,<2',
    'numpy>=2,<3',
    'optax>=0.2,<0.3',
    'orbax-checkpoint>=0.12,<0.13',
    'pyarrow>=18',
    'rich>=13',
    'safetensors>=0.5,<1',
    'scipy>=1.15',
    'starlette>=1.10,<2',
    'tensorflow-datasets>=4.9.10,<5',
    'tensorstore>=0.1.80,<0.2',
    'tokenizers>=0.23,<0.24',
    'tqdm>=4.66',
    'uvicorn>=0.50,<1',
  ],
  extras_require={
    'test': TEST,
    'bench': BENCH,
    'docs': DOCS,
    'figures': FIGURES,
    'parity': PARITY,
  },  # fmt: skip
)
