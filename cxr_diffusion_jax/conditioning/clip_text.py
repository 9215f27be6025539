"""CLIP's text encoder: a prompt as the states of its tokens.

  clip_text [b 77 d], zeros after the end of the text --> tokens [b 77 d]

The last hidden state after the final norm, as Stable Diffusion takes it (Radford et
al., 2103.00020; Rombach et al., 2112.10752). The column is made by `prepare`.
"""

import dataclasses

from cxr_diffusion_jax import types
from cxr_diffusion_jax.conditioning import base
from cxr_diffusion_jax.encoders.clip import encoder as clip_encoder


@dataclasses.dataclass(frozen=True, kw_only=True)
class Conditioner:
  """Conditions on a prompt.

  Attributes:
    encoder: folder or hub id of a CLIP, or "standin" for the one that `prepare` trains
      on the tree's own images and prompts.
    chunks: windows of 77 tokens; a prompt that is longer than all of them is cut.
  """

  encoder: str = clip_encoder.DEFAULT
  chunks: int = 1

  @property
  def needs(self) -> base.Needs:
    return base.Needs(columns=("clip_text",), clip=self.encoder, chunks=self.chunks)

  @property
  def streams(self) -> tuple[types.StreamSpec, ...]:
    sizes = clip_encoder.sizes(self.encoder)
    return (
      types.StreamSpec(
        name="clip_text",
        num_tokens=sizes.max_tokens * self.chunks,
        width=sizes.text_width,
      ),
    )

  def __call__(self, batch: types.Batch) -> types.Context:
    """Returns one stream from batch["clip_text"] [b n d]."""
    return (base.stream(batch["clip_text"]),)
