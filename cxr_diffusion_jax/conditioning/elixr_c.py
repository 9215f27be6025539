"""ELIXR-C: the 8x8x1376 feature map of a reference X-ray, as tokens.

  elixrc [b 8 8 1376] --row-major--> tokens [b 64 1376]   (or their mean, [b 1 1376])

The map is made by the `elixr-c-v2-pooled` encoder of Google's CXR Foundation (Xu et
al., ELIXR, 2308.01317) and is stored in the column `elixrc` of the records.
"""

import dataclasses
import math

import einops
import jax.numpy as jnp

from cxr_diffusion_jax import types
from cxr_diffusion_jax.conditioning import base

GRID = (8, 8)
WIDTH = 1376


@dataclasses.dataclass(frozen=True, kw_only=True)
class Conditioner:
  """Conditions on the ELIXR-C map of a reference image.

  Attributes:
    pooled: average the map into one token, which keeps what is in the image and
      loses where.
    reference: which image's map: see `base.Needs`.
  """

  pooled: bool = False
  reference: str = "self"

  @property
  def needs(self) -> base.Needs:
    column = base.ColumnSpec(name="elixrc", encoder="elixr", shape=(*GRID, WIDTH))
    return base.Needs(specs=(column,), reference=self.reference)

  @property
  def streams(self) -> tuple[types.StreamSpec, ...]:
    num_tokens, grid = (1, None) if self.pooled else (math.prod(GRID), GRID)
    return (
      types.StreamSpec(name="elixr_c", num_tokens=num_tokens, width=WIDTH, grid=grid),
    )

  def __call__(self, batch: types.Batch) -> types.Context:
    """Returns one stream from batch["elixrc"] [b 8 8 1376]."""
    tokens = einops.rearrange(
      jnp.asarray(batch["elixrc"], jnp.float32), "b h w d -> b (h w) d"
    )
    if self.pooled:
      tokens = tokens.mean(axis=1, keepdims=True)
    return (base.stream(tokens),)
