"""Conditioned on the labels themselves, without an encoder: the baseline to beat.

  python -m cxr_diffusion_jax.main --config configs/findings.py \
    --config.data.root=nih-cxr --workdir runs/findings

`:small`, the default, is for one GPU: about 9e17 FLOPs, 2.5 h at 100 TFLOP/s (counted,
not run yet). `:tiny` on phantoms takes 9 to 13 minutes on 2 CPU cores (measured).
More sizes: `configs/default.py`; figures: `docs/results/paths_on_phantoms.md`.
"""

from configs import default


def get_config(size: str = "small"):
  """Returns the recipe of a size with this condition."""
  config = default.get_config(size)
  config.conditioning = dict(name="findings", source_token=False, drop_rate=0.1)
  return config
