"""Locks between processes that share a folder: of a run, of records, of a dataset.

The operating system frees a lock when its process ends, however it ends. Buckets and
file systems without locks are not protected.
"""

from collections.abc import Callable, Iterable, Iterator
import contextlib
import errno
import functools
import json
import os
import pathlib
import socket

from absl import logging

from cxr_diffusion_jax import artifacts, errors

# Holds the host and the number of the process that has the lock, or had it last.
NAME = "lock.json"

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EBADF)


@contextlib.contextmanager
def hold(folder: artifacts.PathLike) -> Iterator[None]:
  """Keeps other processes from training into a run's existing folder.

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
  with path.open("a+b", buffering=0) as file:
    if not _take(functools.partial(fcntl.lockf, file), folder):
      raise errors.InputError(
        f"{folder} is in use by {_holder(path)}",
        "a folder that no other process trains into",
        "wait for it, or name a new one",
      )
    _sign(file.fileno())
    yield


@contextlib.contextmanager
def make_alone(folder: artifacts.PathLike, what: str) -> Iterator[None]:
  """Waits until no other process makes the same in a folder of records.

  A folder that cannot be written to is not locked: what is there can still be read.

  Args:
    what: names what is made, such as 'records' or a column.
  """
  import fcntl

  with contextlib.ExitStack() as stack:
    path = pathlib.Path(folder) / f"{what}.{NAME}"
    try:
      path.parent.mkdir(parents=True, exist_ok=True)
      file = stack.enter_context(path.open("a+b", buffering=0))
    except OSError:
      file = None
    if file is not None:
      lock_fn = functools.partial(fcntl.lockf, file)
      if not _take(lock_fn, folder):
        logging.info(
          "waiting for %s, which makes %s in %s", *(_holder(path), what, folder)
        )
        _take(lock_fn, folder, wait=True)
      _sign(file.fileno())
    yield


@contextlib.contextmanager
def alone(path: artifacts.PathLike) -> Iterator[None]:
  """Waits until no other process is in such a block of a file or folder."""
  import fcntl

  if artifacts.is_remote(path):
    yield
    return
  place = os.open(path, os.O_RDONLY)
  try:
    lock_fn = functools.partial(fcntl.flock, place)
    if not _take(lock_fn, path):
      logging.info("waiting for another process that uses %s", path)
      _take(lock_fn, path, wait=True)
    yield
  finally:
    os.close(place)


@contextlib.contextmanager
def parts(path: artifacts.PathLike, numbers: Iterable[int]) -> Iterator[None]:
  """Keeps other processes from making some parts of a dataset.

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
    for number in numbers:

      def lock_fn(flags: int, number: int = number) -> None:
        fcntl.lockf(file, flags, 1, number)

      if not _take(lock_fn, path):
        raise errors.InputError(
          f"{os.path.dirname(path)} is in use by another process, which makes the same"
          " images",
          "a folder, or a shard of it, that no other process makes",
          "wait for it, or name another shard",
        )
    yield


def _take(
  lock_fn: Callable[[int], None], path: artifacts.PathLike, *, wait: bool = False
) -> bool:
  """Takes a lock; False if another process has it. True where there are no locks."""
  import fcntl

  try:
    lock_fn(fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
  except OSError as error:
    if error.errno not in _NO_LOCKS:
      return False
    logging.warning("%s: this file system has no locks", os.fspath(path))
  return True


def _sign(file: int) -> None:
  """Writes who has the lock; not necessary, and a disk may be full."""
  entry = json.dumps({"host": socket.gethostname(), "pid": os.getpid()}).encode()
  with contextlib.suppress(OSError):
    # A process that comes again changes no file.
    if os.pread(file, len(entry) + 1, 0) != entry:
      os.truncate(file, 0)
      os.write(file, entry)


def _holder(path: pathlib.Path) -> str:
  try:
    entry = json.loads(path.read_text(encoding="utf-8"))
    return f"process {entry['pid']} on {entry['host']}"
  except (OSError, ValueError, KeyError):
    return "another process"
