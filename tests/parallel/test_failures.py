"""The first process that fails ends all of a run; processes are threads here."""

import atexit
import contextlib
import json
import signal
import threading
import time

import pytest

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.parallel import failures
from tests.parallel.memory_store import MemoryStore


@pytest.fixture
def stores() -> list[MemoryStore]:
  """Of a run of three processes."""
  values: dict[str, str] = {}
  return [MemoryStore(values, index, 3) for index in range(3)]


@pytest.mark.parametrize("failing", [0, 2])
def test_shared_ends_all_with_the_reason_and_code_of_the_first(
  failing, stores, monkeypatch
):
  lines, codes, at_exit = {}, {}, []
  monkeypatch.setattr(atexit, "register", lambda *call: at_exit.append(call))
  ended = {index: threading.Event() for index in range(3)}

  def run(store: MemoryStore) -> None:
    index = store.index

    def end(code: int) -> None:
      codes[index] = code
      ended[index].set()

    write_fn = lines.setdefault(index, []).append
    with failures.shared(store, write_fn=write_fn, exit_fn=end):
      if index == failing:
        raise errors.InputError("no file a.csv")
      # As in an exchange with a process that never comes.
      ended[index].wait(20)

  def quietly(store: MemoryStore) -> None:
    with contextlib.suppress(errors.InputError):
      run(store)
    if store.index == failing:
      for function, *arguments in reversed(at_exit):
        if arguments[0] is store:
          function(*arguments)

  threads = [threading.Thread(target=quietly, args=(store,)) for store in stores]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join(30)
  others = {0, 1, 2} - {failing}
  assert codes == dict.fromkeys(range(3), 2)
  # The command itself shows the error of the process that failed.
  assert lines[failing] == []
  for index in others:
    (line,) = lines[index]
    assert line.startswith(f"error: process {failing} on ")
    assert line.endswith("ended: no file a.csv")


def test_shared_lists_in_process_0_who_does_not_answer(stores, monkeypatch):
  lines, codes, at_exit = [], [], []
  monkeypatch.setattr(atexit, "register", lambda *call: at_exit.append(call))
  # The clock jumps over the time to wait.
  monkeypatch.setattr(time, "monotonic", iter([0.0, 1.0, 99.0]).__next__)
  monkeypatch.setattr(time, "sleep", lambda seconds: None)
  stores[2].set("failed/2", "")
  with (
    pytest.raises(OSError, match="connection reset"),
    failures.shared(stores[0], write_fn=lines.append, exit_fn=codes.append),
  ):
    raise OSError("connection reset")
  function, *arguments = at_exit[-1]
  function(*arguments)
  assert lines == ["no answer from 1 of 3 processes: 1"]
  assert codes == [1]


def test_announced_keeps_the_first_reason_and_no_clean_end(stores):
  with pytest.raises(errors.Interrupted), failures.announced(stores[0]):
    raise errors.Interrupted(signal.SIGTERM, "saved")
  assert stores[0].get("failed") is None
  for store_of_one, error in zip(
    stores, (OSError("disk"), KeyError("b")), strict=False
  ):
    with pytest.raises(type(error)), failures.announced(store_of_one):
      raise error
  failure = json.loads(stores[2].get("failed"))
  assert (failure["process"], failure["reason"]) == (0, "OSError: disk")
  assert failure["code"] == 1


def test_shared_does_nothing_on_one_host():
  written, done = [], []
  with failures.shared(None, write_fn=written.append):
    done.append(True)
  with (
    pytest.raises(ZeroDivisionError),
    failures.shared(None, write_fn=written.append),
  ):
    raise ZeroDivisionError
  assert (done, written) == ([True], [])
