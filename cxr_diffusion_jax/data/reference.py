"""Reads a reference X-ray that a user gives: a grey PNG, JPEG or DICOM of any depth.

path -> what is it? how large? (from its header) -> decode -> is it grey, does it show
anything? -> [h w] uint8

Pixels are read as `data/images.py` reads those of the tree; here all that is no
radiograph is refused before any heavy work.
"""

import io
import os
import pathlib
import warnings

import numpy as np
from PIL import Image

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.data import dicom, images

MIN_SIDE = 32

# A grey picture as JPEG has channels that differ by a rounding, and an X-ray may bear a
# small coloured mark: colour is what differs by more, on more than that.
COLOUR_TOLERANCE = 16
COLOUR_SHARE = 0.01


def read_reference(path: str | os.PathLike) -> np.ndarray:
  """Reads a reference X-ray.

  Grey saved as RGB, RGBA or palette is taken. DICOM is shown as `data/dicom.py` says.

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
    return dicom.to_grey(dicom.open_dicom(path, min_side=MIN_SIDE), path)
  return _decode(path)


def _decode(path: pathlib.Path) -> np.ndarray:
  """Reads a PNG or JPEG."""
  name = f"the reference {path}"
  with (
    images.decode_errors(name, "a whole PNG, JPEG or DICOM file"),
    warnings.catch_warnings(),
  ):
    # What PIL warns of from 89 million pixels on is refused.
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)
    file = io.BytesIO(images.read_bytes(path))
    with images.open_picture(file, name, min_side=MIN_SIDE) as image:
      if not image.mode.startswith("I") and image.mode not in ("1", "L", "LA"):
        _check_colour(image, path)
      return images.to_grey(image, str(path))


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
