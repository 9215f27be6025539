"""Files that are either there whole or not at all, on local disks and in buckets.

write NAME.partial -> flush to disk -> rename to NAME

Paths are `etils.epath` paths: a local folder, `gs://bucket/...` or `s3://bucket/...`.
"""

from collections.abc import Callable, Iterator, Mapping
import contextlib
import errno
import io
import json
import os
from typing import Any

from etils import epath
import numpy as np

from cxr_diffusion_jax import errors

PathLike = str | os.PathLike

# What an interrupted write leaves behind; never read.
SUFFIX = ".partial"

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EFBIG)


def is_remote(path: PathLike) -> bool:
  """Whether a path names a bucket rather than a folder of this machine."""
  return "://" in os.fspath(path)


def write_bytes(path: PathLike, content: bytes) -> None:
  """Replaces a file; readers see the old content or the new, never a part.

  Raises:
    OSError: the folder is read-only or full; the old file is untouched.
  """
  path = epath.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  if is_remote(path):
    # Object stores replace an object at once.
    path.write_bytes(content)
    return
  partial = f"{os.fspath(path)}{SUFFIX}"
  with open(partial, "wb") as file:
    file.write(content)
    file.flush()
    os.fsync(file.fileno())
  os.replace(partial, path)


def write_text(path: PathLike, text: str) -> None:
  """`write_bytes` in UTF-8, line ends as they are."""
  write_bytes(path, text.encode())


def write_json(path: PathLike, value: Any) -> None:
  """`write_text` of JSON, indented, keys in their own order."""
  write_text(path, json.dumps(value, indent=2) + "\n")


def read_json(path: PathLike) -> Any:
  """Reads JSON.

  Raises:
    errors.InputError: the file is absent, unreadable or not JSON.
  """
  try:
    return json.loads(epath.Path(path).read_text())
  except FileNotFoundError as error:
    raise errors.InputError(f"no such file: {os.fspath(path)}") from error
  except (OSError, ValueError) as error:
    name = os.fspath(path)
    raise errors.InputError(f"{name} is not readable JSON: {error}") from error


def write_npy(path: PathLike, values: np.ndarray) -> None:
  """`write_bytes` of an array as .npy, without pickle."""
  buffer = io.BytesIO()
  np.save(buffer, values, allow_pickle=False)
  write_bytes(path, buffer.getvalue())


def write_npz(path: PathLike, arrays: Mapping[str, np.ndarray]) -> None:
  """`write_bytes` of named arrays as an uncompressed .npz, without pickle."""
  buffer = io.BytesIO()
  np.savez(buffer, **arrays, allow_pickle=False)
  write_bytes(path, buffer.getvalue())


def load_or_make(path: PathLike | None, make: Callable[[], np.ndarray]) -> np.ndarray:
  """Returns the array in a file, or makes it and writes the file.

  Args:
    path: of an .npy file, named by everything that its values depend on; None to
      write nothing.
    make: the long work.
  """
  if path is None:
    return make()
  if epath.Path(path).exists():
    with epath.Path(path).open("rb") as file:
      return np.load(io.BytesIO(file.read()), allow_pickle=False)
  values = make()
  write_npy(path, values)
  return values


@contextlib.contextmanager
def disk_errors(place: PathLike) -> Iterator[None]:
  """Turns a full, read-only or forbidden disk into an `InputError`.

  Args:
    place: named where the error names no file.
  """
  try:
    yield
  except OSError as error:
    if error.errno not in _NO_ROOM:
      raise
    raise errors.InputError(
      f"{error.filename or os.fspath(place)}: {error.strerror or error}",
      fix="free disk space or change its rights, then repeat the command",
    ) from error
