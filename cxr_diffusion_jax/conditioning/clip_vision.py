"""CLIP's vision encoder: a reference X-ray as its patches, or as one vector.

  clip_patches [b 1+g*g d]   penultimate hidden states, class token first; 2-D positions
  clip_image   [b 1 p]       image_embeds, in the space shared with texts

Radford et al., 2103.00020.
"""

import dataclasses
import math

from cxr_diffusion_jax import types
from cxr_diffusion_jax.conditioning import base, clip_text


@dataclasses.dataclass(frozen=True, kw_only=True)
class Conditioner:
  """Conditions on a reference image.

  Attributes:
    encoder: folder or hub id of a CLIP, or "standin" for the one that `prepare` trains
      on the tree's own images and prompts.
    pooled: one vector of the whole image in place of its patches.
    reference: which image: see `base.Needs`.
    shape: of the column's rows, read from the encoder's configuration where it is ().
  """

  encoder: str = clip_text.DEFAULT
  pooled: bool = False
  reference: str = "self"
  shape: tuple[int, ...] = ()

  @property
  def needs(self) -> base.Needs:
    column = base.ColumnSpec(
      name=self._column, encoder="clip", shape=self.shape, model=self.encoder
    )
    return base.Needs(specs=(column,), reference=self.reference)

  @property
  def streams(self) -> tuple[types.StreamSpec, ...]:
    num_tokens, width = self.shape
    side = math.isqrt(num_tokens - 1)
    grid = {} if self.pooled else {"grid": (side, side), "num_leading": 1}
    return (
      types.StreamSpec(name="clip_vision", num_tokens=num_tokens, width=width, **grid),
    )

  def __call__(self, batch: types.Batch) -> types.Context:
    return (base.stream(batch[self._column]),)

  @property
  def _column(self) -> str:
    return "clip_image" if self.pooled else "clip_patches"
