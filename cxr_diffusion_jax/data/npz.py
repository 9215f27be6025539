"""Arrays of an npz file, read entry by entry and never unpickled.

Sizes are compared before anything is allocated: an entry has as many bytes as its shape
says, and no more than `MAX_BYTES`.
"""

from collections.abc import Iterator
import contextlib
import math
import pathlib
import zipfile

import numpy as np

from cxr_diffusion_jax import errors

# No entry that is read has a hundredth of it.
MAX_BYTES = 2**28


@contextlib.contextmanager
def open_npz(path: pathlib.Path) -> Iterator[np.lib.npyio.NpzFile]:
  """Opens without unpickling; damage is an InputError that names the file."""
  try:
    # numpy would read any other file as a pickle: say first that it must be a zip.
    if not zipfile.is_zipfile(path):
      raise zipfile.BadZipFile("no zip directory at its end")
    entries = np.load(path, allow_pickle=False)
  # What zipfile and numpy raise on damaged files is not documented, and has no base but
  # this; nothing but their work is done here.
  except Exception as error:
    raise _damaged(path, error) from error
  with entries:
    yield entries


def read_entry(
  path: pathlib.Path, entries: np.lib.npyio.NpzFile, name: str
) -> np.ndarray:
  """One array; damage, and what would have to be unpickled, is an InputError."""
  try:
    archive = entries.zip
    if archive is None:
      raise ValueError("it is closed")
    try:
      member = archive.getinfo(f"{name}.npy")
    except KeyError:
      member = archive.getinfo(name)
    with archive.open(member) as file:
      version = np.lib.format.read_magic(file)
      first = version == (1, 0)
      read_header = getattr(np.lib.format, f"read_array_header_{1 if first else 2}_0")
      shape, fortran, dtype = read_header(file)
      if dtype.hasobject:
        raise ValueError("it would have to be unpickled")
      num_bytes = math.prod(shape) * dtype.itemsize
      if not 0 <= num_bytes <= MAX_BYTES:
        raise ValueError(f"it has {num_bytes / 1e6:,.0f} MB")
      content = file.read(num_bytes + 1)
    if len(content) != num_bytes:
      raise ValueError(f"it has not the {num_bytes} bytes of the shape {shape}")
    array = np.frombuffer(content, dtype)
    return array.reshape(shape, order="F" if fortran else "C")
  # As above.
  except Exception as error:
    raise _damaged(f"{path}: {name!r}", error) from error


def _damaged(what: pathlib.Path | str, error: Exception) -> errors.InputError:
  return errors.InputError(
    f"{what} cannot be read as npz: {error}",
    "a whole npz file without pickles",
    "download or copy the file again, or move it out of the tree",
  )
