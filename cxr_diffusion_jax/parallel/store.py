"""Short strings that the processes of a run share, in the coordinator of JAX.

process --set--> coordinator, in process 0 --get, wait--> all processes
"""

from typing import Protocol

import jax


class _Client(Protocol):
  """The methods of jaxlib's DistributedRuntimeClient in use."""

  def key_value_set(self, key: str, value: str) -> None: ...
  def key_value_try_get(self, key: str) -> str: ...
  def blocking_key_value_get(self, key: str, timeout_in_ms: int) -> str: ...


_PREFIX = "cxr_diffusion_jax/"
_WAIT_MILLISECONDS = 3_600_000


class Store(Protocol):
  """Strings by key. Every method raises ConnectionError if process 0 is gone.

  Attributes:
    index: number of this process, known before the backend starts.
    count: number of processes.
  """

  index: int
  count: int

  def set(self, key: str, value: str) -> bool:
    """Sets a value, unless there is one; returns whether it did."""
    ...

  def get(self, key: str) -> str | None:
    """Returns a value, or None."""
    ...

  def wait(self, key: str) -> str:
    """Returns a value as soon as it is set."""
    ...

  def close(self) -> None:
    """Leaves the run, once all processes do; pending calls of `wait` fail."""
    ...


def open_store() -> Store | None:
  """Returns the store of a run on several hosts; None on one."""
  # JAX has no public name for it; Orbax reads the same one.
  from jax._src import distributed

  state = distributed.global_state
  if state.client is None:
    return None
  return _Store(state.client, state.process_id, state.num_processes)


class _Store:
  def __init__(self, client: _Client, index: int, count: int):
    self._client, self.index, self.count = client, index, count

  def set(self, key: str, value: str) -> bool:
    try:
      self._client.key_value_set(_PREFIX + key, value)
    except jax.errors.JaxRuntimeError as error:
      if "ALREADY_EXISTS" in str(error):
        return False
      raise ConnectionError(str(error)) from error
    return True

  def get(self, key: str) -> str | None:
    try:
      return self._client.key_value_try_get(_PREFIX + key)
    except jax.errors.JaxRuntimeError as error:
      if "NOT_FOUND" in str(error):
        return None
      raise ConnectionError(str(error)) from error

  def wait(self, key: str) -> str:
    while True:
      try:
        return self._client.blocking_key_value_get(_PREFIX + key, _WAIT_MILLISECONDS)
      except jax.errors.JaxRuntimeError as error:
        if "DEADLINE_EXCEEDED" not in str(error):
          raise ConnectionError(str(error)) from error

  def close(self) -> None:
    jax.distributed.shutdown()
