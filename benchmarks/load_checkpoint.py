"""Seconds and memory of loading a checkpoint of several gigabytes.

    python -m benchmarks.load_checkpoint --gigabytes=3 --folder=/tmp \
      --load_out=results/load_checkpoint.json

Writes a random float32 Llama of about so many bytes in --folder (and removes it
afterwards): TinyLlama's shapes at --width=2048, as many layers as it takes, in
shards, a tensor at a time. Then loads it with `pretrained.load` in a process of
its own, as a stack of blocks and block by block. Memory is what a process had
more than before it began to load, at most, divided by the bytes of the files:
`anonymous` without the pages of files that are mapped, which the kernel takes
back when it needs them, as seen every 2 ms; `resident` with them.
"""

import json
import pathlib
import subprocess
import sys
import tempfile
import time

import jax
import numpy as np
from absl import app, flags

from benchmarks import machine
from influence_jax import cpu, pretrained
from influence_jax.report import files

_GIGABYTES = flags.DEFINE_float('gigabytes', 3.0, 'of 1e9 bytes')
_WIDTH = flags.DEFINE_integer('width', 2048, 'a multiple of 64')
_SHARDS = flags.DEFINE_integer('shards', 4, 'files')
_FOLDER = flags.DEFINE_string('folder', '/tmp', 'where it is written')
_LOAD_OUT = flags.DEFINE_string('load_out', None, 'JSON file for the results')
_CHILD = flags.DEFINE_string('child', None, 'a checkpoint: only loads it')
_SCAN = flags.DEFINE_bool('load_scan', False, 'of the child: one stack')
_VOCAB, _HEAD, _KV_HEADS = 32_000, 64, 4


def shapes(width: int, num_layers: int) -> dict[str, tuple[int, ...]]:
  """{name: shape} of a Llama's tensors."""
  D, F, kv = width, width * 11 // 4, _KV_HEADS * _HEAD
  block = {
    'input_layernorm': (D,), 'post_attention_layernorm': (D,),
    'self_attn.q_proj': (D, D), 'self_attn.k_proj': (kv, D),
    'self_attn.v_proj': (kv, D), 'self_attn.o_proj': (D, D),
    'mlp.gate_proj': (F, D), 'mlp.up_proj': (F, D), 'mlp.down_proj': (D, F),
  }  # fmt: skip
  found = {'model.embed_tokens.weight': (_VOCAB, D)}
  for i in range(num_layers):
    for name, shape in block.items():
      found[f'model.layers.{i}.{name}.weight'] = shape
  return found | {'model.norm.weight': (D,), 'lm_head.weight': (_VOCAB, D)}


def write(
  folder: pathlib.Path, width: int, num_layers: int, num_shards: int
) -> int:
  """Writes the checkpoint; the bytes of its safetensors."""
  config_json = {
    'model_type': 'llama', 'vocab_size': _VOCAB, 'hidden_size': width,
    'intermediate_size': width * 11 // 4, 'num_hidden_layers': num_layers,
    'num_attention_heads': width // _HEAD, 'num_key_value_heads': _KV_HEADS,
    'max_position_embeddings': 2048, 'rms_norm_eps': 1e-5,
    'rope_theta': 10000.0, 'hidden_act': 'silu', 'tie_word_embeddings': False,
  }  # fmt: skip
  (folder / 'config.json').write_text(json.dumps(config_json))
  found = shapes(width, num_layers)
  ends = np.cumsum([_bytes(shape) for shape in found.values()])
  numbers = ((ends - 1) * num_shards // ends[-1]).tolist()
  weight_map = {
    name: f'model-{number + 1:05}-of-{num_shards:05}.safetensors'
    for name, number in zip(found, numbers, strict=True)
  }
  index = json.dumps({'weight_map': weight_map})
  (folder / 'model.safetensors.index.json').write_text(index)
  rng = np.random.default_rng(0)
  for shard in dict.fromkeys(weight_map.values()):
    here = {x: found[x] for x in found if weight_map[x] == shard}
    _write_shard(folder / shard, here, rng)
  return sum(path.stat().st_size for path in folder.glob('*.safetensors'))


def _write_shard(path, shapes, rng) -> None:
  """The format by hand: safetensors' own writer wants all tensors at once."""
  header, start = {}, 0
  for name, shape in shapes.items():
    place = [start, start := start + _bytes(shape)]
    header[name] = {'dtype': 'F32', 'shape': shape, 'data_offsets': place}
  text = json.dumps(header).encode()
  with path.open('wb') as file:
    file.write(len(text).to_bytes(8, 'little') + text)
    for shape in shapes.values():
      rng.random(shape, np.float32).tofile(file)


def _bytes(shape) -> int:
  return 4 * int(np.prod(shape))


def measure(folder: pathlib.Path, num_bytes: int, scan: bool) -> dict:
  """Loads it in a process of its own, which is watched from here."""
  command = [sys.executable, '-m', 'benchmarks.load_checkpoint']
  command += [f'--child={folder}', f'--load_scan={scan}']
  with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
    before = json.loads(child.stdout.readline())
    anonymous = 0
    while child.poll() is None:
      anonymous = max(anonymous, _status(child.pid).get('RssAnon', 0))
      time.sleep(0.002)
    lines = child.stdout.read().splitlines()
  if child.returncode:
    raise RuntimeError(f'the process that loads ended with {child.returncode}')
  after = json.loads(lines[-1])
  peaks = {
    'anonymous': anonymous - before['RssAnon'],
    'resident': after['VmHWM'] - before['VmRSS'],
  }
  return {
    'scan': scan,
    'seconds': after['seconds'],
    'peak_bytes': peaks,
    'ratio': {name: peak / num_bytes for name, peak in peaks.items()},
  }


def _status(pid: int | str) -> dict[str, int]:
  """Bytes, by the kernel's names; none of a process that has ended."""
  lines = pathlib.Path(f'/proc/{pid}/status').read_text().splitlines()
  fields = dict(line.split(':', 1) for line in lines)
  return {
    name: int(value.split()[0]) * 1024
    for name, value in fields.items()
    if name in ('VmHWM', 'VmRSS', 'RssAnon')
  }


def _load(path: str, scan: bool) -> None:
  cpu.tune()  # as the binaries do
  jax.block_until_ready(jax.device_put(np.zeros(1)))
  print(json.dumps(_status('self')), flush=True)
  start = time.perf_counter()
  _, params = pretrained.load(path, scan=scan)
  jax.block_until_ready(params)
  seconds = time.perf_counter() - start
  print(json.dumps({'seconds': seconds, **_status('self')}))


def main(_):
  if _CHILD.value:
    return _load(_CHILD.value, _SCAN.value)
  sizes = [sum(map(_bytes, shapes(_WIDTH.value, n).values())) for n in (0, 1)]
  num_layers = round(
    (1e9 * _GIGABYTES.value - sizes[0]) / (sizes[1] - sizes[0])
  )
  with tempfile.TemporaryDirectory(dir=_FOLDER.value) as folder:
    folder = pathlib.Path(folder)
    num_bytes = write(folder, _WIDTH.value, num_layers, _SHARDS.value)
    runs = [measure(folder, num_bytes, scan) for scan in (True, False)]
  result = {
    'command': f'python -m benchmarks.load_checkpoint {" ".join(sys.argv[1:])}',
    'commit': machine.commit(),
    'device': machine.device(),
    'bytes': num_bytes,
    'layers': num_layers,
    'shards': _SHARDS.value,
    'runs': runs,
  }
  print(json.dumps(result, indent=2))
  if _LOAD_OUT.value:
    content = json.dumps(result, indent=2, sort_keys=True) + '\n'
    files.write(_LOAD_OUT.value, content.encode())


if __name__ == '__main__':
  app.run(main)
