"""The end of a run on several hosts: the first process that fails ends all of them.

process that fails --first reason--> store --watch--> one line, the same exit code

Without it, the others wait in their next exchange until JAX ends them, minutes later
and without the reason.
"""

import atexit
from collections.abc import Callable, Iterator
import contextlib
import dataclasses
import json
import logging
import os
import socket
import sys
import threading
import time

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.parallel import store as store_lib

_FAILED = "failed"

# Time that process 0, whose end ends all others at once, lets them show the reason, and
# from a process's last note to its end.
_GRACE_SECONDS = 10.0
_END_SECONDS = 0.5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Failure:
  """Why a process ended.

  Attributes:
    code: its exit code.
  """

  process: int
  host: str
  reason: str
  code: int

  def __str__(self) -> str:
    return f"process {self.process} on {self.host} ended: {self.reason}"


def announce(store: store_lib.Store, error: BaseException) -> None:
  """Makes an error the reason for all processes to end, unless there is one."""
  reason = str(error)
  if not isinstance(error, (errors.InputError, errors.MissingHosts)):
    reason = f"{type(error).__name__}: {reason}".removesuffix(": ")
  failure = Failure(
    process=store.index,
    host=socket.gethostname(),
    reason=" ".join(reason.split())[:2000],
    code=errors.exit_code(error),
  )
  with contextlib.suppress(ConnectionError):
    store.set(_FAILED, json.dumps(dataclasses.asdict(failure)))


@contextlib.contextmanager
def announced(store: store_lib.Store | None) -> Iterator[None]:
  """Announces an error in a block at once, before outer blocks are left.

  Leaving them may take long: a pending checkpoint waits for the other processes.
  """
  try:
    yield
  except errors.Interrupted:
    raise  # All processes have saved, and end alike.
  except BaseException as error:
    if store is not None:
      announce(store, error)
    raise


@contextlib.contextmanager
def shared(
  store: store_lib.Store | None,
  *,
  write_fn: Callable[[str], object],
  exit_fn: Callable[[int], object] | None = None,
) -> Iterator[None]:
  """Ends all processes when this block fails in one, and this one if another fails.

  Args:
    store: of the run; None on one host, where nothing happens.
    write_fn: shows a line to the user.
    exit_fn: ends the process at once, with an exit code.
  """
  if store is None:
    yield
    return
  end = exit_fn or _exit
  failing = threading.Event()

  def watch() -> None:
    try:
      failure = Failure(**json.loads(store.wait(_FAILED)))
    except ConnectionError:
      return  # JAX ends this process.
    if failure.process != store.index and not failing.is_set():
      write_fn(f"error: {failure}")
      _leave(store, failure.code, write_fn, end)

  watcher = threading.Thread(target=watch, daemon=True, name="failures")
  watcher.start()
  atexit.register(_close, store, watcher)
  try:
    with announced(store):
      yield
  except errors.Interrupted:
    raise
  except BaseException as error:
    failing.set()
    # Before the handlers of JAX, which would wait for the other processes.
    atexit.register(_leave, store, errors.exit_code(error), write_fn, end)
    raise


def _leave(
  store: store_lib.Store,
  code: int,
  write_fn: Callable[[str], object],
  exit_fn: Callable[[int], object],
) -> None:
  """Ends this process; process 0 waits until the others do, since it has the store."""
  with contextlib.suppress(ConnectionError):
    store.set(f"{_FAILED}/{store.index}", "")
    deadline = time.monotonic() + _GRACE_SECONDS
    lost = [] if store.index else list(range(store.count))
    while lost and time.monotonic() < deadline:
      lost = [other for other in lost if store.get(f"{_FAILED}/{other}") is None]
      time.sleep(_END_SECONDS if not lost else 0.1)
    if lost:
      listed = ", ".join(map(str, lost[:16]))
      write_fn(f"no answer from {len(lost)} of {store.count} processes: {listed}")
  exit_fn(code)


def _close(store: store_lib.Store, watcher: threading.Thread) -> None:
  """Ends the watcher, which would crash the interpreter if it outlived it."""
  store.close()
  watcher.join(_GRACE_SECONDS)


def _exit(code: int) -> None:
  logging.shutdown()
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(code)
