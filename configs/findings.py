"""Conditioned on the labels themselves, without an encoder: the baseline to beat.

  python -m cxr_diffusion_jax.main --config configs/findings.py \
    --config.data.root=nih-cxr --workdir runs/findings

`configs/findings.py:tiny`, `:small` (default) and `:base` choose the size;
`:dit_s` and others, as listed in `configs/default.py`, the network too.
"""

from configs import default


def get_config(size: str = "small"):
  """Returns the recipe of a size with this condition."""
  config = default.get_config(size)
  config.conditioning = dict(name="findings", drop_rate=0.1)
  return config
