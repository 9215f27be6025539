"""The terminal shows one line a report, without prefixes, and each warning once."""

import io
import logging
import sys
import types
import warnings

from absl import logging as absl_logging
import pytest

from cxr_diffusion_jax.cli import metrics_logger, terminal


@pytest.fixture
def clock(monkeypatch) -> list[float]:
  """Seconds that a test sets: `clock[0] = 5.0`."""
  now = [100.0]
  monkeypatch.setattr(terminal.time, "monotonic", lambda: now[0])
  return now


class Screen(io.StringIO):
  """A stderr; a terminal or not."""

  def __init__(self, is_terminal: bool):
    super().__init__()
    self._is_terminal = is_terminal

  def isatty(self) -> bool:
    return self._is_terminal

  def lines(self) -> list[str]:
    """All lines that were shown."""
    text = self.getvalue().replace("\r", "\n")
    return [line.rstrip() for line in text.splitlines()]


@pytest.fixture(params=[True, False], ids=["terminal", "pipe"])
def stderr(request, monkeypatch) -> Screen:
  screen = Screen(request.param)
  # Pytest replaces `sys.stderr` itself when the test begins.
  names = types.SimpleNamespace(stderr=screen, unraisablehook=sys.unraisablehook)
  monkeypatch.setattr(terminal, "sys", names)
  return screen


@pytest.fixture
def screen(monkeypatch) -> terminal.Terminal:
  """The terminal of this test."""
  screen = terminal.Terminal()
  monkeypatch.setattr(terminal, "TERMINAL", screen)
  return screen


def test_progress_updates_one_line_and_ends_with_a_full_line(screen, stderr, clock):
  for done in range(1, 11):
    clock[0] += 1.0
    screen.progress("images", done, 10)
  text = stderr.getvalue()
  assert text.endswith("\n")
  assert stderr.lines()[-1] == "images: 10 of 10  1.0/s  9 s"
  assert ("\r" in text) == stderr.isatty()
  assert len(text.replace("\r", "\n").splitlines()) == (10 if stderr.isatty() else 2)


def test_progress_of_a_resumed_task_counts_this_process_only(screen, stderr, clock):
  screen.progress("resumed", 1000, 2000)
  clock[0] += 10.0
  screen.progress("resumed", 1100, 2000)
  assert stderr.lines()[-1] == "resumed: 1,100 of 2,000  10.0/s  ETA 90 s"


def test_progress_ignores_what_follows_a_comma(screen, stderr, clock):
  screen.progress("training, loss 2.0", 0, 100)
  clock[0] += 20.0
  screen.progress("training, loss 1.0", 50, 100)
  assert "training, loss 1.0: 50 of 100  2.5/s  ETA 20 s" in stderr.lines()


def test_progress_of_unknown_total_is_counted(screen, stderr, clock):
  screen.progress("bytes", 0, 0)
  clock[0] += 20.0
  screen.progress("bytes", 4000, 0)
  assert "bytes: 4,000  200.0/s" in stderr.lines()


def test_write_replaces_a_longer_live_line(screen, stderr):
  screen.update("a long live line")
  screen.write("short")
  expected = f"a long live line\rshort{' ' * 11}\n"
  if not stderr.isatty():
    expected = "a long live line\nshort\n"
  assert stderr.getvalue() == expected


@pytest.mark.filterwarnings("default")
def test_show_logs_is_plain_and_warns_once(screen, stderr, logs_restored):
  other = logging.getLogger("another_library")
  terminal.show_logs()
  for _ in range(2):
    other.warning("careful with %d", 3)
    warnings.warn("old name", UserWarning, stacklevel=1)
  other.info("not of this package")
  absl_logging.info("nor this")
  record = logging.LogRecord(
    "absl", logging.INFO, terminal.__file__, 1, "data: %d images", (5,), None
  )
  logging.getLogger().handle(record)
  assert stderr.lines() == [
    "warning: careful with 3",
    "warning: old name",
    "data: 5 images",
  ]


def test_terminal_writer_prints_one_line_per_report(screen, stderr, clock):
  writer = metrics_logger.TerminalWriter(num_steps=100)
  for step in (50, 51, 100):
    writer.write_scalars(
      step,
      {
        "train/loss": 1.6312,
        "train/learning_rate": 0.1,
        "train/images_per_second": 12.0,
        "train/examples": 10.0 * step,
      },
    )
  writer.write_scalars(100, {"validation/loss": 0.51239})
  lines = stderr.lines()
  assert lines[0] == "step 50/100  loss 1.631  12 img/s  ETA 42 s"
  # On a pipe there is a line every ten seconds.
  assert len(lines) == (4 if stderr.isatty() else 3)
  assert lines[-2:] == [
    "step 100/100  loss 1.631  12 img/s  ETA 0 s",
    "step 100/100  validation loss 0.5124",
  ]


@pytest.mark.parametrize(
  ("seconds", "text"), [(42, "42 s"), (600, "10 min"), (9000, "2.5 h")]
)
def test_duration(seconds, text):
  assert terminal.duration(seconds) == text
