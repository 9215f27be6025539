"""NIH ChestX-ray14, with Google's expert labels."""

from cxr_diffusion_jax.data.sources.nih.source import (
  VOCABULARY,
  read_table,
  read_vocabulary,
)

__all__ = ("VOCABULARY", "read_table", "read_vocabulary")
