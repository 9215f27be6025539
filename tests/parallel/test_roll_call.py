"""The roll call of the processes of a run, as threads of this one."""

from concurrent import futures
import socket
import time

import pytest

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.parallel import roll_call


@pytest.fixture
def port() -> int:
  with socket.socket() as probe:
    probe.bind(("localhost", 0))
    return probe.getsockname()[1]


def _call(port: int, processes: list[int], count: int, timeout: float) -> list[str]:
  """What each of the processes raises, or '', when only these are started."""

  def one(process: int) -> str:
    try:
      roll_call.wait(f"localhost:{port}", count, process, timeout)
    except errors.MissingHosts as error:
      return str(error)
    return ""

  with futures.ThreadPoolExecutor(len(processes)) as pool:
    return list(pool.map(one, processes))


def test_wait_returns_when_all_are_there(port):
  assert _call(port, [2, 0, 1, 3], 4, timeout=20) == [""] * 4
  # JAX opens the same port next.
  socket.create_server(("", port)).close()


def test_wait_reports_in_each_process_who_is_missing(port):
  start = time.monotonic()
  reports = _call(port, [0, 2], 4, timeout=1)
  assert time.monotonic() - start < 5
  for report in reports:
    assert report.startswith("2 of 4 processes did not join within 1 s: 1, 3;")


def test_wait_reports_that_the_first_process_is_missing(port):
  (report,) = _call(port, [1], 2, timeout=0.5)
  assert report.startswith("1 of 2 processes did not join within 0.5 s: 0;")


def test_wait_lists_few_of_many(port):
  (report,) = _call(port, [0], 100, timeout=0.1)
  assert "99 of 100" in report
  assert "15, 16 and 83 more" in report


def test_wait_ignores_other_programs(port):
  with futures.ThreadPoolExecutor(1) as pool:
    first = pool.submit(_call, port, [0], 2, 20)
    while True:
      try:
        stranger = socket.create_connection(("localhost", port))
        break
      except OSError:
        time.sleep(0.05)
    stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
    assert _call(port, [1], 2, 20) == [""]
    assert first.result() == [""]
    stranger.close()


def test_wait_refuses_a_port_in_use(port):
  with (
    socket.create_server(("", port)),
    pytest.raises(errors.InputError, match=f"port {port} of the coordinator"),
  ):
    roll_call.wait(f"localhost:{port}", 2, 0, 0.1)
