"""Files in a folder and its subfolders, on this machine or in a bucket."""

from collections.abc import Iterable, Iterator
import errno
import os

from etils import epath

from cxr_diffusion_jax import artifacts, errors


def find_files(
  folder: str | os.PathLike, suffixes: tuple[str, ...], depth: int = 3
) -> Iterator[str]:
  """Yields the paths of files in a folder and `depth - 1` levels below.

  Links to folders are followed, except to those that they lie in, which would be loops.

  Args:
    suffixes: in lower case, with the dot.
  """
  remote = artifacts.is_remote(folder)
  return _find_files(folder, suffixes, depth, () if remote else (_identity(folder),))


def first_file(paths: Iterable[epath.Path]) -> epath.Path | None:
  """The first of some files that exists; None if there is none.

  Raises:
    InputError: one before it is a link to nothing.
  """
  for path in paths:
    if path.exists():
      return path
    # A list that is lost must not look like one that never was there.
    if os.path.islink(path):
      raise errors.InputError(
        f"{path} is a link to nothing", "a file", "copy the file there, or remove it"
      )
  return None


def _find_files(
  folder: str | os.PathLike,
  suffixes: tuple[str, ...],
  depth: int,
  parents: tuple[tuple[int, int], ...],
) -> Iterator[str]:
  """`find_files`; `parents` are the folder and those above, none of a remote one."""
  # Faster than pathlib: it knows what is a folder without another call.
  entries = os.scandir(folder) if parents else epath.Path(folder).iterdir()
  for entry in entries:
    # macOS leaves `__MACOSX` and files such as `._00000001_000.png` behind.
    if entry.name.startswith((".", "__MACOSX")):
      continue
    if entry.name.lower().endswith(suffixes):
      yield os.fspath(entry)
    elif depth > 1 and _is_folder(entry):
      inside = (_identity(entry),) if parents else ()
      if not {*inside} & {*parents}:
        yield from _find_files(entry, suffixes, depth - 1, (*parents, *inside))


def _is_folder(entry: os.DirEntry | epath.Path) -> bool:
  """Whether it is one; a link to itself is none."""
  try:
    return entry.is_dir()
  except OSError as error:
    if error.errno != errno.ELOOP:
      raise
    return False


def _identity(folder: str | os.PathLike) -> tuple[int, int]:
  status = os.stat(folder)
  return status.st_dev, status.st_ino
