"""Runs of several processes on this machine: what they share, and how they end.

  python tests/stress/hosts.py --folder /tmp/hosts [--cases counts,signals,...]

  counts   a run resumes with 1, 2, 4 processes and 8 devices, in turn; its losses are
           those of one process
  signals  SIGINT or SIGTERM to one process: all save at one step, exit codes 130, 143
  config   a process has another seed: all exit with 2 and the key
  data     a process has no dataset: all exit with 2 and its records' folder
  kill     a process is killed: the other ends within the heartbeat

Processes exchange data with gloo. Prints a line a case; exit code 1 if one is WRONG.
"""

import argparse
from collections.abc import Mapping, Sequence
import dataclasses
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
STEPS = 8
HEARTBEAT = 20
FLAGS = {
  "data.image_size": 32,
  "data.phantom_images": 64,
  "codec.levels": 1,
  "model.depth": 1,
  "model.width": 64,
  "model.num_heads": 2,
  "optimizer.schedule": "constant",
  "optimizer.warmup_steps": 2,
  "train.batch_size": 8,
  "train.checkpoint_every": 2,
  "train.log_every": 1,
  "train.sample_every": 0,
  "train.validation_batches": 1,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ended:
  """How the processes of a run ended.

  Attributes:
    seconds: from the start of the first to the end of the last.
  """

  codes: list[int]
  texts: list[str]
  seconds: float


class Runs:
  """Starts runs on the phantoms of a folder."""

  def __init__(self, folder: pathlib.Path):
    self.folder = folder
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder / "compiled"))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

  def start(
    self,
    name: str,
    processes: int = 1,
    *,
    devices: int = 1,
    own: Sequence[Mapping[str, object]] = ({}, {}, {}, {}),
    **changes: object,
  ) -> list[subprocess.Popen]:
    """Starts a run's processes; `own` are the changes of each."""
    with socket.socket() as probe:
      probe.bind(("localhost", 0))
      port = probe.getsockname()[1]
    started = []
    for index in range(processes):
      values = {**FLAGS, "data.root": self.folder / "tree"}
      values["data.records_dir"] = self.folder / "records"
      for given in (changes, own[index]):
        values |= {key.replace("__", "."): value for key, value in given.items()}
      together = {
        "JAX_COORDINATOR_ADDRESS": f"localhost:{port}",
        "JAX_NUM_PROCESSES": str(processes),
        "JAX_PROCESS_ID": str(index),
        "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo",
      }
      environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        **(together if processes > 1 else {}),
      }
      started.append(
        subprocess.Popen(
          [
            *(sys.executable, "-m", "cxr_diffusion_jax.main"),
            "--config=configs/findings.py:dit_tiny",
            f"--workdir={self.folder / name}",
            f"--heartbeat_timeout={HEARTBEAT}",
            *(f"--config.{key}={value}" for key, value in values.items()),
          ],
          cwd=REPOSITORY,
          env=environment,
          stdout=subprocess.PIPE,
          stderr=subprocess.STDOUT,
          text=True,
        )
      )
    return started

  def checkpoints(self, name: str) -> list[int]:
    """Steps of whole checkpoints."""
    folder = self.folder / name / "checkpoints"
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return sorted(int(one) for one in names if one.isdigit())

  def losses(self, name: str) -> dict[int, float]:
    """Training losses by step."""
    from tensorboard.backend.event_processing import event_accumulator
    from tensorboard.util import tensor_util

    events = event_accumulator.EventAccumulator(str(self.folder / name))
    events.Reload()
    return {
      event.step: float(tensor_util.make_ndarray(event.tensor_proto))
      for event in events.Tensors("train/loss")
    }


def finish(processes: list[subprocess.Popen], timeout: float = 400) -> Ended:
  """Waits until all processes have ended."""
  begun = time.monotonic()
  texts = []
  for process in processes:
    try:
      texts.append(process.communicate(timeout=timeout)[0])
    except subprocess.TimeoutExpired:
      process.kill()
      texts.append("HANGS\n" + process.communicate()[0])
  return Ended(
    codes=[process.returncode for process in processes],
    texts=texts,
    seconds=time.monotonic() - begun,
  )


def counts(runs: Runs) -> str:
  alone = finish(runs.start("alone", train__num_steps=STEPS))
  if alone.codes != [0]:
    return f"WRONG: {alone.texts[0][-1500:]}"
  lives = (
    (1, 1, {}),
    (2, 1, {"parallel__fsdp": 2}),
    (4, 2, {"parallel__fsdp": 2, "parallel__tensor": 4}),
    (1, 8, {"parallel__fsdp": 2, "parallel__tensor": 2}),
  )
  for life, (processes, devices, mesh) in enumerate(lives, 1):
    steps = STEPS * life // len(lives)
    ended = finish(
      runs.start("counts", processes, devices=devices, train__num_steps=steps, **mesh)
    )
    if any(ended.codes):
      return f"WRONG with {processes} processes: {ended.codes} {ended.texts[0][-1500:]}"
  here, there = runs.losses("counts"), runs.losses("alone")
  worst = max(abs(here[step] - there[step]) for step in range(1, STEPS + 1))
  return f"largest difference of a loss {worst:.1e}{' WRONG' * (worst > 1e-4)}"


def signals(runs: Runs) -> str:
  reports = []
  for index, number in ((1, signal.SIGINT), (0, signal.SIGINT), (1, signal.SIGTERM)):
    processes = runs.start("signals", 2, train__num_steps=10**6)
    before = runs.checkpoints("signals")[-1:] or [0]
    while runs.checkpoints("signals")[-1:] <= before and processes[0].poll() is None:
      time.sleep(0.2)
    processes[index].send_signal(number)
    ended = finish(processes)
    step = runs.checkpoints("signals")[-1]
    right = ended.codes == [128 + number] * 2
    right = right and all(f"saved at step {step};" in text for text in ended.texts)
    report = f"{number.name} to process {index}: {ended.codes} at step {step}"
    reports.append(report if right else f"{report} WRONG {ended.texts[0][-1500:]}")
  return "; ".join(reports)


def _refusal(runs: Runs, own: Mapping[str, object], expected: str) -> str:
  ended = finish(runs.start("refused", 2, own=({}, own), train__num_steps=2))
  right = ended.codes == [2, 2] and all(expected in text for text in ended.texts)
  lines = [text.strip().splitlines()[-1] for text in ended.texts]
  return f"{ended.codes} after {ended.seconds:.0f} s: {lines}{' WRONG' * (not right)}"


def config(runs: Runs) -> str:
  return _refusal(runs, {"seed": 7}, "seed (7 here, 0 in process 0)")


def data(runs: Runs) -> str:
  return _refusal(runs, {"data__root": "/none"}, "process 1 sees no records")


def kill(runs: Runs) -> str:
  processes = runs.start("kill", 2, train__num_steps=10**6)
  while not runs.checkpoints("kill") and processes[0].poll() is None:
    time.sleep(0.2)
  processes[1].kill()
  ended = finish(processes)
  right = ended.codes[0] in (1, 134, -6) and ended.seconds < HEARTBEAT + 20
  line = [line for line in ended.texts[0].splitlines() if "rror" in line][-1:]
  report = f"code {ended.codes[0]} after {ended.seconds:.0f} s: {line}"
  return report if right else f"{report} WRONG"


CASES = {case.__name__: case for case in (counts, signals, config, data, kill)}


def main() -> int:
  """Returns the exit code."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--folder", type=pathlib.Path, required=True)
  parser.add_argument("--cases", default=",".join(CASES))
  given = parser.parse_args()
  given.folder.mkdir(parents=True, exist_ok=True)
  runs, wrong = Runs(given.folder), False
  for name in given.cases.split(","):
    report = CASES[name](runs)
    wrong = wrong or "WRONG" in report
    print(f"{name:8} {report}", flush=True)
  return int(wrong)


if __name__ == "__main__":
  sys.exit(main())
