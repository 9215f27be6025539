"""Small text files that are either there whole or not at all, and disks that fail.

write NAME.part -> flush to disk -> rename to NAME
"""

from collections.abc import Iterator
import contextlib
import errno
import os
import pathlib

from cxr_diffusion_jax import errors


def write_text(path: pathlib.Path, text: str) -> None:
  """Writes `text` in UTF-8, line ends as they are; replaces what was there.

  Raises:
    OSError: the folder is missing, read-only or full; the old file is untouched.
  """
  part = path.with_name(path.name + ".part")
  with open(part, "w", encoding="utf-8", newline="") as file:
    file.write(text)
    file.flush()
    os.fsync(file.fileno())
  os.replace(part, path)


@contextlib.contextmanager
def disk_errors(place: pathlib.Path) -> Iterator[None]:
  """Tells a full or forbidden disk as the input error that it is.

  Args:
    place: named where the error names none.
  """
  try:
    yield
  except OSError as error:
    if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
      raise
    raise errors.InputError(
      f"{error.filename or place}: {error.strerror or error}",
      fix="free disk or change its rights, then run the same command again",
    ) from error
