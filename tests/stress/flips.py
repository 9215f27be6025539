"""Flips single bits of a run's files; each flip must be detected or change nothing.

  python tests/stress/flips.py --num 1000 --folder /tmp/flips

Makes phantoms, records, columns, a stand-in encoder, a probe, a run of two steps, an
autoencoder with its latents, features and a kept array in the folder, if it has none.
Then, for each flip: a random bit of a random file of a kind is flipped, all of that
kind is read, and the bit is flipped back.

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

from absl import logging

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))

# Files that no command reads: pictures, events of TensorBoard, locks and notes.
UNREAD = ("*.png", "events.*", "*.lock.json", "parameters.txt", "_CHECKPOINT_METADATA")


# What a reader returns whose files would be made again.
AGAIN = "made again"


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
  from cxr_diffusion_jax.data.records import parts, plan
  from cxr_diffusion_jax.encoders.probes import probe
  from cxr_diffusion_jax.evaluation import eval_context
  from cxr_diffusion_jax.run import dataset as dataset_lib
  from cxr_diffusion_jax.run import run as run_lib

  folder = place / "run"
  run = run_lib.open_run(folder)
  records, settings = run.dataset.records, run.data
  eval_context.train_judge(records, {"num_steps": 2})
  rows = plan.make_plan(settings)

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
    return _digest([*_rows(dataset_lib.prepare(settings, run.needs))])

  def read_parts() -> str:
    return AGAIN if parts.num_missing(rows, settings) else ""

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
    "JSON of TFDS and parts": Kind(
      folder=records.folder / "parts", patterns=("**/*.json",), read=read_parts
    ),
    "columns": Kind(
      folder=records.folder / "columns", patterns=("**/*",), read=read_rows
    ),
    "probe": Kind(folder=records.folder / "probe", patterns=("*",), read=read_probe),
    **_networks(place, settings, records),
    **_kept(place, records),
  }


def _networks(place: pathlib.Path, settings, records) -> dict[str, Kind]:
  """A stand-in encoder, an autoencoder, and its latents."""
  import jax
  import jax.numpy as jnp

  from cxr_diffusion_jax.encoders.latents import autoencoders, columns
  from cxr_diffusion_jax.encoders.standin import elixr, training
  from cxr_diffusion_jax.interop import diffusers
  from cxr_diffusion_jax.models import autoencoder as autoencoder_lib

  standin, own = place / "run/encoders/standin_clip", place / "autoencoder"
  if not own.is_dir():
    network = autoencoder_lib.AutoencoderKL(
      in_channels=1,
      out_channels=1,
      latent_channels=2,
      block_channels=(16, 32),
      norm_groups=8,
      num_layers=1,
    )
    params = network.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))["params"]
    diffusers.save_autoencoder(own, network, params)
  found = autoencoders.find(str(own))
  columns.make(settings, records, found)

  def read_standin() -> str:
    marker, encoder = training.read_marker(standin), elixr.load(standin).model
    ids = encoder.tokenizer(["effusion, 58 years"])["input_ids"]
    config = encoder.config.to_json_string()
    return _digest([marker, encoder.params, repr(encoder.pixels), ids, config])

  def read_autoencoder() -> str:
    opened = autoencoders.find(str(own))
    return _digest([repr(opened.network), opened.params])

  def read_latents() -> str:
    column = columns.open_column(settings, found)
    if column is None:
      return AGAIN
    sources = [column.source(split) for split in column.description.num_rows]
    rows = [source[row] for source in sources for row in range(len(source))]
    return _digest([*rows, columns.statistics(column)])

  return {
    "stand-in encoder": Kind(folder=standin, patterns=("*",), read=read_standin),
    "autoencoder": Kind(folder=own, patterns=("*",), read=read_autoencoder),
    "latents": Kind(
      folder=columns.folder(settings, found), patterns=("**/*",), read=read_latents
    ),
  }


def _kept(place: pathlib.Path, records) -> dict[str, Kind]:
  """What `evaluate` and `compare` keep: features, and an array."""
  import numpy as np

  from cxr_diffusion_jax import checked_files
  from cxr_diffusion_jax.data.image_sets import image_set
  from cxr_diffusion_jax.encoders.extractors import extractor

  images = image_set.record_images(records, "test")
  network = extractor.of_network(
    name="corner",
    layer="pixels",
    standin=True,
    width=16,
    images_a_device=8,
    features_fn=lambda params, images: images[:, :4, :4, 0].reshape(-1, 16),
    params={},
  )
  values = np.random.default_rng(0).normal(size=(20, 4))
  features, arrays = place / "features", place / "arrays"
  arrays.mkdir(exist_ok=True)

  def read_array() -> str:
    return _digest([checked_files.load_or_make(arrays / "a.npz", lambda: values)])

  return {
    "features": Kind(
      folder=features,
      patterns=("*",),
      read=lambda: _digest([extractor.extract(network, images, cache=features)]),
    ),
    "kept array": Kind(folder=arrays, patterns=("*",), read=read_array),
  }


def flip(
  kind: Kind, paths: list[pathlib.Path], before: str, draw: random.Random
) -> tuple[str, str]:
  """Flips one bit, reads, and flips it back: (what came of it, file and message).

  `before` is what is read where nothing is flipped.
  """
  from cxr_diffusion_jax import errors

  path = draw.choice(paths)
  content = path.read_bytes()
  changed = bytearray(content)
  place, bit = draw.randrange(len(changed)), draw.randrange(8)
  changed[place] ^= 1 << bit
  where = f"{path.relative_to(kind.folder)}, byte {place}, bit {bit}"
  path.write_bytes(changed)
  try:
    after = kind.read()
    again = not path.is_file() or path.read_bytes() != changed
  except (errors.InputError, OSError) as error:
    named = any(str(one) in str(error) for one in (path.name, *path.parents[:3]))
    return ("detected" if named else "fault"), f"{where}: {error}"
  except Exception as error:
    return "fault", f"{where}: {type(error).__name__}: {error}"
  finally:
    path.write_bytes(content)
  if after == AGAIN or (again and after == before):
    return "detected", f"{where}: {AGAIN}"
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
  parser.add_argument("--kinds", help="names, separated by commas; all by default")
  parser.add_argument("--folder", type=pathlib.Path, required=True)
  arguments = parser.parse_args()
  make(arguments.folder)
  logging.set_verbosity(logging.ERROR)
  every = kinds(arguments.folder)
  chosen = arguments.kinds.split(",") if arguments.kinds else [*every]
  faults = 0
  print("| kind | files | detected | harmless | fault | s |", flush=True)
  for number, name in enumerate(chosen):
    kind, draw = every[name], random.Random(f"{arguments.seed} {name}")
    # Reading may make files.
    before = kind.read()
    paths = kind.files()
    counts, start = collections.Counter(), time.monotonic()
    for _ in range(number, arguments.num, len(chosen)):
      outcome, text = flip(kind, paths, before, draw)
      counts[outcome] += 1
      if outcome == "fault":
        print(f"{name}: {text}", flush=True)
    if kind.read() != before:
      counts["fault"] += 1
      print(f"{name}: a reader changed other files", flush=True)
    faults += counts["fault"]
    shown = [counts[key] for key in ("detected", "harmless", "fault")]
    row = [name, len(paths), *shown, round(time.monotonic() - start)]
    print(f"| {' | '.join(map(str, row))} |", flush=True)
  sys.exit(faults > 0)


if __name__ == "__main__":
  main()
