"""Fills the disk at every write of every command; with room the same command goes on.

  python tests/stress/disk_full.py --num 12 --folder /tmp/full [--commands train,...]

All files of the commands, those of temporary files included, are on a file system in
memory (tmpfs) in a mount namespace of this process. Runs each command twice without a
limit, on the same files: the most room that it takes, and which of its values repeat.
Then, for so many sizes between nothing and that room: starts the command on a disk of
that size, makes the disk large, and starts it again. A fault is

  exit      on the full disk: another exit code than 2, or not one line that names a
            file or folder, what is free and what to do; or a traceback
  hang      it has not ended after --seconds
  lost      a file of before the command, or a checkpoint, is gone, changed or torn
  again     with room: the command fails, or its files and values differ from those of a
            command without a limit (see `kills.py`)

A command may also end well, where it only lacked room for what it can do without.
Prints a row for each command; exit code 1 if there is a fault, 3 if no file system can
be mounted here.
"""

import argparse
import collections
from collections.abc import Callable, Iterator
import dataclasses
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))

from tests.stress import kills  # noqa: E402

COMMANDS = tuple(name for name in kills.COMMANDS if name != "save")

# Where the harness runs itself again, in its own mount namespace.
INSIDE = "DISK_FULL_INSIDE"

# As large as the disk is where it has no limit.
ROOM = 2**30


@dataclasses.dataclass
class Row:
  """Figures of a command."""

  room: int  # bytes, at most
  points: int = 0
  refused: int = 0
  done: int = 0
  faults: collections.Counter = dataclasses.field(default_factory=collections.Counter)


class Disk(kills.Place):
  """A place on a file system whose size can be changed."""

  def __init__(self, folder: pathlib.Path):
    super().__init__(folder, judge_steps=20)
    self._mount = self.folder / "disk"
    self._mount.mkdir(parents=True, exist_ok=True)
    self.work, self.temporary = self._mount / "work", self._mount / "tmp"
    subprocess.run(
      ["mount", "-t", "tmpfs", "-o", f"size={ROOM}", "tmpfs", str(self._mount)],
      check=True,
    )

  def resize(self, num_bytes: int) -> None:
    """Makes the disk so large, rounded up to its blocks."""
    # A size of 0 is no limit.
    size = f"remount,size={max(num_bytes, 1)}"
    subprocess.run(["mount", "-o", size, str(self._mount)], check=True)

  def is_named(self, line: str) -> bool:
    """Whether a line names a file or folder of the disk, the free space and a fix."""
    named = re.search(rf"{self._mount}\S*.*fix: ", line)
    return bool(named) and bool(re.search(r"\d MB free", line))

  def used(self) -> int:
    """Bytes of the disk that are in use."""
    usage = shutil.disk_usage(self._mount)
    return usage.total - usage.free


def watched(disk: Disk, peak: list[int]) -> Callable[[subprocess.Popen], int]:
  """Notes the most bytes in use while a process lives."""

  def end(process: subprocess.Popen) -> int:
    while process.poll() is None:
      peak[0] = max(peak[0], disk.used())
      time.sleep(0.002)
    return 0

  return end


def sweep(disk: Disk, name: str, num: int, seconds: float) -> Row:
  """Runs a command on disks of so many sizes, each time followed by one with room."""
  disk.resize(ROOM)
  _, files, values = kills.undisturbed(disk, name)
  disk.restore(f"before {name}")
  before, peak = disk.values(), [0]
  start = disk.used()
  disk.live(name, watched(disk, peak))
  row = Row(room=peak[0] - start)
  for point in range(num):
    disk.resize(ROOM)
    disk.restore(f"before {name}")
    room = row.room * point // num
    disk.resize(disk.used() + room)
    first = disk.live(name, kills.after(seconds, signal.SIGKILL))
    row.points += 1
    row.done += first.code == 0
    row.refused += first.code == 2
    last_line = (first.text.strip().splitlines() or [""])[-1]
    print(f"  {name} {room / 1e3:,.0f} kB: {first.code} {last_line}", flush=True)
    faults = [*_faults_when_full(disk, first, before)]
    disk.resize(ROOM)
    again = disk.live(name, None)
    faults += [
      ("again", f"{kind}: {text}")
      for kind, text in kills.faults(disk, again, files, values)
    ]
    for kind, text in faults:
      row.faults[kind] += 1
      print(f"    FAULT {kind}: {text}", flush=True)
  return row


def _faults_when_full(
  disk: Disk, life: kills.Life, before: dict[str, str]
) -> Iterator[tuple[str, str]]:
  lines = [line for line in life.text.splitlines() if line.startswith("error: ")]
  if life.code == -signal.SIGKILL:
    yield "hang", life.text[-500:]
  elif life.code not in (0, 2) or "Traceback" in life.text:
    yield "exit", f"{life.code}: {life.text[-2500:]}"
  elif life.code == 2 and (len(lines) != 1 or not disk.is_named(lines[0])):
    yield "exit", f"not one helpful line: {lines}"
  try:
    now = disk.values()
  except Exception as error:
    empty = [name for name in disk.files() if not (disk.folder / name).stat().st_size]
    yield "lost", f"cannot be read: {error!r}; empty: {sorted(empty)}"[:500]
    return
  if lost := [key for key, value in before.items() if now.get(key) != value]:
    yield "lost", f"{len(lost)}: {', '.join(sorted(lost)[:5])}"


def main() -> int:
  """Returns the exit code."""
  parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
  parser.add_argument("--num", type=int, default=12)
  parser.add_argument("--seconds", type=float, default=300)
  parser.add_argument("--folder", type=pathlib.Path, required=True)
  parser.add_argument("--commands", default=",".join(COMMANDS))
  given = parser.parse_args()
  if INSIDE not in os.environ:
    own = ["unshare", "--mount", "--map-root-user"]
    if not shutil.which("unshare") or subprocess.run([*own, "true"]).returncode:
      print("skipped: this machine lets no process mount a file system of its own")
      return 3
    os.environ[INSIDE] = "1"
    os.execvp(own[0], [*own, sys.executable, *sys.argv])
  disk, rows = Disk(given.folder), {}
  for name in given.commands.split(","):
    disk.begin(name)
    rows[name] = sweep(disk, name, given.num, given.seconds)
  print("\n| command | writes, kB | sizes | one line, exit code 2 | done | faults |")
  print("|---|--:|--:|--:|--:|--:|")
  for name, row in rows.items():
    print(
      f"| {name} | {row.room / 1e3:,.0f} | {row.points} | {row.refused} | {row.done}"
      f" | {row.faults.total()} |"
    )
  return int(any(row.faults for row in rows.values()))


if __name__ == "__main__":
  sys.exit(main())
