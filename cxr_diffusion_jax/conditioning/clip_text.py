"""CLIP's text encoder: a prompt as the states of its tokens.

  clip_text [b n d], zeros after the end of the text --> tokens [b n d]

The last hidden state after the final norm, as Stable Diffusion takes it (Radford et
al., 2103.00020; Rombach et al., 2112.10752): n is 77 for each window of a prompt.

With `all_states`, as Stable Diffusion was trained: the states after the end of the text
are tokens too, and no condition is the 77 states of the empty prompt.
"""

import dataclasses

from cxr_diffusion_jax import errors, types
from cxr_diffusion_jax.conditioning import base

DEFAULT = "openai/clip-vit-large-patch14"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Conditioner:
  """Conditions on a prompt.

  Attributes:
    encoder: folder or hub id of a CLIP, or "standin" for the one that `prepare` trains
      on the tree's own images and prompts.
    chunks: windows of tokens; a prompt that is longer than all of them is cut.
    all_states: give the denoiser every state of the window, and the empty prompt's in
      place of a dropped or missing one. Weights of Stable Diffusion need it.
    shape: (n, d), read from the encoder's configuration where it is ().
  """

  encoder: str = DEFAULT
  chunks: int = 1
  all_states: bool = False
  shape: tuple[int, ...] = ()

  def __post_init__(self):
    if self.all_states and self.chunks != 1:
      raise errors.InputError(
        f"config.conditioning.chunks={self.chunks} with all_states",
        "1: Stable Diffusion reads one window of a prompt",
      )

  @property
  def needs(self) -> base.Needs:
    column = base.ColumnSpec(
      name=self._column,
      encoder="clip",
      source="text",
      shape=self.shape,
      model=self.encoder,
      chunks=self.chunks,
      empty=self.all_states,
    )
    return base.Needs(specs=(column,))

  @property
  def streams(self) -> tuple[types.StreamSpec, ...]:
    num_tokens, width = self.shape
    return (types.StreamSpec(name="clip_text", num_tokens=num_tokens, width=width),)

  def __call__(self, batch: types.Batch) -> types.Context:
    """Returns one stream from batch["clip_text"], or "clip_states", [b n d]."""
    return (base.stream(batch[self._column]),)

  @property
  def _column(self) -> str:
    return "clip_states" if self.all_states else "clip_text"
