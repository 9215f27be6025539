"""The entry point runs every command, and its help is fast."""

import subprocess
import sys
import tomllib

import pytest

from cxr_diffusion_jax import __main__ as entry

# Imported by the work of commands, and by no help.
HEAVY = ("jax", "tensorflow", "scipy", "matplotlib", "transformers")

RUN = f"""
import sys
from cxr_diffusion_jax import __main__ as entry
try:
  entry.main()
finally:
  print("heavy:", [name for name in {HEAVY} if name in sys.modules])
"""


def _run(repository, *arguments: str, script: str = RUN):
  return subprocess.run(
    [sys.executable, "-c", script, *arguments],
    cwd=repository,
    capture_output=True,
    text=True,
    timeout=120,
    check=False,
  )


@pytest.mark.parametrize("command", entry.COMMANDS)
def test_main_help_groups_flags_and_imports_nothing_heavy(command, repository):
  done = _run(repository, command, "--help")
  assert done.returncode == 0, done.stderr
  assert "heavy: []" in done.stdout
  module = entry.COMMANDS[command].removesuffix(".__main__")
  assert f"python -m cxr_diffusion_jax.{module} " in done.stdout
  assert any(flag in done.stdout for flag in ("--workdir", "--config", "--key"))
  assert "Required." in done.stdout or command == "evaluate"
  # Absl's own remarks are left out.
  assert "repeat this option" not in done.stdout


def test_main_lists_commands_and_refuses_others(repository):
  done = _run(repository)
  assert done.returncode == 0, done.stderr
  for command in entry.COMMANDS:
    assert f"  {command} " in done.stdout
  wrong = _run(repository, "smaple")
  assert wrong.returncode == 2
  assert "error: no command smaple; expected one of prepare, train" in wrong.stderr


def test_main_and_all_data_files_are_named_in_pyproject(repository):
  project = tomllib.loads((repository / "pyproject.toml").read_text())
  module, _, function = project["project"]["scripts"]["cxr-diffusion"].partition(":")
  assert module == entry.__name__
  assert callable(getattr(entry, function))
  suffixes = {
    path.suffix
    for path in (repository / "cxr_diffusion_jax").rglob("*")
    if path.is_file() and path.suffix not in (".py", ".pyc")
  }
  patterns = project["tool"]["setuptools"]["package-data"]["cxr_diffusion_jax"]
  assert suffixes == {pattern.removeprefix("**/*") for pattern in patterns}
