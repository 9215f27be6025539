"""What CLIP's processor does to an image: resize, crop, scale.

  grey uint8 [n h w 1] --bicubic, antialiased--> shorter side = size
    --central square--> uint8 [n crop crop 1]

Scaling by mean and standard deviation, and repeating to three channels, follow inside
the compiled function: bytes are cheaper to move than three floats a pixel.
"""

from collections.abc import Sequence
import dataclasses
from typing import Any

import numpy as np
from PIL import Image

from cxr_diffusion_jax import errors


@dataclasses.dataclass(frozen=True, kw_only=True)
class PixelSettings:
  """What a CLIP's processor does to an image.

  Attributes:
    size: the shorter side after resizing (bicubic, antialiased), in pixels.
    crop: side of the central square that the vision model sees, in pixels.
    mean: of each channel, for values in [0, 1]; so is `std`.
  """

  size: int
  crop: int
  mean: tuple[float, float, float]
  std: tuple[float, float, float]


def read(processor: Any, config: Any) -> PixelSettings:
  """Reads the settings of transformers' CLIPImageProcessor.

  Raises:
    errors.InputError: it makes images of another size than the model of `config` takes.
  """
  crop = config.vision_config.image_size
  size = processor.size.get("shortest_edge", processor.size.get("height"))
  cropped = processor.crop_size.get("height") if processor.do_center_crop else size
  if cropped != crop or size < crop:
    raise errors.InputError(
      f"preprocessor_config.json makes images of {cropped} pixels from {size}",
      f"{crop} pixels, as config.json says",
      "take both files from the same model",
    )
  return PixelSettings(
    size=size,
    crop=crop,
    mean=tuple(processor.image_mean),
    std=tuple(processor.image_std),
  )


def fit_each(images: Sequence[np.ndarray], settings: PixelSettings) -> np.ndarray:
  """Does as `fit` with n images [h w] uint8 of any sizes."""
  return np.concatenate(
    [fit(np.asarray(image)[None, ..., None], settings) for image in images]
  )


def fit(images: np.ndarray, settings: PixelSettings) -> np.ndarray:
  """Resizes the shorter side and crops the centre, as CLIP's processor does.

  [n h w 1] uint8 become [n crop crop 1] uint8.
  """
  if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 1:
    raise ValueError(f"got {images.dtype} {images.shape}; expected uint8 [n h w 1]")
  height, width = images.shape[1:3]
  short = min(height, width)
  # The longer side is rounded down, as the processor does.
  wanted = (height * settings.size // short, width * settings.size // short)
  if wanted != (height, width):
    resized = [
      Image.fromarray(image[..., 0]).resize(wanted[::-1], Image.Resampling.BICUBIC)
      for image in images
    ]
    images = np.asarray(resized, np.uint8).reshape(-1, *wanted, 1)
  top = (wanted[0] - settings.crop) // 2
  left = (wanted[1] - settings.crop) // 2
  return images[:, top : top + settings.crop, left : left + settings.crop]
