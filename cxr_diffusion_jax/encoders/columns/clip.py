"""Columns of a CLIP, computed from prompts and images of the records or a user.

  clip_text    [77*k d]   last hidden state of k windows, zeros where the mask is False
  clip_states  [77*k d]   the same with the states of the padding
  clip_patches [1+g*g d]  penultimate hidden states, class token first
  clip_image   [1 p]      the image in the space shared with texts, not normalised

Each CLIP has its own folder beside the records.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import functools
from types import MappingProxyType

import numpy as np

from cxr_diffusion_jax import artifacts, errors, types
from cxr_diffusion_jax.conditioning import base, clip_text
from cxr_diffusion_jax.data.records import records as records_lib
from cxr_diffusion_jax.data.settings import DataSettings
from cxr_diffusion_jax.encoders import encoding, named
from cxr_diffusion_jax.encoders.clip import files as clip_files
from cxr_diffusion_jax.encoders.clip import model as clip_model
from cxr_diffusion_jax.encoders.clip import small as clip_small

TEXT = ("clip_text", "clip_states")
IMAGES = ("clip_image", "clip_patches")
COLUMNS = (*TEXT, *IMAGES)

# What `clip_text.DEFAULT` says in config.json, as far as it is no default of CLIP's.
_DEFAULT = MappingProxyType(
  {
    "text_config": {"hidden_size": 768},
    "vision_config": {"hidden_size": 1024, "patch_size": 14},
    "projection_dim": 768,
  }
)


def spec(column: str, *, model: str = "", chunks: int = 1) -> base.ColumnSpec:
  """Describes a column; see `EncoderModule.spec`.

  Raises:
    errors.InputError: no model is named, or its configuration cannot be reached.
  """
  if not model:
    raise errors.InputError(
      f"column {column} without a CLIP", "a folder, an id on the hub, or standin"
    )
  is_text = column in TEXT
  return base.ColumnSpec(
    name=column,
    encoder="clip",
    source="text" if is_text else "image",
    shape=shapes(model, chunks)[column],
    model=model,
    chunks=chunks,
  )


def make(
  settings: DataSettings,
  records: records_lib.Records,
  specs: Sequence[base.ColumnSpec],
  progress: types.Progress = types.no_progress,
) -> None:
  """Makes columns of CLIPs where they are missing or stale.

  Raises:
    errors.InputError: a CLIP is not usable.
  """
  named.make_columns(
    settings, records, specs, open_encoder, clip_files.resolve, progress
  )


def open_encoder(spec: base.ColumnSpec, place: str, standin: bool) -> "ClipEncoder":
  """Opens a CLIP, a stand-in or not; see `EncoderModule.open_encoder`."""
  del standin
  return load(place, chunks=spec.chunks)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipEncoder:
  """A CLIP as `base.Encoder`, for prompts of `chunks` windows."""

  model: clip_model.ClipModel
  chunks: int = 1
  batch_size: int = 64

  # It takes the records' squares, the same pixels as all other paths see.
  whole_images = False

  @property
  def description(self) -> str:
    return self._description

  # Cached, because it hashes all weights.
  @functools.cached_property
  def _description(self) -> str:
    chunks = f", {self.chunks} chunks" if self.chunks > 1 else ""
    return f"{clip_model.describe(self.model)}{chunks}"

  @property
  def standin(self) -> bool:
    return self.model.standin

  @property
  def shapes(self) -> Mapping[str, tuple[int, ...]]:
    return _shapes(self.model.config.to_dict(), self.chunks)

  def encode_text(
    self, columns: Sequence[str], prompts: Sequence[str]
  ) -> dict[str, np.ndarray]:
    """Encodes prompts; zeros where there is no token; see `base.Encoder`.

    Raises:
      errors.InputError: a state that is not finite or that float16 cannot hold.
    """
    if not columns:
      return {}
    tokens, mask, _ = clip_model.encode_text(
      self.model, prompts, chunks=self.chunks, batch_size=self.batch_size
    )
    by_name = {
      "clip_text": np.where(mask[..., None], tokens, np.float32(0)),
      "clip_states": tokens,
    }
    return encoding.checked({name: by_name[name] for name in columns}, self.model.name)

  def encode_images(
    self, columns: Sequence[str], images: Sequence[np.ndarray]
  ) -> dict[str, np.ndarray]:
    """Encodes grey images of any sizes in one pass; raises as `encode_text`."""
    if not columns:
      return {}
    patches, embedding = clip_model.encode_images(
      self.model, images, penultimate=True, batch_size=self.batch_size
    )
    by_name = {"clip_image": embedding[:, None], "clip_patches": patches}
    return encoding.checked({name: by_name[name] for name in columns}, self.model.name)


def load(name: str, *, chunks: int = 1, batch_size: int = 64) -> ClipEncoder:
  """Loads a CLIP as an encoder; see `clip_model.load`."""
  model = clip_model.load(name)
  return ClipEncoder(model=model, chunks=chunks, batch_size=batch_size)


def shapes(name: str, chunks: int = 1) -> dict[str, tuple[int, ...]]:
  """Returns the shape of one row of each column, without reading weights.

  Args:
    name: "standin", a folder, or an id on the hub, of which config.json alone is
      fetched; `clip_text.DEFAULT` needs no file.
    chunks: windows of a prompt.

  Raises:
    errors.InputError: no such folder, an id out of reach, or no CLIP.
  """
  if name == base.STANDIN:
    config = clip_small.configuration(clip_small.SmallClip())
  elif name == clip_text.DEFAULT:
    config = _DEFAULT
  else:
    config = clip_files.read_config(clip_files.find_config(name))
  return _shapes(config, chunks)


def _shapes(config: artifacts.JsonMapping, chunks: int) -> dict[str, tuple[int, ...]]:
  """Reads shapes from config.json, with CLIPConfig's defaults for missing keys."""
  text, vision = (_part(config, name) for name in ("text_config", "vision_config"))
  grid = vision.get("image_size", 224) // vision.get("patch_size", 32)
  max_tokens = text.get("max_position_embeddings", 77)
  return {
    **dict.fromkeys(TEXT, (chunks * max_tokens, text.get("hidden_size", 512))),
    "clip_patches": (1 + grid**2, vision.get("hidden_size", 768)),
    "clip_image": (1, config.get("projection_dim", 512)),
  }


def _part(config: artifacts.JsonMapping, name: str) -> artifacts.JsonMapping:
  """Returns a nested configuration; files from before 2023 may name it `..._dict`."""
  older = config.get(f"{name}_dict")
  return (config.get(name) or {}) if older is None else older
