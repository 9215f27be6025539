"""Terminal output: permanent lines, and one live line that is updated.

log records, warnings, progress --> stderr: one line each, without prefixes

If stderr is not a terminal, the live line becomes a line every ten seconds.
"""

import functools
import logging
import pathlib
import sys
import time
import warnings

from absl import logging as absl_logging

_PACKAGE = str(pathlib.Path(__file__).parents[1])

# These libraries log what they also raise, with tracebacks.
_SILENCED = ("/orbax/", "/asyncio/", "asynclib.py")


class Terminal:
  """Writes to stderr; each call replaces the live line, if there is one."""

  def __init__(self):
    self._live_width = 0
    self._last_update = float("-inf")
    # Task -> when it was first reported, how much was done then, the last update.
    self._tasks: dict[str, list[float]] = {}

  def write(self, text: str) -> None:
    """Writes a permanent line."""
    self._put(text, "\n")

  def update(self, text: str, *, last: bool = False) -> None:
    """Updates the live line.

    Args:
      last: whether to keep the line, because the task is done.
    """
    now = time.monotonic()
    live = sys.stderr.isatty()
    if last or now - self._last_update >= (0 if live else 10.0):
      self._last_update = now
      self._put(text, "\r" if live and not last else "\n")

  def progress(self, label: str, done: int, total: int) -> None:
    """A `types.Progress`: count, rate and remaining time of a long task."""
    now = time.monotonic()
    # Text after a comma, such as a loss, changes during the task.
    task = label.split(",")[0]
    times = self._tasks.setdefault(task, [now, done, float("-inf")])
    start, done_before, last = times
    finished = done >= total > 0
    if not finished and now - last < (0.2 if sys.stderr.isatty() else 10.0):
      return
    times[2] = now
    # A resumed task did part of its work in an earlier process.
    elapsed, now_done = now - start, done - done_before
    text = f"{label}: {done:,}" + (f" of {total:,}" if total else "")
    if elapsed > 0.5 and now_done > 0:
      text += f"  {now_done / elapsed:,.1f}/s"
      if finished:
        text += f"  {duration(elapsed)}"
      elif total:
        text += f"  ETA {duration((total - done) * elapsed / now_done)}"
    self._put(text, "\r" if sys.stderr.isatty() and not finished else "\n")
    if finished:
      del self._tasks[task]

  def _put(self, text: str, end: str) -> None:
    padding = " " * max(self._live_width - len(text), 0)
    self._live_width = len(text) if end == "\r" else 0
    sys.stderr.write(f"{text}{padding}{end}")
    sys.stderr.flush()


# The terminal of this process.
TERMINAL = Terminal()


def duration(seconds: float) -> str:
  """Returns '42 s', '12 min' or '3.5 h'."""
  if seconds < 120:
    return f"{seconds:.0f} s"
  return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def show_logs() -> None:
  """Shows log records of this package, and each warning once, as plain lines.

  In effect until the process ends, because threads of a failed save log late.
  """
  root, handler = logging.getLogger(), _Handler()
  absl_logging.set_verbosity(absl_logging.INFO)
  for other in list(root.handlers):
    if isinstance(other, _Handler) or other is absl_logging.get_absl_handler():
      root.removeHandler(other)
  root.addHandler(handler)
  warnings.showwarning = handler.show_warning
  sys.unraisablehook = _ignore_late_answers


@functools.cache
def announce_compiling() -> None:
  """Writes a line before XLA compiles a program that takes seconds."""
  import jax

  def listen(event: str, duration_secs: float, **_: str | int) -> None:
    # XLA takes longer than JAX, which has just lowered the program.
    if event.endswith("jaxpr_to_mlir_module_duration") and duration_secs > 0.3:
      TERMINAL.write("compiling ...")

  jax.monitoring.register_event_duration_secs_listener(listen)


class _Handler(logging.Handler):
  """Writes records to the terminal."""

  def __init__(self):
    super().__init__()
    self._warnings: set[str] = set()

  def emit(self, record: logging.LogRecord) -> None:
    path = record.pathname.replace("\\", "/")
    if any(part in path for part in _SILENCED):
      return
    if record.levelno >= logging.WARNING:
      self._warn(record.getMessage())
    elif record.pathname.startswith(_PACKAGE):
      TERMINAL.write(record.getMessage())

  def show_warning(self, message: Warning | str, *_: object, **__: object) -> None:
    """Has the arguments of `warnings.showwarning`."""
    self._warn(str(message))

  def _warn(self, message: str) -> None:
    if message not in self._warnings:
      self._warnings.add(message)
      TERMINAL.write(f"warning: {' '.join(message.split())}")


def _ignore_late_answers(unraisable: "sys.UnraisableHookArgs") -> None:
  """Ignores TensorStore's answers to a save that has already failed."""
  if str(unraisable.exc_value) != "Event loop is closed":
    sys.__unraisablehook__(unraisable)
