"""The start and the end of a run on one or several hosts.

environment --identify--> Process --roll call--> jax.distributed
SIGTERM, SIGINT --signals--> last save; SIGTERM before and after --> errors.Terminated
"""

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import dataclasses
import os
import re
import signal
from types import FrameType
from typing import Any

import jax

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.parallel import roll_call
from cxr_diffusion_jax.parallel import store as store_lib

# Key of the first signal that ends a run.
_SIGNAL = "signal"

_SERVICE = "jax_enable_preemption_service"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Process:
  """This process among those of a run, as its launcher describes it.

  None is what the launcher does not say; JAX may know it.

  Attributes:
    address: host:port of process 0.
    count: number of processes.
    index: 0 for the first process.
  """

  address: str | None = None
  count: int | None = None
  index: int | None = None


def initialize(wanted: bool, *, timeout: int = 300, heartbeat: int = 60) -> None:
  """Joins the other hosts of a run. Call it before any device is used.

  Slurm, TPU slices and Open MPI identify the processes themselves. Other launchers set
  JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID. From then on SIGTERM
  raises errors.Terminated, outside `signals`.

  Args:
    wanted: whether the user asked for it; JAX_COORDINATOR_ADDRESS also does.
    timeout: seconds to wait for the others.
    heartbeat: seconds without a sign of life after which a process is lost, which
      ends the others.

  Raises:
    errors.InputError: the processes are not identified.
    errors.MissingHosts: some did not join in time.
  """
  if not wanted and "JAX_COORDINATOR_ADDRESS" not in os.environ:
    return
  process = identify(os.environ)
  address, count, index = process.address, process.count, process.index
  if address is not None and count is not None and index is not None and count > 1:
    roll_call.wait(address, count, index, timeout)
  # It would swallow SIGTERM until `stops` is called, after all preparations.
  deferred = _service_state() is not None
  if deferred:
    jax.config.update(_SERVICE, False)
  try:
    jax.distributed.initialize(
      coordinator_address=address,
      num_processes=count,
      process_id=index,
      initialization_timeout=timeout,
      heartbeat_timeout_seconds=heartbeat,
    )
  except ValueError as error:
    raise errors.InputError(
      f"a run on several hosts: {error}",
      fix="use a launcher that JAX knows, or set JAX_COORDINATOR_ADDRESS,"
      " JAX_NUM_PROCESSES and JAX_PROCESS_ID",
    ) from error
  if deferred:
    signal.signal(signal.SIGTERM, _terminate)


def _terminate(number: int, frame: FrameType | None) -> None:
  del number, frame
  raise errors.Terminated


def _service_state() -> Any | None:
  """JAX's state that starts its preemption service; None if it cannot start it late."""
  # JAX has no public name for it.
  from jax._src import distributed

  state = distributed.global_state
  return state if hasattr(state, "initialize_preemption_sync_manager") else None


def identify(environment: Mapping[str, str]) -> Process:
  """Reads which process this is from the variables of its launcher.

  JAX's variables come first, then those of Slurm and of a slice of Google Kubernetes
  Engine, with the ports that JAX uses there.

  Raises:
    errors.InputError: a variable that is not what it should be.
  """
  launcher = _slurm(environment) or _gke_slice(environment) or Process()
  address = environment.get("JAX_COORDINATOR_ADDRESS") or launcher.address
  if address is not None and not re.fullmatch(r".+:\d{1,5}", address):
    raise errors.InputError(f"JAX_COORDINATOR_ADDRESS={address}", "host:port")
  count = _number(environment, "JAX_NUM_PROCESSES", launcher.count)
  index = _number(environment, "JAX_PROCESS_ID", launcher.index)
  if count is not None and index is not None and not index < count:
    raise errors.InputError(
      f"process {index} of {count}", f"JAX_PROCESS_ID from 0 to {count - 1}"
    )
  return Process(address=address, count=count, index=index)


def _slurm(environment: Mapping[str, str]) -> Process | None:
  """A task of `srun`; the coordinator is on the first node of the step."""
  if "OMPI_MCA_orte_hnp_uri" in environment:
    return None  # mpirun within a Slurm job, which JAX knows.
  names = ("JOB_ID", "STEP_NODELIST", "NTASKS", "PROCID", "LOCALID")
  if not all(f"SLURM_{name}" in environment for name in names):
    return None
  # node7 | node7,node9 | node[007-010,012]
  first = re.match(r"([^,\[]+)(?:\[(\d+))?", environment["SLURM_STEP_NODELIST"])
  port = environment.get("JAX_COORDINATOR_PORT")
  return Process(
    address=f"{''.join(first.groups('')) if first else ''}:"
    f"{port or 61440 + int(environment['SLURM_JOB_ID']) % 4096}",
    count=int(environment["SLURM_NTASKS"]),
    index=int(environment["SLURM_PROCID"]),
  )


def _gke_slice(environment: Mapping[str, str]) -> Process | None:
  """A pod of one TPU slice; several slices are left to JAX."""
  workers = environment.get("TPU_PROCESS_ADDRESSES") or environment.get(
    "TPU_WORKER_HOSTNAMES", ""
  )
  names = [worker.partition(":")[0] for worker in workers.split(",")]
  several = environment.get("MEGASCALE_NUM_SLICES", "1") != "1"
  if len(names) < 2 or several or "TPU_WORKER_ID" not in environment:
    return None
  return Process(
    address=f"{names[0]}:{environment.get('JAX_COORDINATOR_PORT', '8482')}",
    count=len(names),
    index=int(environment["TPU_WORKER_ID"]),
  )


def _number(
  environment: Mapping[str, str], name: str, default: int | None
) -> int | None:
  value = environment.get(name)
  if value is None:
    return default
  if not value.isdecimal():
    raise errors.InputError(f"{name}={value}", "a whole number")
  return int(value)


@contextlib.contextmanager
def signals() -> Iterator[list[int]]:
  """Collects SIGTERM and SIGINT instead of ending the process; a second one ends it.

  On several hosts JAX's preemption service handles SIGTERM, and SIGINT is passed on to
  it, so that all stop at one step.

  Yields:
    The signals received so far.
  """
  numbers: list[int] = []
  store = store_lib.open_store() if jax.process_count() > 1 else None

  def receive(number: int, frame: FrameType | None) -> None:
    del frame
    numbers.append(number)
    signal.signal(number, previous[signal.Signals(number)])
    if store is not None:
      store.set(_SIGNAL, str(number))
      os.kill(os.getpid(), signal.SIGTERM)

  handled = (signal.SIGINT,) if store else (signal.SIGTERM, signal.SIGINT)
  previous = {number: signal.signal(number, receive) for number in handled}
  service = _service_state()
  if store and service is not None and service.preemption_sync_manager is None:
    previous[signal.SIGTERM] = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    jax.config.update(_SERVICE, True)
    service.initialize_preemption_sync_manager()
  try:
    yield numbers
  finally:
    for number, handler in previous.items():
      signal.signal(number, handler)


def stops(received: Sequence[int], step: int) -> bool:
  """Whether a signal ends the run after this step, the same in all processes."""
  if jax.process_count() == 1:
    return bool(received)
  from jax.experimental import multihost_utils

  return multihost_utils.reached_preemption_sync_point(step)


def stopped_by(received: Sequence[int]) -> int:
  """Returns the signal that ended the run, whichever process received it."""
  store = store_lib.open_store() if jax.process_count() > 1 else None
  if store is None:
    return received[0]
  return int(store.get(_SIGNAL) or signal.SIGTERM)
