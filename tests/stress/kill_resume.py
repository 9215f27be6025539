"""Kills a training run with SIGKILL at random moments; it must always go on.

  python tests/stress/kill_resume.py --kills 20 --folder /tmp/kills -- \
    --config=configs/elixr_c.py:tiny --config.data.root=... [any flag of main]

Trains once uninterrupted, then once more with kills: while starting, between steps and
inside saves, some as soon as a save's temporary folder appears. Each life must go on
from the newest whole checkpoint of the one before. At the end both runs must be equal,
bit for bit. Prints a line a kill; exit code 1 if a promise was broken.
"""

import argparse
import contextlib
import dataclasses
import os
import pathlib
import random
import re
import subprocess
import sys
import time

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
  """When a life ends: `delay` seconds after its start or after `saves` new saves began.

  Attributes:
    saves: temporary folders to wait for; 0 counts from the start of the process.
    delay: seconds to wait then; 0 is inside the save.
  """

  saves: int
  delay: float


def make_plans(kills: int, startup: float, seed: int) -> list[Plan]:
  """A fifth of the lives end while starting; half of the others inside a save."""
  draw = random.Random(seed)
  plans = []
  for _ in range(kills):
    if draw.random() < 0.2:
      plans.append(Plan(saves=0, delay=draw.uniform(0.1, startup)))
    else:
      delay = draw.choice([draw.uniform(0, 0.02), draw.uniform(0.02, 0.5)])
      plans.append(Plan(saves=draw.randint(1, 3), delay=delay))
  return plans


def start(workdir: pathlib.Path, flags: list[str], log: pathlib.Path):
  """Starts a life, with its stderr in a file."""
  command = [sys.executable, "-m", "cxr_diffusion_jax.main", *flags]
  with log.open("w") as file:
    return subprocess.Popen(
      [*command, f"--workdir={workdir}"],
      cwd=REPOSITORY,
      stdout=subprocess.DEVNULL,
      stderr=file,
    )


def checkpoints(workdir: pathlib.Path) -> tuple[list[int], list[str]]:
  """(steps of whole checkpoints, names of unfinished ones)."""
  names = []
  with contextlib.suppress(FileNotFoundError):
    names = os.listdir(workdir / "checkpoints")
  whole = sorted(int(name) for name in names if name.isdigit())
  return whole, sorted(name for name in names if not name.isdigit())


def live(workdir: pathlib.Path, flags: list[str], log: pathlib.Path, plan: Plan) -> str:
  """Starts a run and kills it as planned; returns what it was doing then."""
  process = start(workdir, flags, log)
  begun = time.monotonic()
  before, torn = checkpoints(workdir)
  seen = set(torn)
  new: set[str] = set()
  while plan.saves and len(new) < plan.saves and process.poll() is None:
    new |= set(checkpoints(workdir)[1]) - seen
    time.sleep(0.0005)
  with contextlib.suppress(subprocess.TimeoutExpired):
    process.wait(plan.delay)
  ended = process.poll()
  process.kill()
  process.wait()
  whole, partial = checkpoints(workdir)
  if ended is not None:
    return f"ended by itself with exit code {ended} before it was killed"
  place = (
    f"inside the save of {partial[0].split('.')[0]}" if partial else "between saves"
  )
  place = place if partial or whole != before else "while starting"
  after = time.monotonic() - begun
  return f"killed after {after:5.2f} s, {place}; whole checkpoints {whole}"


def finish(workdir: pathlib.Path, flags: list[str], log: pathlib.Path) -> float:
  """Runs to the end; returns seconds to the first temporary folder."""
  process = start(workdir, flags, log)
  begun, startup = time.monotonic(), None
  while process.poll() is None:
    if startup is None and checkpoints(workdir) != ([], []):
      startup = time.monotonic() - begun
    time.sleep(0.01)
  if process.returncode:
    raise SystemExit(f"exit code {process.returncode}: {log.read_text()[-2000:]}")
  return startup or time.monotonic() - begun


def gone_on_from(log: pathlib.Path) -> int | None:
  """The step that a life says it goes on from; None if it never came so far."""
  match = re.search(r"resuming from checkpoints/(\d+)", log.read_text())
  return int(match[1]) if match else None


def load(workdir: pathlib.Path):
  """All arrays of the newest checkpoint."""
  import orbax.checkpoint as ocp

  newest = checkpoints(workdir)[0][-1]
  folder = workdir / "checkpoints" / str(newest)
  with ocp.StandardCheckpointer() as reader:
    return [reader.restore(folder / item) for item in ("state", "ema_params")]


def equal(one: pathlib.Path, two: pathlib.Path) -> bool:
  """Whether the newest checkpoints of two runs are equal, bit for bit."""
  import jax
  import numpy as np

  a, b = jax.tree.leaves(load(one)), jax.tree.leaves(load(two))
  return len(a) == len(b) > 0 and all(map(np.array_equal, a, b))


def main() -> int:
  """Returns the exit code."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--kills", type=int, default=20)
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--folder", type=pathlib.Path, required=True)
  parser.add_argument("flags", nargs="+", help="flags of main, after --")
  given = parser.parse_args()
  given.folder.mkdir(parents=True, exist_ok=True)
  cache = str(given.folder / "compiled")
  os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", cache)
  os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
  whole, killed = given.folder / "whole", given.folder / "killed"
  log = given.folder / "log.txt"
  startup = finish(whole, given.flags, log)
  print(f"uninterrupted: checkpoints {checkpoints(whole)[0]}", flush=True)
  broken = 0
  for number, plan in enumerate(make_plans(given.kills, startup, given.seed), 1):
    before = checkpoints(killed)[0]
    reported = live(killed, given.flags, log, plan)
    origin = gone_on_from(log)
    wrong = origin is not None and before[-1:] != [origin]
    wrong = wrong or "by itself" in reported or "Traceback" in log.read_text()
    broken += wrong
    of = "" if origin is None else f", had gone on from {origin}"
    print(f"{number:2}: {reported}{of}{' WRONG' if wrong else ''}", flush=True)
  before = checkpoints(killed)[0]
  finish(killed, given.flags, log)
  wrong = before[-1:] != [gone_on_from(log)] if before else False
  print(f"last life: from {gone_on_from(log)} to {checkpoints(killed)[0][-1]}")
  same = equal(whole, killed)
  print(
    f"bit-equal to the uninterrupted run: {same}; broken promises: {broken + wrong}"
  )
  return 0 if same and not broken + wrong else 1


if __name__ == "__main__":
  sys.exit(main())
