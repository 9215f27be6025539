"""Conditioned on a prompt: the 77 token states of CLIP's text encoder.

  python -m cxr_diffusion_jax.main --config configs/clip_text.py \
    --config.data.root=nih-cxr --workdir runs/clip_text

`:small`, the default, is for one GPU: about 9e17 FLOPs, 2.5 h at 100 TFLOP/s (counted,
not run yet). `:tiny` on phantoms takes 9 to 13 minutes on 2 CPU cores (measured).
More sizes: `configs/default.py`; figures: `docs/results/paths_on_phantoms.md`.
"""

from configs import default


def get_config(size: str = "small"):
  """Returns the recipe of a size with this condition."""
  config = default.get_config(size)
  config.conditioning = dict(
    name="clip_text",
    encoder="openai/clip-vit-large-patch14",
    chunks=1,
    all_states=False,
    drop_rate=0.1,
  )
  return config
