"""Reads a DICOM radiograph as it is shown: grey, 8 bits, bone bright.

stored values -> modality LUT | slope, intercept -> VOI LUT | window | full range -> [0,
1] -> MONOCHROME1: 1 - v -> [h w] uint8

The order and the equations are those of DICOM PS3.3, C.11.1 and C.11.2.
"""

from collections.abc import Iterator
import contextlib
import os
from typing import TYPE_CHECKING, Any

import numpy as np

from cxr_diffusion_jax import errors

if TYPE_CHECKING:
  import pydicom

EXPECTED = "one grey radiograph in DICOM"


def open_dicom(path: str | os.PathLike) -> "pydicom.Dataset":
  """Reads a DICOM file for `to_grey`; decodes nothing yet.

  Raises:
    InputError: pydicom is not installed, or the file is not DICOM, damaged, without
      pixel data, in colour, or of several frames.
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
      dataset = pydicom.dcmread(path)
    except pydicom.errors.InvalidDicomError as error:
      raise ValueError("it has no DICOM header") from error
    # Values are parsed on access: damaged ones raise here.
    frames = int(dataset.get("NumberOfFrames") or 1)
    samples = int(dataset.get("SamplesPerPixel") or 1)
    interpretation = dataset.get("PhotometricInterpretation")
    rows, columns = dataset.get("Rows"), dataset.get("Columns")
  if "PixelData" not in dataset or not (rows and columns):
    refusal = "it has no pixel data"
  elif samples != 1 or interpretation not in ("MONOCHROME1", "MONOCHROME2"):
    refusal = f"it is not grey but {interpretation}"
  elif frames != 1:
    refusal = f"it has {frames} frames"
  else:
    return dataset
  raise errors.InputError(f"cannot read {path}: {refusal}", EXPECTED)


def to_grey(dataset: "pydicom.Dataset", path: str | os.PathLike) -> np.ndarray:
  """Decodes the picture of a dataset as a viewer shows it at first.

  The VOI LUT is taken, else the window (the first of several), else the full range of
  values. `path` is for messages.

  Returns:
    [h w] uint8; all zeros where all values are equal.

  Raises:
    InputError: damaged, or compressed in a way that needs a plug-in of pydicom, with
      pydicom's reason.
  """
  from pydicom import Dataset
  from pydicom.pixels import (
    pixel_array,  # pyright: ignore[reportPrivateImportUsage]
    processing,
  )

  with _named(path):
    stored = pixel_array(dataset)
    values = processing.apply_modality_lut(stored, dataset)
    lut = _first(dataset, "VOILUTSequence")
    centre, width = (_first(dataset, f"Window{name}") for name in ("Center", "Width"))
    if lut is not None:
      # Tables are looked up by integers, which a rescale has made floats.
      values = np.round(values).astype(np.int64)
      levels = 2 ** int(lut.LUTDescriptor[2]) - 1
      shown = processing.apply_voi(values, dataset, index=0) / levels
    elif centre is not None and width is not None:
      # Of one bit, so that the window's ends become 0 and 1.
      window = Dataset()
      window.BitsStored, window.PixelRepresentation = 1, 0
      window.PhotometricInterpretation = "MONOCHROME2"
      window.WindowCenter, window.WindowWidth = centre, width
      window.VOILUTFunction = str(dataset.get("VOILUTFunction") or "LINEAR")
      with np.errstate(over="ignore"):
        shown = processing.apply_windowing(values, window)
    else:
      values = values.astype(np.float64)
      spread = values.max() - values.min()
      # Where all values are equal, in either photometric interpretation.
      if spread == 0:
        return np.zeros(values.shape, np.uint8)
      shown = (values - values.min()) / spread
  if not np.isfinite(shown).all():
    raise errors.InputError(f"cannot read {path}: its rescale or window is not finite")
  if dataset.PhotometricInterpretation == "MONOCHROME1":
    shown = 1 - shown
  return np.round(np.clip(shown, 0, 1) * 255).astype(np.uint8)


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
      "export it as PNG, or install the plug-in that is named"
      if isinstance(error, RuntimeError | NotImplementedError)
      else "copy or export it again",
    ) from error
