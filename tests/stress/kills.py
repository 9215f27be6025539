"""Kills every command at random moments; the same command must go on to the same end.

  python tests/stress/kills.py --num 50 --folder /tmp/kills [--commands evaluate,...]
  ... --commands judge --judge_steps 2000    # the training of evaluate's judge alone

Runs each command twice undisturbed, on the same files: how long it takes, and which of
its values repeat. Then, again and again from the state before the command: starts it,
ends it with SIGKILL (or --signal TERM or INT) after a random time, up to three times,
and lets it end. A fault is

  exit      the last call fails, or prints a traceback
  files     a file more or less than after the undisturbed command, in the folder of
            all files or in that of temporary files
  workers   processes that a killed command started live on for more than 10 s
  values    a value that both undisturbed commands agree on differs: bytes; arrays of
            .npz and checkpoints; entries of .json; lines of text

Prints a row for each command; exit code 1 if there is a fault.
"""

import argparse
import collections
from collections.abc import Callable, Iterator
import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))

FLAGS = {
  "data.image_size": 32,
  "data.phantom_images": 160,
  "data.validation_fraction": 0.2,
  "data.standin_steps": 10,
  "codec.levels": 1,
  "model.depth": 1,
  "model.width": 32,
  "model.num_heads": 2,
  "optimizer.schedule": "constant",
  "optimizer.warmup_steps": 2,
  "train.num_steps": 6,
  "train.batch_size": 8,
  "train.log_every": 1,
  "train.checkpoint_every": 2,
  "train.validate_every": 6,
  "train.validation_batches": 1,
  "train.sample_every": 0,
  "sample.num_steps": 2,
}
COMMANDS = (
  "prepare",
  "encode",
  "train",
  "save",
  "sample",
  "evaluate",
  "compare",
  "export",
  "generate",
)
# Kills of a command before it may end.
KILLS = 3
# Seconds that workers may outlive the process that started them.
MAX_ORPHANED = 10

# What says when and how long something ran: never compared.
UNCOMPARED = ("events.", "lock.json", ".lock.json")
UNCOMPARED_ENTRIES = ("seconds", "crc32")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Life:
  """One process: its exit code, and the seconds that it and then its workers lived."""

  code: int
  seconds: float
  orphaned: float
  text: str


@dataclasses.dataclass
class Row:
  """Figures of a command."""

  seconds: float = 0.0
  kills: int = 0
  faults: collections.Counter = dataclasses.field(default_factory=collections.Counter)
  repeated: float = 0.0  # seconds a kill, at most


class Place:
  """The folder in which commands run, and states of it that are kept."""

  def __init__(
    self, folder: pathlib.Path, judge_steps: int, more: dict[str, int] | None = None
  ):
    self.folder, self.work = folder.resolve(), folder.resolve() / "work"
    self.temporary = self.folder / "tmp"
    self._judge_steps, self._more = judge_steps, more or {}

  def arguments(self, name: str) -> list[str]:
    """The command line of a command."""
    work, run = self.work, self.work / "run"
    path = "findings" if name == "prepare" else "elixr_c"
    roots = {"data.root": work / "tree", "data.records_dir": work / "records"}
    recipe = [f"--config={REPOSITORY}/configs/phantom.py:{path},dit_tiny"]
    recipe += [
      f"--config.{key}={value}" for key, value in (FLAGS | roots | self._more).items()
    ]
    judging = [
      "--num=16",
      "--per_patient=0",
      "--batch_size=8",
      f"--probe_steps={self._judge_steps}",
      "--memorisation_num=4",
      "--reader_num=2",
      "--split=train",
    ]
    more = {
      "prepare": recipe,
      "encode": recipe,
      "train": [*recipe, f"--workdir={run}"],
      "save": [*recipe, f"--workdir={run}"],
      "sample": [f"--workdir={run}", f"--out={work}/samples", "--num=4"],
      "evaluate": [f"--workdir={run}", *judging],
      "compare": [f"--workdirs={run}", f"--out={work}/report", *judging],
      "export": [f"--export={work}/export"],
      "judge": [f"--judge={work}/run", f"--judge_steps={self._judge_steps}"],
      "generate": [f"--workdir={run}", f"--out={work}/made", "--num=12"],
    }[name]
    if name in ("export", "judge"):
      return [sys.executable, str(REPOSITORY / "tests/stress/kills.py"), *more]
    module = {"encode": "prepare", "train": "main", "save": "main"}.get(name, name)
    return [sys.executable, "-m", f"cxr_diffusion_jax.{module}", *more]

  def restore(self, state: str) -> None:
    """Brings the folder into a state that was kept."""
    shutil.rmtree(self.work, ignore_errors=True)
    shutil.rmtree(self.temporary, ignore_errors=True)
    self.temporary.mkdir()
    shutil.copytree(self.folder / "states" / state, self.work, symlinks=True)

  def keep(self, state: str) -> None:
    """Keeps the state of the folder."""
    target = self.folder / "states" / state
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(self.work, target, symlinks=True)

  def begin(self, name: str) -> None:
    """Keeps the state in which a command begins, unless there is one.

    "save" begins where "train" does, and others where the one before has ended.
    """
    (self.folder / "states/before prepare").mkdir(parents=True, exist_ok=True)
    if not (self.folder / f"states/before {name}").exists():
      previous = COMMANDS[COMMANDS.index("evaluate" if name == "judge" else name) - 1]
      self.restore("before train" if name == "save" else f"after {previous}")
      self.keep(f"before {name}")

  def live(self, name: str, end: Callable[[subprocess.Popen], int] | None) -> Life:
    """Starts a command, and ends it with a signal when `end` returns one."""
    log, start = self.folder / f"{name}.log", time.monotonic()
    cache = {
      "JAX_PLATFORMS": "cpu",
      "JAX_COMPILATION_CACHE_DIR": str(self.folder / "compiled"),
      "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
      "TMPDIR": str(self.temporary),
    }
    with log.open("w") as file:
      process = subprocess.Popen(
        self.arguments(name),
        cwd=REPOSITORY,
        env=os.environ | cache,
        stdout=file,
        stderr=subprocess.STDOUT,
        start_new_session=True,
      )
      if end is not None and (number := end(process)) and process.poll() is None:
        process.send_signal(number)
      code = process.wait()
    seconds = time.monotonic() - start
    orphaned = self._await_children(process.pid)
    text = log.read_text(errors="replace")
    return Life(code=code, seconds=seconds, orphaned=orphaned, text=text)

  @staticmethod
  def _await_children(group: int) -> float:
    """Waits until the workers of an ended process have ended too; returns seconds.

    After 20 s it kills them.
    """
    start = time.monotonic()
    with contextlib.suppress(ProcessLookupError):
      for _ in range(200):
        os.killpg(group, 0)
        time.sleep(0.1)
      os.killpg(group, signal.SIGKILL)
    return time.monotonic() - start

  def files(self) -> set[str]:
    """Names of all files, except inside checkpoints, whose files are of no fixed name.

    With those of the folder of temporary files.
    """
    names = set()
    for top in (self.work, self.temporary):
      for path in top.rglob("*"):
        name = str(path.relative_to(self.folder))
        inside = "/checkpoints/" in name and name.count("/") > 3
        if not inside and not path.name.startswith(UNCOMPARED):
          names.add(name)
    return names

  def values(self) -> dict[str, str]:
    """Digests of what all files hold, by file and place in it.

    Without those of unfinished folders, which are never read.
    """
    values = {}
    for name in self.files():
      path = self.folder / name
      if ".partial/" in name:
        continue
      if path.is_file() and not path.name.endswith(UNCOMPARED):
        for key, content in _content(path):
          values[f"{name} {key}"] = hashlib.sha256(content).hexdigest()
      elif path.parent.name == "checkpoints" and path.name.isdigit():
        for key, content in _checkpoint(path):
          values[f"{name} {key}"] = hashlib.sha256(content).hexdigest()
    return values


def _content(path: pathlib.Path) -> Iterator[tuple[str, bytes]]:
  import numpy as np

  content = path.read_bytes()
  if path.suffix == ".npz":
    with np.load(path) as arrays:
      for key in arrays.files:
        yield key, arrays[key].tobytes()
  elif path.suffix == ".json":
    yield from _entries("", json.loads(content))
  elif path.suffix in (".html", ".md", ".csv", ".svg", ".txt"):
    for number, line in enumerate(content.splitlines()):
      yield str(number), line
  else:
    yield "", content


def _entries(place: str, value: object) -> Iterator[tuple[str, bytes]]:
  if isinstance(value, dict):
    for key, inner in value.items():
      if key not in UNCOMPARED_ENTRIES:
        yield from _entries(f"{place}.{key}", inner)
  else:
    yield place, repr(value).encode()


def _checkpoint(path: pathlib.Path) -> Iterator[tuple[str, bytes]]:
  import jax
  import numpy as np
  import orbax.checkpoint as ocp

  with ocp.StandardCheckpointer() as reader:
    for item in ("state", "ema_params"):
      tree = reader.restore(path / item)
      for key, leaf in jax.tree_util.tree_leaves_with_path(tree):
        yield item + jax.tree_util.keystr(key), np.asarray(leaf).tobytes()


def after(seconds: float, number: int) -> Callable[[subprocess.Popen], int]:
  """Ends a process after so many seconds."""

  def end(process: subprocess.Popen) -> int:
    with contextlib.suppress(subprocess.TimeoutExpired):
      process.wait(seconds)
    return number

  return end


def inside_save(
  folder: pathlib.Path, seconds: float, number: int
) -> Callable[[subprocess.Popen], int]:
  """Ends a process so many seconds after a save has begun."""

  def end(process: subprocess.Popen) -> int:
    before = {path.name for path in folder.glob("*")}
    while process.poll() is None:
      if {path.name for path in folder.glob("*")} - before:
        break
      time.sleep(0.0005)
    time.sleep(seconds)
    return number

  return end


def undisturbed(place: Place, name: str) -> tuple[float, set[str], dict[str, str]]:
  """Seconds, files, and the values that do not vary, of two undisturbed calls."""
  known = place.folder / f"undisturbed {name}.json"
  if known.exists():
    seconds, files, values = json.loads(known.read_text())
    return seconds, set(files), values
  outcomes = []
  for _ in range(2):
    place.restore(f"before {name}")
    life = place.live(name, None)
    if life.code:
      raise SystemExit(f"{name}: exit code {life.code}: {life.text[-3000:]}")
    outcomes.append((life.seconds, place.files(), place.values()))
  (_, first_files, first), (seconds, files, second) = outcomes
  values = {key: value for key, value in second.items() if first.get(key) == value}
  assert first_files == files, first_files ^ files
  place.keep(f"after {name}")
  known.write_text(json.dumps([seconds, sorted(files), values]))
  print(f"{name}: {seconds:.1f} s, {len(files)} files, {len(values)} values")
  return seconds, files, values


def attack(
  place: Place, name: str, kills: int, draw: random.Random, number: int
) -> Row:
  """Kills a command so many times, in chains of `KILLS`."""
  seconds, files, values = undisturbed(place, name)
  row = Row(seconds=seconds)
  while row.kills < kills:
    place.restore(f"before {name}")
    chain, lived = min(KILLS, kills - row.kills), 0.0
    for _ in range(chain):
      end = after(draw.uniform(0, seconds), number)
      if name == "save":
        wait = draw.choice([0.0, draw.uniform(0, 0.05), draw.uniform(0, 0.5)])
        end = inside_save(place.work / "run/checkpoints", wait, number)
      life = place.live(name, end)
      lived += life.seconds
      if life.orphaned > MAX_ORPHANED:
        row.faults["workers"] += 1
        print(f"  {name}: workers: lived on for {life.orphaned:.0f} s", flush=True)
    row.kills += chain
    last = place.live(name, None)
    row.repeated = max(row.repeated, (lived + last.seconds - seconds) / chain)
    for kind, text in faults(place, last, files, values):
      row.faults[kind] += 1
      print(f"  {name}: {kind}: {text}", flush=True)
  return row


def faults(
  place: Place, last: Life, files: set[str], values: dict[str, str]
) -> Iterator[tuple[str, str]]:
  if last.code or "Traceback" in last.text:
    yield "exit", f"{last.code}: {last.text[-1500:]}"
    return
  if differing := place.files() ^ files:
    yield "files", ", ".join(sorted(differing)[:5])
  now = place.values()
  if changed := [key for key in values if now.get(key) != values[key]]:
    yield "values", f"{len(changed)}: {', '.join(sorted(changed)[:5])}"


def export(folder: str) -> int:
  """Saves an autoencoder as diffusers reads it; returns the exit code of a command."""
  import jax
  import jax.numpy as jnp

  from cxr_diffusion_jax import errors
  from cxr_diffusion_jax.interop import diffusers
  from cxr_diffusion_jax.models import autoencoder

  network = autoencoder.AutoencoderKL(
    in_channels=1, out_channels=1, latent_channels=2, block_channels=(64, 128)
  )
  image = jnp.zeros((1, 8, 8, 1))
  params = jax.jit(network.init)(jax.random.key(0), image)["params"]
  try:
    diffusers.save_autoencoder(folder, network, params)
  except errors.InputError as error:
    print(f"error: {error}")
    return 2
  return 0


def train_judge(run: str, num_steps: int) -> None:
  """Trains the judge of a run's records, as the first long work of `evaluate`."""
  from cxr_diffusion_jax.evaluation import eval_context
  from cxr_diffusion_jax.run import run as run_lib

  changes = {"num_steps": num_steps, "patience": num_steps}
  eval_context.train_judge(run_lib.open_run(run).dataset.records, changes)


def main() -> int:
  """Returns the exit code."""
  parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
  parser.add_argument("--num", type=int, default=50)
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--folder", type=pathlib.Path)
  parser.add_argument("--commands", default=",".join(COMMANDS))
  parser.add_argument("--signal", choices=("KILL", "TERM", "INT"), default="KILL")
  parser.add_argument("--judge_steps", type=int, default=20)
  parser.add_argument("--export", help="used by the harness itself")
  parser.add_argument("--judge", help="used by the harness itself")
  given = parser.parse_args()
  if given.export:
    return export(given.export)
  if given.judge:
    train_judge(given.judge, given.judge_steps)
    return 0
  place = Place(given.folder, given.judge_steps)
  chosen, rows = given.commands.split(","), {}
  for index, name in enumerate(chosen):
    place.begin(name)
    kills = len(range(index, given.num, len(chosen)))
    draw = random.Random(f"{given.seed} {name}")
    number = getattr(signal, f"SIG{given.signal}")
    rows[name] = attack(place, name, kills, draw, number)
  print("\n| command | seconds undisturbed | kills | faults | s repeated a kill |")
  print("|---|--:|--:|--:|--:|")
  for name, row in rows.items():
    print(
      f"| {name} | {row.seconds:.1f} | {row.kills} | {row.faults.total()}"
      f" | {row.repeated:.1f} |"
    )
  return int(any(row.faults for row in rows.values()))


if __name__ == "__main__":
  sys.exit(main())
