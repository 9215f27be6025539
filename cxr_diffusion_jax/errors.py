"""The exceptions that commands turn into exit codes.

Library code raises `InputError` where the user's input is wrong: one line on stderr,
exit code 2, no traceback. `MissingHosts` is for other hosts that did not start: one
line, exit code 1. `Interrupted` ends work that a signal stopped after a clean
save: exit code 128 + signal. Any other exception is a bug.
"""

import math
import signal


class InputError(Exception):
  """Input that cannot be used, in one line: got, expected, how to fix it.

  Args:
    got: the wrong value, with the name of its file, key or flag.
    expected: a right value; left out when `got` says it.
    fix: what the user can do about it.
  """

  def __init__(self, got: str, expected: str = "", fix: str = ""):
    self.got, self.expected, self.fix = got, expected, fix
    parts = [got]
    if expected:
      parts.append(f"expected {expected}")
    if fix:
      parts.append(f"fix: {fix}")
    super().__init__(" ".join("; ".join(parts).split()))


def require_positive(name: str, value: float) -> None:
  """Raises InputError unless a value is above 0 and finite."""
  if not 0 < value < math.inf:
    raise InputError(f"{name}={value}", "above 0 and finite")


def require_range(
  name: str, value: float, least: float, below: float = math.inf
) -> None:
  """Raises InputError unless least <= value < below."""
  if not least <= value < below:
    raise InputError(f"{name}={value}", f"[{least:g}, {below:g})")


class MissingHosts(Exception):
  """Processes of a run on several hosts that did not start in time.

  Unlike wrong input, it may pass when the command is repeated: exit code 1.
  """


class Interrupted(Exception):
  """Work that a signal stopped after a clean save.

  Args:
    signal_number: SIGTERM or SIGINT.
    message: what was saved, and how to continue.
  """

  def __init__(self, signal_number: int, message: str):
    super().__init__(message)
    self.signal_number = signal_number


class Terminated(KeyboardInterrupt):
  """SIGTERM while nothing is there to save."""


def exit_code(error: BaseException) -> int:
  """Returns the code that a command exits with after an error."""
  if isinstance(error, InputError):
    return 2
  if isinstance(error, Interrupted):
    return 128 + error.signal_number
  if isinstance(error, Terminated):
    return 128 + signal.SIGTERM
  if isinstance(error, KeyboardInterrupt):
    return 128 + signal.SIGINT
  return 1
