"""Conditioned on a text (ELIXR-B) and a reference X-ray (ELIXR-C): two streams.

  python -m cxr_diffusion_jax.main --config configs/elixr_bc.py \
    --config.data.root=nih-cxr --workdir runs/elixr_bc

`:small`, the default, is for one GPU: about 9e17 FLOPs, 2.5 h at 100 TFLOP/s (counted,
not run yet). `:tiny` on phantoms takes 9 to 13 minutes on 2 CPU cores (measured).
More sizes: `configs/default.py`; figures: `docs/results/paths_on_phantoms.md`.
"""

from configs import default


def get_config(size: str = "small"):
  """Returns the recipe of a size with this condition."""
  config = default.get_config(size)
  config.conditioning = dict(
    name="elixr_bc",
    kind="txt_emb",
    pooled=False,
    reference="self",
    # Both are dropped in 9 % of the examples: as often as the one of other paths.
    drop_rate=(0.3, 0.3),
  )
  return config
