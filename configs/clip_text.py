"""Conditioned on a prompt: the 77 token states of CLIP's text encoder.

  python -m cxr_diffusion_jax.main --config configs/clip_text.py \
    --config.data.root=nih-cxr --workdir runs/clip_text

`configs/clip_text.py:tiny`, `:small` (default) and `:base` choose the size;
`:dit_s` and others, as listed in `configs/default.py`, the network too.
"""

from configs import default


def get_config(size: str = "small"):
  """Returns the recipe of a size with this condition."""
  config = default.get_config(size)
  config.conditioning = dict(
    name="clip_text", encoder="openai/clip-vit-large-patch14", chunks=1, drop_rate=0.1
  )
  return config
