"""Temporary folders that the next call removes if their process was killed.

.NAME-xxxx.partial --locked while its process lives--> removed at its end, or by the
  next process with the same name
"""

from collections.abc import Iterator, Sequence
import contextlib
import fcntl
import os
import pathlib
import shutil
import tempfile

# What an interrupted write leaves behind; never read.
SUFFIX = ".partial"


@contextlib.contextmanager
def temporary_folder(
  prefix: str, places: Sequence[os.PathLike] = ()
) -> Iterator[pathlib.Path]:
  """Yields a new folder, and removes it at the end.

  Folders of the same prefix that killed processes left are removed first.

  Args:
    places: where to look for those; the first receives the new one. Without any, the
      system's folder of temporary files.
  """
  parents = [*map(pathlib.Path, places)] or [pathlib.Path(tempfile.gettempdir())]
  for path in (path for parent in parents for path in parent.iterdir()):
    if path.name.startswith(prefix) and path.name.endswith(SUFFIX):
      # A locked one is in use.
      with contextlib.suppress(OSError), _locked(path, fcntl.LOCK_NB):
        shutil.rmtree(path, ignore_errors=True)
  while True:
    folder = pathlib.Path(tempfile.mkdtemp(SUFFIX, prefix, parents[0]))
    with contextlib.ExitStack() as stack:
      # File systems without locks, and folders that another process has just removed.
      with contextlib.suppress(OSError):
        stack.enter_context(_locked(folder))
      if not folder.exists():
        continue
      try:
        yield folder
      finally:
        shutil.rmtree(folder, ignore_errors=True)
      return


@contextlib.contextmanager
def _locked(folder: pathlib.Path, more: int = 0) -> Iterator[None]:
  """Locks a folder; raises OSError if another process holds it, or without locks."""
  # Not what a link points to, nor a pipe, which would be waited for.
  descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
  try:
    fcntl.flock(descriptor, fcntl.LOCK_EX | more)
    yield
  finally:
    os.close(descriptor)
