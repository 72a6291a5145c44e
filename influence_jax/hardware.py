"""Peaks of accelerators, and which collectives of a program leave a host.

Peaks are the vendor's, of dense products; what a program reaches of them is for
the caller to assume.
"""

import re
from typing import NamedTuple

import numpy as np

from influence_jax import collectives


class Hardware(NamedTuple):
  """One device among others of its kind."""

  name: str
  flop: dict[str, float]  # a second, by what products are computed in
  memory: float  # bytes
  bandwidth: float  # bytes a second, from and to this memory
  link: float  # bytes a second that it sends to devices of its host
  network: float  # bytes a second that it sends to other hosts
  per_host: int  # devices


HARDWARE = {
  # NVIDIA H100 Tensor Core GPU data sheet and Hopper architecture white paper,
  # column SXM5: bfloat16 989.4 and TF32 494.7 TFLOP/s dense (the data sheet's
  # headline is twice that, with sparsity), float32 66.9; 80 GB HBM3 of 3.35
  # TB/s; NVLink 900 GB/s both ways together. JAX's default precision makes
  # float32 products TF32. The network is of DGX H100's data sheet: a ConnectX-7
  # of 400 Gbit/s for each of 8 GPUs.
  'h100': Hardware(
    'NVIDIA H100 SXM5 80 GB',
    {'bfloat16': 989.4e12, 'tf32': 494.7e12, 'float32': 66.9e12},
    80e9, 3.35e12, 450e9, 50e9, 8,
  ),
  # NVIDIA H200 Tensor Core GPU data sheet: the same chip, more memory
  'h200': Hardware(
    'NVIDIA H200 SXM 141 GB',
    {'bfloat16': 989.4e12, 'tf32': 494.7e12, 'float32': 66.9e12},
    141e9, 4.8e12, 450e9, 50e9, 8,
  ),
}  # fmt: skip


def between_hosts(text: str, per_host: int) -> list[collectives.Collective]:
  """Those collectives of HLO text that devices of several hosts take part in.

  Devices are numbered host by host, as they are in a mesh.
  """
  kept = [line for line in text.split('\n') if not _stays(line, per_host)]
  return collectives.of_text('\n'.join(kept))


def _stays(line: str, per_host: int) -> bool:
  """Whether it is a collective within hosts."""
  found = re.search(r'(?:replica_groups|source_target_pairs)=(.*)', line)
  return bool(found) and all(
    len({device // per_host for device in group}) == 1
    for group in groups(found[1])
  )


def groups(text: str) -> list[list[int]]:
  """Devices of a collective's groups, in the forms that XLA prints.

  {} are all devices, whose number it does not say: taken to be on many hosts.
  """
  if found := re.match(
    r'\[(\d+),(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?', text
  ):
    sizes = [int(n) for n in found[3].split(',')]
    order = [int(n) for n in (found[4] or '').split(',') if n]
    devices = np.arange(np.prod(sizes)).reshape(sizes)
    devices = devices.transpose(order or None)
    return devices.reshape(int(found[1]), int(found[2])).tolist()
  if found := re.match(r"mesh\[(.*?)\][^{]*\{((?:'\w+',?)+)\}", text):
    named = re.findall(r"'(.+?)'=(\d+)", found[1])
    over = re.findall(r"'(\w+)'", found[2])
    at = [n for n, (name, _) in enumerate(named) if name in over]
    sizes = [int(size) for _, size in named]
    devices = np.moveaxis(
      np.arange(np.prod(sizes)).reshape(sizes), at, range(-len(at), 0)
    )
    return devices.reshape(-1, np.prod([sizes[n] for n in at])).tolist()
  if found := re.match(r'\{((?:\{[\d,]+\},?)+)\}', text):
    lists = re.findall(r'\{([\d,]+)\}', found[1])
    return [[int(n) for n in one.split(',')] for one in lists]
  return [[0, np.iinfo(np.int32).max]]
