"""Two processes that talk to each other learn what one learns alone."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import pytest

STEPS = 4


def _free_port() -> int:
  with socket.socket() as probe:
    probe.bind(("localhost", 0))
    return probe.getsockname()[1]


def _environment(process: int, port: int) -> dict[str, str]:
  """Of one of two processes with a device each; gloo carries what they exchange."""
  return {
    **os.environ,
    "XLA_FLAGS": " ".join(
      flag for flag in os.environ["XLA_FLAGS"].split() if "device_count" not in flag
    ),
    "JAX_COORDINATOR_ADDRESS": f"localhost:{port}",
    "JAX_NUM_PROCESSES": "2",
    "JAX_PROCESS_ID": str(process),
    "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo",
  }


def _start(repository, environment, arguments) -> subprocess.Popen:
  return subprocess.Popen(
    [sys.executable, "-m", "cxr_diffusion_jax.main", *arguments],
    cwd=repository,
    env=environment,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def _wait_for(path: pathlib.Path, processes: list[subprocess.Popen]) -> None:
  """Returns once a path exists, while all processes run."""
  deadline = time.monotonic() + 120
  while not path.exists():
    assert time.monotonic() < deadline
    for process in processes:
      assert process.poll() is None, process.communicate()[1]
    time.sleep(0.02)


def _losses(workdir: pathlib.Path) -> dict[str, list[float]]:
  """Losses of the steps, and of the validations, as TensorBoard has them."""
  from tensorboard.backend.event_processing import event_accumulator
  from tensorboard.util import tensor_util

  events = event_accumulator.EventAccumulator(str(workdir))
  events.Reload()
  return {
    tag: [
      float(tensor_util.make_ndarray(event.tensor_proto))
      for event in events.Tensors(tag)
    ]
    for tag in ("train/loss", "validation/loss")
  }


@pytest.fixture
def two(repository):
  """Starts two processes with the same arguments."""
  started = []

  def start(arguments: list[str]) -> list[subprocess.Popen]:
    port = _free_port()
    started.extend(
      _start(repository, _environment(process, port), arguments) for process in (0, 1)
    )
    return started[-2:]

  yield start
  for process in started:
    process.kill()
    process.communicate()


@pytest.fixture(scope="module")
def known() -> dict[str, list[float]]:
  """Losses of one process, once a test has trained it."""
  return {}


@pytest.fixture
def alone(known, small_dit, run_main, tmp_path) -> dict[str, list[float]]:
  """Losses of `STEPS` steps of one process."""
  if not known:
    changes = {"train__num_steps": STEPS, "train__sample_every": 4}
    result = run_main("main", *small_dit.arguments(tmp_path / "alone", **changes))
    assert result.code == 0, result.err
    known.update(_losses(tmp_path / "alone"))
  return known


def test_two_processes_learn_what_one_learns(two, small_dit, alone, tmp_path):
  changes = {"train__num_steps": STEPS, "train__sample_every": 4}
  together, folder = tmp_path / "together", tmp_path / "records"
  changes |= {"parallel__num_devices": 0, "data__records_dir": folder}
  processes = two(small_dit.arguments(together, **changes))
  for process in processes:
    _, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
  of_two = _losses(together)
  assert len(alone["train/loss"]) == STEPS
  for tag, values in alone.items():
    assert of_two[tag] == pytest.approx(values, rel=0, abs=1e-5), tag
  # One of them writes, and what they write together is read by one.
  assert len(list(together.glob("events.*"))) == 1
  assert (together / "samples" / "step_0000004.png").exists()
  # Each has made parts of the records.
  made = {path.name for path in folder.rglob("records-*-of-2.lock.json")}
  assert made == {"records-0-of-2.lock.json", "records-1-of-2.lock.json"}
  config = json.loads((together / "config.json").read_text())
  assert config["train"]["num_steps"] == STEPS


def test_two_processes_with_a_tensor_axis_end_cleanly_on_a_signal_to_one(
  two, small_dit, alone, run_main, tmp_path
):
  """Both read the same rows, since each holds half of the wide layers."""
  workdir = tmp_path / "run"
  changes = {"parallel__num_devices": 0, "parallel__tensor": 2}
  processes = two(small_dit.arguments(workdir, train__num_steps=100_000, **changes))
  _wait_for(workdir / "checkpoints" / str(STEPS), processes)
  processes[1].send_signal(signal.SIGINT)
  for process in processes:
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "repeat the same command to continue" in out
  losses = _losses(workdir)["train/loss"]
  assert losses[:STEPS] == pytest.approx(alone["train/loss"], rel=0, abs=1e-5)
  # One process continues from what two have saved.
  step = max(int(path.name) for path in (workdir / "checkpoints").iterdir())
  assert step == len(losses)
  result = run_main("main", *small_dit.arguments(workdir, train__num_steps=step + 1))
  assert result.code == 0, result.err
  assert len(_losses(workdir)["train/loss"]) == step + 1


def test_two_processes_end_on_a_signal_to_one_before_training(two, small_dit, tmp_path):
  workdir = tmp_path / "run"
  processes = two(small_dit.arguments(workdir, parallel__num_devices=0))
  _wait_for(workdir, processes)
  processes[1].send_signal(signal.SIGTERM)
  for process in processes:
    out, err = process.communicate(timeout=120)
    assert process.returncode == 143, err
    assert "Traceback" not in err
    assert "saved at step" not in out
