"""The start and the end of a run on one or several hosts.

environment --initialize--> jax.distributed; SIGTERM, SIGINT --signals--> last save
"""

from collections.abc import Iterator
import contextlib
import os
import signal
from types import FrameType

import jax

from cxr_diffusion_jax import errors


def initialize(wanted: bool) -> None:
  """Joins the other hosts of a run. Call it before any device is used.

  Slurm, Kubernetes, TPU slices and Open MPI identify the processes themselves. Other
  launchers set JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID.

  Args:
    wanted: whether the user asked for it; JAX_COORDINATOR_ADDRESS also does.

  Raises:
    errors.InputError: the processes are not identified.
  """
  if not wanted and "JAX_COORDINATOR_ADDRESS" not in os.environ:
    return
  # JAX itself reads the address only.
  num_processes, process_id = (
    int(os.environ[name]) if name in os.environ else None
    for name in ("JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
  )
  try:
    jax.distributed.initialize(num_processes=num_processes, process_id=process_id)
  except ValueError as error:
    raise errors.InputError(
      f"a run on several hosts: {error}",
      fix="use a launcher that JAX knows, or set JAX_COORDINATOR_ADDRESS,"
      " JAX_NUM_PROCESSES and JAX_PROCESS_ID",
    ) from error


@contextlib.contextmanager
def signals() -> Iterator[list[int]]:
  """Collects SIGTERM and SIGINT instead of ending the process; a second one ends it.

  On several hosts JAX's preemption service handles them, so that all stop at one step.

  Yields:
    The signals received so far.
  """
  numbers: list[int] = []
  if jax.process_count() > 1:
    yield numbers
    return

  def receive(number: int, frame: FrameType | None) -> None:
    del frame
    numbers.append(number)
    signal.signal(number, previous[signal.Signals(number)])

  previous = {
    number: signal.signal(number, receive) for number in (signal.SIGTERM, signal.SIGINT)
  }
  try:
    yield numbers
  finally:
    for number, handler in previous.items():
      signal.signal(number, handler)
