"""The store of a run whose processes are threads of this one."""

import threading


class MemoryStore:
  """The store of one process; all processes share the values."""

  def __init__(self, values: dict[str, str], index: int, count: int):
    self.index, self.count = index, count
    self._values = values

  def set(self, key: str, value: str) -> bool:
    return self._values.setdefault(key, value) is value

  def get(self, key: str) -> str | None:
    return self._values.get(key)

  def wait(self, key: str) -> str:
    while key not in self._values:
      threading.Event().wait(0.01)
    return self._values[key]

  def close(self) -> None:
    """Has nothing to close."""
