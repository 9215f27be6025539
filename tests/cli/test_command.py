"""Commands: exit codes, arguments, output folders."""

from collections.abc import Callable
import contextlib
import io
import os
import pathlib
import re
import sys

from absl import flags
import pytest

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.cli import command

pytestmark = pytest.mark.usefixtures("logs_restored")


def test_writable_folder_makes_a_folder_and_leaves_it_empty(tmp_path):
  result = command.writable_folder(str(tmp_path / "a" / "b"))
  assert result == pathlib.Path(tmp_path / "a" / "b")
  assert list(result.iterdir()) == []


def test_writable_folder_refuses_a_folder_below_a_file(tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(errors.InputError, match="a folder that can be written to"):
    command.writable_folder(str(tmp_path / "file" / "run"))


@pytest.mark.parametrize(
  ("raised", "code", "reported"),
  [
    (OSError(5, "Input/output error", "f"), 2, "f: Input/output error; fix: check the"),
    (
      errors.InputError("got x", "y", "do z"),
      2,
      "error: got x; expected y; fix: do z\n",
    ),
    (
      OSError(28, "No space left on device", "f"),
      2,
      "error: f: No space left on device",
    ),
    (errors.MissingHosts("1 of 2 did not join"), 1, "error: 1 of 2 did not join\n"),
    (KeyboardInterrupt(), 130, "interrupted; repeat the same command to continue\n"),
    (errors.Terminated(), 143, "interrupted; repeat the same command to continue\n"),
    (errors.Interrupted(15, "saved at step 3"), 143, "saved at step 3\n"),
  ],
)
def test_run_exits_with_the_documented_codes(
  raised, code, reported, monkeypatch, capsys
):
  def main() -> None:
    raise raised

  monkeypatch.setattr(sys, "argv", ["main"])
  with pytest.raises(SystemExit) as stop:
    command.run(main)
  assert stop.value.code == code
  captured = capsys.readouterr()
  assert reported in captured.err + captured.out


@pytest.mark.parametrize("raised", [OSError(2, "No such file"), ValueError("a defect")])
def test_run_does_not_report_a_defect_as_wrong_input(raised, monkeypatch):
  def main() -> None:
    raise raised

  monkeypatch.setattr(sys, "argv", ["main"])
  with pytest.raises(type(raised)):
    command.run(main)


def _raise_in(module: str, error: Exception) -> None:
  """Raises from a function of a module of that name."""
  exec("raise error", {"__name__": module, "error": error})


@pytest.mark.parametrize(
  ("module", "raised", "reported"),
  [
    ("jax._src.xla_bridge", RuntimeError("no backend 'x'"), "=toaster: no backend 'x'"),
    ("jax._src.xla_bridge", AssertionError(), "JAX_PLATFORMS=toaster: no such device"),
    ("etils.epath.backend", KeyError("hdfs://"), "begins with 'hdfs://'; expected a"),
    (
      "gcsfs.core",
      ConnectionError("no\nhost"),
      "bucket cannot be used: no; expected",
    ),
    (
      "fsspec.registry",
      ImportError("Install s3fs"),
      "Install s3fs; .*fix: pip ",
    ),
  ],
)
def test_run_reports_missing_devices_and_stores_in_a_line(
  module, raised, reported, monkeypatch, capsys
):
  monkeypatch.setattr(sys, "argv", ["main"])
  monkeypatch.setenv("JAX_PLATFORMS", "toaster")
  with pytest.raises(SystemExit) as stop:
    command.run(lambda: _raise_in(module, raised))
  assert stop.value.code == 2
  assert re.search(f"^error: .*{reported}.*\n$", capsys.readouterr().err)


def test_run_exits_0_on_success(monkeypatch):
  monkeypatch.setattr(sys, "argv", ["main"])
  called = []
  with pytest.raises(SystemExit) as stop, contextlib.redirect_stdout(io.StringIO()):
    command.run(lambda: called.append(1))
  assert (stop.value.code, called) == (None, [1])


@pytest.fixture
def started(monkeypatch) -> Callable[..., tuple[list[str], int, object]]:
  """Runs a main that takes arguments: `started("a", "--count=2")`.

  Returns the arguments that it got, the flag `count`, and the exit code.
  """
  count = flags.DEFINE_integer("count_of_test_command", 1, "For a test.")

  def run(*arguments: str) -> tuple[list[str], int, object]:
    got = []

    def main(rest: list[str]) -> None:
      got.append((rest, count.value))

    monkeypatch.setattr(sys, "argv", ["main", *arguments])
    with pytest.raises(SystemExit) as stop, contextlib.redirect_stdout(io.StringIO()):
      command.run(main)
    return *got[0], stop.value.code

  yield run
  delattr(flags.FLAGS, "count_of_test_command")


@pytest.mark.parametrize(
  ("arguments", "rest", "count"),
  [
    ([], [], 1),
    (["a", "b c"], ["a", "b c"], 1),
    (["--count_of_test_command=2", "a"], ["a"], 2),
    (["a", "--count_of_test_command=2"], ["a"], 2),
    (["a", "--count_of_test_command", "3", "b"], ["a", "b"], 3),
    (["a", "--", "--count_of_test_command=2"], ["a", "--count_of_test_command=2"], 1),
  ],
)
def test_run_takes_arguments_before_and_after_flags(arguments, rest, count, started):
  assert started(*arguments) == (rest, count, None)


def test_run_refuses_arguments_a_main_does_not_take(monkeypatch, capsys):
  monkeypatch.setattr(sys, "argv", ["main", "stray"])
  called = []
  with pytest.raises(SystemExit) as stop:
    command.run(lambda: called.append(1))
  assert (stop.value.code, called) == (2, [])
  assert "unknown argument 'stray'; fix: write flags as" in capsys.readouterr().err


def test_numbers_parses_a_flag():
  assert command.numbers("guidance", None) is None
  assert command.numbers("guidance", []) == ()
  assert command.numbers("guidance", ["3", "1.5", "1e9", "inf"]) == (
    3.0,
    1.5,
    1e9,
    float("inf"),
  )
  with pytest.raises(errors.InputError, match="--guidance=3,x; expected numbers"):
    command.numbers("guidance", ["3", "x"])
  with pytest.raises(errors.InputError, match="--guidance=3,,4; expected numbers"):
    command.numbers("guidance", ["3", "", "4"])


def test_keep_compiled_leaves_jax_its_own_variables(tmp_path, monkeypatch):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
  monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "elsewhere")
  command.keep_compiled()
  assert os.environ["JAX_COMPILATION_CACHE_DIR"] == "elsewhere"
  assert list(tmp_path.iterdir()) == []
  monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
  command.keep_compiled()
  folder = pathlib.Path(os.environ["JAX_COMPILATION_CACHE_DIR"])
  assert folder.parent == tmp_path / "cxr_diffusion_jax" / "compiled"
  assert folder.is_dir()
  # A file where the folder should be: nothing is kept, and nothing fails.
  monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
  (tmp_path / "file").write_text("")
  command.keep_compiled()
  assert "JAX_COMPILATION_CACHE_DIR" not in os.environ
