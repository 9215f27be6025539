"""The stand-in of ELIXR as an encoder, for what a user types or shows.

prompts, images --stand-in CLIP, lifted--> the kinds of ELIXR

It gives what `standin_elixr.write_standin_elixr` wrote for the same inputs.
"""

from collections.abc import Mapping, Sequence
import dataclasses

import numpy as np

from cxr_diffusion_jax.encoders.clip import model as clip_model
from cxr_diffusion_jax.encoders.elixr.files import reader as elixr
from cxr_diffusion_jax.encoders.standin import elixr as standin_elixr


@dataclasses.dataclass(frozen=True, kw_only=True)
class StandinEncoder:
  """An `encoder.Encoder` of all of ELIXR's kinds.

  Attributes:
    model: a CLIP of this project that fits, see `standin_elixr.check_fits`.
  """

  model: clip_model.ClipModel

  @property
  def description(self) -> str:
    return clip_model.describe(self.model)

  @property
  def standin(self) -> bool:
    return True

  @property
  def shapes(self) -> Mapping[str, tuple[int, ...]]:
    return elixr.SHAPES

  @property
  def whole_images(self) -> bool:
    return False

  def encode_text(
    self, columns: Sequence[str], prompts: Sequence[str]
  ) -> dict[str, np.ndarray]:
    """Returns [n *shape] float32 of each text kind asked for."""
    return standin_elixr.text_kinds(self.model, prompts, columns)

  def encode_images(
    self, columns: Sequence[str], images: Sequence[np.ndarray]
  ) -> dict[str, np.ndarray]:
    """Returns [n *shape] float32 of each image kind, of squares [s s] uint8."""
    stack = np.stack(images)[..., None]
    return standin_elixr.image_kinds(self.model, stack, columns)
