"""Generates images for evaluation, and keeps them on disk in parts.

conditions of image ids --sampler, sharded--> FOLDER/<fingerprint>/part_00000.npz ...

A long part is written every 30 s; a repeated call generates the missing images.
Image i depends only on the run, its sampler, the seed, i and its condition, so
requesting more images does not change the first ones, and the noise is the same for
every path.
"""

from collections.abc import Iterator, Sequence
import dataclasses
import functools
import hashlib
import json
import pathlib
import time

from absl import logging
import jax
import numpy as np

from cxr_diffusion_jax import artifacts, checked_files, disk, errors, types
from cxr_diffusion_jax.run import run as run_lib
from cxr_diffusion_jax.sampling import conditions as conditions_lib
from cxr_diffusion_jax.sampling import generate as generate_lib
from cxr_diffusion_jax.sampling.request import Request

PART_SIZE = 64
DESCRIPTION = "generation.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class PartGenerator:
  """Generates images of one run into a folder."""

  run: run_lib.Run
  generator: generate_lib.Generator
  folder: pathlib.Path  # named after the fingerprint of all but the conditions
  seed: int
  batch_size: int


def weights_digest(run: run_lib.Run) -> str:
  """Identifies the parameters of a run."""
  digest = hashlib.sha256()
  for leaf in jax.tree.leaves(run.ema_params):
    digest.update(np.asarray(jax.device_get(leaf)).tobytes())
  return digest.hexdigest()


def prepare(
  run: run_lib.Run,
  folder: pathlib.Path,
  *,
  seed: int = 0,
  changes: artifacts.JsonMapping | None = None,
  batch_size: int = 32,
  weights: str = "",
) -> PartGenerator:
  """Prepares a run for generating.

  Args:
    folder: receives one folder for each set of sampling settings.
    weights: `weights_digest` of the run, if it is known.
  """
  generator = generate_lib.make_generator(run.recipe, changes)
  settings = generator.settings
  values = dataclasses.asdict(settings) | {"num_images": 0}
  if not settings.sampler_options:
    # Earlier versions, whose images are still valid, had no such setting.
    del values["sampler_options"]
  facts = {
    "data": run.card.fingerprint,
    "weights": weights or weights_digest(run),
    "settings": values,
    "seed": seed,
  }
  text = json.dumps(facts, sort_keys=True, indent=1)
  fingerprint = hashlib.sha256(text.encode()).hexdigest()[:12]
  place = folder / f"seed_{seed}-{fingerprint}"
  place.mkdir(parents=True, exist_ok=True)
  if jax.process_index() == 0:
    artifacts.write_text(place / DESCRIPTION, text + "\n")
  return PartGenerator(
    run=run, generator=generator, folder=place, seed=seed, batch_size=batch_size
  )


def generate(
  generator: PartGenerator,
  image_ids: Sequence[str],
  *,
  name: str = "images",
  first: int = 0,
  share: tuple[int, int] = (0, 1),
  progress: types.Progress = types.no_progress,
) -> "Parts":
  """Generates one image for the condition of each record.

  Args:
    image_ids: ids of any split; may repeat.
    name: names the purpose, and the folder.
    first: number of the first image, which determines its noise.
    share: (p, n): the parts p, p + n, ... alone, while other processes make others.

  Returns:
    The images in order, read on access; of a share, only its own can be read.
  """
  folder = generator.folder / name
  folder.mkdir(parents=True, exist_ok=True)
  builder = conditions_lib.ConditionBuilder(run=generator.run)
  label = f"{generator.run.folder.name}, seed {generator.seed}, {name}"
  paths = []
  for start in range(0, len(image_ids), PART_SIZE):
    ids = list(image_ids[start : start + PART_SIZE])
    path = folder / f"part_{start // PART_SIZE:05d}.npz"
    paths.append(path)
    if start // PART_SIZE % share[1] != share[0]:
      continue
    kept = _kept(path, ids, first)
    if len(kept) < len(ids):
      fields = builder.build(Request(image_ids=tuple(ids)), len(ids)).fields
      for images in _complete(generator, fields, kept, len(ids), first + start):
        part = {
          "ids": np.array(ids[: len(images)], dtype=np.str_),
          "first": np.array(first, np.int64),
          "images": images,
        }
        if jax.process_index() == 0:
          with disk.reporting(path):
            artifacts.write_npz(path, part, compressed=True)
    progress(label, start + len(ids), len(image_ids))
  return Parts(paths, len(image_ids))


class Parts:
  """The images of parts on disk: [i] -> uint8 [h w 1]; the last part read is kept."""

  def __init__(self, paths: Sequence[pathlib.Path], count: int):
    self._count, self._paths = count, paths
    self._read = functools.lru_cache(maxsize=2)(lambda path: _read(path)["images"])

  def __len__(self) -> int:
    return self._count

  def __iter__(self) -> Iterator[np.ndarray]:
    return (self[index] for index in range(self._count))

  def __getitem__(self, index: int) -> np.ndarray:
    if not 0 <= index < self._count:
      raise IndexError(f"image {index} of {self._count}")
    return self._read(self._paths[index // PART_SIZE])[index % PART_SIZE]


def _complete(
  generator: PartGenerator,
  fields: types.Batch,
  kept: np.ndarray,
  count: int,
  first: int,
) -> Iterator[np.ndarray]:
  """Generates the rest of a part; yields all of its images so far, to be written.

  A smaller batch is padded with the last image, to compile only one shape.
  """
  b = min(generator.batch_size, PART_SIZE)
  images, saved = kept, time.monotonic()
  for start in range(len(kept), count, b):
    rows = np.minimum(np.arange(start, start + b), count - 1)
    new = generator.generator.generate(
      generator.run.ema_params,
      {key: value[rows] for key, value in fields.items()},
      seed=generator.seed,
      numbers=first + rows,
      batch_size=b,
    )
    images = np.concatenate([images, new])[:count] if len(images) else new[:count]
    ended = len(images) == count
    if ended or time.monotonic() - saved >= checked_files.SAVE_PERIOD:
      yield images
      saved = time.monotonic()


def _kept(path: pathlib.Path, ids: list[str], first: int) -> np.ndarray:
  """The first images of a part, as far as they are on disk."""
  nothing = np.zeros(0, np.uint8)
  if not path.is_file():
    return nothing
  try:
    part = _read(path)
  except errors.InputError as error:
    logging.warning("%s; its images are generated again", error)
    return nothing
  same = part["ids"].tolist() == ids[: len(part["ids"])] and part["first"] == first
  return part["images"] if same else nothing


def _read(path: pathlib.Path) -> dict[str, np.ndarray]:
  return checked_files.read_npz(path, ("ids", "first", "images"))
