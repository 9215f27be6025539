"""Conditioned on a reference X-ray: the 257 patch states of CLIP's vision encoder.

  python -m cxr_diffusion_jax.main --config configs/clip_vision.py \
    --config.data.root=nih-cxr --workdir runs/clip_vision

`configs/clip_vision.py:tiny`, `:small` (default) and `:base` choose the size;
`:dit_s` and others, as listed in `configs/default.py`, the network too.
"""

from configs import default


def get_config(size: str = "small"):
  """Returns the recipe of a size with this condition."""
  config = default.get_config(size)
  config.conditioning = dict(
    name="clip_vision",
    encoder="openai/clip-vit-large-patch14",
    pooled=False,
    reference="self",
    drop_rate=0.1,
  )
  return config
