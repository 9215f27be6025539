"""Conditioned on the ELIXR-C map of a reference X-ray: 64 tokens of 1376 numbers.

  python -m cxr_diffusion_jax.main --config configs/elixr_c.py \
    --config.data.root=nih-cxr --workdir runs/elixr_c

`configs/elixr_c.py:tiny`, `:small` (default) and `:base` choose the size;
`:dit_s` and others, as listed in `configs/default.py`, the network too.
"""

from configs import default


def get_config(size: str = "small"):
  """Returns the recipe of a size with this condition."""
  config = default.get_config(size)
  config.conditioning = dict(
    name="elixr_c", pooled=False, reference="self", drop_rate=0.1
  )
  return config
