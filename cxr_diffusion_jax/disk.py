"""Full, read-only and failing disks: one line that names the file and the free space.

`OSError`, or an error of a library that states one in its text -> `errors.InputError`
"""

from collections.abc import Iterator
import contextlib
import errno
import os
import pathlib
import shutil

from cxr_diffusion_jax import errors

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES)
_NO_PATH = (errno.EPERM, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)
_NO_DISK = (errno.EIO, errno.ENODEV, errno.ENOTCONN, errno.ESTALE, errno.ETIMEDOUT)
_FIXES = {
  **dict.fromkeys(_NO_ROOM + _NO_PATH, "free disk space or change its rights"),
  **dict.fromkeys(_NO_DISK, "check the disk or the network mount"),
}

# Those that array_record, TensorStore, TensorFlow and PyArrow have in their texts.
_STATED = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)


@contextlib.contextmanager
def reporting(
  place: str | os.PathLike = "", *, making: bool = False, instead: str = ""
) -> Iterator[None]:
  """Turns a full, read-only, forbidden or failing disk into an `InputError`.

  Args:
    place: reported if the error names no file.
    making: the place is created, which some file systems, such as /proc, refuse as if
      the folder above were missing.
    instead: what else the user may do, such as to name another folder by a flag.
  """
  try:
    yield
  except errors.InputError:
    raise
  except Exception as error:
    code = fault(error)
    name = getattr(error, "filename", None) or os.fspath(place)
    if not code and making and isinstance(error, FileNotFoundError):
      code = errno.ENOENT
    if not code:
      raise
    reason = getattr(error, "strerror", None) or os.strerror(code)
    what = ": ".join(filter(None, (str(name), reason)))
    fix = ", or ".join(filter(None, (_FIXES.get(code), instead)))
    raise errors.InputError(
      what + free_space(name, code),
      fix=f"{fix or 'name another folder'}, then repeat the command",
    ) from error


def fault(error: Exception) -> int:
  """The `errno` of a disk's fault, by class or in the text of an error; otherwise 0."""
  if isinstance(error, OSError) and error.errno:
    return error.errno if error.errno in _FIXES else 0
  text = str(error)
  return next((code for code in _STATED if os.strerror(code) in text), 0)


def free_space(place: str | os.PathLike, code: int = errno.ENOSPC) -> str:
  """', 1.2 MB free' of the disk of a place if the fault is a full disk; or ''."""
  if code != errno.ENOSPC or "://" in os.fspath(place):
    return ""
  folder = pathlib.Path(place).absolute()
  while not folder.exists():
    folder = folder.parent
  return f", {shutil.disk_usage(folder).free / 1e6:,.1f} MB free"


def check_room(folder: str | os.PathLike, num_bytes: int, what: str, fix: str) -> None:
  """Raises `errors.InputError` unless a local disk has room for `what`."""
  free = shutil.disk_usage(folder).free
  if free < num_bytes:
    raise errors.InputError(
      f"{free / 1e6:,.1f} MB free for {what} in {os.fspath(folder)}",
      f"{num_bytes / 1e6:,.1f} MB",
      fix,
    )
