"""A run survives what happens to processes: kills, signals, a disk that fills up."""

import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

from cxr_diffusion_jax.run import checkpoints
from tests.stress import kill_resume


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


def test_survival_of_a_kill_and_a_signal_loses_nothing(
  small_dit, command, ended, run_main, tmp_path
):
  """What three lives learn is what one learns: `tests/stress` kills twenty times."""
  forever = small_dit.arguments(train__num_steps=10**6)
  workdir, log = tmp_path / "run", tmp_path / "log.txt"
  # Killed inside its second save.
  plan = kill_resume.Plan(saves=2, delay=0)
  reported = kill_resume.live(workdir, forever, log, plan)
  assert reported.startswith("killed after"), reported
  before = _whole(workdir)
  assert before
  process = command("main", *forever, f"--workdir={workdir}")
  _wait_for(lambda: max(_whole(workdir)) > before[-1], process)
  # A second run of this folder is refused, naming the first.
  complaint = run_main("main", *forever, f"--workdir={workdir}").complaint
  assert f"{workdir} is in use by process {process.pid} on" in complaint
  process.send_signal(signal.SIGTERM)
  result = ended(process)
  assert result.code == 143, result.err
  assert f"resuming from checkpoints/{before[-1]}" in result.err
  saved = max(_whole(workdir))
  assert f"saved at step {saved}; repeat the same command to continue" in result.out
  assert "Traceback" not in result.err
  # The last life, and the only one of a run that nothing interrupts.
  whole = tmp_path / "whole"
  for folder in (workdir, whole):
    arguments = small_dit.arguments(folder, train__num_steps=saved + 2)
    result = run_main("main", *arguments)
    assert f"finished at step {saved + 2}" in result.out, result.err
    resumed = f"resuming from checkpoints/{saved}" in result.err
    assert resumed == (folder == workdir)
  assert kill_resume.equal(whole, workdir)


def test_survival_of_an_interrupt_before_training_shows_no_traceback(
  small_dit, command, ended, tmp_path
):
  process = command("main", *small_dit.arguments(tmp_path / "run"))
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
# Python would keep half of a compiled module, which later tests then import.
sys.dont_write_bytecode = True
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
  small_dit, repository, tmp_path, run_main
):
  arguments = small_dit.arguments(tmp_path / "run")
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
  # What a kill leaves is not taken for whole either.
  torn = tmp_path / "run" / "checkpoints" / "6.orbax-checkpoint-tmp"
  shutil.copytree(tmp_path / "run" / "checkpoints" / "2", torn)
  with checkpoints.open_manager(tmp_path / "run", read_only=True) as manager:
    assert manager.latest_step() == 2
  # With room again, the same command goes on to the end, and tidies up.
  again = run_main("main", *arguments)
  assert again.code == 0, again.err
  assert "finished at step 6" in again.out
  assert _whole(tmp_path / "run") == [4, 6]
  assert not torn.exists()


def test_survival_reports_no_room_for_a_checkpoint_before_training(
  small_dit, run_main, tmp_path, monkeypatch
):
  usage = os.statvfs_result((4096, 4096, 9, 9, 9, 0, 0, 0, 0, 255))
  monkeypatch.setattr(os, "statvfs", lambda path: usage)
  complaint = run_main("main", *small_dit.arguments(tmp_path)).complaint
  assert re.search(r"0\.0 MB free for \d more checkpoints in .*/checkpoints", complaint)
  assert "none is whole yet" in complaint


def test_survival_of_a_picture_that_does_not_fit_on_the_disk(
  small_dit, run_main, tmp_path, monkeypatch
):
  def full(*_):
    raise OSError(28, "No space left on device", "step_0000000.png")

  monkeypatch.setattr("cxr_diffusion_jax.pictures.save", full)
  arguments = small_dit.arguments(tmp_path, train__sample_every=2)
  complaint = run_main("main", *arguments).complaint
  assert re.fullmatch(
    r"error: step_0000000\.png: No space left on device, [\d,]+\.\d MB free;"
    " fix: free disk space or change its rights, then repeat the command",
    complaint,
  )
