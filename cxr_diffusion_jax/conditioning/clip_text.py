"""CLIP's text encoder: a prompt as the states of its tokens.

  clip_text [b n d], zeros after the end of the text --> tokens [b n d]

The last hidden state after the final norm, as Stable Diffusion takes it (Radford et
al., 2103.00020; Rombach et al., 2112.10752): n is 77 for each window of a prompt.
"""

import dataclasses

from cxr_diffusion_jax import types
from cxr_diffusion_jax.conditioning import base

DEFAULT = "openai/clip-vit-large-patch14"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Conditioner:
  """Conditions on a prompt.

  Attributes:
    encoder: folder or hub id of a CLIP, or "standin" for the one that `prepare` trains
      on the tree's own images and prompts.
    chunks: windows of tokens; a prompt that is longer than all of them is cut.
    shape: (n, d), read from the encoder's configuration where it is ().
  """

  encoder: str = DEFAULT
  chunks: int = 1
  shape: tuple[int, ...] = ()

  @property
  def needs(self) -> base.Needs:
    column = base.ColumnSpec(
      name="clip_text",
      encoder="clip",
      source="text",
      shape=self.shape,
      model=self.encoder,
      chunks=self.chunks,
    )
    return base.Needs(specs=(column,))

  @property
  def streams(self) -> tuple[types.StreamSpec, ...]:
    num_tokens, width = self.shape
    return (types.StreamSpec(name="clip_text", num_tokens=num_tokens, width=width),)

  def __call__(self, batch: types.Batch) -> types.Context:
    """Returns one stream from batch["clip_text"] [b n d]."""
    return (base.stream(batch["clip_text"]),)
