"""Arrays that are made once and kept in files, with checksums.

path, make --load_or_make--> the array in the file, made if there is none or if damaged
file --checksum--> CRC32C
"""

from collections.abc import Callable
import os
import pathlib
import zipfile
import zlib

from absl import logging
from etils import epath
import numpy as np

from cxr_diffusion_jax import artifacts, errors

_BLOCK = 8 << 20


def load_or_make(
  path: artifacts.PathLike | None, make: Callable[[], np.ndarray]
) -> np.ndarray:
  """Returns the array in a file, or makes it and writes the file.

  Args:
    path: an .npz file, named after all that its values depend on; None for no file.
  """
  if path is None:
    return make()
  if epath.Path(path).exists():
    try:
      return read(path)
    except errors.InputError as error:
      logging.warning("%s; it is made again", error)
  values = make()
  artifacts.write_npz(path, {"values": values})
  return values


def read(path: artifacts.PathLike) -> np.ndarray:
  """Reads an array that `load_or_make` has kept.

  Raises:
    errors.InputError: there is none, or the file is damaged.
  """
  try:
    with (
      epath.Path(path).open("rb") as file,
      np.load(file, allow_pickle=False) as entries,
    ):
      # A zip file checks the CRC32 of what it reads.
      return entries["values"]
  except (OSError, ValueError, KeyError, zipfile.BadZipFile, zlib.error) as error:
    raise errors.InputError(
      f"{os.fspath(path)} is absent or damaged ({error})",
      fix="remove it and repeat the command",
    ) from error


def checksum(path: artifacts.PathLike) -> int:
  """Returns the CRC32C of a file on this machine."""
  import google_crc32c

  total = google_crc32c.Checksum()
  with pathlib.Path(path).open("rb") as file:
    while block := file.read(_BLOCK):
      total.update(block)
  return int.from_bytes(total.digest(), "big")
