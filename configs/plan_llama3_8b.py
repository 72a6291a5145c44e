"""Llama 3 8B (its config.json, sequences of 512) on one host of 8 devices.

  python -m experiments.plan_mesh --config=configs/plan_llama3_8b.py \
    --workdir=runs/plan_llama3_8b --mesh=1x8,8x1
"""

import ml_collections

from configs import plan_52b


def get_config() -> ml_collections.ConfigDict:
  c = plan_52b.get_config()
  c.decoder.update(
    vocab_size=128256,
    width=4096,
    mlp_width=14336,
    num_heads=32,
    num_kv_heads=8,
    num_layers=32,
    norm='rms',
    activation='silu',
    gated=True,
  )
  c.decoder.rope.base = 5e5
  c.mesh.fsdp = False
  c.curvature = dict(name='ekfac', eigh='float64')
  return c
