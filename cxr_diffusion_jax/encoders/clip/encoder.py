"""CLIP as an `Encoder`: fills its three columns, and encodes what a user gives.

  clip_text    [77*k d]   last hidden state of k windows, zeros where the mask is False
  clip_patches [1+g*g d]  penultimate hidden states, class token first
  clip_image   [1 p]      the image in the space shared with texts, not normalised

Their shapes are known from config.json alone (`sizes`), before any weight is read.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import functools
import hashlib
from typing import Any

import numpy as np

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.conditioning import base, clip_text
from cxr_diffusion_jax.data.columns import file as column_file
from cxr_diffusion_jax.encoders.clip import files as clip_files
from cxr_diffusion_jax.encoders.clip import model as clip_model
from cxr_diffusion_jax.encoders.clip import small as clip_small

TEXT = ("clip_text",)
IMAGES = ("clip_image", "clip_patches")

# Columns are kept in float16, which ends here.
LARGEST = 65504.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipSizes:
  """Sizes of what a CLIP makes.

  Attributes:
    max_tokens: of a prompt, start and end included.
    text_width: of the text model's states.
    num_patches: tokens of an image, the class token included: 1 + g * g.
    image_width: of the vision model's states.
    embedding: width of the space that images and texts share.
  """

  max_tokens: int
  text_width: int
  num_patches: int
  image_width: int
  embedding: int

  def shapes(self, chunks: int) -> dict[str, tuple[int, ...]]:
    """Shape of one row of each column, for prompts of this many windows."""
    return {
      "clip_text": (chunks * self.max_tokens, self.text_width),
      "clip_patches": (self.num_patches, self.image_width),
      "clip_image": (1, self.embedding),
    }


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipEncoder:
  """Makes columns with a CLIP; implements `encoder.Encoder`.

  Attributes:
    model: from `clip_model.load`.
    chunks: windows of a prompt; what exceeds them is cut, with a warning.
    batch_size: prompts' windows or images in one call of the compiled function.
  """

  model: clip_model.ClipModel
  chunks: int = 1
  batch_size: int = 64

  @property
  def description(self) -> str:
    """One line that names the model, its weights' fingerprint and the windows."""
    return self._description

  # It hashes all weights.
  @functools.cached_property
  def _description(self) -> str:
    chunks = f", {self.chunks} chunks" if self.chunks > 1 else ""
    return f"{clip_model.describe(self.model)}{chunks}"

  @property
  def standin(self) -> bool:
    """True when this project trained the model."""
    return self.model.standin

  @property
  def whole_images(self) -> bool:
    """False: it takes the records' squares, the same pixels as all other paths see."""
    return False

  @property
  def shapes(self) -> Mapping[str, tuple[int, ...]]:
    """Shape of one row of each column."""
    return _sizes_of(self.model.config.to_dict()).shapes(self.chunks)

  def encode_text(
    self, columns: Sequence[str], prompts: Sequence[str]
  ) -> dict[str, np.ndarray]:
    """Encodes prompts.

    Args:
      columns: to make, of `TEXT`.
      prompts: n texts.

    Returns:
      {"clip_text": [n 77*k d] float32}, zeros where there is no token.

    Raises:
      errors.InputError: a state that is not finite or that float16 cannot hold.
    """
    _check_columns(columns, TEXT)
    if not columns:
      return {}
    tokens, mask, _ = clip_model.encode_text(
      self.model, prompts, chunks=self.chunks, batch_size=self.batch_size
    )
    by_name = {"clip_text": np.where(mask[..., None], tokens, np.float32(0))}
    return self._checked(by_name)

  def encode_images(
    self, columns: Sequence[str], images: Sequence[np.ndarray]
  ) -> dict[str, np.ndarray]:
    """Encodes grey images, all columns in one pass.

    Args:
      columns: to make, of `IMAGES`.
      images: n images [h w] uint8, of any sizes.

    Returns:
      {column: [n *shape] float32}.

    Raises:
      errors.InputError: a state that is not finite or that float16 cannot hold.
    """
    _check_columns(columns, IMAGES)
    if not columns:
      return {}
    patches, embedding = clip_model.encode_patches(
      self.model, images, batch_size=self.batch_size
    )
    by_name = {"clip_image": embedding[:, None], "clip_patches": patches}
    return self._checked({name: by_name[name] for name in columns})

  def _checked(self, by_name: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns columns that float16 can hold."""
    for name, values in by_name.items():
      # Written so that NaN is refused too.
      if not (largest := float(np.abs(values).max())) < LARGEST:
        raise errors.InputError(
          f"{name} of {self.model.name} reaches {largest}",
          f"numbers below {LARGEST:.0f}, as float16 keeps them",
          "the weights may be damaged: copy them again, or take another CLIP",
        )
    return by_name


def load(
  name: str, *, chunks: int = 1, batch_size: int = 64, **options: Any
) -> ClipEncoder:
  """Loads a CLIP as an encoder; see `clip_model.load` for `name` and other options."""
  model = clip_model.load(name, **options)
  return ClipEncoder(model=model, chunks=chunks, batch_size=batch_size)


def sizes(name: str) -> ClipSizes:
  """Returns the sizes of what a CLIP makes, without reading its weights.

  Args:
    name: "standin" for the one that `prepare` trains, a folder, or an id on the hub, of
      which config.json alone is fetched. `clip_text.DEFAULT` needs no file.

  Raises:
    errors.InputError: no such folder, an id out of reach, or no CLIP.
  """
  if name == base.STANDIN:
    small = clip_small.SmallClip()
    return ClipSizes(
      max_tokens=small.max_tokens,
      text_width=small.width,
      num_patches=1 + (small.image_size // small.patch_size) ** 2,
      image_width=small.width,
      embedding=small.embedding,
    )
  if name == clip_text.DEFAULT:
    return ClipSizes(
      max_tokens=77, text_width=768, num_patches=257, image_width=1024, embedding=768
    )
  return _sizes_of(clip_files.read_config(clip_files.find_config(name)))


def mark(name: str) -> str:
  """Returns 16 hexadecimal digits that change when a CLIP's files on disk do.

  Samples of the files are read, so that it costs little to learn that nothing has to be
  encoded again.

  Args:
    name: a folder, or an id on the hub, which is downloaded where it is not cached.

  Raises:
    errors.InputError: no such folder, and no such id that can be reached.
  """
  folder = clip_files.resolve(name)
  digest = hashlib.sha256()
  for pattern in ("*.json", "*.txt", "*.safetensors", "*.msgpack"):
    for file in sorted(folder.glob(pattern)):
      digest.update(f"{file.name} {column_file.files_fingerprint([file])}\n".encode())
  return digest.hexdigest()[:16]


def _sizes_of(config: Mapping[str, Any]) -> ClipSizes:
  """Reads sizes from config.json, with CLIPConfig's defaults for what it leaves out."""
  text, vision = (_part(config, name) for name in ("text_config", "vision_config"))
  grid = vision.get("image_size", 224) // vision.get("patch_size", 32)
  return ClipSizes(
    max_tokens=text.get("max_position_embeddings", 77),
    text_width=text.get("hidden_size", 512),
    num_patches=1 + grid**2,
    image_width=vision.get("hidden_size", 768),
    embedding=config.get("projection_dim", 512),
  )


def _part(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
  """Returns a nested configuration; files from before 2023 may name it `..._dict`."""
  older = config.get(f"{name}_dict")
  return (config.get(name) or {}) if older is None else older


def _check_columns(columns: Sequence[str], known: Sequence[str]) -> None:
  unknown = sorted(set(columns) - set(known))
  if unknown:
    raise ValueError(f"got columns {unknown}; expected of {sorted(known)}")
