"""Trains for half an hour under kills, and samples and evaluates in between.

  python tests/stress/soak.py --minutes 30 --kill_every 120 --folder /tmp/soak \
    [--plot soak.png]

First trains a run of phantoms undisturbed, with two input workers, validation, samples
and checkpoints. Then the same run again and again, ended every --kill_every seconds by
SIGKILL, SIGTERM and SIGINT in turn (the last two to all its processes, as by `timeout`
and by Ctrl-C); after each of these, `sample` or `evaluate` reads the run. A fault is

  exit      another exit code than the signal's, or a traceback
  steps     a life resumes from elsewhere than the newest whole checkpoint, or steps are
            lost; after SIGKILL those of two saves may be
  state     the last checkpoint of a run is not the undisturbed one, bit for bit
  left      workers that live on for more than 10 s, shared memory, temporary files or
            unfinished checkpoints
  growth    memory, open files, threads or shared memory of trainings, or the disk of
            finished runs, grow over the whole time by more than --tolerance

Prints a table; exit code 1 if there is a fault. Needs Linux's /proc.
"""

import argparse
import collections
from collections.abc import Iterator, Sequence
import contextlib
import csv
import dataclasses
import itertools
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))

from tests.stress import kill_resume, kills  # noqa: E402

# The save before may still be written when the next one begins.
CHECKPOINT_EVERY = 500
FLAGS = {
  "data.num_workers": 2,
  "train.log_every": 50,
  "train.checkpoint_every": CHECKPOINT_EVERY,
  "train.validate_every": CHECKPOINT_EVERY,
  "train.sample_every": 2 * CHECKPOINT_EVERY,
}
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
SHARED = pathlib.Path("/dev/shm")
PERIOD = 2.0  # seconds between two samples


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sample:
  """What the processes of a command use at one time, summed over them."""

  seconds: float
  life: int
  memory: float  # MB, resident; pages that processes share count once in each
  files: int
  threads: int
  shared: int  # entries of /dev/shm
  temporary: int
  disk: float  # MB of all that the commands have written


QUANTITIES = ("memory", "files", "threads", "shared", "temporary", "disk")


class Soak:
  """One course of lives, their samples and faults."""

  def __init__(self, folder: pathlib.Path, num_steps: int, kill_every: float):
    flags = FLAGS | {"train.num_steps": num_steps}
    self.place = kills.Place(folder, 20, flags)
    self.run, self.whole = self.place.work / "run", self.place.work / "whole"
    self.samples: list[Sample] = []
    self.faults: collections.Counter = collections.Counter()
    self.lives: dict[int, str] = {}
    self.finished: list[tuple[float, float]] = []  # seconds, MB of the run
    self.orphaned = 0.0
    self._kill_every, self._start = kill_every, time.monotonic()

  def is_full(self, row: Sequence[Sample]) -> bool:
    """Whether these samples of a life last as long as one between two kills."""
    return len(row) > 1 and row[-1].seconds - row[0].seconds > 0.8 * self._kill_every

  def seconds(self) -> float:
    """Seconds since the start."""
    return time.monotonic() - self._start

  def live(self, name: str, number: int = 0) -> kills.Life:
    """Runs a command, and ends it with a signal after `kill_every` seconds, if any."""
    index, deadline = len(self.lives), time.monotonic() + self._kill_every
    self.lives[index] = name
    before = _shared()

    def end(process: subprocess.Popen) -> int:
      while process.poll() is None and not (number and time.monotonic() > deadline):
        self.samples.append(self._sample(index, process.pid))
        with contextlib.suppress(subprocess.TimeoutExpired):
          process.wait(PERIOD)
      if number in (signal.SIGTERM, signal.SIGINT) and process.poll() is None:
        os.killpg(process.pid, number)
        return 0
      return number

    life = self.place.live(name, end)
    self.orphaned = max(self.orphaned, life.orphaned)
    if life.orphaned > kills.MAX_ORPHANED:
      self.fault("left", f"workers of {name}, for {life.orphaned:.0f} s")
    # Python's resource tracker removes it once the last worker has ended.
    deadline = time.monotonic() + kills.MAX_ORPHANED
    while (left := _shared() - before) and time.monotonic() < deadline:
      time.sleep(0.2)
    if left:
      self.fault("left", f"{len(left)} entries of shared memory by {name}")
    killed = life.code == -signal.SIGKILL
    if not killed and (names := os.listdir(self.place.temporary)):
      self.fault("left", f"temporary files by {name}: {names[:3]}")
    allowed = {0, -number if number == signal.SIGKILL else 128 + number}
    if life.code not in allowed or "Traceback" in life.text:
      self.fault("exit", f"{name}: exit code {life.code}: {life.text[-1500:]}")
    return life

  def train(self, number: int) -> bool:
    """One life of the training; returns whether it finished."""
    before = kill_resume.checkpoints(self.run)[0]
    life = self.live("train", number)
    origin = re.search(r"resuming from checkpoints/(\d+)", life.text)
    if (
      before and "saving" in life.text and (not origin or int(origin[1]) != before[-1])
    ):
      self.fault("steps", f"resumed from {origin and origin[1]}, newest {before[-1]}")
    steps = [int(step.replace(",", "")) for step in _STEP.findall(life.text)]
    newest = max(kill_resume.checkpoints(self.run)[0], default=0)
    # A save takes shorter than the steps up to the next one.
    allowed = 2 * CHECKPOINT_EVERY if number == signal.SIGKILL and life.code else 0
    if (steps and steps[-1] - newest > allowed) or newest < max(before, default=0):
      self.fault("steps", f"at step {steps[-1:]}, newest checkpoint {newest}")
    print(
      f"{self.seconds():6.0f} s  train {signal.Signals(number).name}: exit code"
      f" {life.code}, {life.seconds:.0f} s, checkpoint {newest}, workers"
      f" {life.orphaned:.1f} s longer",
      flush=True,
    )
    return life.code == 0

  def finish_run(self) -> None:
    """Compares a finished run with the undisturbed one, and removes it."""
    self.finished.append((self.seconds(), _megabytes(self.run)))
    if torn := kill_resume.checkpoints(self.run)[1]:
      self.fault("left", f"unfinished checkpoints: {torn}")
    if not kill_resume.equal(self.run, self.whole):
      self.fault("state", "not that of the undisturbed run")
    shutil.rmtree(self.run)

  def fault(self, kind: str, text: str) -> None:
    """Counts and prints a fault."""
    self.faults[kind] += 1
    print(f"{self.seconds():6.0f} s  FAULT {kind}: {text}", flush=True)

  def _sample(self, life: int, session: int) -> Sample:
    memory, files, threads = 0, 0, 0
    for path in pathlib.Path("/proc").iterdir():
      if path.name.isdigit():
        # Processes end at any time.
        with contextlib.suppress(OSError):
          fields = (path / "stat").read_text().rpartition(")")[2].split()
          if int(fields[3]) == session:
            memory += int(fields[21]) * os.sysconf("SC_PAGE_SIZE")
            threads += int(fields[17])
            files += len(os.listdir(path / "fd"))
    return Sample(
      seconds=self.seconds(),
      life=life,
      memory=memory / 1e6,
      files=files,
      threads=threads,
      shared=len(_shared()),
      temporary=sum(1 for _ in _files(self.place.temporary)),
      disk=_megabytes(self.place.work),
    )


_STEP = re.compile(r"step ([\d,]+)/")


def _shared() -> set[str]:
  return {name for name in os.listdir(SHARED) if name.startswith(("psm_", "sem.mp-"))}


def _megabytes(folder: pathlib.Path) -> float:
  total = 0
  for path in _files(folder):
    # Files are renamed and deleted at any time.
    with contextlib.suppress(OSError):
      total += path.lstat().st_size
  return total / 1e6


def _files(folder: pathlib.Path) -> Iterator[pathlib.Path]:
  # Unlike `rglob`, `walk` goes on where a folder disappears.
  for root, _, names in os.walk(folder):
    yield from (pathlib.Path(root, name) for name in names)


def growths(soak: Soak) -> Iterator[tuple[str, float, float]]:
  """(quantity, its mean, its growth over the whole time as a share of the mean).

  Of trainings that were not ended earlier than others, each by the median of the second
  half of its life, where all is loaded; of memory within the longest of them; and of
  the disk of finished runs.
  """
  rows = [
    [s for s in soak.samples if s.life == i]
    for i, name in soak.lives.items()
    if name == "train"
  ]
  # The last samples see processes end.
  rows = [row[len(row) // 2 : -5] for row in rows if soak.is_full(row)]
  for name in ("memory", "files", "threads", "shared"):
    values = [np.median([getattr(s, name) for s in row]) for row in rows]
    yield name, *_growth([row[0].seconds for row in rows], values)
  longest = max(rows, key=len)
  memory = [s.memory for s in longest]
  yield "memory within one", *_growth([s.seconds for s in longest], memory)
  yield "disk of a finished run", *_growth(*zip(*soak.finished, strict=True))


def _growth(seconds, values) -> tuple[float, float]:
  if len(values) < 2:
    return float(np.mean(values)), 0.0
  slope = np.polyfit(seconds, values, 1)[0] * (seconds[-1] - seconds[0])
  return float(np.mean(values)), float(slope / max(np.mean(values), 1e-9))


def plot(soak: Soak, path: pathlib.Path) -> None:
  """Draws what was used over time, a panel for each quantity."""
  import matplotlib as mpl

  mpl.use("agg")
  import matplotlib.pyplot as plt

  figure, panels = plt.subplots(
    len(QUANTITIES), 1, sharex=True, figsize=(8, 9), layout="constrained"
  )
  for name, panel in zip(QUANTITIES, panels, strict=True):
    for kind, group in itertools.groupby(soak.samples, lambda s: soak.lives[s.life]):
      row = [*group]
      panel.plot(
        [s.seconds / 60 for s in row],
        [getattr(s, name) for s in row],
        color={"train": "C0", "sample": "C1"}.get(kind, "C2"),
      )
    panel.set_ylabel(f"{name}, MB" if name in ("memory", "disk") else name)
    panel.set_ylim(bottom=0)
  panels[0].set_title("blue: training, orange: sample, green: evaluate")
  panels[-1].set_xlabel("minutes")
  figure.savefig(path, dpi=80)


def main() -> int:
  """Returns the exit code."""
  parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
  parser.add_argument("--minutes", type=float, default=30)
  parser.add_argument("--kill_every", type=float, default=120)
  parser.add_argument("--num_steps", type=int, default=20_000)
  parser.add_argument("--tolerance", type=float, default=0.1)
  parser.add_argument("--folder", type=pathlib.Path, required=True)
  parser.add_argument("--plot", type=pathlib.Path)
  given = parser.parse_args()
  (given.folder / "states/before encode").mkdir(parents=True, exist_ok=True)
  soak = Soak(given.folder, given.num_steps, given.kill_every)
  soak.place.restore("before encode")
  soak.live("encode")
  soak.live("train")
  soak.run.rename(soak.whole)
  print(f"undisturbed: {soak.seconds():.0f} s", flush=True)
  first, end = len(soak.lives), soak.seconds() + 60 * given.minutes
  signals, readers = itertools.cycle(SIGNALS), itertools.cycle(("sample", "evaluate"))
  while soak.seconds() < end:
    finished = soak.train(next(signals))
    if kill_resume.checkpoints(soak.run)[0]:
      soak.live(next(readers))
    if finished:
      soak.finish_run()
  if soak.run.exists():
    soak.live("train")
    soak.finish_run()
  with (given.folder / "samples.csv").open("w", newline="") as file:
    writer = csv.DictWriter(file, ["seconds", "life", *QUANTITIES])
    writer.writeheader()
    writer.writerows(map(dataclasses.asdict, soak.samples))
  if given.plot:
    plot(soak, given.plot)
  print(f"\n{len(soak.lives) - first} lives, {len(soak.finished)} finished runs")
  print(f"workers outlived their process by {soak.orphaned:.1f} s at most\n")
  print("| of trainings | mean | growth |\n|---|--:|--:|")
  for name, mean, growth in growths(soak):
    if growth > given.tolerance:
      soak.fault("growth", f"{name} by {growth:.0%}")
    print(f"| {name} | {mean:,.1f} | {growth:+.1%} |")
  print(f"\nfaults: {dict(soak.faults)}")
  return int(bool(soak.faults))


if __name__ == "__main__":
  sys.exit(main())
