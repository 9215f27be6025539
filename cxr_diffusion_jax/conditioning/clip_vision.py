"""CLIP's vision encoder: a reference X-ray as its patches, or as one vector.

  clip_patches [b 1+g*g d]   penultimate hidden states, class token first; 2-D positions
  clip_image   [b 1 p]       image_embeds, in the space shared with texts

Radford et al., 2103.00020. The column is made by `prepare` from the records' images.
"""

import dataclasses
import math

from cxr_diffusion_jax import types
from cxr_diffusion_jax.conditioning import base
from cxr_diffusion_jax.encoders.clip import encoder as clip_encoder


@dataclasses.dataclass(frozen=True, kw_only=True)
class Conditioner:
  """Conditions on a reference image.

  Attributes:
    encoder: folder or hub id of a CLIP, or "standin" for the one that `prepare` trains
      on the tree's own images and prompts.
    pooled: one vector of the whole image in place of its patches.
    reference: whose image: 'self' or 'same_patient', see `base.Needs`.
  """

  encoder: str = clip_encoder.DEFAULT
  pooled: bool = False
  reference: str = "self"

  @property
  def needs(self) -> base.Needs:
    return base.Needs(
      columns=(self._column,), clip=self.encoder, reference=self.reference
    )

  @property
  def streams(self) -> tuple[types.StreamSpec, ...]:
    sizes = clip_encoder.sizes(self.encoder)
    if self.pooled:
      return (
        types.StreamSpec(name="clip_vision", num_tokens=1, width=sizes.embedding),
      )
    side = math.isqrt(sizes.num_patches - 1)
    return (
      types.StreamSpec(
        name="clip_vision",
        num_tokens=sizes.num_patches,
        width=sizes.image_width,
        grid=(side, side),
        num_leading=1,
      ),
    )

  def __call__(self, batch: types.Batch) -> types.Context:
    """Returns one stream from the batch's patches or vectors."""
    return (base.stream(batch[self._column]),)

  @property
  def _column(self) -> str:
    return "clip_image" if self.pooled else "clip_patches"
