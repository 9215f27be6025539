"""Conditioned on an ELIXR-B embedding: by default a text's 128 tokens of 768.

  python -m cxr_diffusion_jax.main --config configs/elixr_b.py \
    --config.data.root=nih-cxr --workdir runs/elixr_b

`configs/elixr_b.py:tiny`, `:small` (default) and `:base` choose the size;
`:dit_s` and others, as listed in `configs/default.py`, the network too.
"""

from configs import default


def get_config(size: str = "small"):
  """Returns the recipe of a size with this condition."""
  config = default.get_config(size)
  config.conditioning = dict(
    name="elixr_b", kind="txt_emb", reference="self", drop_rate=0.1
  )
  return config
