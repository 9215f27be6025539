"""A run survives what happens to processes: kills, signals, a disk that fills up."""

import os
import pathlib
import signal
import subprocess
import sys
import time

from cxr_diffusion_jax.run import checkpoints


def _whole(workdir: pathlib.Path) -> list[int]:
  """Steps of the whole checkpoints, by their folders."""
  folder = workdir / "checkpoints"
  names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
  return sorted(int(name) for name in names if name.isdigit())


def _wait_for(condition, process: subprocess.Popen) -> None:
  deadline = time.monotonic() + 120
  while not condition():
    assert process.poll() is None, process.communicate()[1]
    assert time.monotonic() < deadline
    time.sleep(0.02)


def test_survival_of_kills_at_random_moments(small, repository, tmp_path):
  """Two of the kills that `tests/stress/kill_resume.py` does twenty of."""
  script = repository / "tests" / "stress" / "kill_resume.py"
  arguments = small.arguments(train__num_steps=40)
  done = subprocess.run(
    [sys.executable, script, "--kills=2", f"--folder={tmp_path}", "--", *arguments],
    capture_output=True,
    text=True,
    timeout=300,
    check=False,
  )
  assert done.returncode == 0, done.stdout + done.stderr
  assert done.stdout.count("whole checkpoints [") == 2
  assert "bit-equal to the uninterrupted run: True; broken promises: 0" in done.stdout


def test_survival_of_a_signal_saves_and_exits_with_its_number(
  small, command, ended, run_main, tmp_path
):
  arguments = small.arguments(tmp_path, train__num_steps=10**6)
  process = command("main", *arguments)
  _wait_for(lambda: _whole(tmp_path), process)
  # A second run of this folder is refused, naming the first.
  complaint = run_main("main", *arguments).complaint
  assert f"{tmp_path} is in use by process {process.pid} on" in complaint
  process.send_signal(signal.SIGTERM)
  result = ended(process)
  assert result.code == 143, result.err
  saved = max(_whole(tmp_path))
  assert f"saved at step {saved}; repeat the same command to continue" in result.out
  assert "Traceback" not in result.err


def test_survival_of_an_interrupt_before_training_shows_no_traceback(
  small, command, ended, tmp_path
):
  process = command("main", *small.arguments(tmp_path / "run"))
  _wait_for((tmp_path / "run").is_dir, process)
  process.send_signal(signal.SIGINT)
  result = ended(process)
  assert result.code == 130, result.err
  assert "Traceback" not in result.err
  assert "repeat the same command to continue" in result.out + result.err


# Runs a main that may write files up to so many bytes from its step 3 on: what a full
# disk does to it, in the middle of a save.
FILLED = """
import resource, sys
from cxr_diffusion_jax import main
from cxr_diffusion_jax.cli import command
from cxr_diffusion_jax.run import checkpoints
save = checkpoints.save
def save_on_a_full_disk(manager, state, *rest):
  if int(state.step) > 3:
    checkpoints.wait(manager)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
  save(manager, state, *rest)
checkpoints.save = save_on_a_full_disk
command.run(main.main)
"""


def test_survival_of_a_disk_that_fills_up_during_a_save(
  small, repository, tmp_path, run_main
):
  arguments = small.arguments(tmp_path / "run")
  done = subprocess.run(
    [sys.executable, "-c", FILLED, *arguments],
    cwd=repository,
    capture_output=True,
    text=True,
    timeout=300,
    check=False,
  )
  assert done.returncode == 2, done.stderr
  assert "Traceback" not in done.stderr
  last = done.stderr.strip().splitlines()[-1]
  assert last.startswith("error: a checkpoint could not be written to"), done.stderr
  assert "the last whole one is of step 2" in last
  assert len(last) < 500
  assert _whole(tmp_path / "run") == [2]
  # With room again, the same command goes on to the end.
  again = run_main("main", *arguments)
  assert again.code == 0, again.err
  assert "finished at step 6" in again.out
  assert _whole(tmp_path / "run") == [4, 6]


def test_survival_reports_no_room_for_a_checkpoint_before_training(
  small, run_main, tmp_path, monkeypatch
):
  usage = os.statvfs_result((4096, 4096, 9, 9, 9, 0, 0, 0, 0, 255))
  monkeypatch.setattr(os, "statvfs", lambda path: usage)
  complaint = run_main("main", *small.arguments(tmp_path)).complaint
  assert "0.0 MB free for the checkpoints" in complaint
  assert "none is whole yet" in complaint


def test_survival_of_a_picture_that_does_not_fit_on_the_disk(
  small, run_main, tmp_path, monkeypatch
):
  def full(*_):
    raise OSError(28, "No space left on device", "step_0000000.png")

  monkeypatch.setattr("cxr_diffusion_jax.pictures.save", full)
  arguments = small.arguments(tmp_path, train__sample_every=2)
  complaint = run_main("main", *arguments).complaint
  assert complaint == (
    "error: step_0000000.png: No space left on device;"
    " fix: free disk space or change its rights, then repeat the command"
  )


def test_survival_detects_a_damaged_checkpoint(small, run_main, tmp_path):
  """What a kill leaves is passed over, and tidied up; the run goes on before it."""
  run_main("main", *small.arguments(tmp_path, train__num_steps=4))
  torn = tmp_path / "checkpoints" / "6.orbax-checkpoint-tmp"
  os.rename(tmp_path / "checkpoints" / "4", torn)
  with checkpoints.open_manager(tmp_path, read_only=True) as manager:
    assert manager.latest_step() == 2
  result = run_main("main", *small.arguments(tmp_path))
  assert result.code == 0, result.err
  assert _whole(tmp_path) == [4, 6]
  assert not torn.exists()
