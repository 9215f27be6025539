"""Reads a reference X-ray that a user gives: a grey PNG, JPEG or DICOM of any depth.

path -> what is it? how large? (from its header) -> decode -> is it grey, does it show
anything? -> [h w] uint8

Images of the tree are read by `data/images.py`, which takes them as they come; here all
that is no radiograph is refused before any heavy work.
"""

import os
import pathlib
import struct
import warnings
import zlib

import numpy as np
from PIL import Image, ImageOps

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.data import dicom, images

MIN_SIDE = 32
# 67 million pixels at most: the largest detectors have a fifth of that.
MAX_SIDE = 8192

# A grey picture as JPEG has channels that differ by a rounding, and an X-ray may bear a
# small coloured mark: colour is what differs by more, on more than that.
COLOUR_TOLERANCE = 16
COLOUR_SHARE = 0.01


def read_reference(path: str | os.PathLike) -> np.ndarray:
  """Reads a reference X-ray.

  Grey saved as RGB, RGBA or palette is taken; alpha is ignored; a JPEG is turned as its
  EXIF tag says. X-rays of 16 bits often use 10 to 14 of them, so a PNG's values are
  scaled by the smallest 2**k - 1, k from 8 to 16, that holds their maximum: v * 255 /
  (2**k - 1). DICOM is shown as `data/dicom.py` says.

  Args:
    path: of the file. DICOM is recognised by its content or by .dcm or .dicom, PNG and
      JPEG by their content.

  Returns:
    [h w] uint8, sides of 32 to 8192.

  Raises:
    InputError: no file, none of these formats, damaged, in colour, too small, too
      large, or of one value only.
  """
  grey = read_picture(path)
  if grey.min() == grey.max():
    raise errors.InputError(
      f"the reference {path} shows nothing: all its pixels are {grey.min()}",
      "a chest X-ray",
    )
  return grey


def read_picture(path: str | os.PathLike) -> np.ndarray:
  """As `read_reference`, but accepts images of one value only, as masks may be."""
  path = pathlib.Path(path)
  try:
    with path.open("rb") as file:
      start = file.read(132)
  except OSError as error:
    reason = "is a folder" if path.is_dir() else error.strerror
    raise errors.InputError(
      f"cannot read the reference {path}: {reason}", "a PNG, JPEG or DICOM file"
    ) from error
  if start[128:] == b"DICM" or path.suffix.lower() in (".dcm", ".dicom"):
    dataset = dicom.open_dicom(path)
    _check_size(path, int(dataset.Columns), int(dataset.Rows))
    return dicom.to_grey(dataset, path)
  return _decode(path, start)


def _decode(path: pathlib.Path, start: bytes) -> np.ndarray:
  """Reads a PNG or JPEG of which the first bytes are given."""
  images.refuse_deep_colour(f"the reference {path}", start)
  try:
    with warnings.catch_warnings():
      # What PIL warns of from 89 million pixels on is refused below.
      warnings.simplefilter("ignore", Image.DecompressionBombWarning)
      image = Image.open(path, formats=("PNG", "JPEG"))
    with image:
      _check_size(path, *image.size)
      return _grey(ImageOps.exif_transpose(image), path)
  except Image.DecompressionBombError as error:
    # PIL refuses sizes far beyond `MAX_SIDE` before it reports them.
    raise errors.InputError(
      f"the reference {path} is far too large", _sizes()
    ) from error
  # What PIL's decoders raise on what is no image, and on damaged ones.
  except (OSError, SyntaxError, ValueError, struct.error, zlib.error) as error:
    raise errors.InputError(
      f"cannot read the reference {path}: {error}", "a whole PNG, JPEG or DICOM file"
    ) from error


def _grey(image: Image.Image, path: pathlib.Path) -> np.ndarray:
  if image.mode.startswith("I"):
    values = np.asarray(image).astype(np.int64)
    bits = max(8, int(values.max()).bit_length())
    return np.round(values * (255 / (2**bits - 1))).astype(np.uint8)
  if image.mode not in ("1", "L", "LA"):
    _check_colour(image, path)
  return images.to_grey(image)


def _check_colour(image: Image.Image, path: pathlib.Path) -> None:
  if image.mode in ("P", "PA"):
    image = image.convert("RGBA")
  red, green, blue = (np.asarray(band) for band in image.convert("RGB").split())
  # The largest is never below the smallest: unsigned differences hold.
  spread = np.maximum(np.maximum(red, green), blue)
  spread = spread - np.minimum(np.minimum(red, green), blue)
  share = np.mean(spread > COLOUR_TOLERANCE)
  if share > COLOUR_SHARE:
    raise errors.InputError(
      f"the reference {path} is in colour ({share:.0%} of its pixels)",
      "a grey X-ray",
      "convert it to grey if it is an X-ray",
    )


def _check_size(path: pathlib.Path, width: int, height: int) -> None:
  if min(width, height) < MIN_SIDE or max(width, height) > MAX_SIDE:
    raise errors.InputError(
      f"the reference {path} has {width}x{height} pixels", _sizes()
    )


def _sizes() -> str:
  return f"sides of {MIN_SIDE} to {MAX_SIDE} pixels"
