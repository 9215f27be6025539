"""Lets one process at a time train into a run's folder, by locking WORKDIR/lock.json.

The operating system frees the lock when the process ends, however it ends.
"""

from collections.abc import Iterator
import contextlib
import errno
import json
import os
import pathlib
import socket

from absl import logging

from cxr_diffusion_jax import artifacts, errors

NAME = "lock.json"

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


@contextlib.contextmanager
def hold(folder: artifacts.PathLike) -> Iterator[None]:
  """Keeps other processes from training into a run's existing folder.

  Buckets and file systems without locks are not protected.

  Raises:
    errors.InputError: another process holds it.
  """
  import fcntl

  import jax

  # The first process of a run on several hosts holds it for all of them.
  if artifacts.is_remote(folder) or jax.process_index() > 0:
    yield
    return

  path = pathlib.Path(folder) / NAME
  with path.open("a+") as file:
    try:
      fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
      if error.errno in _NO_LOCKS:
        logging.warning("%s: this file system has no locks", folder)
        yield
        return
      raise errors.InputError(
        f"{folder} is in use by {_holder(file.name)}",
        "a folder that no other process trains into",
        "wait for it, or name a new one",
      ) from error
    file.truncate(0)
    json.dump({"host": socket.gethostname(), "pid": os.getpid()}, file)
    file.flush()
    yield


def _holder(path: str) -> str:
  try:
    entry = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
    return f"process {entry['pid']} on {entry['host']}"
  except (OSError, ValueError, KeyError):
    return "another process"
