"""Flips single bits of a run's files; each flip must be detected or change nothing.

  python tests/stress/flips.py --num 1000 --folder /tmp/flips

Makes phantoms, records, columns, a stand-in encoder, a probe and a run of two steps in
the folder, if it has none. Then, for each flip: a random bit of a random file of a kind
is flipped, all of that kind is read, and the bit is flipped back.

  detected   refused with one line that names the file or its folder, or made again
  harmless   what was read is bit for bit what it was before
  fault      anything else: other values without a word, or a traceback

Prints a row for each kind; exit code 1 if there is a fault.
"""

import argparse
import collections
from collections.abc import Callable, Iterator
import dataclasses
import hashlib
import os
import pathlib
import random
import subprocess
import sys
import time

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))

# Files that no command reads: pictures, events of TensorBoard, locks and notes.
UNREAD = ("*.png", "events.*", "*.lock.json", "parameters.txt", "_CHECKPOINT_METADATA")


OUTCOMES = ("detected", "harmless", "fault")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kind:
  """Files of one kind, and a digest of all that is read from them."""

  folder: pathlib.Path
  patterns: tuple[str, ...]
  read: Callable[[], str]

  def files(self) -> list[pathlib.Path]:
    """The files that are flipped, in a fixed order."""
    paths = {path for pattern in self.patterns for path in self.folder.glob(pattern)}
    return sorted(
      path
      for path in paths
      if path.is_file()
      and path.stat().st_size
      and not any(path.match(pattern) for pattern in UNREAD)
    )


def make(place: pathlib.Path) -> None:
  """Trains a run of two steps, with its data and a probe, in the folder `place`."""
  if (place / "run/checkpoints/2").is_dir():
    return
  changes = {
    "data.root": place / "phantom-cxr",
    "data.records_dir": place / "records",
    "data.phantom_images": 80,
    "data.validation_fraction": 0.3,
    "data.standin_steps": 2,
    "train.num_steps": 2,
    "train.batch_size": 4,
    "train.sample_every": 0,
    "train.checkpoint_every": 1,
    "train.validate_every": 2,
  }
  command = [sys.executable, "-m", "cxr_diffusion_jax.main"]
  command += [f"--config={REPOSITORY}/configs/phantom.py:elixr_c,tiny"]
  command += [f"--config.{key}={value}" for key, value in changes.items()]
  environment = os.environ | {"JAX_PLATFORMS": "cpu"}
  subprocess.run(
    [*command, f"--workdir={place / 'run'}"],
    cwd=REPOSITORY,
    env=environment,
    check=True,
  )


def kinds(place: pathlib.Path) -> dict[str, Kind]:
  """Name -> kind, for the run in `place`."""
  from cxr_diffusion_jax import checksums
  from cxr_diffusion_jax.encoders.probes import probe
  from cxr_diffusion_jax.evaluation import eval_context
  from cxr_diffusion_jax.run import run as run_lib

  folder = place / "run"
  records = run_lib.open_run(folder).dataset.records
  eval_context.train_judge(records, {"num_steps": 2})

  def read_run(checkpoint: int) -> str:
    run = run_lib.open_run(folder, checkpoint=checkpoint)
    # Where the data was is no more than a hint.
    card = dataclasses.replace(run.card, root="", records_dir="")
    return _digest([run.ema_params, run.config, card.to_json()])

  def read_checkpoint() -> str:
    # As a resumed run does before it restores the state.
    checksums.check(folder / "checkpoints/1")
    return read_run(1)

  def read_rows() -> str:
    dataset = run_lib.open_run(folder).dataset
    return _digest([*_rows(dataset)])

  def read_probe() -> str:
    opened = probe.load_probe(records.folder / "probe")
    return _digest([opened.params, opened.thresholds, opened.fingerprint])

  return {
    "checkpoint": Kind(
      folder=folder / "checkpoints/1", patterns=("**/*",), read=read_checkpoint
    ),
    "config and card": Kind(
      folder=folder,
      patterns=("config.json", "dataset.json"),
      read=lambda: read_run(2),
    ),
    "records": Kind(
      folder=records.folder, patterns=("*.json", "*.npz", "parts/**/*"), read=read_rows
    ),
    "columns": Kind(
      folder=records.folder / "columns", patterns=("**/*",), read=read_rows
    ),
    "probe": Kind(folder=records.folder / "probe", patterns=("*",), read=read_probe),
  }


def flip(kind: Kind, draw: random.Random) -> tuple[str, str]:
  """Flips one bit, reads, and flips it back: (what came of it, file and message)."""
  from cxr_diffusion_jax import errors

  before = kind.read()
  path = draw.choice(kind.files())
  content = path.read_bytes()
  changed = bytearray(content)
  place, bit = draw.randrange(len(changed)), draw.randrange(8)
  changed[place] ^= 1 << bit
  where = f"{path.relative_to(kind.folder)}, byte {place}, bit {bit}"
  path.write_bytes(changed)
  try:
    after = kind.read()
  except (errors.InputError, OSError) as error:
    named = any(str(one) in str(error) for one in (path.name, *path.parents[:3]))
    return ("detected" if named else "fault"), f"{where}: {error}"
  except Exception as error:
    return "fault", f"{where}: {type(error).__name__}: {error}"
  finally:
    path.write_bytes(content)
  return ("harmless" if after == before else "fault"), f"{where}: other values"


def _rows(dataset) -> Iterator[object]:
  for split in dataset.splits:
    source = dataset.source(split)
    for row in range(len(source)):
      yield source[row]


def _digest(values: list) -> str:
  """Identifies nested values and arrays."""
  import jax
  import numpy as np

  digest = hashlib.sha256()
  for path, leaf in jax.tree_util.tree_leaves_with_path(values):
    digest.update(jax.tree_util.keystr(path).encode())
    is_array = isinstance(leaf, np.ndarray | jax.Array)
    digest.update(np.asarray(leaf).tobytes() if is_array else repr(leaf).encode())
  return digest.hexdigest()


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--num", type=int, default=1000)
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--folder", type=pathlib.Path, required=True)
  arguments = parser.parse_args()
  make(arguments.folder)
  found = kinds(arguments.folder)
  faults = 0
  for number, (name, kind) in enumerate(found.items()):
    draw = random.Random(f"{arguments.seed} {name}")
    counts, start = collections.Counter(), time.monotonic()
    for _ in range(len(range(number, arguments.num, len(found)))):
      outcome, text = flip(kind, draw)
      counts[outcome] += 1
      if outcome == "fault":
        print(f"{name}: {text}", flush=True)
    faults += counts["fault"]
    shown = ", ".join(
      f"{counts[key]} {key}" for key in ("detected", "harmless", "fault")
    )
    seconds = time.monotonic() - start
    print(f"{name}: {len(kind.files())} files, {shown}; {seconds:.0f} s", flush=True)
  sys.exit(faults > 0)


if __name__ == "__main__":
  main()
