"""Arrays of an npz file, read entry by entry and never unpickled."""

from collections.abc import Iterator
import contextlib
import pathlib
import zipfile
import zlib

import numpy as np

from cxr_diffusion_jax import errors


@contextlib.contextmanager
def open_npz(path: pathlib.Path) -> Iterator[np.lib.npyio.NpzFile]:
  """Opens without unpickling; damage is an InputError that names the file."""
  try:
    # numpy would read any other file as a pickle: say first that it must be a zip.
    if not zipfile.is_zipfile(path):
      raise zipfile.BadZipFile("no zip directory at its end")
    with np.load(path, allow_pickle=False) as entries:
      yield entries
  except (OSError, zipfile.BadZipFile) as error:
    raise _damaged(path, error) from error


def read_entry(
  path: pathlib.Path, entries: np.lib.npyio.NpzFile, name: str
) -> np.ndarray:
  """One array; damage, and what would have to be unpickled, is an InputError."""
  try:
    return entries[name]
  except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
    raise _damaged(f"{path}: {name!r}", error) from error


def _damaged(what: pathlib.Path | str, error: Exception) -> errors.InputError:
  return errors.InputError(
    f"{what} cannot be read as npz: {error}",
    "a whole npz file without pickles",
    "download or copy the file again, or move it out of the tree",
  )
