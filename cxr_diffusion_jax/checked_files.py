"""Arrays that are made once and kept in files, with checksums.

path, make --load_or_make--> the array in the file, made if there is none or if damaged
file --checksum--> CRC32C
"""

from collections.abc import Callable, Sequence
import json
import os
import pathlib
import zipfile
import zlib

from absl import logging
from etils import epath
import numpy as np

from cxr_diffusion_jax import artifacts, errors

_BLOCK = 8 << 20

# Seconds of work between two saves of what has not ended: a kill loses no more.
SAVE_PERIOD = 30.0

# The entry of a JSON file that holds its checksum.
CHECKSUM = "crc32"

_REMAKE = "remove it and repeat the command"

# What zipfile raises on damaged files.
_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError)


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
  """Reads an array that `load_or_make` has kept; raises as `read_npz`."""
  return read_npz(path, ("values",))["values"]


def read_npz(
  path: artifacts.PathLike,
  names: Sequence[str] | None = None,
  *,
  optional: bool = False,
) -> dict[str, np.ndarray]:
  """Reads arrays of an .npz, all of them by default. A zip file has a CRC32 for each.

  Args:
    optional: whether names may be absent, and are then left out.

  Raises:
    errors.InputError: there is no file, it is damaged, or an array is absent.
  """
  try:
    with (
      epath.Path(path).open("rb") as file,
      np.load(file, allow_pickle=False) as entries,
    ):
      wanted = entries.files if names is None else names
      absent = [name for name in wanted if name not in entries]
      if absent and not optional:
        raise damaged(path, f"no {', '.join(absent)}")
      return {name: entries[name] for name in wanted if name not in absent}
  except (OSError, ValueError, TypeError, NotImplementedError, *_DAMAGE) as error:
    raise damaged(path, error) from error


def write_json(path: artifacts.PathLike, values: artifacts.JsonMapping) -> None:
  """`artifacts.write_json` of an object, with the CRC32 of its text as last entry."""
  artifacts.write_json(path, {**values, CHECKSUM: _crc32(values)})


def read_json(path: artifacts.PathLike, fix: str = _REMAKE) -> artifacts.Json:
  """Reads what `write_json` wrote. Files of earlier versions have no checksum.

  Args:
    fix: what to do about a file that is damaged.

  Raises:
    errors.InputError: there is no file, or it is damaged.
  """
  values = artifacts.read_json(path)
  if not isinstance(values, dict):
    raise damaged(path, "no JSON object", fix)
  checksum = values.pop(CHECKSUM, None)
  if checksum not in (None, _crc32(values)):
    raise damaged(path, "not as it was written", fix)
  return values


def damaged(
  path: artifacts.PathLike, why: object, fix: str = _REMAKE
) -> errors.InputError:
  """The error of a file, by default of one that can be made again."""
  return errors.InputError(f"{os.fspath(path)} is absent or damaged ({why})", fix=fix)


def _crc32(values: artifacts.JsonMapping) -> int:
  return zlib.crc32(json.dumps(values).encode())


def checksum(path: artifacts.PathLike) -> int:
  """Returns the CRC32C of a file on this machine."""
  import google_crc32c

  total = google_crc32c.Checksum()
  with pathlib.Path(path).open("rb") as file:
    while block := file.read(_BLOCK):
      total.update(block)
  return int.from_bytes(total.digest(), "big")
