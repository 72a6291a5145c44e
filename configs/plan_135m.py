"""SmolLM2-135M (its config.json, sequences of 512) on one device.

  python -m experiments.plan_mesh --config=configs/plan_135m.py \
    --workdir=runs/plan_135m --mesh=1x1
"""

import ml_collections

from configs import plan_52b


def get_config() -> ml_collections.ConfigDict:
  c = plan_52b.get_config()
  c.decoder.update(
    vocab_size=49152,
    width=576,
    mlp_width=1536,
    num_heads=9,
    num_kv_heads=3,
    head_dim=64,
    num_layers=30,
    norm='rms',
    activation='silu',
    gated=True,
    tied=True,
  )
  c.decoder.rope.update(base=1e5, width=64)
  c.mesh.fsdp = False
  c.curvature = dict(name='ekfac', eigh='float64')
  c.train = dict(
    batch_tokens=16384,
    num_epochs=1,
    learning_rate=3e-4,
    warmup_steps=100,
    weight_decay=0.1,
    clip_norm=1.0,
    seed=0,
    save_every=500,
  )
  c.plan.update(steps=(*c.plan.steps, 'train'), rows=32)
  return c
