"""Stand-ins of ELIXR embeddings in the published shapes, computed by a CLIP.

With u the lift to a wider space (`lift`), and CLIP's own projection to the shared one:

  elixrc                   [8 8 1376]  u(patch states)
  img_emb                  [32 768]    u(patch states pooled over 32 regions)
  all_contrastive_img_emb  [32 128]    the same pools in the shared space, length 1
  contrastive_img_emb      [128]       the class token in the shared space, length 1
  txt_emb                  [128 768]   u(text states), zeros after the end of the text
  contrastive_txt_emb      [128]       the text in the shared space, length 1

The image kinds are functions of the image alone, the text kinds of the text alone, as
ELIXR's are (Xu et al., 2308.01317). `max over 32 of cos(all_contrastive, text)` scores
an image against a text, as there, because the stand-in was trained on that score.
"""

from collections.abc import Sequence
import dataclasses
import functools
import os

import numpy as np

from cxr_diffusion_jax import errors, types
from cxr_diffusion_jax.encoders.clip import model as clip_model
from cxr_diffusion_jax.encoders.elixr.files.file import SHAPES, TEXT_KINDS
from cxr_diffusion_jax.encoders.standin import loss


def load(folder: str | os.PathLike) -> "StandinEncoder":
  """Loads a stand-in CLIP as an encoder of ELIXR's kinds.

  Raises:
    errors.InputError: the folder has no CLIP, or one that does not fit.
  """
  model = clip_model.load(folder)
  check_fits(model)
  return StandinEncoder(model=model)


def check_fits(model: clip_model.ClipModel) -> None:
  """Raises InputError unless a CLIP can replace ELIXR."""
  image, text = model.config.vision_config, model.config.text_config
  shared = model.config.projection_dim
  widest = max(image.hidden_size, text.hidden_size)
  if model.grid != 8 or widest > 768 or shared > 128 or model.max_tokens > 128:
    raise errors.InputError(
      f"{model.name}: {model.grid}x{model.grid} patches, width {widest}, shared space"
      f" {shared}, {model.max_tokens} tokens",
      "8x8 patches, width <= 768, shared space <= 128, <= 128 tokens",
      "use the folder that `prepare --standin` makes",
    )


def lift(states: np.ndarray, width: int) -> np.ndarray:
  """Embeds states [... d] isometrically, up to one scale, in [... width] float32.

  lifted = states @ Q * sqrt(width / d), with Q from `lift_basis`. Numbers of mean
  square 1 stay so, and lifted @ Q.T * sqrt(d / width) gives the states back.
  """
  depth = states.shape[-1]
  rows = np.asarray(states, np.float32).reshape(-1, depth)
  lifted = rows @ (lift_basis(depth, width) * np.float32(np.sqrt(width / depth)))
  return lifted.reshape(*states.shape[:-1], width)


@functools.cache
def lift_basis(depth: int, width: int) -> np.ndarray:
  """Returns the fixed orthonormal rows Q [depth width] that `lift` uses, float32.

  They are the Q factor of standard normal draws [width depth] of numpy's
  default_rng(1376 + width), with signs of a positive diagonal of the triangular factor,
  because LAPACK's vary.
  """
  draws = np.random.default_rng(1376 + width).standard_normal((width, depth))
  basis, triangle = np.linalg.qr(draws)
  return (basis * np.sign(np.diag(triangle))).T.astype(np.float32)


@dataclasses.dataclass(frozen=True, kw_only=True)
class StandinEncoder:
  """A CLIP that fits (`check_fits`) in place of ELIXR."""

  model: clip_model.ClipModel

  standin = True
  whole_images = False
  shapes = SHAPES

  @property
  def description(self) -> str:
    return clip_model.describe(self.model)

  def encode_text(
    self, columns: Sequence[str], prompts: Sequence[str]
  ) -> dict[str, np.ndarray]:
    if not set(columns) & set(TEXT_KINDS):
      return {}
    tokens, mask, embedding = clip_model.encode_text(
      self.model, prompts, batch_size=len(prompts)
    )
    centred = tokens - tokens.mean(axis=-1, keepdims=True)
    states = centred / np.sqrt(np.square(centred).mean(axis=-1, keepdims=True) + 1e-5)
    lifted = lift(states * mask[..., None], 768)
    room = ((0, 0), (0, 128 - self.model.max_tokens), (0, 0))
    values = {
      "txt_emb": np.pad(lifted, room),
      "contrastive_txt_emb": _shared(embedding),
    }
    return {kind: values[kind] for kind in columns if kind in values}

  def encode_images(
    self, columns: Sequence[str], images: types.Arrays
  ) -> dict[str, np.ndarray]:
    model = self.model
    tokens, whole = clip_model.encode_images(model, images, batch_size=len(images))
    states = np.asarray(loss.patch_states(tokens))
    pooled = np.einsum("rp,npd->nrd", loss.region_weights(model.grid), states)
    grid = states.reshape(len(images), model.grid, model.grid, -1)
    make = {
      "elixrc": lambda: lift(grid, 1376),
      "img_emb": lambda: lift(pooled, 768),
      "all_contrastive_img_emb": lambda: _shared(
        np.asarray(model.project_fn(model.params, pooled))
      ),
      "contrastive_img_emb": lambda: _shared(whole),
    }
    return {kind: make[kind]() for kind in columns if kind in make}


def _shared(vectors: np.ndarray) -> np.ndarray:
  """Scales to length 1 in 128 dimensions; cosines are those of CLIP's own space."""
  wide = lift(vectors, 128) if vectors.shape[-1] < 128 else vectors
  return wide / (np.linalg.norm(wide, axis=-1, keepdims=True) + 1e-6)
