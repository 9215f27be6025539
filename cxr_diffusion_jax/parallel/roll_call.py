"""The roll call before a run on several hosts: which processes have not started.

JAX ends a process whose peers do not join without saying which of them are missing.

processes 1, 2, ... --id--> process 0 --missing ids--> all; none: jax.distributed
"""

from collections.abc import Iterable
import contextlib
import errno
import re
import socket
import time

from cxr_diffusion_jax import errors

_RETRY_SECONDS = 0.2
_READ_SECONDS = 5.0
_MAX_LISTED = 16


def wait(address: str, num_processes: int, process_id: int, timeout: float) -> None:
  """Returns when all processes of a run have started.

  Process 0 listens at the coordinator's port, which is free again afterwards. The
  others report to it and receive its answer.

  Args:
    address: host:port of the coordinator, which runs in process 0.
    timeout: seconds to wait for the others.

  Raises:
    errors.MissingHosts: some have not started in this time; the same in each that has.
    errors.InputError: another program uses the port.
  """
  host, _, port = address.rpartition(":")
  if process_id == 0:
    missing = _collect(int(port), num_processes, timeout)
  else:
    missing = _report((host.strip("[]"), int(port)), process_id, timeout)
  if missing:
    listed = ", ".join(map(str, missing[:_MAX_LISTED]))
    more = len(missing) - _MAX_LISTED
    raise errors.MissingHosts(
      f"{len(missing)} of {num_processes} processes did not join within {timeout:g} s:"
      f" {listed}{f' and {more} more' if more > 0 else ''}; fix: see whether they were"
      f" started and can reach {address}, or wait longer"
    )


def _collect(port: int, num_processes: int, timeout: float) -> list[int]:
  """Waits for the reports of all others; answers each with who is missing."""
  deadline = time.monotonic() + timeout
  present: dict[int, socket.socket] = {}
  with contextlib.ExitStack() as stack:
    server = stack.enter_context(_listen(port, deadline))
    while len(present) < num_processes - 1 and time.monotonic() < deadline:
      server.settimeout(max(deadline - time.monotonic(), 0.01))
      with contextlib.suppress(TimeoutError):
        connection = stack.enter_context(server.accept()[0])
        process = _read(connection)
        if len(process) == 1 and 0 < process[0] < num_processes:
          present[process[0]] = connection
    missing = sorted({*range(1, num_processes)} - {*present})
    for connection in present.values():
      with contextlib.suppress(OSError):
        _write(connection, missing)
    # The side that closes first keeps the port busy for a minute.
    for connection in present.values():
      with contextlib.suppress(OSError):
        connection.recv(1)
  return missing


def _listen(port: int, deadline: float) -> socket.socket:
  """Opens the port, for which an earlier run may still need a moment to free."""
  dual = socket.has_dualstack_ipv6()
  while True:
    family = socket.AF_INET6 if dual else socket.AF_INET
    try:
      return socket.create_server(
        ("", port), family=family, dualstack_ipv6=dual, backlog=1024
      )
    except OSError as error:
      if error.errno == errno.EADDRNOTAVAIL:
        dual = False  # IPv6 is switched off.
      if time.monotonic() > deadline:
        raise errors.InputError(
          f"port {port} of the coordinator: {error.strerror}",
          "a free port",
          "end the program that uses it, or set another port",
        ) from error
    time.sleep(_RETRY_SECONDS)


def _report(place: tuple[str, int], process_id: int, timeout: float) -> list[int]:
  """Reports to process 0 and returns its answer; [0] if it does not answer."""
  deadline = time.monotonic() + timeout
  while time.monotonic() < deadline:
    with (
      contextlib.suppress(OSError),
      socket.create_connection(place, _READ_SECONDS) as connection,
    ):
      _write(connection, [process_id])
      # Process 0 may have started later, and waits as long from then on.
      missing = _read(connection, timeout + _READ_SECONDS)
      if missing != [-1]:
        return missing
    time.sleep(_RETRY_SECONDS)
  return [0]


def _write(connection: socket.socket, numbers: Iterable[int]) -> None:
  connection.sendall(" ".join(["roll-call", *map(str, numbers)]).encode() + b"\n")


def _read(connection: socket.socket, timeout: float = _READ_SECONDS) -> list[int]:
  """The numbers that were written; [-1] for anything else, such as another program."""
  connection.settimeout(timeout)
  try:
    with connection.makefile("rb") as stream:
      line = stream.readline(1 << 20)
  except OSError:
    return [-1]
  if not re.fullmatch(rb"roll-call( \d+)*\n", line):
    return [-1]
  return [int(word) for word in line.split()[1:]]
