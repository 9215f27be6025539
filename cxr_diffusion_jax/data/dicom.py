"""Reads a DICOM radiograph as it is shown: grey, 8 bits, bone bright.

stored values -> modality LUT | slope, intercept -> VOI LUT | window | full range -> [0,
1] -> MONOCHROME1: 1 - v -> padding: 0 -> [h w] uint8

The order and the equations are those of DICOM PS3.3, C.11.1 and C.11.2; pixel padding
takes no part in them (C.7.5.1.1.2). Values of 16 bits are shown by a table of levels.
"""

from collections.abc import Iterator, Sequence
import contextlib
import io
import os
from typing import TYPE_CHECKING, Any

from etils import epath
import numpy as np
from PIL import Image

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.data import images

if TYPE_CHECKING:
  import pydicom

EXTENSIONS = (".dcm", ".dicom")
EXPECTED = "one grey radiograph in DICOM"


def open_dicom(path: str | os.PathLike, *, min_side: int = 1) -> "pydicom.Dataset":
  """Reads a DICOM file for `to_grey`; decodes nothing yet.

  Raises:
    InputError: pydicom is not installed, or the file is not DICOM, damaged, without
      pixel data, in colour, of several frames, or has sides outside of `min_side` to
      `images.MAX_SIDE`.
  """
  try:
    import pydicom.errors
  except ImportError as error:
    raise errors.InputError(
      f"cannot read {path}: pydicom is not installed",
      fix="pip install pydicom, or give a PNG or JPEG",
    ) from error
  with _named(path):
    try:
      dataset = pydicom.dcmread(io.BytesIO(images.read_bytes(path)))
    except pydicom.errors.InvalidDicomError as error:
      raise ValueError("it has no DICOM header") from error
    # Values are parsed on access: damaged ones raise here.
    frames = int(dataset.get("NumberOfFrames") or 1)
    samples = int(dataset.get("SamplesPerPixel") or 1)
    interpretation = dataset.get("PhotometricInterpretation")
    sides = [int(dataset.get(name) or 0) for name in ("Columns", "Rows")]
  if "PixelData" not in dataset or not all(sides):
    refusal = "it has no pixel data"
  elif samples != 1 or interpretation not in ("MONOCHROME1", "MONOCHROME2"):
    refusal = f"it is not grey but {interpretation}"
  elif frames != 1:
    refusal = f"it has {frames} frames"
  elif not min_side <= min(sides) <= max(sides) <= images.MAX_SIDE:
    raise errors.InputError(
      f"{path} has {sides[0]}x{sides[1]} pixels",
      f"sides of {min_side} to {images.MAX_SIDE} pixels",
    )
  else:
    return dataset
  raise errors.InputError(f"cannot read {path}: {refusal}", EXPECTED)


def image_size(path: str) -> tuple[float, float]:
  """Width and height of an image, DICOM by its extension, from its header.

  Returns:
    Both nan for a file that cannot be read.
  """
  try:
    if not path.lower().endswith(EXTENSIONS):
      with epath.Path(path).open("rb") as file, Image.open(file) as image:
        return image.size
    import pydicom

    with _named(path), epath.Path(path).open("rb") as file:
      header = pydicom.dcmread(
        file, stop_before_pixels=True, specific_tags=["Rows", "Columns"]
      )
      return float(header.Columns), float(header.Rows)
  except (OSError, SyntaxError, ValueError, ImportError, errors.InputError):
    return float("nan"), float("nan")


def to_grey(dataset: "pydicom.Dataset", path: str | os.PathLike) -> np.ndarray:
  """Decodes the picture of a dataset as a viewer shows it at first.

  The VOI LUT is taken, else the window (the first of several), else the full range of
  values. Padding is black. `path` is for messages.

  Returns:
    [h w] uint8; all zeros where all values are equal.

  Raises:
    InputError: damaged, or compressed in a way that needs a plug-in of pydicom, with
      pydicom's reason.
  """
  # pydicom's type annotations do not export it.
  from pydicom.pixels import pixel_array  # pyright: ignore

  with _named(path):
    stored = np.asarray(pixel_array(dataset))
    padding = _padding(dataset, stored)
    image = stored[~padding]
    if not image.size:
      return np.zeros(stored.shape, np.uint8)
    if stored.dtype.kind not in "iu" or stored.dtype.itemsize > 2:
      image = _shown(dataset, image)
    else:
      levels = np.arange(int(image.min()), int(image.max()) + 1)
      unsigned = np.dtype(f"u{stored.dtype.itemsize}")
      table = np.zeros(256**unsigned.itemsize, np.uint8)
      table[levels.astype(stored.dtype).view(unsigned)] = _shown(dataset, levels)
      image = table[image.view(unsigned)]
  if image.size == stored.size:
    return image.reshape(stored.shape)
  grey = np.zeros(stored.shape, np.uint8)
  grey[~padding] = image
  return grey


def _padding(dataset: "pydicom.Dataset", stored: np.ndarray) -> np.ndarray:
  """Which stored values are padding: [h w] bool."""
  ends = [
    # A value of the other sign has the same bits.
    np.array(int(value)).astype(stored.dtype)
    for name in ("PixelPaddingValue", "PixelPaddingRangeLimit")
    if (value := _first(dataset, name)) is not None
  ]
  if "PixelPaddingValue" not in dataset or not ends:
    return np.zeros(stored.shape, bool)
  return (stored >= min(ends)) & (stored <= max(ends))


def _shown(dataset: "pydicom.Dataset", stored: np.ndarray) -> np.ndarray:
  """Stored values [n] as shown, uint8 [n]."""
  modality = _first(dataset, "ModalityLUTSequence")
  if modality is not None:
    values = _look_up(modality, stored)[0].astype(np.float64)
  else:
    slope, intercept = (_number(dataset, f"Rescale{x}") for x in ("Slope", "Intercept"))
    values = stored * np.float64(1 if slope is None else slope)
    values += 0 if intercept is None else intercept
  voi = _first(dataset, "VOILUTSequence")
  centre, width = (_number(dataset, f"Window{name}") for name in ("Center", "Width"))
  if not np.isfinite(values).all():
    raise ValueError("its rescale is not finite")
  if voi is not None:
    entries, white = _look_up(voi, values)
    shown = entries / white
  elif centre is not None and width is not None:
    function = str(dataset.get("VOILUTFunction") or "LINEAR").upper()
    shown = _window(values, centre, width, function)
  elif (spread := values.max() - values.min()) > 0:
    shown = (values - values.min()) / spread
  else:
    # Where all values are equal, in either photometric interpretation.
    return np.zeros(values.shape, np.uint8)
  if not np.isfinite(shown).all():
    raise ValueError("its rescale or window is not finite")
  if dataset.PhotometricInterpretation == "MONOCHROME1":
    shown = 1 - shown
  return np.round(np.clip(shown, 0, 1) * 255).astype(np.uint8)


def _window(
  values: np.ndarray, centre: float, width: float, function: str
) -> np.ndarray:
  """[n] in [0, 1]: PS3.3 C.11.2.1.2.1 and C.11.2.1.3."""
  if function not in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
    raise ValueError(f"unknown VOI LUT Function {function!r}")
  if not width >= 1 and (function == "LINEAR" or not width > 0):
    raise ValueError(f"its Window Width must be greater than {width}")
  with np.errstate(over="ignore"):
    if function == "SIGMOID":
      return 1 / (1 + np.exp(-4 * (values - centre) / width))
    if function == "LINEAR":
      centre, width = centre - 0.5, width - 1
    if width == 0:
      return (values > centre).astype(np.float64)
    return np.clip((values - centre) / width + 0.5, 0, 1)


def _look_up(item: "pydicom.Dataset", values: np.ndarray) -> tuple[np.ndarray, int]:
  """Values through a table, and the entry that is white: PS3.3 C.11.1.1, C.11.2.1.1.

  A table may use fewer bits than it states: at 2 or more, those in use count.
  """
  entries, first, bits = (int(number) for number in item.LUTDescriptor)
  # Numbers of 16 bits, whatever sign the file gives them.
  entries = entries % 2**16 or 2**16
  if values.min() < 0 and first >= 2**15:
    first -= 2**16
  table = _table(item.LUTData, entries, bits)
  index = np.clip(np.round(np.clip(values - first, 0, entries - 1)), 0, None)
  if index.max() >= len(table):
    raise ValueError(f"its LUT has {len(table)} of {entries} entries")
  used = int(table.max()).bit_length()
  if used > bits or used <= bits - 2:
    bits = max(8, used)
  return table[index.astype(np.int64)], 2**bits - 1


def _table(data: "bytes | int | Sequence[int]", entries: int, bits: int) -> np.ndarray:
  """The entries of a LUT, in words of 16 bits or, of 8 bits, two in a word: uint16."""
  words = (
    np.frombuffer(data[: len(data) // 2 * 2], "<u2")
    if isinstance(data, bytes)
    else (np.atleast_1d(np.asarray(data)).astype(np.int64) % 2**16).astype("<u2")
  )
  if bits <= 8 and len(words) < entries <= 2 * len(words) + 1:
    return words.view("u1")[:entries].astype(np.uint16)
  return words[:entries]


def _number(dataset: "pydicom.Dataset", keyword: str) -> float | None:
  """A number, or the first of several; None where there is none."""
  value = _first(dataset, keyword)
  return None if value in (None, "") else float(value)


def read_image(path: str) -> np.ndarray:
  """Reads an image of a dataset, DICOM by its extension or any other: [h w] uint8.

  Raises:
    InputError: it cannot be read.
  """
  if path.lower().endswith(EXTENSIONS):
    return to_grey(open_dicom(path), path)
  return images.read_grey(path)


def _first(dataset: "pydicom.Dataset", keyword: str) -> Any:
  """A value, or the first of several; None where there is none."""
  value = dataset.get(keyword)
  if value is None or isinstance(value, str | float | int):
    return value
  return value[0] if len(value) else None


@contextlib.contextmanager
def _named(path: str | os.PathLike) -> Iterator[None]:
  """Turns what pydicom raises on damaged and unusual files into an InputError."""
  try:
    yield
  # What its parsers and decoders raise on damaged files is not documented, and has no
  # base but this; so nothing but pydicom's work is done within.
  except Exception as error:
    raise errors.InputError(
      f"cannot read {path}: {error}",
      EXPECTED,
      "export it uncompressed or as PNG, or install a plug-in that decodes it:"
      " pip install 'pylibjpeg[all]'"
      if isinstance(error, RuntimeError | NotImplementedError)
      else "copy or export it again",
    ) from error
