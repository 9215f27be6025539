"""Locks of a synthetic dataset's folder, for the processes that share it.

The operating system frees them when a process ends, however it ends. Buckets and file
systems without locks are not protected.
"""

from collections.abc import Iterable, Iterator
import contextlib
import errno
import os

from absl import logging

from cxr_diffusion_jax import artifacts, errors

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


@contextlib.contextmanager
def alone(path: artifacts.PathLike) -> Iterator[None]:
  """Waits until no other process is in such a block of a file or folder."""
  import fcntl

  if artifacts.is_remote(path):
    yield
    return
  place = os.open(path, os.O_RDONLY)
  try:
    # No file system with locks: nothing to wait for.
    with contextlib.suppress(OSError):
      try:
        fcntl.flock(place, fcntl.LOCK_EX | fcntl.LOCK_NB)
      except BlockingIOError:
        logging.info("waiting for another process that uses %s", path)
        fcntl.flock(place, fcntl.LOCK_EX)
    yield
  finally:
    os.close(place)


@contextlib.contextmanager
def parts(path: artifacts.PathLike, numbers: Iterable[int]) -> Iterator[None]:
  """Keeps other processes from making some parts.

  Args:
    path: a file of the dataset that is not replaced meanwhile, nor read, which would
      free the locks; byte i of it stands for part i.

  Raises:
    errors.InputError: another process makes one of them.
  """
  import fcntl

  if artifacts.is_remote(path):
    yield
    return
  with open(path, "r+b") as file:
    try:
      for number in numbers:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number)
    except OSError as error:
      if error.errno not in _NO_LOCKS:
        raise errors.InputError(
          f"{os.path.dirname(path)} is in use by another process, which makes the same"
          " images",
          "a folder, or a shard of it, that no other process makes",
          "wait for it, or name another shard",
        ) from error
    yield
