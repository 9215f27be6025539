"""Conditioned on a text (ELIXR-B) and a reference X-ray (ELIXR-C): two streams.

  python -m cxr_diffusion_jax.main --config configs/elixr_bc.py \
    --config.data.root=nih-cxr --workdir runs/elixr_bc

`configs/elixr_bc.py:tiny`, `:small` (default) and `:base` choose the size;
`:dit_s` and others, as listed in `configs/default.py`, the network too.
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
